# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel transport against a fake kernel behind pyroute2's own codec.

Every message is encoded to bytes and decoded again by pyroute2, so what is checked is what goes over
the wire. No real kernel WireGuard takes part.
"""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import kernel
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    Endpoint,
    ObservedPeer,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.operations import (
    RemovePeer,
    SetPeer,
    TrimPeer,
)
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.preshared import (
    NO_PRESHARED_KEY,
    derive,
)

pytest.importorskip("pyroute2")

KEY = "TGFHcm9zc2VCaWNoZV9DJ2VzdExhUGx1c0JlbGxlPDM="
OTHER = "RCdBcHJlc0JpY2hlLFZpdmVMZXNQcm9iaW90aXF1ZXM="
PER_REPLY = 100  # allowed IPs that the fake puts into one message of a dump


def reread(message: Any) -> Any:
    """The message as the other side decodes it from its bytes."""
    from pyroute2.netlink.generic.wireguard import wgmsg

    message.encode()
    assert len(message.data) < 65536
    again = wgmsg(bytes(message.data))
    again.decode()
    return again


class FakeGenetlink:
    """Stands for GenericNetlinkSocket and for the kernel's set_device/get_device behind it."""

    prid = 30

    def __init__(self) -> None:
        self.device: dict[str, Any] = {"WGDEVICE_A_PUBLIC_KEY": b"A" * 43 + b"="}
        self.peers: dict[bytes, dict[str, Any]] = {}
        self.requests: list[Any] = []

    def close(self) -> None:
        return

    def nlm_request(self, msg: Any, msg_type: int, msg_flags: int) -> list[Any]:
        assert msg_type == self.prid
        request = reread(msg)
        assert request.get_attr("WGDEVICE_A_IFNAME") == "wg0"
        assert request["version"] == 1
        if request["cmd"] == 0:
            assert msg_flags == 0x301
            return self._dump()
        assert msg_flags == 0x5
        self.requests.append(request)
        for name, value in request["attrs"]:
            if name in ("WGDEVICE_A_LISTEN_PORT", "WGDEVICE_A_FWMARK"):
                self.device[name] = value
            if name == "WGDEVICE_A_PRIVATE_KEY":
                self.device["WGDEVICE_A_PUBLIC_KEY"] = KEY
        for peer in request.get_attr("WGDEVICE_A_PEERS") or ():
            self._set_peer(peer)
        return []

    def _set_peer(self, raw: Any) -> None:
        key, flags = raw.get_attr("WGPEER_A_PUBLIC_KEY"), raw.get_attr("WGPEER_A_FLAGS")
        if flags & 1:
            self.peers.pop(key, None)
            return
        if key not in self.peers:
            if flags & 4:
                return
            self.peers[key] = {"allowed": set()}
        peer = self.peers[key]
        if flags & 2:
            peer["allowed"] = set()
        for name in ("WGPEER_A_ENDPOINT", "WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", "WGPEER_A_PRESHARED_KEY"):
            if raw.get_attr(name) is not None:
                peer[name] = raw.get_attr(name)
        for entry in raw.get_attr("WGPEER_A_ALLOWEDIPS") or ():
            for other in self.peers.values():
                other["allowed"].discard(entry["addr"])
            peer["allowed"].add(entry["addr"])

    def _dump(self) -> list[Any]:
        from pyroute2.netlink.generic.wireguard import wgmsg

        first = wgmsg()
        first["attrs"] = [["WGDEVICE_A_IFNAME", "wg0"], *map(list, self.device.items())]
        messages = [first]
        for key, peer in self.peers.items():
            allowed = sorted(peer["allowed"])
            chunks = [allowed[i : i + PER_REPLY] for i in range(0, len(allowed), PER_REPLY)]
            for number, chunk in enumerate(chunks or [[]]):
                attributes: list[Any] = [["WGPEER_A_PUBLIC_KEY", key]]
                if number == 0:  # the kernel says the rest only once
                    keepalive = "WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL"
                    attributes.append([keepalive, peer.get(keepalive, 0)])
                    attributes.append(["WGPEER_A_RX_BYTES", 7])
                    preshared = peer.get("WGPEER_A_PRESHARED_KEY", NO_PRESHARED_KEY.reveal_base64())
                    attributes.append(["WGPEER_A_PRESHARED_KEY", preshared])
                    if "WGPEER_A_ENDPOINT" in peer:
                        attributes.append(["WGPEER_A_ENDPOINT", peer["WGPEER_A_ENDPOINT"]])
                if chunk:
                    entries = [kernel._allowed_ip(network) for network in chunk]
                    attributes.append(["WGPEER_A_ALLOWEDIPS", entries])
                message = wgmsg()
                message["attrs"] = [["WGDEVICE_A_PEERS", [{"attrs": attributes}]]]
                messages.append(message)
        return [reread(message) for message in messages]


