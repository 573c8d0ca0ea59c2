"""`stsguard outbound`: the socketmap server, the policy cache and the admin socket, as one daemon."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from stsguard import __version__
from stsguard.adapters import systemd
from stsguard.adapters.datagram_socket import is_datagram_socket
from stsguard.adapters.listening import beyond_loopback
from stsguard.adapters.overrides_file import read_overrides, stamp
from stsguard.app.latency import prefer_latency
from stsguard.app.node import own_positions
from stsguard.app.parts import build_parts
from stsguard.app.readiness import ask_resolver, postfix_readiness, resolver_readiness
from stsguard.app.reports import Reporting
from stsguard.app.serving import (
    ADMIN_SOCKET_MODE,
    KEEP_PATH,
    address_text,
    end,
    faults_health,
    feed_watchdog,
    open_listener,
    raise_file_limit,
    serve_admin,
)
from stsguard.app.sessions import Hearing
from stsguard.app.settings import tell_of_changes, tell_of_settings
from stsguard.config.model import Config
from stsguard.config.options import LookupMode
from stsguard.core.errors import ListenFailed, StoreUnavailable
from stsguard.core.overrides import Overrides
from stsguard.discovery.dane_readiness import DaneReadiness
from stsguard.discovery.describe import Plain, plain_time
from stsguard.discovery.health import Health, PartHealth, PartState
from stsguard.discovery.supervisor import kept_up, supervised
from stsguard.log import logger, outcome
from stsguard.metrics import Gauge
from stsguard.outbound.admin import Admin
from stsguard.outbound.dns_watch import DnsWatch
from stsguard.outbound.lookup import LookupProtocol, LookupService
from stsguard.outbound.override_watch import OverrideWatch
from stsguard.outbound.replies import ReplyCache
from stsguard.outbound.warming import Warming
from stsguard.store.stores import open_stores

log = logger(__name__)

LOOKUP_SOCKET_MODE = 0o666  # smtp(8) runs as postfix, and what is asked there is public
STOP_SECONDS = 10.0
BACKGROUND_SECONDS = 0.2  # that work behind the look-ups begins after the first of them


class OutboundDaemon:
    """`stsguard outbound`: the socketmap server, the policy cache and the admin socket."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stores = open_stores(config.store.url, lean=True)
        self.parts = build_parts(config, self._stores.policies)
        self._observe = config.lookup.mode is LookupMode.OBSERVE
        self._service = LookupService(
            self.parts.demands, ReplyCache(self.parts.demands, observe=self._observe), self.parts.clock.monotonic
        )
        self._warming = Warming(self.parts.demands)
        self._readiness = (resolver_readiness(config, self.parts), postfix_readiness(config, self.parts))
        self._dns = DnsWatch(partial(ask_resolver, config, self.parts))
        counters = own_positions(self._stores.sessions, config.store.url)
        self._hearing = Hearing(config, self.parts, counters, observe=self._observe)
        self._service.on_bogus_tlsa = self._hearing.intake.note_bogus_tlsa
        self._reporting = Reporting(config, self._stores, self.parts)
        self._overrides = self._watch_overrides()
        self._health = self._build_health()
        self._started_at = self.parts.clock.now()
        self._stop = asyncio.Event()
        self._listening = asyncio.Event()
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

        health.add("dns", self._dns.health)
        health.add("store", store)
        for watched, name in zip(self._readiness, ("dane_resolver", "dane_postfix"), strict=True):
            health.add(name, partial(readiness, watched))
        if self._overrides is not None:
            health.add("overrides", self._overrides.health)
        health.add("sessions", self._hearing.health)
        health.add("reports", self._reporting.health)
        health.add("faults", faults_health)
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
            loop.add_signal_handler(signum, self._end, signum)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        async with AsyncExitStack() as stack:
            if not await self.parts.tender.open_early():
                self._listening.set()  # the first answers need the store: open it at once
            background = asyncio.create_task(self._background())
            stack.push_async_callback(end, background)
            stack.push_async_callback(self._service.close)
            # The first answer must know whether DANE counts: what was not checked would be answered with less.
            await asyncio.gather(self._dns.look(), *(watched.look() for watched in self._readiness))
            await self._reporting.start()
            await self._listen(stack)
            self._listening.set()
            hearing = asyncio.create_task(self._hearing.run())
            stack.push_async_callback(end, hearing)
            self._say_ready()
            stopping = asyncio.create_task(self._stop.wait())
            stack.push_async_callback(end, stopping)
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
        # What opening the store takes to load would share one interpreter with the way to the first answer.
        await self._listening.wait()
        await asyncio.sleep(BACKGROUND_SECONDS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.parts.tender.run())
            group.create_task(self.parts.demands.run())
            group.create_task(kept_up("verification", self.parts.verifier.run))
            group.create_task(feed_watchdog())
            group.create_task(kept_up("reports", self._reporting.run))
            group.create_task(kept_up("warming", self._warming.run))
            group.create_task(kept_up("DNS check", self._dns.run))
            for watched in self._readiness:
                group.create_task(kept_up("DANE check", watched.run))
            if self._overrides is not None:
                group.create_task(kept_up("overrides", self._overrides.run))

    def _end(self, signum: signal.Signals) -> None:
        outcome(log, logging.INFO, "stopping", signal=signum.name)
        self._stop.set()

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
            sockets = [
                (address_text(address), open_listener(address, LOOKUP_SOCKET_MODE))
                for address in self._config.lookup.listen
            ]
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
        sock = open_listener(address, ADMIN_SOCKET_MODE)
        _warn_of_exposure(address_text(address), sock)
        await serve_admin(stack, sock, self._build_admin().handle)

    def _build_admin(self) -> Admin:
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
            warm=self._warming.add,
            render_metrics=_render_metrics,
        )

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
        await supervised("opening the store at the end", self._open_store())
        if self.parts.cache.saver.unsaved:
            await supervised("saving at the end", self._flush())
        await supervised("counting at the end", self._hearing.close())
        await self._stores.policies.close()

    async def _open_store(self) -> None:
        """A daemon stopped within its first second may not have waited for its database, which holds all it leaves."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._stores.policies.open()
        except (StoreUnavailable, TimeoutError):
            pass  # each that has something to write says what it means

    async def _flush(self) -> None:
        saver = self.parts.cache.saver
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await saver.flush()
        except (StoreUnavailable, TimeoutError) as exc:
            what = "policies can't be stored and end with this process"
            outcome(log, logging.ERROR, what, reason=str(exc) or "no answer in time", unsaved=saver.unsaved)


async def _render_metrics() -> bytes:
    # Loaded by the first who asks; in a thread, since Postfix would wait for its answers meanwhile.
    render = await asyncio.to_thread(_load_metrics)
    return render()


def _load_metrics() -> Callable[[], bytes]:
    from stsguard.adapters.prometheus import render_metrics

    return render_metrics


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

    raise_file_limit()
    prefer_latency()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
