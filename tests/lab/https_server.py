"""A TLS server on loopback that speaks what a test tells it to, octet for octet."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

# Answers one request that has been read already.
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class HttpsServer:
    """Reads one request on each connection and lets `answer` reply; without `context` it speaks no TLS.

    `requests` holds the request heads as received, `server_names` the SNI of each handshake.
    """

    def __init__(
        self, answer: Answer, context: ssl.SSLContext | None, *, address: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.requests: list[bytes] = []
        self.server_names: list[str | None] = []
        self.port = 0
        self._address = address
        self._answer = answer
        self._context = context
        self._writers: set[asyncio.StreamWriter] = set()
        if context is not None:
            context.sni_callback = self._note_server_name

    def _note_server_name(self, _tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self.server_names.append(name)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, *self._address, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await self._answer(writer)


def say(data: bytes) -> Answer:
    """Send `data`, then end the TLS session properly."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return answer


def say_and_cut(data: bytes) -> Answer:
    """Send `data`, then end the TCP connection without ending the TLS session."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.transport.abort()

    return answer


def say_and_stall(data: bytes) -> Answer:
    """Send `data`, then nothing, the connection staying open."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


def drip(data: bytes, *, again: bytes, seconds: float) -> Answer:
    """Send `data`, then `again` every few `seconds` until the client leaves."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(seconds)

    return answer


def flood(data: bytes, *, again: bytes) -> Answer:
    """Send `data`, then `again` without end, as fast as it goes."""
    return drip(data, again=again, seconds=0)
