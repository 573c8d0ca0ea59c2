"""Serves an ASGI application over HTTP/1.1, by uvicorn's protocol on sockets, TLS and limits of our own.

uvicorn speaks HTTP (with h11) and calls the application; it is not asked to listen, since it bounds neither the time of
a request nor the number of connections, and shows no ClientHello. So connections are accepted here. Over TLS the
ClientHello is looked at before anything answers it, and `select` says which certificate the connection gets: one for
another name, or none, is refused with the alert of RFC 6066 §3. Every connection ends when no response has been
completed for `REQUEST_SECONDS`, and the one that has waited longest goes when there are too many.

HTTP/2 is left out: RFC 8461 senders make one request, and HTTP/1.1 is what all of them speak.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from stsguard.adapters.asgi_server.connection import BoundedProtocol
from stsguard.adapters.asgi_server.hello import peek_client_hello, refuse
from stsguard.core.client_hello import ClientHello
from stsguard.core.errors import ClientHelloInvalid
from stsguard.log import logger, outcome
from stsguard.metrics import Counter

log = logger(__name__)
connections_total = Counter("https_connections_total", "Connections to the policy host by how they began.", "outcome")
dropped = Counter("https_connections_dropped_total", "Connections ended since they took too long or were too many.")

REQUEST_SECONDS = 10.0  # from the start, and from each response, to the end of the next; no sender is that slow
KEEP_ALIVE_SECONDS = 5
HELLO_SECONDS = 5.0
HANDSHAKE_SECONDS = 5.0
CLOSE_SECONDS = 2.0  # for the close_notify of a peer
STOP_SECONDS = 5.0  # for requests under way at the end
MAX_HEAD_BYTES = 16_384  # request line and header fields; uvicorn's own default is 64 KiB
MAX_CONNECTIONS = 4_000
SWEEP_SECONDS = 1.0
RETRY_SECONDS = 0.1  # after accept(2) has failed for want of descriptors or memory

Application = Callable[..., Awaitable[None]]
Select = Callable[[ClientHello], Awaitable[ssl.SSLContext | None]]


class AsgiServer:
    """Serves `application` on any number of listening sockets. `select` gives the TLS context for a ClientHello, None
    to refuse it. The state of a connection over TLS tells the application the name that `select` chose by."""

    def __init__(
        self,
        application: Application,
        *,
        select: Select | None = None,
        tls_name: str = "tls_host",
        max_connections: int = MAX_CONNECTIONS,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._config = Config(
            application,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        self._config.load()
        # It warns of each malformed request, which any scanner of the Internet sends; its faults stay.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._state = ServerState()
        self._select = select
        self._tls_name = tls_name
        self._max_connections = max_connections
        self._request_seconds = request_seconds
        self._beginning: dict[asyncio.Task[None], None] = {}

    @property
    def connections(self) -> int:
        """How many connections are open, those in their handshake included."""
        return len(self._state.connections) + len(self._beginning)

    async def serve(self, listener: socket.socket, *, tls: bool) -> None:
        """Accept connections at `listener`, for ever. Several processes may share it."""
        loop = asyncio.get_running_loop()
        failing = False
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as exc:
                if exc.errno in (errno.ECONNABORTED, errno.EPROTO):
                    continue
                if not failing:
                    outcome(log, logging.ERROR, "connections can't be accepted", reason=exc)
                failing = True
                self._drop_one()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            failing = False
            if self.connections >= self._max_connections:
                self._drop_one()
            task = loop.create_task(self._begin(sock, tls=tls))
            self._beginning[task] = None
            task.add_done_callback(self._begun)

    def _begun(self, task: "asyncio.Task[None]") -> None:
        self._beginning.pop(task, None)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("fault in stsguard, please report it", exc_info=fault, extra={"fields": {"task": "connection"}})

    async def tend(self) -> None:
        """End connections whose time is over and keep the Date field right (RFC 9110 §6.6.1), for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._state.default_headers = [(b"date", formatdate(usegmt=True).encode("ascii"))]
            now = loop.time()
            for connection in self._connections():
                if connection.deadline < now:
                    self._drop(connection)
            await asyncio.sleep(SWEEP_SECONDS)

    async def close(self) -> None:
        """End the connections; requests under way are answered first. The accepting tasks have ended before."""
        for task in tuple(self._beginning):
            task.cancel()
        await asyncio.gather(*self._beginning, return_exceptions=True)
        connections = self._connections()
        for connection in connections:
            connection.shutdown()
        if connections:
            await asyncio.wait([connection.closed for connection in connections], timeout=STOP_SECONDS)
        for connection in self._connections():
            connection.transport.abort()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)

    def _connections(self) -> list[BoundedProtocol]:
        return [each for each in self._state.connections if isinstance(each, BoundedProtocol)]

    def _drop_one(self) -> None:
        """Make room: the connection goes that has waited longest, else the handshake that has."""
        oldest = min(self._connections(), key=lambda connection: connection.deadline, default=None)
        if oldest is not None:
            self._drop(oldest)
        elif self._beginning:
            dropped.inc()
            next(iter(self._beginning)).cancel()

    def _drop(self, connection: BoundedProtocol) -> None:
        dropped.inc()
        self._state.connections.discard(connection)
        connection.transport.abort()

    async def _begin(self, sock: socket.socket, *, tls: bool) -> None:
        try:
            if tls:
                await self._begin_tls(sock)
            else:
                await self._hand_over(sock, {})
                connections_total.inc("plain")
        except ClientHelloInvalid:
            connections_total.inc("no TLS")
            sock.close()
        except TimeoutError:
            connections_total.inc("too slow")
            sock.close()
        except OSError:  # ssl.SSLError among them: the peer went away, or wants no TLS that we speak
            connections_total.inc("failed")
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise

    async def _begin_tls(self, sock: socket.socket) -> None:
        assert self._select is not None, "no certificates for a listener with TLS"  # noqa: S101 (the wiring's mistake)
        async with asyncio.timeout(HELLO_SECONDS):
            hello = await peek_client_hello(sock)
        context = await self._select(hello)
        if context is None or hello.server_name is None:
            connections_total.inc("no such name")
            refuse(sock)
            return
        state = {self._tls_name: hello.server_name.encode("ascii")}
        await self._hand_over(sock, state, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS)
        connections_total.inc("TLS")

    async def _hand_over(self, sock: socket.socket, state: dict[str, Any], **tls: Any) -> None:
        loop = asyncio.get_running_loop()
        if tls:
            tls["ssl_shutdown_timeout"] = CLOSE_SECONDS
        protocol = partial(BoundedProtocol, self._config, self._state, state, self._request_seconds)
        await loop.connect_accepted_socket(protocol, sock, **tls)
