"""The day's counters in memory, on their way to the store (RFC 8460 §4.2).

Whatever was counted is written within a second, in one transaction with how far the logs have been read, so that
`kill -9` loses at most the last second and counts nothing twice. While the store fails everything is kept and written
later. What is kept is bounded: first details lose their particulars, then sessions are lost, counted and logged.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from stsguard.core.counter_text import remainder_detail
from stsguard.core.errors import StoreUnavailable
from stsguard.core.session import AppliedPolicy, Count, CounterRow, FailureDetail
from stsguard.discovery.supervisor import report
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import Clock, CounterStore

log = logger(__name__)
sessions_counted = Counter(
    "sessions_total", "Sessions counted for reports, by what they are counted as.", "policy", "result"
)
sessions_lost = Counter("sessions_lost_total", "Sessions not counted since the store has failed for too long.")
details_merged = Counter(
    "session_details_merged_total", "Failure details kept without their particulars, to save room."
)
write_failures = Counter("counter_write_failures_total", "Transactions of counters that failed; they are tried again.")

FLUSH_SECONDS = 0.4  # with the 0.5 s that datagrams wait before they are parsed it stays under a second
RETRY_SECONDS = 5.0
SLICE = 100  # counters made ready in a row, before datagrams and look-ups have their turn
MAX_TALLIES = 50_000  # a report domain and policy each; more are only there when the store fails, or in a flood
MAX_DETAILS = 100_000
CLOCK_TOLERANCE = timedelta(days=1)

_Key = tuple[date, Domain, Domain, bool, AppliedPolicy]
# How far a log has been read; or what tells it when it is written, where that is too much to be made for each line.
PositionText = str | Callable[[], str]


@dataclass(slots=True)
class _Sums:
    successes: int = 0
    failures: int = 0
    unverified: int = 0
    details: dict[FailureDetail, int] = field(default_factory=dict)

    def add(self, other: "_Sums") -> None:
        self.successes += other.successes
        self.failures += other.failures
        self.unverified += other.unverified
        for detail, count in other.details.items():
            self.details[detail] = self.details.get(detail, 0) + count

    def row(self, key: _Key) -> CounterRow | None:
        """What there is to add; None where it came to nothing."""
        details = {detail: count for detail, count in self.details.items() if count}
        if not (self.successes or self.failures or self.unverified or details):
            return None
        return CounterRow(*key, self.successes, self.failures, self.unverified, details)


@dataclass(slots=True)
class _Batch:
    tallies: dict[_Key, _Sums] = field(default_factory=dict)
    details: int = 0  # distinct ones in all tallies
    positions: dict[str, PositionText] = field(default_factory=dict)


class SessionCounters:
    """Adds up counts, and writes them."""

    def __init__(self, store: CounterStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._batch = _Batch()
        self._in_flight = _Batch()
        self._writing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self.failing = False

    @property
    def unwritten(self) -> int:
        """How many counters wait to be written."""
        return len(self._batch.tallies) + len(self._in_flight.tallies)

    def day_of(self, at: datetime) -> date:
        """The UTC day that a session of `at` belongs to (RFC 8460 §4.1); a time stamp that can't be true is brought
        to within a day of now, or one bad line would have us report on days long gone."""
        now = self._clock.now()
        if at.tzinfo is UTC and now - CLOCK_TOLERANCE <= at <= now + CLOCK_TOLERANCE:
            return at.date()
        return min(max(at, now - CLOCK_TOLERANCE), now + CLOCK_TOLERANCE).astimezone(UTC).date()

    def add(self, counts: Sequence[Count], day: date, times: int) -> bool:
        """Add these counts `times` over; False where there is no room for one of them, and none was added."""
        keys = [_key(count, day) for count in counts]
        if not self._has_room(keys):
            lost = sum(count.sessions for count in counts if not count.for_mx_host) * times
            sessions_lost.inc(by=lost)
            return False
        for key, count in zip(keys, counts, strict=True):
            self._add(key, count, times)
            if count.sessions and not count.for_mx_host:
                result = "unverified" if count.unverified else "failure" if count.failed else "success"
                sessions_counted.inc(count.policy.policy_type.value, result, by=times)
        self._changed.set()
        return True

    def correct(self, old: Sequence[Count], new: Sequence[Count], day: date, times: int) -> None:
        """What was counted as `old` is `new`. The day is the one that it was counted on."""
        if old == new or not self._has_room([_key(count, day) for count in (*old, *new)]):
            return
        for counts, sign in ((old, -times), (new, times)):
            for count in counts:
                self._add(_key(count, day), count, sign)
        self._changed.set()

    def _has_room(self, keys: Sequence[_Key]) -> bool:
        # What is being written counts as well: it comes back where the store fails.
        tallies, in_flight = self._batch.tallies, self._in_flight.tallies
        room = MAX_TALLIES - len(tallies) - len(in_flight)
        return len(keys) <= room or all(key in tallies or key in in_flight for key in keys)

    def _add(self, key: _Key, count: Count, times: int) -> None:
        sums = self._batch.tallies.get(key)
        if sums is None:
            sums = self._batch.tallies[key] = _Sums()
        if count.failed:
            sums.failures += count.sessions * times
        else:
            sums.successes += count.sessions * times
        if count.unverified:
            sums.unverified += count.sessions * times
        for detail in count.details:
            self._add_detail(sums, detail, times)

    def _add_detail(self, sums: _Sums, detail: FailureDetail, times: int) -> None:
        if detail not in sums.details:
            if self._batch.details + self._in_flight.details >= MAX_DETAILS:
                details_merged.inc(by=abs(times))
                detail = remainder_detail(detail)
            self._batch.details += detail not in sums.details
        sums.details[detail] = sums.details.get(detail, 0) + times

    def advance(self, positions: Mapping[str, PositionText]) -> None:
        """Write with the next transaction how far the logs have been read: all up to there has been added."""
        if positions:
            self._batch.positions.update(positions)
            self._changed.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)

    async def flush(self) -> None:
        """Write all that was added until now.

        Raises:
            StoreUnavailable: it can't be written now; it is kept.
        """
        if self._writing is not None:
            # A transaction goes to its end whoever waits for it: given up half-way nobody would know whether it
            # counts. How it ended is its own affair; what it could not write is here again.
            await asyncio.wait([self._writing])
        self._changed.clear()
        batch, self._batch = self._batch, _Batch()
        if not batch.tallies and not batch.positions:
            return
        # Read now, before the next lines change it; what is put back is of the same moment.
        positions = {name: text if isinstance(text, str) else text() for name, text in batch.positions.items()}
        batch.positions.update(positions)
        self._in_flight = batch
        self._writing = asyncio.create_task(self._write(batch, positions), name="write counters")
        self._writing.add_done_callback(_landed)
        await asyncio.shield(self._writing)

    async def _write(self, batch: _Batch, positions: Mapping[str, str]) -> None:
        rows: list[CounterRow] = []
        written = False
        try:
            for number, (key, sums) in enumerate(batch.tallies.items(), 1):
                if (row := sums.row(key)) is not None:
                    rows.append(row)
                if number % SLICE == 0:
                    await asyncio.sleep(0)
            await self._store.add_counters(rows, positions)
            written = True
        except StoreUnavailable as exc:
            write_failures.inc()
            if not self.failing:
                outcome(log, logging.ERROR, "sessions can't be stored, trying again", reason=exc, counters=len(rows))
            self.failing = True
            raise
        finally:
            self._in_flight = _Batch()
            if not written:
                self._put_back(batch)
        if self.failing:
            self.failing = False
            outcome(log, logging.INFO, "sessions are stored again", lost=sessions_lost.value() or None)

    def _put_back(self, batch: _Batch) -> None:
        """Join what could not be written with what came in meanwhile."""
        for key, sums in self._batch.tallies.items():
            known = batch.tallies.get(key)
            if known is None:
                batch.tallies[key] = sums
            else:
                known.add(sums)
        batch.details = sum(len(sums.details) for sums in batch.tallies.values())
        batch.positions.update(self._batch.positions)
        self._batch = batch
        self._changed.set()

    async def close(self) -> None:
        """Write what is left, once; what the store does not take is lost, and told."""
        try:
            await self.flush()
        except StoreUnavailable as exc:
            outcome(log, logging.ERROR, "sessions are lost", reason=exc, counters=self.unwritten)


def _key(count: Count, day: date) -> _Key:
    return day, count.report_domain, count.recipient_domain, count.for_mx_host, count.policy


def _landed(writing: "asyncio.Task[None]") -> None:
    """Look at how it ended, also where whoever waited was cancelled."""
    if not writing.cancelled() and (exc := writing.exception()) is not None and not isinstance(exc, StoreUnavailable):
        report("sessions", exc)
