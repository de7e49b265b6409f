# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Preshared keys: derivation as documented, and what the options refuse."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard import preshared
from ansible_collections.edgewire.fleet.plugins.module_utils.wireguard.model import (
    DesiredDevice,
    desired_from_params,
)
from hypothesis import given
from hypothesis import strategies as st

SECRET = "correct horse battery staple, and some more"
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, written out; checked below with the RFC's first test vector."""
    key, block, made = hmac.digest(salt, secret, hashlib.sha256), b"", b""
    for number in range(1, length // 32 + 2):
        block = hmac.digest(key, block + info + bytes([number]), hashlib.sha256)
        made += block
    return made[:length]


def test_the_derivation_is_the_documented_one() -> None:
    vector = hkdf(bytes([0x0B]) * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert vector.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    salt = b"edgewire.fleet WireGuard preshared key 1"
    wanted = hkdf(SECRET.encode(), salt, b"edge1\0worker1", 32)
    assert preshared.derive(SECRET, "worker1", "edge1").reveal_hex() == wanted.hex()


@given(names, names, names)
def test_both_sides_have_the_same_key_and_other_pairs_another(one: str, two: str, three: str) -> None:
    key = preshared.derive(SECRET, one, two)
    assert key == preshared.derive(SECRET, two, one)
    if len({one, two, three}) == 3:
        assert key not in (preshared.derive(SECRET, one, three), preshared.derive(SECRET, two, three))
    assert preshared.from_hex(key.reveal_hex()) == preshared.from_base64(key.reveal_base64()) == key
    assert key.reveal_hex() not in f"{key} {key!r}"


def test_zero_bytes_are_no_key() -> None:
    assert preshared.from_hex("00" * 32) is None
    with pytest.raises(ValueError, match="32 bytes"):
        preshared.from_hex("00")


def desired(**changed: object) -> DesiredDevice:
    peers = [{"name": "worker1", "public_key": None, "preshared": True}]
    return desired_from_params({"interface": "wg0", "private_key_file": "/k", "peers": peers, **changed})


def test_options() -> None:
    (peer,) = desired(host="edge1", preshared_secret=SECRET).peers
    assert peer.preshared_key == preshared.derive(SECRET, "edge1", "worker1")
    assert desired().peers[0].preshared_key is None
    with pytest.raises(EdgewireError) as caught:
        desired(preshared_secret="tooshort")
    assert "shorter than 32" in str(caught.value)
    assert "host: needed" in str(caught.value)
    assert "tooshort" not in str(caught.value)
