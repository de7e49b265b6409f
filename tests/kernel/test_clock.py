# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A box whose clock was set back: its peers refuse its handshakes, as they are older than what they have seen.

A namespace cannot have a clock of its own. So the peer is shown, instead, a handshake of the box from the future: for
the peer there is no difference.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.verify.sessions import Clocks, handshake_age, judge
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .conftest import wait_until
from .test_wireguard import Box, heard, make_box, transport  # noqa: F401  # fixtures

pytestmark = pytest.mark.kernel

HOUR = 3600
OLD = Clocks(now=0.0, uptime=HOUR, plan_age=HOUR)  # neither boot nor plan are new


def blake(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def derive(chain: bytes, given: bytes) -> tuple[bytes, bytes]:
    """HKDF of two keys with HMAC-BLAKE2s (WireGuard paper, section 5.4)."""
    secret = hmac.digest(chain, given, "blake2s")
    first = hmac.digest(secret, b"\x01", "blake2s")
    return first, hmac.digest(secret, first + b"\x02", "blake2s")


def initiation(private: bytes, peer: bytes, at: float) -> bytes:
    """The first message of a handshake with ``peer``, as sent at that time (WireGuard paper, section 5.4.2)."""

    def public(key: X25519PrivateKey) -> bytes:
        return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    mine, ephemeral = X25519PrivateKey.from_private_bytes(private), X25519PrivateKey.generate()
    theirs = X25519PublicKey.from_public_bytes(peer)
    chain = blake(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    seen = blake(blake(chain, b"WireGuard v1 zx2c4 Jason@zx2c4.com"), peer)
    chain, _ = derive(chain, public(ephemeral))
    seen = blake(seen, public(ephemeral))
    sealed = []
    tai64n = struct.pack("!QI", 0x400000000000000A + int(at), 0)
    for secret, text in ((ephemeral, public(mine)), (mine, tai64n)):
        chain, key = derive(chain, secret.exchange(theirs))
        sealed.append(ChaCha20Poly1305(key).encrypt(bytes(12), text, seen))
        seen = blake(seen, sealed[-1])
    message = struct.pack("<II", 1, 4711) + public(ephemeral) + b"".join(sealed)
    mac = hashlib.blake2s(message, key=blake(b"mac1----", peer), digest_size=16).digest()
    return message + mac + bytes(16)


def show_the_future(one: Box, two: Box) -> None:
    """Let two see a handshake of one from an hour ahead, from one's own address and port."""
    private = base64.b64decode(Path(one.params["private_key_file"]).read_text())
    message = initiation(private, base64.b64decode(two.public_key), time.time() + HOUR)
    header = struct.pack("!4H", one.params["listen_port"], two.params["listen_port"], 8 + len(message), 0)
    with one.ns, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as wire:
        for _ in range(5):  # a first one that comes within 20 ms of the last real one is taken for a flood
            wire.sendto(header + message, ("192.0.2.2", 0))
            time.sleep(0.1)


def latest(box: Box) -> int:
    (peer,) = box.observe().settings.peers.values()
    return int(peer.latest_handshake)


def forget(one: Box, two: Box) -> None:
    """What a reboot does to one: its session is gone, and it begins a new one."""
    one.wg("set", one.interface, "peer", two.public_key, "remove")
    assert one.apply() == [("add", "peer")]


def test_a_clock_that_was_set_back(make_box: Callable[..., Box], veth: Callable[..., None]) -> None:  # noqa: F811
    one, two = make_box(1), make_box(2)
    veth(one.ns, "192.0.2.1/24", two.ns, "192.0.2.2/24")
    for mine, other, number in ((one, two, 2), (two, one, 1)):
        mine.params["peers"] = [
            {
                "name": f"host{number}",
                "public_key": other.public_key,
                "endpoint": f"192.0.2.{number}:51820",
                "allowed_ips": [f"100.64.0.{number}/32"],
                "persistent_keepalive": 25,
            }
        ]
        mine.apply()
        mine.ns.run("ip", "route", "add", f"100.64.0.{number}/32", "dev", mine.interface)
    assert heard(one, two, "100.64.0.2") == "100.64.0.1"
    forget(one, two)
    wait_until(lambda: latest(one), "a new session, with clocks that are right")

    show_the_future(one, two)
    forget(one, two)
    with pytest.raises(TimeoutError):
        heard(one, two, "100.64.0.2", seconds=6)  # a handshake is tried every 5 s
    assert latest(one) == 0
    assert judge(handshake_age(latest(one), OLD), OLD) == "never"
    assert one.apply() == two.apply() == []  # nothing that a run could repair

    # The peer, whose own clock is right, has no answer to what it sends, and begins a session after 15 s by itself.
    with two.ns, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"anybody", ("100.64.0.1", 4000))
    wait_until(lambda: latest(one), "the peer to begin a session", 60)
    assert heard(one, two, "100.64.0.2") == "100.64.0.1"
    assert heard(two, one, "100.64.0.1") == "100.64.0.2"
    assert one.apply() == two.apply() == []
