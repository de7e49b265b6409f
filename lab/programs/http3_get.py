# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP/3 client on aioquic: ``http3_get.py ADDRESS PATH`` writes the answer's body to standard output.

Ends with 1 where the status is not 200. The certificate is not checked: the lab's server makes its own.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

PORT = 443
SECONDS = 30


class Http3Client(QuicConnectionProtocol):
    """One connection and one request."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._http = H3Connection(self._quic)
        self._status, self._body = b"", b""
        self._done: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()

    async def get(self, authority: str, path: str) -> tuple[bytes, bytes]:
        """The answer's status and body."""
        fields = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        self._http.send_headers(self._quic.get_next_available_stream_id(), headers, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(self._done, SECONDS)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Collect the answer."""
        if isinstance(event, ConnectionTerminated) and not self._done.done():
            self._done.set_exception(ConnectionError(event.reason_phrase))
        for said in self._http.handle_event(event):
            if isinstance(said, HeadersReceived):
                self._status = dict(said.headers)[b":status"]
            elif isinstance(said, DataReceived):
                self._body += said.data
                if said.stream_ended and not self._done.done():
                    self._done.set_result((self._status, self._body))


async def main(address: str, path: str) -> int:
    """Ask once."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)
    async with connect(address, PORT, configuration=configuration, create_protocol=Http3Client) as client:
        assert isinstance(client, Http3Client)
        status, body = await client.get(f"[{address}]" if ":" in address else address, path)
    sys.stdout.buffer.write(body)
    return 0 if status == b"200" else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
