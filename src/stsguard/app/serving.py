"""What the daemons share: their sockets, the admin socket, systemd's watchdog, the limit of open files."""

import asyncio
import resource
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

from stsguard.adapters import systemd
from stsguard.adapters.http_server import HttpRequest, HttpResponse, HttpServer, json_response, long_json_response
from stsguard.adapters.listening import listen_inet, listen_unix
from stsguard.config.values import InetAddress, ListenAddress, UnixAddress
from stsguard.discovery.describe import Plain
from stsguard.discovery.health import PartHealth, PartState
from stsguard.discovery.supervisor import crashes, supervised

ADMIN_SOCKET_MODE = 0o660
OPEN_FILES = 65_536  # each client holds a connection, and the usual limit of a shell is 1024
# From 3.13 on a server unlinks the path of its socket when it is closed: of a socket that is systemd's, or that a
# successor has taken over already.
KEEP_PATH: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class AdminResult(Protocol):
    """What a route of an admin socket gives: plain data with a status, or text."""

    @property
    def status(self) -> int: ...
    @property
    def content(self) -> Plain | bytes: ...


def address_text(address: ListenAddress) -> str:
    """The address as the configuration spells it."""
    match address:
        case UnixAddress(path):
            return f"unix:{path}"
        case InetAddress(host, port):
            return f"inet:{host}:{port}"


def open_listener(address: ListenAddress, mode: int) -> socket.socket:
    """A socket that listens there; a unix one with access `mode`.

    Raises:
        ListenFailed: with the address and what to do.
    """
    match address:
        case UnixAddress(path):
            return listen_unix(path, mode)
        case InetAddress(host, port):
            return listen_inet(host, port)


async def serve_admin(
    stack: AsyncExitStack, sock: socket.socket, handle: Callable[[HttpRequest], Awaitable[AdminResult]]
) -> None:
    """Serve the admin socket until `stack` is left; a fault of `handle` is logged and answered with 500."""

    async def answer(request: HttpRequest) -> HttpResponse:
        results: list[AdminResult] = []

        async def work() -> None:
            results.append(await handle(request))

        if not await supervised("admin request", work()):
            return json_response({"error": "stsguard failed, see its log"}, 500)
        result = results[0]
        if isinstance(result.content, bytes):
            return HttpResponse(result.status, result.content, "text/plain; version=0.0.4; charset=utf-8")
        return await long_json_response(result.content, result.status)

    http = HttpServer(answer)
    if sock.family == socket.AF_UNIX:
        server = await asyncio.start_unix_server(http.serve, sock=sock, **KEEP_PATH)
    else:
        server = await asyncio.start_server(http.serve, sock=sock)
    stack.callback(server.close)
    stack.push_async_callback(http.close)


async def feed_watchdog() -> None:
    """Tell systemd that the event loop goes round, as often as it asks for; for ever, or not at all."""
    interval = systemd.watchdog_seconds()
    while interval is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval / 3)


def faults_health() -> PartHealth:
    """Whether a fault of ours has been caught since the start."""
    count = sum(crashes.values.values())
    if count:
        return PartHealth(PartState.LIMITED, f"{count} faults of stsguard since the start, see the log")
    return PartHealth(PartState.OK, "none")


async def end(task: "asyncio.Task[object]") -> None:
    """Cancel a task and wait until it is over."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def raise_file_limit() -> None:
    """Allow this process as many open files as it may have, up to OPEN_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
