# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module parameters to the desired device: normalisation, and refusals that name everything."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    Endpoint,
    check_interface,
    desired_from_params,
)
from hypothesis import given
from hypothesis import strategies as st

KEY = "A" * 42 + "E="


def params(**changed: Any) -> dict[str, Any]:
    return {"interface": "wg0", "private_key_file": "/k", "mtu": 1420, **changed}


def peer(**changed: Any) -> dict[str, Any]:
    return {"name": "worker1", "public_key": KEY, **changed}


def test_values_are_normalised_to_what_the_kernel_prints() -> None:
    given_peer = peer(allowed_ips=["10.0.0.7/24", "FD00:0::/64"], endpoint="[2001:DB8:0::1]:51820")
    desired = desired_from_params(params(addresses=["FD65::0001/64"], peers=[given_peer]))
    assert desired.addresses == {"fd65::1/64"}
    assert desired.peers[0].allowed_ips == {"10.0.0.0/24", "fd00::/64"}
    assert str(desired.peers[0].endpoint) == "[2001:db8::1]:51820"


def test_everything_wrong_is_in_one_message() -> None:
    bad = params(
        interface="a/b",
        listen_port=70000,
        mtu=1200,
        addresses=["fd65::1/64", "nonsense"],
        peers=[
            peer(public_key="short"),
            peer(name="worker2", endpoint="example.org:1", allowed_ips=["10.0.0.0/8"]),
            peer(name="worker3", endpoint="192.0.2.1:0", allowed_ips=["10.0.0.0/8"]),
        ],
    )
    with pytest.raises(EdgewireError) as caught:
        desired_from_params(bad)
    for part in (
        "'a/b' is no interface name",
        "listen_port: 70000",
        "mtu: 1200 is not 1280",
        "nonsense",
        "worker1: public_key",
        "example.org",
        "an endpoint ends in :port",
        "worker2 and worker3: both allow 10.0.0.0/8",
        "worker2 and worker3: same public_key",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["", "../wg0", "a b", "x" * 16, ".", "-f"])
def test_interface_names_that_are_none(name: str) -> None:
    with pytest.raises(EdgewireError):
        check_interface(name)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_endpoint_is_what_its_text_says(address: Any, port: int) -> None:
    endpoint = Endpoint(str(address), port)
    assert Endpoint.parse(str(endpoint)) == endpoint
