# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Preshared keys: one for each pair of hosts, derived on both from one secret of the fleet. Never shown.

The derivation is HKDF-SHA256 (RFC 5869): the salt is `SALT`, the input key material the secret in UTF-8, the info the
two hosts' inventory names in sorted order with a zero byte between them; the first 32 bytes are the key. So both sides
get the same key, each pair another one, and neither order nor other hosts matter.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode

SALT = b"edgewire.fleet WireGuard preshared key 1"
SHORTEST_SECRET = 32  # characters; as pwgen or openssl rand print them, well over 128 bits
KEY_BYTES = 32


class HiddenKey:
    """A secret key of 32 bytes. It compares by value and shows nothing of itself."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise ValueError("a key has 32 bytes")
        self._raw = raw

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def reveal_hex(self) -> str:
        """The key as UAPI wants it. For the transport alone."""
        return self._raw.hex()

    def reveal_base64(self) -> str:
        """The key as pyroute2 wants it. For the transport alone."""
        return b64encode(self._raw).decode()


class PresharedKey(HiddenKey):
    """A pair's key; 32 zero bytes mean that there is none."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return any(self._raw)


class PrivateKey(HiddenKey):
    """A device's key, where it is not in a file."""

    __slots__ = ()


NO_PRESHARED_KEY = PresharedKey(bytes(KEY_BYTES))


def from_hex(text: str) -> PresharedKey | None:
    """The key that a device says it has, None for none; ValueError, without the text, if it is no key."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raise ValueError("no preshared key") from None
    return PresharedKey(raw) or None


def from_base64(text: str | bytes) -> PresharedKey | None:
    """As `from_hex`, from base64."""
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        raise ValueError("no preshared key") from None
    return PresharedKey(raw) or None


def derive(secret: str, one: str, other: str) -> PresharedKey:
    """The key of the pair of hosts ``one`` and ``other``, in either order."""
    extracted = hmac.digest(SALT, secret.encode(), hashlib.sha256)
    info = "\0".join(sorted((one, other))).encode()
    return PresharedKey(hmac.digest(extracted, info + b"\x01", hashlib.sha256))
