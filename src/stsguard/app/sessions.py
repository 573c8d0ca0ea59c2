"""Hearing of TLS sessions: one datagram socket and one mail log a Postfix instance, feeding one intake."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stsguard.adapters.datagram_socket import DatagramReader, open_datagram_socket, queue_advice, queue_length
from stsguard.app.parts import Parts
from stsguard.config.model import Config, Origin, SessionsConfig
from stsguard.core.errors import ListenFailed
from stsguard.discovery.health import PartHealth, PartState
from stsguard.discovery.supervisor import kept_up
from stsguard.log import logger, outcome
from stsguard.outbound.datagrams import DatagramPump, DatagramTally
from stsguard.outbound.sessions import SessionIntake
from stsguard.ports import CounterStore

if TYPE_CHECKING:
    from stsguard.app.mail_log import MailLog

log = logger(__name__)


class Hearing:
    """The sockets and logs of every instance. Nothing is opened before `open`."""

    def __init__(self, config: Config, parts: Parts, store: CounterStore, *, observe: bool) -> None:
        self._config = config
        self._clock = parts.clock
        self._store = store
        self.intake = SessionIntake(
            demands=parts.demands,
            cache=parts.cache,
            tender=parts.tender,
            verifier=parts.verifier,
            store=store,
            clock=parts.clock,
            log_instances=[instance.syslog_name for instance in config.sessions if instance.mail_log is not None],
            observe=observe,
        )
        self._readers: list[DatagramReader] = []
        self._pumps: list[DatagramPump] = []
        self._logs: list[MailLog] = []
        self._sources: list[str] = []

    def open(self, passed: Sequence[socket.socket] = ()) -> None:
        """Open every instance's socket, in place of which systemd may have `passed` some in the order of [[sessions]].

        Raises:
            ListenFailed: a socket that the configuration names can't be opened.
        """
        waiting = list(passed)
        origins = self._config.origins("sessions", "tlsrpt_socket")
        for instance, origin in zip(self._config.sessions, origins, strict=True):
            if waiting:
                self._listen(waiting.pop(0), instance, "systemd")
            elif instance.tlsrpt_socket is not None:
                self._open_one(instance, origin)
            if instance.mail_log is not None:
                from stsguard.app.mail_log import MailLog

                self._logs.append(MailLog(instance, self._store, self.intake, self._clock))
                self._sources.append(f"log of {instance.syslog_name}")
        if self._readers and (advice := queue_advice(queue_length())) is not None:
            outcome(log, logging.WARNING, advice)

    def _open_one(self, instance: SessionsConfig, origin: Origin) -> None:
        path = instance.tlsrpt_socket
        assert path is not None  # noqa: S101 (the caller has looked)
        try:
            sock = open_datagram_socket(
                path, owner=instance.tlsrpt_owner, group=instance.tlsrpt_group, mode=instance.tlsrpt_mode
            )
        except ListenFailed as exc:
            if origin is not Origin.DEFAULT:
                raise
            # The default is where Debian's Postfix can write; without that place a site just has no such source.
            outcome(log, logging.INFO, "no TLS sessions are heard of by datagram", reason=exc)
            return
        self._listen(sock, instance, str(path))

    def _listen(self, sock: socket.socket, instance: SessionsConfig, where: str) -> None:
        sock.setblocking(False)
        tally = DatagramTally()
        reader = DatagramReader(sock, tally.add)
        pump = DatagramPump(
            tally,
            self.intake.heard,
            reader,
            clock=self._clock,
            instance=instance.syslog_name,
            refused=self.intake.refused,
        )
        self._readers.append(reader)
        self._pumps.append(pump)
        self._sources.append(where)

    async def run(self) -> None:
        """Hear and count, for ever."""
        for reader in self._readers:
            reader.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(kept_up("session intake", self.intake.run))
            for pump in self._pumps:
                group.create_task(kept_up("datagrams", pump.run))
            for mail_log in self._logs:
                group.create_task(kept_up("mail log", mail_log.run))

    async def close(self) -> None:
        """Count what has been heard, write it, close the sockets."""
        for reader in self._readers:
            reader.close()
        for pump in self._pumps:
            await pump.flush()
        for mail_log in self._logs:
            await mail_log.close()
        await self.intake.close()

    def health(self) -> PartHealth:
        """What is heard, and whether counters wait for the store."""
        broken = [
            health for health in (mail_log.health() for mail_log in self._logs) if health.state is PartState.FAILED
        ]
        if broken:
            return broken[0]
        waiting = self.intake.counters.unwritten
        heard = ", ".join(self._sources)
        if not heard:
            return PartHealth(PartState.LIMITED, "no source: [sessions] names neither a socket that can be nor a log")
        return PartHealth(
            PartState.OK, f"heard by {heard}" + (f"; {waiting} counters not written yet" if waiting else "")
        )
