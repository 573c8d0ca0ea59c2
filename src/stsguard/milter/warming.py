"""Tells the outbound daemon of the domains that mail is about to go to, from a thread of its own.

`note` never waits: what does not fit into the queue, was told a short while ago, or comes while the daemon does not
answer, is dropped. Nothing is lost by that; Postfix's own look-up comes a moment later than it could have been ready.
"""

import logging
from collections import OrderedDict
from functools import partial
from queue import Empty, Full, Queue
from threading import Event, Lock

from stsguard.core.errors import OurFault
from stsguard.discovery.supervisor import contained
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.ports import Clock, DomainWarmer

log = logger(__name__)
noted = Counter("milter_warmed_total", "Domains of accepted recipients, by what became of telling them.", "outcome")

MAX_WAITING = 1000
MAX_RECENT = 10_000
RECENT_SECONDS = 60.0  # the daemon keeps what is in use by itself
MAX_BATCH = 50
PAUSE_SECONDS = 5.0  # after a daemon that did not answer


class Warming:
    """The queue and its thread's work. At most `rate` domains a second are told."""

    def __init__(self, daemon: DomainWarmer, clock: Clock, rate: int) -> None:
        self._daemon = daemon
        self._clock = clock
        self._rate = rate
        self._queue: Queue[str] = Queue(MAX_WAITING)
        self._recent: OrderedDict[str, float] = OrderedDict()
        self._lock = Lock()
        self._failing = False

    def note(self, next_hop: str) -> None:
        """Mail will go there. From any thread; it returns at once."""
        now = self._clock.monotonic()
        with self._lock:
            if now - self._recent.get(next_hop, -RECENT_SECONDS) < RECENT_SECONDS:
                return
            self._recent[next_hop] = now
            self._recent.move_to_end(next_hop)
            if len(self._recent) > MAX_RECENT:
                self._recent.popitem(last=False)
        try:
            self._queue.put_nowait(next_hop)
        except Full:
            noted.inc("dropped")

    def run(self, stop: Event) -> None:
        """Tell the daemon, until `stop` is set."""
        while not stop.is_set():
            batch = self._next_batch()
            if not batch:
                continue
            told = contained("warming", partial(self._tell, batch)) and not self._failing
            stop.wait(len(batch) / self._rate if told else PAUSE_SECONDS)

    def _next_batch(self) -> list[str]:
        """What waits, up to `MAX_BATCH` and to a second's worth; empty where nothing came for a moment."""
        batch: list[str] = []
        try:
            batch.append(self._queue.get(timeout=0.5))
            while len(batch) < min(MAX_BATCH, self._rate):
                batch.append(self._queue.get_nowait())
        except Empty:
            pass
        return batch

    def _tell(self, batch: list[str]) -> None:
        try:
            self._daemon.warm(batch)
        except OurFault as exc:
            noted.inc("failed", by=len(batch))
            if not self._failing:
                outcome(log, logging.WARNING, "domains can't be looked up ahead", reason=str(exc))
            self._failing = True
            return
        if self._failing:
            outcome(log, logging.INFO, "domains are looked up ahead again")
        self._failing = False
        noted.inc("told", by=len(batch))
