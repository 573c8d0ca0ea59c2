"""A wall clock that jumps makes no wait shorter than it is."""

import pytest

from stsguard.inbound.clock_watch import HOLD_SECONDS, ClockWatch, clock_jumps
from tests.unit.fakes import Clock
from tests.unit.lives import DAY, HOUR


def test_a_steady_clock_is_believed() -> None:
    clock = Clock()
    watch = ClockWatch(clock)
    assert not watch.steady
    for _ in range(5):
        clock.advance(HOLD_SECONDS / 4)
        clock.jump(0.5)  # slewed by NTP
        times = watch.look()
        assert times.earliest == times.latest == clock.now()
    assert watch.steady


@pytest.mark.parametrize("days", [30, -30])
def test_after_a_jump_both_reckonings_count_for_a_day(days: int, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    watch = ClockWatch(clock)
    jumps = clock_jumps.value("forward" if days > 0 else "back")
    before = clock.now()
    clock.jump(days * 86_400)
    clock.advance(3600)
    times = watch.look()
    assert {times.earliest, times.latest} == {before + HOUR, before + days * DAY + HOUR}
    assert times.earliest < times.latest
    assert clock_jumps.value("forward" if days > 0 else "back") == jumps + 1
    assert "the clock has jumped" in caplog.text
    clock.advance(HOLD_SECONDS - 1)
    assert watch.look().earliest != watch.look().latest
    clock.advance(1)
    assert watch.look().earliest == watch.look().latest == clock.now()
    assert "is believed" in caplog.text


def test_a_jump_that_is_put_right_leaves_nothing() -> None:
    clock = Clock()
    watch = ClockWatch(clock)
    clock.jump(400 * 86_400)
    watch.look()
    clock.jump(-400 * 86_400)
    times = watch.look()
    assert times.earliest == times.latest == clock.now()


def test_of_many_jumps_the_extremes_count() -> None:
    clock = Clock()
    watch = ClockWatch(clock)
    start = clock.now()
    for days in (10, -30, 5):
        clock.jump(days * 86_400)
        watch.look()
    times = watch.look()
    assert (times.earliest, times.latest) == (start - 20 * DAY, start + 10 * DAY)
