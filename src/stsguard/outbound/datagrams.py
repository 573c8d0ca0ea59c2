"""What was heard by datagram, on its way from the socket to the counters: counted first, then parsed.

libtlsrpt's datagrams hold neither a time nor an id, so deliveries that went alike give the same bytes. Counting equal
bytes is therefore exact, and a busy MTA's thousands a second become a few hundred to parse.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from stsguard.core.errors import EventInvalid
from stsguard.core.session import Session
from stsguard.core.tlsrpt_event import parse_datagram
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.ports import Clock

log = logger(__name__)
heard = Counter("tlsrpt_datagrams", "Datagrams about TLS sessions.", "outcome")

MAX_DISTINCT = 50_000  # half a second of reading as fast as can be
MAX_TALLY_BYTES = 33_554_432
FLUSH_SECONDS = 0.5  # `kill -9` loses at most the last second, and the store needs its part of that
MAX_MERGED = 8192  # kinds of sessions held before they are counted; each has about a kilobyte
SLICE = 64  # datagrams parsed, or sessions counted, in a row: a millisecond, before look-ups have their turn
# The queue of the socket has room for ten datagrams by default: at 20,000 a second it is full in half a millisecond.
STEP = 8  # datagrams or sessions before the socket is looked at
LOG_INTERVAL = timedelta(minutes=1)
MAX_KEPT = 100
MAX_KEPT_BYTES = 4096


class DatagramTally:
    """Counts identical datagrams, up to a bound on how many distinct ones and how many bytes of them."""

    def __init__(self, *, max_distinct: int = MAX_DISTINCT, max_bytes: int = MAX_TALLY_BYTES) -> None:
        self._max_distinct = max_distinct
        self._max_bytes = max_bytes
        self._counts: dict[bytes, int] = {}
        self._bytes = 0
        self.on_full: Callable[[], None] = _nothing

    def add(self, datagrams: Iterable[bytes]) -> bool:
        """Count these. False once there is no room for another distinct one: take before adding more.

        They are counted all the same, so that those that fill it are not lost.
        """
        counts = self._counts
        before = len(counts)
        for datagram in datagrams:
            try:
                counts[datagram] += 1
            except KeyError:
                counts[datagram] = 1
                self._bytes += len(datagram)
        if len(counts) == before or (len(counts) < self._max_distinct and self._bytes < self._max_bytes):
            return True
        self.on_full()
        return False

    def take(self) -> list[tuple[bytes, int]]:
        """Every datagram counted since the last time, in order of first arrival, with how often it came."""
        taken = list(self._counts.items())
        self._counts = {}
        self._bytes = 0
        return taken


def _nothing() -> None:
    """Nobody waits for the tally to be full."""


@dataclass(frozen=True, slots=True)
class RefusedDatagram:
    """A datagram that could not be parsed. `start` is its first bytes, `size` what it had."""

    at: datetime
    instance: str
    reason: str
    start: bytes
    size: int
    count: int


class RefusedDatagrams:
    """The last datagrams that could not be parsed, for the operator to see; a bounded number of bounded size."""

    def __init__(self) -> None:
        self._kept: deque[RefusedDatagram] = deque(maxlen=MAX_KEPT)
        self._logged_at: datetime | None = None
        self._unlogged = 0

    def keep(self, datagram: bytes, count: int, *, at: datetime, instance: str, reason: str) -> None:
        """Keep one that came `count` times, in place of the oldest where there are too many."""
        start = datagram[:MAX_KEPT_BYTES]
        self._kept.append(RefusedDatagram(at, instance, reason, start, len(datagram), count))
        heard.inc("refused", by=count)
        self._unlogged += count
        # Whoever may write the socket may write rubbish; it must not fill the log. A clock set back logs at once.
        if self._logged_at is None or not timedelta(0) <= at - self._logged_at < LOG_INTERVAL:
            outcome(log, logging.WARNING, "datagrams refused", instance=instance, count=self._unlogged, reason=reason)
            self._logged_at, self._unlogged = at, 0

    def kept(self) -> Sequence[RefusedDatagram]:
        """Those kept, the oldest first."""
        return tuple(self._kept)


def read_datagrams(
    datagrams: Iterable[tuple[bytes, int]], at: datetime, instance: str, refused: RefusedDatagrams
) -> Iterator[tuple[Session, int]]:
    """The sessions in `datagrams`, each with how often it took place. What can't be parsed goes to `refused`."""
    for datagram, count in datagrams:
        try:
            sessions = parse_datagram(datagram, at, instance)
        except EventInvalid as exc:
            refused.keep(datagram, count, at=at, instance=instance, reason=str(exc))
            continue
        heard.inc("read", by=count)
        for session in sessions:
            yield session, count


class DatagramSource(Protocol):
    """What reads the socket."""

    def resume(self) -> None:
        """Go on reading, where it has stopped since there was no room."""

    def drain(self) -> None:
        """Read now what has come, unless it has stopped."""


class DatagramPump:
    """Takes the tally of one socket regularly, and as soon as it is full, and hands on the sessions that it tells of.

    Datagrams may differ in what is not used: the TLSRPT record, unknown keys, the greeting of an EHLO reply, which an
    MX host can make different every time. So they are brought together once more by what was read in them: a flood is
    of few kinds of sessions, and judging and counting each takes longer than reading it.
    """

    def __init__(
        self,
        tally: DatagramTally,
        deliver: Callable[[Iterable[tuple[Session, int]]], None],
        source: DatagramSource,
        *,
        clock: Clock,
        instance: str,
        refused: RefusedDatagrams,
    ) -> None:
        """`deliver` gets sessions of `instance`, each with how often it took place; `source` fills the tally."""
        self._tally = tally
        self._deliver = deliver
        self._source = source
        self._clock = clock
        self._instance = instance
        self._refused = refused
        self._full = asyncio.Event()
        self._taken: list[tuple[bytes, int]] = []
        self._merged: dict[Session, int] = {}
        tally.on_full = self._full.set

    async def run(self) -> None:
        """Flush for ever. When it is cancelled nothing is lost: call `flush` once more."""
        while True:
            try:
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._full.wait()
            except TimeoutError:
                pass
            await self.flush()

    async def flush(self) -> None:
        """Hand on what has been counted so far. Other tasks have their turn after each slice."""
        self._full.clear()
        self._taken += self._tally.take()
        self._source.resume()
        # Datagrams tell no time; those of the last half second before midnight may count for the day that begins.
        at = self._clock.now()
        while self._taken:
            for _ in range(0, min(SLICE, len(self._taken)), STEP):
                self._read(_cut(self._taken, STEP), at)
                self._source.drain()
            if len(self._merged) >= MAX_MERGED:
                await self._hand_on()
            await asyncio.sleep(0)
        await self._hand_on()

    def _read(self, datagrams: list[tuple[bytes, int]], at: datetime) -> None:
        merged = self._merged
        for session, count in read_datagrams(datagrams, at, self._instance, self._refused):
            merged[session] = merged.get(session, 0) + count

    async def _hand_on(self) -> None:
        merged = self._merged
        while merged:
            for _ in range(0, min(SLICE, len(merged)), STEP):
                self._deliver([merged.popitem() for _ in range(min(STEP, len(merged)))])
                self._source.drain()
            await asyncio.sleep(0)


def _cut(items: list[tuple[bytes, int]], count: int) -> list[tuple[bytes, int]]:
    """Take up to `count` items off the end, where it costs least."""
    cut = items[-count:]
    del items[-count:]
    return cut
