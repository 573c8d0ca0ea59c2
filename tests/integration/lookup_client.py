"""The socketmap server over a fake outside world, on a real socket, and a client that speaks to it byte by byte."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from stsguard.core import netstring
from stsguard.outbound.lookup import LookupProtocol, LookupService
from stsguard.outbound.replies import ReplyCache
from tests.unit.fakes import Clock, World

NOTFOUND = b"NOTFOUND "
SECURE = b"OK secure match=mx.%b servername=hostname"


def ask(key: str | bytes, map_name: str = "policy") -> bytes:
    """A framed request."""
    return netstring.encode(map_name.encode() + b" " + (key.encode() if isinstance(key, str) else key))


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *segments: bytes) -> None:
        """Each segment by itself, with a turn of the loop between them."""
        for segment in segments:
            self.writer.write(segment)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def reply(self) -> bytes:
        """The payload of the next reply."""
        async with asyncio.timeout(20):
            length = await self.reader.readuntil(b":")
            text = await self.reader.readexactly(int(length[:-1]) + 1)
        assert text.endswith(b",")
        return text[:-1]

    async def replies(self, count: int) -> list[bytes]:
        return [await self.reply() for _ in range(count)]

    async def lookup(self, key: str | bytes, map_name: str = "policy") -> bytes:
        await self.send(ask(key, map_name))
        return await self.reply()

    async def closed(self) -> bytes:
        """What still comes before the server closes the connection."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


class Server:
    """A look-up server over `world`."""

    def __init__(self, world: World, service: LookupService, address: str | int) -> None:
        self.world = world
        self.service = service
        self.address = address
        self.clients: list[Client] = []

    async def connect(self, *, receive_bytes: int | None = None) -> Client:
        if isinstance(self.address, str):
            reader, writer = await asyncio.open_unix_connection(self.address)
        else:
            sock = socket.socket()
            if receive_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.address))
            reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        client = Client(reader, writer)
        self.clients.append(client)
        return client


@asynccontextmanager
async def serving(path: Path | None = None, *, observe: bool = False) -> AsyncIterator[Server]:
    """A server on a unix socket at `path`, else on loopback. Its world has good.example, none.example, dane.example."""
    world = World(Clock())
    world.publish("good.example")
    world.publish("none.example", "")
    world.cache.store_tried.set()
    saving = asyncio.create_task(world.cache.saver.run())
    service = LookupService(world.demands, ReplyCache(world.demands, observe=observe), world.clock.monotonic)
    loop = asyncio.get_running_loop()
    listener: asyncio.AbstractServer
    if path is not None:
        listener = await loop.create_unix_server(partial(LookupProtocol, service), str(path))
        server = Server(world, service, str(path))
    else:
        listener = await loop.create_server(partial(LookupProtocol, service), "127.0.0.1", 0, backlog=2048)
        server = Server(world, service, listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        for client in server.clients:
            await client.close()
        listener.close()
        await service.close()
        saving.cancel()
        await world.stop()


async def until(condition: object, limit_seconds: float = 20.0) -> None:
    """Wait until `condition()` holds."""
    assert callable(condition)
    async with asyncio.timeout(limit_seconds):
        while not condition():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.005)
