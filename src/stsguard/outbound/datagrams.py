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
from stsguard.core.tlsrpt_event import fingerprint, parse_datagram
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.ports import Clock

log = logger(__name__)
heard = Counter("tlsrpt_datagrams", "Datagrams about TLS sessions.", "outcome")

MAX_DISTINCT = 50_000  # half a second of reading as fast as can be
MAX_TALLY_BYTES = 33_554_432
FLUSH_SECONDS = 0.5  # `kill -9` loses at most the last second, and the store needs its part of that
SLICE = 32  # datagrams counted in a row, about two milliseconds, before look-ups have their turn
MERGE_SLICE = 128  # and so many fingerprints
# The queue of the socket has room for ten datagrams by default: at 20,000 a second it is full in half a millisecond.
STEP = 4  # datagrams counted before the socket is looked at
MERGE_STEP = 32
MERGE_FROM = 1000  # fewer are parsed as they are
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

    def add(self, datagram: bytes) -> bool:
        """Count one. False once there is no room for another distinct one: take before adding more.

        It is counted all the same, so that the one that fills it is not lost.
        """
        counts = self._counts
        try:
            counts[datagram] += 1
        except KeyError:
            counts[datagram] = 1
        else:
            return True
        self._bytes += len(datagram)
        if len(counts) < self._max_distinct and self._bytes < self._max_bytes:
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
    """Takes the tally of one socket regularly, and as soon as it is full, and hands it on in slices."""

    def __init__(
        self,
        tally: DatagramTally,
        deliver: Callable[[list[tuple[bytes, int]], datetime, str], None],
        source: DatagramSource,
        *,
        clock: Clock,
        instance: str,
    ) -> None:
        """`deliver` gets (datagrams with counts, when they came, `instance`); `source` fills the tally."""
        self._tally = tally
        self._deliver = deliver
        self._source = source
        self._clock = clock
        self._instance = instance
        self._full = asyncio.Event()
        self._taken: list[tuple[bytes, int]] = []
        self._merged: dict[bytes, tuple[bytes, int]] = {}
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
        if self._merged or len(self._taken) > MERGE_FROM:
            await self._merge()
        while self._taken:
            for _ in range(0, min(SLICE, len(self._taken)), STEP):
                self._deliver(_cut(self._taken, STEP), at, self._instance)
                self._source.drain()
            await asyncio.sleep(0)

    async def _merge(self) -> None:
        """Bring together what differs only in bytes that nobody reads. A flood is of few kinds: one domain's MX hosts
        that fail, or an MTA that sends something new; judging and counting each takes longest."""
        merged = self._merged
        while self._taken:
            for _ in range(0, min(MERGE_SLICE, len(self._taken)), MERGE_STEP):
                for datagram, count in _cut(self._taken, MERGE_STEP):
                    key = fingerprint(datagram)
                    first, before = merged.get(key, (datagram, 0))
                    merged[key] = (first, before + count)
                self._source.drain()
            await asyncio.sleep(0)
        self._taken = list(merged.values())
        merged.clear()


def _cut(items: list[tuple[bytes, int]], count: int) -> list[tuple[bytes, int]]:
    """Take up to `count` items off the end, where it costs least."""
    cut = items[-count:]
    del items[-count:]
    return cut
