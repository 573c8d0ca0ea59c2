"""Postfix's log, followed: how each delivery attempt ended, with what smtp(8) said of TLS on the way.

TLS lines carry no queue id. They belong to the next `status=` line of the same process: an smtp(8) process delivers
one message at a time.
"""

import asyncio
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.lab.namespace import LabFailed

FOLLOW_SECONDS = 0.01
ATTEMPT_LIMIT_SECONDS = 90.0  # DNS that never answers takes Postfix 20 s, on a busy machine more
_LINE = re.compile(r" [\w-]+/(?P<program>[a-z]+)\[(?P<process>\d+)\]: (?P<text>.*)")
_STATUS = re.compile(
    r"(?P<queue_id>\w+): to=<[^>]*>, (?:orig_to=<[^>]*>, )?relay=(?P<relay>[^,]+), .*dsn=(?P<dsn>[\d.]+), "
    r"status=(?P<status>\w+) \((?P<text>.*)\)$"
)
_TLS = re.compile(r"(?P<level>\w+) TLS connection (?:established|reused) to ")
_DELIVERING = frozenset({"smtp", "error", "discard", "pipe"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one delivery attempt.

    `tls` is what Postfix said of the session: Verified, Trusted, Untrusted or Anonymous, None where there was none.
    `lines` are all log lines of the process during the attempt, for messages and for questions to the log.
    """

    status: str
    dsn: str
    relay: str
    text: str
    tls: str | None
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.status} {self.dsn} {self.tls or 'no TLS'}: {self.text}"


class MailLog:
    """Follows one log file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._task: asyncio.Task[None] | None = None
        self._pending: dict[str, list[str]] = defaultdict(list)
        self._outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Begin to follow it."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def text(self) -> str:
        """The whole log."""
        return self._path.read_text(errors="replace")

    def attempts(self, queue_id: str) -> int:
        """How many delivery attempts of that message have ended."""
        return len(self._outcomes[queue_id])

    async def outcome(self, queue_id: str, attempt: int, *, limit_seconds: float = ATTEMPT_LIMIT_SECONDS) -> Outcome:
        """The outcome of the `attempt`-th delivery attempt, counted from 1, waiting for it.

        Raises:
            LabFailed: there is none after `limit_seconds`.
        """
        limit = time.monotonic() + limit_seconds
        while len(self._outcomes[queue_id]) < attempt:
            self._changed.clear()
            try:
                async with asyncio.timeout(limit - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError as exc:
                lines = [line for line in self.text().splitlines() if queue_id in line]
                raise LabFailed(f"attempt {attempt} of {queue_id} has not ended:\n" + "\n".join(lines)) from exc
        return self._outcomes[queue_id][attempt - 1]

    async def _follow(self) -> None:
        rest = ""
        with self._path.open(errors="replace") as log:
            while True:
                text = log.read()
                if not text:
                    await asyncio.sleep(FOLLOW_SECONDS)
                    continue
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    self._take(line)
                self._changed.set()

    def _take(self, line: str) -> None:
        entry = _LINE.search(line)
        if entry is None or entry["program"] not in _DELIVERING:
            return
        pending = self._pending[entry["process"]]
        pending.append(entry["text"])
        status = _STATUS.match(entry["text"])
        if status is None:
            return
        sessions = [found["level"] for found in map(_TLS.match, pending) if found]
        self._outcomes[status["queue_id"]].append(
            Outcome(
                status["status"],
                status["dsn"],
                status["relay"],
                status["text"],
                sessions[-1] if sessions else None,
                tuple(pending),
            )
        )
        pending.clear()
