# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP/3 server on aioquic that knows nothing of edgewire: ``GET /bytes/N`` answers with N pseudo-random bytes.

Logs every request with the address that it came from: ``2001:db8:c::11 GET /bytes/100000``.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import sys
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PORT = 443


def body(size: int) -> bytes:
    """What the path /bytes/SIZE is: the same bytes on every server."""
    return random.Random(size).randbytes(size)


class Http3Server(QuicConnectionProtocol):
    """One QUIC connection with a client."""

    _http: H3Connection | None = None
    _peer = "nobody"

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        """Remember whom the connection is with; the server's one socket is for both families."""
        address = IPv6Address(addr[0].split("%")[0])
        self._peer = str(address.ipv4_mapped or address)
        super().datagram_received(data, addr)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Hand what QUIC says to HTTP/3."""
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        if self._http is not None:
            for said in self._http.handle_event(event):
                self._answer(self._http, said)

    def _answer(self, http: H3Connection, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived):
            return
        headers = dict(event.headers)
        method, path = headers[b":method"].decode(), headers[b":path"].decode()
        print(f"{self._peer} {method} {path}", file=sys.stderr, flush=True)
        prefix, _, size = path.rpartition("/")
        found = method == "GET" and prefix == "/bytes" and size.isdecimal()
        http.send_headers(event.stream_id, [(b":status", b"200" if found else b"404")])
        http.send_data(event.stream_id, body(int(size)) if found else b"", end_stream=True)
        self.transmit()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "http3.edge.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def main() -> None:
    """Serve until somebody ends it."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(*make_certificate(Path("/dev/shm")))
    await serve("::", PORT, configuration=configuration, create_protocol=Http3Server)
    await asyncio.Future()


if __name__ == "__main__":
    asyncio.run(main())
