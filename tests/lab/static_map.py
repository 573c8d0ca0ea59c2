"""A socketmap server with fixed answers, for what a policy map can do to Postfix without our daemon."""

import asyncio
from pathlib import Path

MAX_REQUEST = 10_000  # as Postfix limits its queries


class StaticMap:
    """Answers each key from a table: `answers["example.test"] = "OK secure match=…"`; NOTFOUND for all others."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.requests: list[str] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.StreamWriter] = set()

    async def listen(self, *, socket: Path | None = None, port: int | None = None) -> None:
        """Listen on a unix socket, or on a port of 127.0.0.1."""
        if socket is not None:
            server = await asyncio.start_unix_server(self._serve, socket)
            socket.chmod(0o666)
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self._servers.append(server)

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        for server in self._servers:
            server.close()
        for writer in list(self._connections):
            writer.close()
        self._servers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                length = int((await reader.readuntil(b":"))[:-1])
                request = (await reader.readexactly(min(length, MAX_REQUEST) + 1))[:-1].decode("utf-8", "replace")
                self.requests.append(request)
                _, _, key = request.partition(" ")
                answer = self.answers.get(key, "NOTFOUND ").encode()
                writer.write(b"%d:%s," % (len(answer), answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client closed
        finally:
            self._connections.discard(writer)
            writer.close()
