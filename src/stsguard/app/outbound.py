"""`stsguard outbound`: the socketmap server, the policy cache and the admin socket, as one daemon."""

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from stsguard import __version__
from stsguard.adapters import systemd
from stsguard.adapters.datagram_socket import is_datagram_socket
from stsguard.adapters.http_server import HttpRequest, HttpResponse, HttpServer, json_response
from stsguard.adapters.listening import beyond_loopback, listen_inet, listen_unix
from stsguard.adapters.overrides_file import read_overrides, stamp
from stsguard.app.latency import prefer_latency
from stsguard.app.parts import build_parts
from stsguard.app.readiness import ask_resolver, postfix_readiness, resolver_readiness
from stsguard.app.reports import Reporting
from stsguard.app.sessions import Hearing
from stsguard.app.settings import tell_of_changes, tell_of_settings
from stsguard.config.model import Config
from stsguard.config.options import LookupMode
from stsguard.config.values import InetAddress, ListenAddress, UnixAddress
from stsguard.core.errors import ListenFailed, StoreUnavailable
from stsguard.core.overrides import Overrides
from stsguard.discovery.dane_readiness import DaneReadiness
from stsguard.discovery.describe import Plain, plain_time
from stsguard.discovery.supervisor import crashes, kept_up, supervised
from stsguard.log import logger, outcome
from stsguard.metrics import Gauge
from stsguard.outbound.admin import Admin, Result
from stsguard.outbound.dns_watch import DnsWatch
from stsguard.outbound.health import Health, PartHealth, PartState
from stsguard.outbound.lookup import LookupProtocol, LookupService
from stsguard.outbound.override_watch import OverrideWatch
from stsguard.outbound.replies import ReplyCache
from stsguard.store.stores import open_stores

log = logger(__name__)

