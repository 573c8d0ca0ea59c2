"""Domains told to the outbound daemon: each once in a while, so many a second, and never waited for."""

from collections.abc import Sequence
from threading import Event

from stsguard.core.errors import DaemonSilent
from stsguard.milter import warming
from stsguard.milter.warming import MAX_RECENT, MAX_WAITING, PAUSE_SECONDS, RECENT_SECONDS, Warming, noted
from tests.unit.fakes import Clock

RATE = 5


class Daemon:
    """What it was told; it fails for as long as `fault` is set."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.fault: Exception | None = None

    def warm(self, next_hops: Sequence[str]) -> None:
        self.told.append(list(next_hops))
        if self.fault is not None:
            raise self.fault


class Stop(Event):
    """Set after so many waits, which take no time and are noted."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.waited: list[float] = []
        self._left = waits

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited.append(timeout)
        self._left -= 1
        if self._left == 0:
            self.set()
        return self.is_set()


def test_so_many_a_second() -> None:
    daemon = Daemon()
    told = Warming(daemon, Clock(), RATE)
    for number in range(12):
        told.note(f"n{number}.example")
    stop = Stop(3)
    told.run(stop)
    assert [len(batch) for batch in daemon.told] == [5, 5, 2]
    assert stop.waited == [1.0, 1.0, 0.4]


def test_a_domain_is_told_once_in_a_while() -> None:
    daemon, clock = Daemon(), Clock()
    told = Warming(daemon, clock, 100)
    told.note("a.example")
    told.note("a.example")
    clock.advance(RECENT_SECONDS)
    told.note("a.example")
    told.run(Stop(1))
    assert daemon.told == [["a.example", "a.example"]]


def test_what_does_not_fit_is_dropped_and_memory_is_bounded() -> None:
    before = noted.value("dropped")
    told = Warming(Daemon(), Clock(), RATE)
    for number in range(MAX_RECENT + 5):
        told.note(f"n{number}.example")
    assert noted.value("dropped") - before == MAX_RECENT + 5 - MAX_WAITING
    assert len(told._recent) == MAX_RECENT


def test_a_daemon_that_does_not_answer_is_left_alone_for_a_while() -> None:
    daemon = Daemon()
    daemon.fault = DaemonSilent("no answer")
    told = Warming(daemon, Clock(), 1)
    for number in range(3):
        told.note(f"n{number}.example")
    stop = Stop(2)
    told.run(stop)
    assert stop.waited == [PAUSE_SECONDS, PAUSE_SECONDS]
    daemon.fault = None
    again = Stop(1)
    told.run(again)
    assert again.waited == [1.0]


def test_a_fault_of_ours_does_not_end_it() -> None:
    daemon = Daemon()
    daemon.fault = ZeroDivisionError("a bug")
    told = Warming(daemon, Clock(), 1)
    told.note("a.example")
    told.note("b.example")
    told.run(Stop(2))
    assert daemon.told == [["a.example"], ["b.example"]]
    assert warming.MAX_BATCH > 1
