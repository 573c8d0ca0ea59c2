"""Follows systemd's journal through journalctl(1), which runs as a child and is started again when it ends.

Entries of the mail facility are taken, and what journald says itself of entries that it dropped. Each becomes a line
as rsyslog would write it, so that one reader understands both. The position is journald's cursor.
"""

import asyncio
import contextlib
import json
import logging
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta

from stsguard.adapters.log_follower.batch import LogBatch
from stsguard.log import logger, outcome
from stsguard.metrics import Counter

log = logger(__name__)
restarts = Counter("mail_log_journal_restarts_total", "Times that journalctl ended and was started again.")
unreadable = Counter("mail_log_journal_unreadable_total", "Journal entries that can't be read.")

COMMAND = ("journalctl",)
CHUNK_BYTES = 65536
MAX_ENTRY_BYTES = 1 << 20  # a message of 8 KiB as an array of numbers has 40 KiB; the fields beside it are few
FIRST_BACK_OFF_SECONDS = 1.0
MAX_BACK_OFF_SECONDS = 60.0
END_SECONDS = 5.0
_PREFIX = "journal:"
_FIELDS = "MESSAGE,SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,_HOSTNAME,_SOURCE_REALTIME_TIMESTAMP"
_OPTIONS = ("--follow", "--output=json", "--all", "--quiet", "--no-pager", f"--output-fields={_FIELDS}")
_MATCHES = ("SYSLOG_FACILITY=2", "+", "SYSLOG_IDENTIFIER=systemd-journald")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class JournalFollower:
    """Follows the journal from `position`, or from now on where that is empty or not of a journal.

    `command` starts journalctl, with options of the operator's if need be (`--directory=…`). `problem` says why the
    journal can't be read, for /healthz.
    """

    def __init__(
        self,
        position: str = "",
        *,
        command: Sequence[str] = COMMAND,
        first_back_off_seconds: float = FIRST_BACK_OFF_SECONDS,
        end_seconds: float = END_SECONDS,
    ) -> None:
        self._cursor = position.removeprefix(_PREFIX) if position.startswith(_PREFIX) else ""
        self._command = tuple(command)
        self._first_back_off = first_back_off_seconds
        self._back_off = first_back_off_seconds
        self._end_seconds = end_seconds
        self.problem: str | None = None

    async def batches(self) -> AsyncGenerator[LogBatch, None]:
        """The journal's lines for ever, as they are written."""
        while True:
            async with contextlib.aclosing(self._run()) as found:
                async for batch in found:
                    self._back_off = self._first_back_off
                    yield batch
            restarts.inc()
            outcome(log, logging.WARNING, "journalctl ended, starting it again", reason=self.problem)
            await asyncio.sleep(self._back_off)
            self._back_off = min(self._back_off * 2, MAX_BACK_OFF_SECONDS)

    async def _run(self) -> AsyncGenerator[LogBatch, None]:
        """One journalctl, until it ends."""
        start = (f"--after-cursor={self._cursor}", "--no-tail") if self._cursor else ("--lines=0",)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, *_OPTIONS, *start, *_MATCHES, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
            )
        except OSError as exc:
            self.problem = f"{self._command[0]} can't be run: {exc.strerror}"
            return
        try:
            async with contextlib.aclosing(self._read(process)) as found:
                async for batch in found:
                    self.problem = None
                    yield batch
            self.problem = f"{self._command[0]} ended with status {await process.wait()}"
        finally:
            await _end(process, self._end_seconds)

    async def _read(self, process: Process) -> AsyncGenerator[LogBatch, None]:
        assert process.stdout is not None  # noqa: S101 (it was asked for)
        rest = b""
        while octets := await process.stdout.read(CHUNK_BYTES):
            *entries, rest = (rest + octets).split(b"\n")
            if len(rest) > MAX_ENTRY_BYTES:
                rest = b"\0"  # what is left of this entry is no JSON either
            lines = [line for entry in entries if (line := self._take(entry)) is not None]
            if lines:
                yield LogBatch(tuple(lines), _PREFIX + self._cursor)

    def _take(self, entry: bytes) -> str | None:
        """The line of one entry, whose cursor is the position from now on; None where it can't be read."""
        try:
            fields = json.loads(entry)
            if not isinstance(fields, dict):
                raise TypeError("an entry is no object")
            line = journal_line(fields)
            self._cursor = _text(fields["__CURSOR"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            unreadable.inc()
            return None
        return line


def journal_line(fields: dict[str, object]) -> str:
    """An entry of `journalctl -o json` as a line: ISO time stamp, host, identifier, process id, message.

    Raises:
        KeyError: there is no message or time stamp.
        ValueError, TypeError, OverflowError: one is not what journalctl writes.
    """
    stamp = fields.get("_SOURCE_REALTIME_TIMESTAMP") or fields["__REALTIME_TIMESTAMP"]
    at = _EPOCH + timedelta(microseconds=int(_text(stamp)))
    host = _word(fields.get("_HOSTNAME", "localhost"))
    identifier = _word(fields.get("SYSLOG_IDENTIFIER", "-"))
    process_id = _word(fields.get("SYSLOG_PID") or fields.get("_PID") or "0")
    message = " ".join(_text(fields["MESSAGE"]).split("\n"))
    return f"{at.isoformat()} {host} {identifier}[{process_id}]: {message}"


def _text(value: object) -> str:
    """A field: text, or a list of octets where it isn't printable UTF-8, or a list of either where it came twice."""
    if isinstance(value, list):
        if value and not isinstance(value[0], int):
            return _text(value[0])
        return bytes(value).decode("utf-8", "replace")
    if not isinstance(value, str):
        raise TypeError("a field is no text")
    return value


def _word(value: object) -> str:
    """A field that may hold no blank in a line: nothing of it can look like the parts after it."""
    return "_".join(_text(value).split()) or "-"


async def _end(process: Process, within_seconds: float) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), within_seconds)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
