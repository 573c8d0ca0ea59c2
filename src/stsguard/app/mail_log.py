"""Hearing by the mail log: one follower and one reader a Postfix instance, feeding the intake."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stsguard.adapters.log_follower import FileFollower, JournalFollower, LogBatch
from stsguard.config.mail_values import Journal, MailLogFile
from stsguard.config.model import SessionsConfig
from stsguard.core.errors import StoreUnavailable
from stsguard.core.postfix_log import LogReader
from stsguard.core.postfix_log_state import LogMemory
from stsguard.core.postfix_log_text import LogMemoryInvalid, log_memory_text, parse_log_memory
from stsguard.discovery.health import PartHealth, PartState
from stsguard.log import logger, outcome
from stsguard.outbound.counters import PositionText
from stsguard.outbound.sessions import SessionIntake
from stsguard.ports import Clock, CounterStore

log = logger(__name__)

LOCAL_TIME = Path("/etc/localtime")
# The database opens beside the start, a new one in a third of a second. Until a position is in it nothing is counted,
# and whoever is killed until then loses what came meanwhile: so it is asked for often at first.
FIRST_RETRY_SECONDS = 0.05
STORE_RETRY_SECONDS = 1.0
# syslog_name of the transport that carries our own reports where Postfix is older than 3.10 (postfix/master.cf):
# RFC 8460 §3: a sender SHOULD NOT report the sessions of its reports.
OWN_REPORTS = "/stsguard-report/"


class MailLog:
    """The log of one instance. It goes on after a fault where it was, since what was read is counted already."""

    def __init__(self, instance: SessionsConfig, store: CounterStore, intake: SessionIntake, clock: Clock) -> None:
        self._instance = instance
        self._store = store
        self._intake = intake
        self._clock = clock
        self._name = f"log:{instance.syslog_name}"
        self._memory_name = f"memory:{instance.syslog_name}"
        self._position: str | None = None
        self._begins_at = ""
        self._zone = local_time_zone()
        self._reader = self._new_reader()
        self._follower: FileFollower | JournalFollower | None = None

    def _new_reader(self, *, from_start: bool = False, memory: LogMemory | None = None) -> LogReader:
        name = self._instance.syslog_name
        return LogReader(name, syslog_name=name, time_zone=self._zone, from_start=from_start, memory=memory)

    async def run(self) -> None:
        """Follow the log and count its sessions, for ever."""
        if self._position is None:
            # Looked at first: what is written while the database opens counts, also where no position is stored yet.
            self._begins_at = self._begins_at or self._present_end()
            self._position = await self._stored_position() or self._begins_at
            if self._position == self._begins_at:
                self._note_the_beginning()
        self._follower = self._open(self._position)
        async for batch in self._batches(self._follower):
            if batch.lost or batch.from_start:
                self._reader = self._new_reader(from_start=batch.from_start)
            lines = without_own_reports(batch.lines)
            sessions = self._reader.feed_all(lines, self._clock.now())
            self._position = batch.position or self._position
            # In one transaction with the sessions: where to read on, and what has to be known there.
            positions: dict[str, PositionText] = {self._name: batch.position, self._memory_name: self._memory_text}
            self._intake.sessions(sessions, positions if batch.position else None)

    def _note_the_beginning(self) -> None:
        """Whoever comes after us before the first line was read goes on where we began, and not behind it."""
        self._intake.sessions([], {self._name: self._begins_at} if self._begins_at else None)

    async def close(self) -> None:
        """Leave a place to go on for the next process, also where this one was stopped before it knew its own. Call it
        when `run` has ended, and before the intake is closed."""
        if self._position is not None or not self._begins_at:
            return
        try:
            positions = await self._store.load_positions()
        except StoreUnavailable as exc:
            what = "where the mail log was read is not stored: sessions since the start may never be counted"
            outcome(log, logging.ERROR, what, instance=self._instance.syslog_name, reason=exc)
            return
        if self._name not in positions:
            self._note_the_beginning()

    def _memory_text(self) -> str:
        return log_memory_text(self._reader.memory())

    def _present_end(self) -> str:
        """The position behind the last line of a file; empty for the journal, and where there is no file."""
        follower = self._open("")
        if isinstance(follower, JournalFollower):
            return ""
        batch = follower.poll()
        follower.close()
        return batch.position if batch is not None else ""

    async def _stored_position(self) -> str:
        """Where the last process stopped. Without the database nobody knows, so nothing is counted before it opens."""
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                positions = await self._store.load_positions()
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, STORE_RETRY_SECONDS)
            else:
                self._intake.restore(self._instance.syslog_name, positions)
                self._remember(positions.get(self._memory_name, ""))
                return positions.get(self._name, "")

    def _remember(self, text: str) -> None:
        """Know what the last process knew of deliveries that were under way."""
        try:
            self._reader = self._new_reader(memory=parse_log_memory(text) if text else None)
        except LogMemoryInvalid as exc:
            outcome(log, logging.ERROR, "memory of a log in the store is unreadable", reason=exc)

    def _open(self, position: str) -> FileFollower | JournalFollower:
        match self._instance.mail_log:
            case MailLogFile(path):
                return FileFollower(path, position)
            case Journal() | None:
                return JournalFollower(position)

    async def _batches(self, follower: FileFollower | JournalFollower) -> AsyncIterator[LogBatch]:
        batches = follower.batches()
        try:
            async for batch in batches:
                yield batch
        finally:
            await batches.aclose()

    def health(self) -> PartHealth:
        """Whether the log can be read."""
        problem = self._follower.problem if self._follower is not None else None
        if problem:
            return PartHealth(PartState.FAILED, f"sessions are not counted: {problem}")
        return PartHealth(PartState.OK, f"follows the log of {self._instance.syslog_name}")


def without_own_reports(lines: Sequence[str]) -> Sequence[str]:
    """The lines that are not of the transport that carries our own reports."""
    if not any(OWN_REPORTS in line for line in lines):
        return lines
    # Only the tag counts: anybody can have such a text in the rest of a line.
    return [line for line in lines if OWN_REPORTS not in line.partition("]: ")[0]]


def local_time_zone() -> tzinfo:
    """The time zone of classic time stamps: that of this machine."""
    try:
        if name := os.environ.get("TZ"):
            return ZoneInfo(name.removeprefix(":"))
        with LOCAL_TIME.open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return UTC