LOOKUP_SOCKET_MODE = 0o666  # smtp(8) runs as postfix, and what is asked there is public
ADMIN_SOCKET_MODE = 0o660
STOP_SECONDS = 10.0
OPEN_FILES = 65_536  # each smtp(8) holds a connection, and the usual limit of a shell is 1024
# From 3.13 on a server unlinks the path of its socket when it is closed: of a socket that is systemd's, or that a
# successor has taken over already.
KEEP_PATH: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class OutboundDaemon:
    """`stsguard outbound`: the socketmap server, the policy cache and the admin socket."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stores = open_stores(config.store.url)
        self.parts = build_parts(config, self._stores.policies)
        self._observe = config.lookup.mode is LookupMode.OBSERVE
        self._service = LookupService(
            self.parts.demands, ReplyCache(self.parts.demands, observe=self._observe), self.parts.clock.monotonic
        )
        self._readiness = (resolver_readiness(config, self.parts), postfix_readiness(config, self.parts))
        self._dns = DnsWatch(partial(ask_resolver, config, self.parts))
        self._hearing = Hearing(config, self.parts, self._stores.sessions, observe=self._observe)
        self._reporting = Reporting(config, self._stores, self.parts)
        self._overrides = self._watch_overrides()
        self._health = self._build_health()
        self._started_at = self.parts.clock.now()
        self._stop = asyncio.Event()
        self._listeners: list[str] = []

    def _watch_overrides(self) -> OverrideWatch | None:
        path = self._config.lookup.overrides
        if path is None:
            return None
        return OverrideWatch(
            partial(read_overrides, path), partial(stamp, path), self.parts.clock, self._apply_overrides
        )

    def _apply_overrides(self, overrides: Overrides) -> None:
        self.parts.demands.overrides = overrides
        self.parts.demands.redecide_all()

    def _build_health(self) -> Health:
        health = Health()
        parts = self.parts

        def store() -> PartHealth:
            if parts.tender.store_problem is not None:
                return PartHealth(PartState.FAILED, f"served without stored policies: {parts.tender.store_problem}")
            if parts.cache.store_failing:
                return PartHealth(PartState.FAILED, "it could not be read when a policy was last sought in it")
            if parts.cache.saver.failing_since is not None:
                problem = f"{parts.cache.saver.unsaved} policies can't be stored yet: {parts.cache.saver.problem}"
                return PartHealth(PartState.FAILED, problem)
            return PartHealth(PartState.OK, "all read" if parts.tender.loaded else "being read")

        def readiness(watched: DaneReadiness) -> PartHealth:
            doubt = f"; the last check did not count: {watched.doubt}" if watched.doubt else ""
            return PartHealth(PartState.OK if watched.ready else PartState.LIMITED, watched.reason + doubt)

        def faults() -> PartHealth:
            count = sum(crashes.values.values())
            if count:
                return PartHealth(PartState.LIMITED, f"{count} faults of stsguard since the start, see the log")
            return PartHealth(PartState.OK, "none")

        health.add("dns", self._dns.health)
        health.add("store", store)
        for watched, name in zip(self._readiness, ("dane_resolver", "dane_postfix"), strict=True):
            health.add(name, partial(readiness, watched))
        if self._overrides is not None:
            health.add("overrides", self._overrides.health)
        health.add("sessions", self._hearing.health)
        health.add("reports", self._reporting.health)
        health.add("faults", faults)
        return health

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigInvalid, OverrideInvalid, ListenFailed: it can't start; the message says what to do.
        """
        tell_of_settings(self._config)
        if self._overrides is not None:
            self._overrides.load()
        self._declare_gauges()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        async with AsyncExitStack() as stack:
            background = asyncio.create_task(self._background())
            stack.push_async_callback(_end, background)
            stack.push_async_callback(self._service.close)
            # The first answer must know whether DANE counts: what was not checked would be answered with less.
            await asyncio.gather(self._dns.look(), *(watched.look() for watched in self._readiness))
            await self._reporting.start()
            await self._listen(stack)
            hearing = asyncio.create_task(self._hearing.run())
            stack.push_async_callback(_end, hearing)
            self._say_ready()
            stopping = asyncio.create_task(self._stop.wait())
            stack.push_async_callback(_end, stopping)
            done, _ = await asyncio.wait([background, hearing, stopping], return_when=asyncio.FIRST_COMPLETED)
            systemd.notify("STOPPING=1")
            for task in done - {stopping}:
                task.result()
        await self._save_the_rest()

    def _say_ready(self) -> None:
        where = ", ".join(self._listeners)
        mode = " in observe mode: Postfix is always answered that there is no policy" if self._observe else ""
        outcome(log, logging.INFO, f"stsguard {__version__} answers{mode}", listen=where)
        systemd.notify("READY=1", f"STATUS=Answering at {where}")

    async def _background(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.parts.tender.run())
            group.create_task(self.parts.demands.run())
            group.create_task(kept_up("verification", self.parts.verifier.run))
            group.create_task(self._feed_watchdog())
            group.create_task(kept_up("reports", self._reporting.run))
            group.create_task(kept_up("DNS check", self._dns.run))
            for watched in self._readiness:
                group.create_task(kept_up("DANE check", watched.run))
            if self._overrides is not None:
                group.create_task(kept_up("overrides", self._overrides.run))

    async def _feed_watchdog(self) -> None:
        interval = systemd.watchdog_seconds()
        while interval is not None:
            systemd.notify("WATCHDOG=1")
            await asyncio.sleep(interval / 3)

    def _reload(self) -> None:
        systemd.notify_reloading()
        outcome(log, logging.INFO, "reloading on SIGHUP")
        tell_of_changes(self._config)
        if self._overrides is not None:
            self._overrides.reload()
        systemd.notify("READY=1")

    async def _listen(self, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        passed = systemd.listen_fds()
        self._hearing.open([sock for sock, _ in passed if is_datagram_socket(sock)])
        sockets = [(f"systemd:{name}", sock) for sock, name in passed if not is_datagram_socket(sock)]
        if not sockets:
            sockets = [(_text(address), _open(address, LOOKUP_SOCKET_MODE)) for address in self._config.lookup.listen]
        if not sockets:
            raise ListenFailed("no socket to answer at: [lookup] listen is empty, and systemd has passed none")
        protocol = partial(LookupProtocol, self._service)
        for where, sock in sockets:
            if sock.family == socket.AF_UNIX:
                server = await loop.create_unix_server(protocol, sock=sock, **KEEP_PATH)
            else:
                server = await loop.create_server(protocol, sock=sock)
            stack.callback(server.close)
            self._listeners.append(where)
            _warn_of_exposure(where, sock)
        await self._listen_admin(stack)

    async def _listen_admin(self, stack: AsyncExitStack) -> None:
        address = self._config.admin.listen
        http = HttpServer(self._handler(self._build_admin()))
        sock = _open(address, ADMIN_SOCKET_MODE)
        _warn_of_exposure(_text(address), sock)
        if sock.family == socket.AF_UNIX:
            server = await asyncio.start_unix_server(http.serve, sock=sock, **KEEP_PATH)
        else:
            server = await asyncio.start_server(http.serve, sock=sock)
        stack.callback(server.close)
        stack.push_async_callback(http.close)

    def _build_admin(self) -> Admin:
        from stsguard.adapters.prometheus import render_metrics

        parts = self.parts
        return Admin(
            demands=parts.demands,
            cache=parts.cache,
            tender=parts.tender,
            verifier=parts.verifier,
            resolver=parts.resolver,
            fetcher=parts.fetcher,
            clock=parts.clock,
            health=self._health,
            observe=self._observe,
            status=self._status,
            render_metrics=render_metrics,
        )

    def _handler(self, admin: Admin) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
        async def handle(request: HttpRequest) -> HttpResponse:
            results: list[Result] = []

            async def work() -> None:
                results.append(await admin.handle(request))

            if not await supervised("admin request", work()):
                return json_response({"error": "stsguard failed, see its log"}, 500)
            result = results[0]
            if isinstance(result.content, bytes):
                return HttpResponse(result.status, result.content, "text/plain; version=0.0.4; charset=utf-8")
            return json_response(result.content, result.status)

        return handle

    def _status(self) -> Plain:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": plain_time(self._started_at),
            "config": str(self._config.path) if self._config.present else None,
            "mode": self._config.lookup.mode.value,
            "listen": self._listeners,
            "connections": len(self._service.open_connections),
        }

    def _declare_gauges(self) -> None:
        parts = self.parts
        Gauge("policies", "Policies in force in memory.", read=lambda: {(): float(len(parts.cache))})
        Gauge("domains_without_policy", "Remembered negatives.", read=lambda: {(): float(parts.cache.negatives)})
        Gauge("destinations", "Next hops in memory.", read=lambda: {(): float(len(parts.demands))})
        Gauge("unsaved_policies", "Policies not stored yet.", read=lambda: {(): float(parts.cache.saver.unsaved)})
        Gauge("connections", "Open look-up connections.", read=lambda: {(): float(len(self._service.open_connections))})
        Gauge("healthy", "1 while no part has failed.", read=lambda: {(): float(self._health.report()[0])})

    async def _save_the_rest(self) -> None:
        await self.parts.cache.close()

        if self.parts.cache.saver.unsaved:
            await supervised("saving at the end", self._flush())
        await supervised("counting at the end", self._hearing.close())
        await self._stores.policies.close()

    async def _flush(self) -> None:
        saver = self.parts.cache.saver
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await saver.flush()
        except (StoreUnavailable, TimeoutError) as exc:
            what = "policies can't be stored and end with this process"
            outcome(log, logging.ERROR, what, reason=str(exc) or "no answer in time", unsaved=saver.unsaved)


async def _end(task: "asyncio.Task[object]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _text(address: ListenAddress) -> str:
    match address:
        case UnixAddress(path):
            return f"unix:{path}"
        case InetAddress(host, port):
            return f"inet:{host}:{port}"


def _open(address: ListenAddress, mode: int) -> socket.socket:
    match address:
        case UnixAddress(path):
            return listen_unix(path, mode)
        case InetAddress(host, port):
            return listen_inet(host, port)


def _warn_of_exposure(where: str, sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX and beyond_loopback(sock.getsockname()[0]):
        outcome(
            log,
            logging.WARNING,
            "listening beyond loopback: anybody who can connect can have domains looked up",
            listen=where,
        )


def run_outbound(config: Config) -> None:
    """`stsguard outbound`, until it is told to stop."""
    import uvloop

    async def serve() -> None:
        await OutboundDaemon(config).run()

    _raise_file_limit()
    prefer_latency()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
