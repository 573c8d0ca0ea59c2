"""`stsguard inbound`: the policy host of our own domains, and what keeps them right, as one daemon."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from stsguard import __version__
from stsguard.adapters import systemd
from stsguard.app.certificates import build_certificates, hand_certificates
from stsguard.app.inspecting import build_inspecting
from stsguard.app.intake import build_drain
from stsguard.app.parts import build_parts
from stsguard.app.policy_serving import Listeners, PolicyServing
from stsguard.app.policy_workers import PolicyWorkers
from stsguard.app.serving import (
    ADMIN_SOCKET_MODE,
    address_text,
    end,
    faults_health,
    feed_watchdog,
    open_listener,
    raise_file_limit,
    serve_admin,
)
from stsguard.app.settings import tell_of_changes, tell_of_settings
from stsguard.app.steward import build_steward
from stsguard.config.hosting_options import ChallengeKind
from stsguard.config.model import Config
from stsguard.config.values import ListenAddress
from stsguard.core.errors import ListenFailed
from stsguard.discovery.describe import Plain, plain_time
from stsguard.discovery.health import Health
from stsguard.discovery.supervisor import kept_up
from stsguard.inbound.admin import InboundAdmin
from stsguard.inbound.hand_certificates import HandCertificateWatch
from stsguard.inbound.received_sums import ReceivedSums
from stsguard.log import logger, outcome
from stsguard.metrics import Gauge
from stsguard.store.stores import open_stores

log = logger(__name__)

PUBLIC_SOCKET_MODE = 0o666  # a web server in front runs as anybody, and what is served there is public
START_SECONDS = 30.0  # for the other processes to serve


class InboundDaemon:
    """`stsguard inbound`: policies served, by this process or by workers, and the tasks that keep domains right."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stores = open_stores(config.store.url)
        self._serving = PolicyServing(config, self._stores)
        self._workers: PolicyWorkers | None = None
        parts = build_parts(config, self._stores.policies)
        self._clock = parts.clock
        self._keeper = build_certificates(
            config,
            resolver=parts.resolver,
            clock=parts.clock,
            store=self._stores.certificates,
            policy_hosts=self._serving.hosting.policy_hosts,
        )
        by_hand = hand_certificates(config)
        hosts = self._serving.hosting.policy_hosts
        self._by_hand = HandCertificateWatch(by_hand, hosts, parts.clock) if by_hand is not None else None
        self._inspections = build_inspecting(config, parts, self._stores)
        self._steward = build_steward(config, parts, self._stores)
        self._intake = build_drain(config, parts.resolver, self._stores)
        self._sums = ReceivedSums(self._stores.received_views, self._stores.domains, config.intake.domains, parts.clock)
        self._started_at = self._clock.now()
        self._stop = asyncio.Event()
        self._where: list[str] = []

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ListenFailed, OperatorError: it can't start; the message says what to do.
        """
        tell_of_settings(self._config)
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._end, signum)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        listeners = self._listen()
        self._tell_of_challenges(listeners)
        async with AsyncExitStack() as stack:
            admin = open_listener(self._config.admin.inbound_listen, ADMIN_SOCKET_MODE)
            await self._serving.hosting.refresh()
            if self._config.policy_host.workers > 1:
                self._workers = PolicyWorkers(self._config, listeners)
            health = self._build_health()
            self._declare_gauges(health)
            from stsguard.adapters.prometheus import render_metrics

            await serve_admin(stack, admin, InboundAdmin(health, self._status, render_metrics).handle)
            background = asyncio.create_task(self._background())
            stack.push_async_callback(end, background)
            answering = asyncio.create_task(
                self._workers.run() if self._workers is not None else self._serving.answer(listeners)
            )
            stack.push_async_callback(end, answering)
            stopping = asyncio.create_task(self._stop.wait())
            stack.push_async_callback(end, stopping)
            running: list[asyncio.Task[Any]] = [background, answering, stopping]
            await self._say_ready(running)
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            systemd.notify("STOPPING=1")
            for task in done - {stopping}:
                task.result()
        listeners.close()
        await self._serving.close()
        await self._stores.policies.close()

    def _listen(self) -> Listeners:
        passed = systemd.listen_fds()
        if passed:
            return self._take_passed(passed)
        host = self._config.policy_host
        if host.listen and host.certificate_dir is None:
            raise ListenFailed("[policy_host] listen needs certificates, and certificate_dir names no directory")
        https = [self._open("listen", each) for each in host.listen]
        http = [self._open("http_listen", each) for each in host.http_listen]
        if not self._where:
            raise ListenFailed("no socket to answer at: [policy_host] listen and http_listen are empty")
        return Listeners(https, http)

    def _tell_of_challenges(self, listeners: Listeners) -> None:
        if (
            self._keeper is None
            or listeners.http
            or self._config.policy_host.acme_challenge is not ChallengeKind.HTTP_01
        ):
            return
        outcome(
            log,
            logging.WARNING,
            "nothing listens for http-01, so no certificate can be issued or renewed: set [policy_host] http_listen",
        )

    def _open(self, key: str, address: ListenAddress) -> socket.socket:
        try:
            listener = open_listener(address, PUBLIC_SOCKET_MODE)
        except ListenFailed as exc:
            raise ListenFailed(f"[policy_host] {key}: {exc}") from exc
        self._where.append(address_text(address))
        return listener

    def _take_passed(self, passed: list[tuple[socket.socket, str]]) -> Listeners:
        by_name: dict[str, list[socket.socket]] = {"https": [], "http": []}
        for sock, name in passed:
            if name not in by_name:
                raise ListenFailed(f'systemd has passed a socket named "{name}": FileDescriptorName= is https or http')
            by_name[name].append(sock)
            self._where.append(f"systemd:{name}")
        return Listeners(by_name["https"], by_name["http"])

    def _build_health(self) -> Health:
        health = Health()
        health.add("policies", self._serving.hosting.health)
        if self._workers is not None:
            health.add("workers", self._workers.health)
        if self._keeper is not None:
            health.add("certificates", self._keeper.health)
        if self._by_hand is not None:
            health.add("certificates by hand", self._by_hand.health)
        health.add("inspections", self._inspections.health)
        health.add("steward", self._steward.health)
        health.add("intake", self._intake.health)
        health.add("faults", faults_health)
        return health

    async def _background(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(feed_watchdog())
            group.create_task(self._serving.follow())
            group.create_task(kept_up("policy fetches", self._serving.fetches.run_deletion))
            group.create_task(kept_up("intake", self._intake.run))
            group.create_task(kept_up("old received reports", self._intake.run_deletion))
            group.create_task(kept_up("sums of received reports", self._once_read(self._sums.run)))
            if self._keeper is not None:
                group.create_task(kept_up("certificates", self._once_read(self._keeper.run)))
            if self._by_hand is not None:
                group.create_task(kept_up("certificates by hand", self._once_read(self._by_hand.run)))
            group.create_task(kept_up("inspections", self._once_read(self._inspections.run)))
            group.create_task(kept_up("steward", self._once_read(self._steward.run)))

    def _once_read(self, run: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """`run` once the database was read: before, no domain would be known, and none looked after."""

        async def wait_and_run() -> None:
            await self._serving.hosting.loaded.wait()
            await run()

        return wait_and_run

    async def _say_ready(self, tasks: "list[asyncio.Task[Any]]") -> None:
        if self._workers is not None:
            reported = asyncio.create_task(self._workers.reported.wait())
            await asyncio.wait([*tasks, reported], timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            await end(reported)
        where = ", ".join(self._where)
        outcome(log, logging.INFO, f"stsguard {__version__} serves policies", listen=where)
        systemd.notify("READY=1", f"STATUS=Serving policies at {where}")

    def _end(self, signum: signal.Signals) -> None:
        outcome(log, logging.INFO, "stopping", signal=signum.name)
        self._stop.set()

    def _reload(self) -> None:
        systemd.notify_reloading()
        outcome(log, logging.INFO, "reloading on SIGHUP")
        tell_of_changes(self._config)
        systemd.notify("READY=1")

    def _status(self) -> Plain:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": plain_time(self._started_at),
            "config": str(self._config.path) if self._config.present else None,
            "listen": self._where,
            "workers": self._workers.pids if self._workers is not None else [],
            "connections": self._connections(),
            "domains": len(self._serving.hosting.pages),
        }

    def _connections(self) -> int:
        return self._workers.connections if self._workers is not None else self._serving.server.connections

    def _declare_gauges(self, health: Health) -> None:
        pages = self._serving.hosting.pages
        Gauge("policy_host_domains", "Domains whose policy is served.", read=lambda: {(): float(len(pages))})
        Gauge("policy_host_connections", "Open connections.", read=lambda: {(): float(self._connections())})
        waiting = self._intake
        Gauge("received_spooled", "Received reports in the spool.", read=lambda: {(): float(waiting.waiting)})
        Gauge("healthy", "1 while no part has failed.", read=lambda: {(): float(health.report()[0])})


def run_inbound(config: Config) -> None:
    """`stsguard inbound`, until it is told to stop."""
    import uvloop

    async def serve() -> None:
        await InboundDaemon(config).run()

    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