@pytest.fixture
def fake() -> FakeGenetlink:
    return FakeGenetlink()


@pytest.fixture
def transport(fake: FakeGenetlink) -> kernel.KernelTransport:
    return kernel.KernelTransport("wg0", fake)


def test_a_device_without_a_key(transport: kernel.KernelTransport) -> None:
    assert transport.observe().public_key is None


def test_settings_are_read_back(transport: kernel.KernelTransport) -> None:
    transport.configure(OTHER, 51820, 7)
    settings = transport.observe()
    assert (settings.public_key, settings.listen_port, settings.fwmark) == (KEY, 51820, 7)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_a_peer_is_read_back(transport: kernel.KernelTransport, address: str) -> None:
    endpoint = Endpoint(address, 51820)
    allowed = ("10.0.0.0/24", "fd00::/64")
    transport.set_peer(SetPeer(KEY, True, endpoint, 25, allowed))
    assert transport.observe().peers == {KEY: ObservedPeer(KEY, endpoint, frozenset(allowed), 25, rx_bytes=7)}


def test_a_preshared_key_is_set_kept_and_unset(transport: kernel.KernelTransport) -> None:
    key = derive("s" * 32, "edge1", "worker1")
    transport.set_peer(SetPeer(KEY, True, None, 25, ("10.0.0.0/24",), key))
    assert transport.observe().peers[KEY].preshared_key == key
    transport.set_peer(SetPeer(KEY, False, None, 0))
    assert transport.observe().peers[KEY].preshared_key == key
    transport.set_peer(SetPeer(KEY, False, preshared_key=NO_PRESHARED_KEY))
    assert transport.observe().peers[KEY].preshared_key is None


def test_a_changed_keepalive_leaves_the_allowed_ips(transport: kernel.KernelTransport) -> None:
    transport.set_peer(SetPeer(KEY, True, None, 25, ("10.0.0.0/24",)))
    transport.set_peer(SetPeer(KEY, False, None, 0))
    peer = transport.observe().peers[KEY]
    assert peer.allowed_ips == {"10.0.0.0/24"}
    assert peer.persistent_keepalive == 0


def test_a_peer_that_has_gone_is_not_made_by_a_change(transport: kernel.KernelTransport) -> None:
    transport.set_peer(SetPeer(KEY, False, None, 25))
    assert transport.observe().peers == {}


def test_five_thousand_allowed_ips_go_in_parts_and_come_back_whole(
    fake: FakeGenetlink, transport: kernel.KernelTransport
) -> None:
    allowed = tuple(f"fd00::{n:x}/128" for n in range(1, 5001))
    transport.set_peer(SetPeer(KEY, True, Endpoint("192.0.2.1", 1), 25, allowed))
    assert len(fake.requests) == 5
    assert transport.observe().peers[KEY].allowed_ips == set(allowed)
    transport.trim_peer(TrimPeer(KEY, allowed[:2500]))
    assert transport.observe().peers[KEY].allowed_ips == set(allowed[:2500])
    assert transport.observe().peers[KEY].persistent_keepalive == 25


def test_moves_and_removal(transport: kernel.KernelTransport) -> None:
    transport.set_peer(SetPeer(KEY, True, None, 0, ("10.0.0.0/24", "10.0.1.0/24")))
    transport.set_peer(SetPeer(OTHER, True, None, 0, ("10.0.1.0/24",)))
    assert transport.observe().peers[KEY].allowed_ips == {"10.0.0.0/24"}
    transport.remove_peer(RemovePeer(KEY))
    assert set(transport.observe().peers) == {OTHER}


def test_a_refusal_is_named_without_the_message(
    monkeypatch: pytest.MonkeyPatch, fake: FakeGenetlink, transport: kernel.KernelTransport
) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    def refuse(*_: Any) -> list[Any]:
        raise NetlinkError(98, "Address already in use")

    monkeypatch.setattr(fake, "nlm_request", refuse)
    with pytest.raises(EdgewireError) as caught:
        transport.configure(OTHER, 51820, None)
    assert "Address already in use" in str(caught.value)
    assert OTHER not in str(caught.value)
