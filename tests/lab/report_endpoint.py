"""An HTTPS endpoint for reports (RFC 8460 §3, §5.4): takes POSTs, answers what it is told, keeps what it got."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.lab.certificates import CertificateKind, Certificates

ADDRESS = "192.0.2.84"
HTTPS_PORT = 443
SESSION_LIMIT_SECONDS = 60
_BROKEN = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Posted:
    """A request: its first line, its header fields by lower-case name, its body, and what it was answered."""

    request_line: str
    fields: dict[str, str]
    body: bytes
    status: str


class ReportEndpoint:
    """The server for `hostname`. Each path has its answers, one a request; the last one is repeated."""

    def __init__(self, certificates: Certificates, hostname: str) -> None:
        self.hostname = hostname
        self.answers: dict[str, Sequence[str]] = {}
        self.posted: dict[str, list[Posted]] = {}
        self._context = certificates.issue(hostname, CertificateKind.VALID).server_context()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, ADDRESS, HTTPS_PORT, ssl=self._context)

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SESSION_LIMIT_SECONDS):
                status = await self._take(reader)
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
        except _BROKEN:
            pass  # the client went away
        finally:
            writer.close()
            with suppress(*_BROKEN):
                await writer.wait_closed()

    async def _take(self, reader: asyncio.StreamReader) -> str:
        request_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(fields["content-length"]))
        path = request_line.split(" ")[1]
        before = self.posted.setdefault(path, [])
        answers = self.answers.get(path, ("404 Not Found",))
        status = answers[min(len(before), len(answers) - 1)]
        before.append(Posted(request_line, fields, body, status))
        return status
