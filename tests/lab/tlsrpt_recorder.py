"""Takes the datagrams that Postfix 3.10 and later send through libtlsrpt, one a delivery, and keeps them."""

import asyncio
import json
from pathlib import Path
from socket import AF_UNIX
from typing import Any

LIMIT_SECONDS = 20.0
SOCKET = "stsguard/tlsrpt.sock"  # below the queue directory, where a chrooted smtp(8) sees it
SETTINGS = {"smtp_tlsrpt_enable": "yes", "smtp_tlsrpt_socket_name": SOCKET}


class TlsrptRecorder(asyncio.DatagramProtocol):
    """The socket of one Postfix instance. `datagrams` holds what came, oldest first, as parsed JSON."""

    def __init__(self) -> None:
        self.datagrams: list[dict[str, Any]] = []
        self._came = asyncio.Event()
        self._transport: asyncio.BaseTransport | None = None

    async def start(self, socket: Path) -> None:
        """Listen on `socket`."""
        loop = asyncio.get_running_loop()
        path: Any = str(socket)  # where other families take an address and a port
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=path, family=AF_UNIX)
        socket.chmod(0o666)

    def stop(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()

    def of_domain(self, domain: str) -> list[dict[str, Any]]:
        """The datagrams for deliveries to `domain`, in whatever case the sender wrote it."""
        return [datagram for datagram in self.datagrams if datagram["d"].lower() == domain]

    async def first_of_domain(self, domain: str) -> dict[str, Any]:
        """The first datagram for a delivery to `domain`; Postfix sends it a moment after it logs the delivery.

        Raises:
            TimeoutError: none came.
        """
        async with asyncio.timeout(LIMIT_SECONDS):
            while not self.of_domain(domain):
                self._came.clear()
                await self._came.wait()
        return self.of_domain(domain)[0]

    def datagram_received(self, data: bytes, _addr: object) -> None:
        self.datagrams.append(json.loads(data))
        self._came.set()
