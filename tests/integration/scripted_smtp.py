"""An SMTP server that does one thing wrong, or none: for looking at a client, never for mail."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

LIMIT_SECONDS = 30
EHLO_REPLY = b"250-mx.example.com at your service\r\n250-PIPELINING\r\n250 STARTTLS\r\n"


@dataclass
class ScriptedServer:
    """What it sends at each step: b"" for nothing at all, None to close the connection instead.

    `commands` and `tls_commands` are what clients sent before and within TLS, `server_names` the SNI of each
    handshake, and `forever` is sent again and again after the reply to EHLO. With `reset` the connection is reset
    within the handshake.
    """

    tls: ssl.SSLContext | None = None
    greeting: bytes | None = b"220 mx.example.com ESMTP\r\n"
    ehlo: bytes | None = EHLO_REPLY
    forever: bytes = b""
    starttls: bytes | None = b"220 go ahead\r\n"
    instead_of_handshake: bytes | None = None
    reset: bool = False
    quit: bytes | None = b"221 bye\r\n"
    commands: list[bytes] = field(default_factory=list)
    tls_commands: list[bytes] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    port: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @asynccontextmanager
    async def running(self, address: str = "127.0.0.1") -> AsyncIterator["ScriptedServer"]:
        """Serve on `address` at a free port."""
        if self.tls is not None:
            self.tls.sni_callback = self._note_server_name
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.create_task(self._serve(reader, writer)))

        server = await asyncio.start_server(accepted, address, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                if not task.done():
                    await asyncio.wait([task], timeout=1)
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()

    async def until(self, condition: Callable[["ScriptedServer"], bool]) -> None:
        """Wait until this holds for the connections so far."""
        async with asyncio.timeout(LIMIT_SECONDS), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def _count(self, *, connections: int = 0, ended: int = 0) -> None:
        async with self._changed:
            self.connections += connections
            self.ended += ended
            self._changed.notify_all()

    def _note_server_name(self, _tls: object, name: str | None, _context: object) -> None:
        self.server_names.append(name)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._count(connections=1)
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                await self._talk(reader, writer)
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            await self._count(ended=1)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._say(writer, self.greeting)
        while line := await reader.readline():
            self.commands.append(line)
            match line.split()[0].upper():
                case b"EHLO":
                    await self._say(writer, self.ehlo)
                    while self.forever:
                        await self._say(writer, self.forever * 1000)
                        await asyncio.sleep(0)
                case b"STARTTLS":
                    await self._say(writer, self.starttls)
                    if self.starttls and self.starttls.startswith(b"220"):
                        await self._talk_tls(reader, writer)
                        return
                case b"QUIT":
                    await self._say(writer, self.quit)
                    return

    async def _talk_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.tls is None or self.instead_of_handshake is not None:
            await reader.read(1)  # the client begins
            if self.reset:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            await self._say(writer, self.instead_of_handshake)
            await reader.read()
            return
        await writer.start_tls(self.tls)
        while line := await reader.readline():
            self.tls_commands.append(line)
            await self._say(writer, self.quit)

    async def _say(self, writer: asyncio.StreamWriter, reply: bytes | None) -> None:
        if reply is None:
            raise EOFError
        writer.write(reply)
        await writer.drain()


def closed_port() -> tuple[socket.socket, int]:
    """A port at which nothing listens, as long as the socket lives."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]
