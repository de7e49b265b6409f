# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The UAPI text protocol: parse and render are inverse, requests say what they should."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import asdict

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import uapi
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    Endpoint,
    ObservedPeer,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import PresharedKey
from hypothesis import given
from hypothesis import strategies as st

keys = st.binary(min_size=32, max_size=32).map(lambda raw: b64encode(raw).decode())
real_keys = keys.filter(lambda key: set(key) != set("A="))
preshared_keys = st.binary(min_size=32, max_size=32).filter(any).map(PresharedKey)
counters = st.integers(0, 2**63 - 1)
endpoints = st.builds(Endpoint, st.ip_addresses().map(str), st.integers(1, 65535))
networks = st.ip_addresses().map(lambda address: f"{address}/{address.max_prefixlen}")


@st.composite
def peers(draw: st.DrawFn) -> ObservedPeer:
    return ObservedPeer(
        draw(keys),
        draw(st.none() | endpoints),
        draw(st.frozensets(networks, max_size=4)),
        draw(st.integers(0, 65535)),
        draw(counters),
        draw(counters),
        draw(counters),
        draw(st.none() | preshared_keys),
    )


replies = st.builds(
    uapi.Reply,
    st.lists(peers(), max_size=4).map(lambda found: {peer.public_key: peer for peer in found}),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.none() | real_keys,
    st.integers(-200, 200),
)


@given(replies)
def test_parse_of_render_is_identity(reply: uapi.Reply) -> None:
    assert uapi.parse_get(uapi.render_get(reply)) == reply


@given(replies)
def test_a_reply_never_shows_its_private_key(reply: uapi.Reply) -> None:
    if reply.private_key is not None and reply.private_key not in reply.peers:
        assert reply.private_key not in repr(reply)
        assert uapi.to_hex(reply.private_key) not in repr(reply)


@given(peers())
def test_a_peer_never_shows_its_preshared_key(peer: ObservedPeer) -> None:
    shown = repr(peer) + json.dumps(asdict(peer), default=str)
    if peer.preshared_key is not None:
        assert peer.preshared_key.reveal_base64() not in shown.replace(peer.public_key, "")
        assert peer.preshared_key.reveal_hex() not in shown


def test_a_broken_preshared_key_is_not_quoted() -> None:
    text = f"public_key={bytes(32).hex()}\npreshared_key=5ec2e7zz\nerrno=0\n\n"
    with pytest.raises(EdgewireError) as caught:
        uapi.parse_get(text)
    assert "5ec2e7" not in str(caught.value)


@given(st.text(max_size=200))
def test_nonsense_is_one_clear_error(text: str) -> None:
    try:
        uapi.parse_get(text)
    except EdgewireError as error:
        assert "no UAPI reply" in str(error)  # noqa: PT017 - most texts raise, some need not


def test_a_broken_reply_is_not_quoted() -> None:
    with pytest.raises(EdgewireError) as caught:
        uapi.parse_get("private_key=5ec2e7\nlisten_port=what\nerrno=0\n\n")
    assert "5ec2e7" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_requests() -> None:
    key = b64encode(bytes(range(32))).decode()
    text = bytes(range(32)).hex()
    assert uapi.render_device(listen_port=51820) == "set=1\nlisten_port=51820\n\n"
    assert uapi.render_peer(key, remove=True) == f"set=1\npublic_key={text}\nremove=true\n\n"
    assert uapi.render_peer(
        key,
        replace_allowed_ips=True,
        endpoint=Endpoint("2001:db8::1", 5),
        persistent_keepalive=0,
        allowed_ips=["10.0.0.0/24"],
    ).splitlines() == [
        "set=1",
        f"public_key={text}",
        "update_only=true",
        "endpoint=[2001:db8::1]:5",
        "persistent_keepalive_interval=0",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.0/24",
        "",
    ]
    assert "update_only" not in uapi.render_peer(key, new=True)
    # The preshared key comes before what can begin a handshake.
    psk = PresharedKey(bytes(range(32)))
    lines = uapi.render_peer(key, new=True, persistent_keepalive=25, preshared_key=psk).splitlines()
    assert lines[2] == f"preshared_key={text}"
