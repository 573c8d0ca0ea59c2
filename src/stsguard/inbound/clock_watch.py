"""What the time is, as far as it can be believed: a wall clock that jumps makes no wait shorter than it is.

The wall clock is held against the monotonic one. After a jump nobody knows which of the two times is right, the one
before carried on or the new one; for a day both count: a moment is noted by the later one, and a wait is over by the
earlier one. If the clock still runs on steadily after that day, it is believed. A clock that is set before the process
starts can't be told from a right one; `rollout_evidence.ahead_until` finds those that are behind what was noted.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.ports import Clock

log = logger(__name__)
clock_jumps = Counter("clock_jumps_total", "Jumps of the wall clock against the monotonic one.", "direction")

TOLERANCE = timedelta(minutes=1)  # more than NTP slews between two looks
HOLD_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Times:
    """The earliest and the latest that it can be now; the same while the clock has run steadily."""

    earliest: datetime
    latest: datetime


class ClockWatch:
    """Watches one clock, from now on; ask it every few seconds, or a slow drift looks like a jump."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        began_at = clock.monotonic()
        self._expected = clock.now() - timedelta(seconds=began_at)  # the wall clock when the monotonic was 0
        self._doubted: list[datetime] = []  # the same of the times before jumps that are not settled
        self._trusted = self._expected  # from before the first jump that is not settled
        self._steady_since = began_at

    def look(self) -> Times:
        """What the time is now."""
        monotonic = self._clock.monotonic()
        zero = self._clock.now() - timedelta(seconds=monotonic)
        if abs(zero - self._expected) > TOLERANCE:
            self._note_jump(zero, monotonic)
        self._expected = zero
        if self._doubted and monotonic - self._steady_since >= HOLD_SECONDS:
            self._doubted.clear()
            outcome(log, logging.WARNING, "the clock has run steadily for a day since it jumped, and is believed")
        since_zero = timedelta(seconds=monotonic)
        possible = [zero + since_zero, *(doubted + since_zero for doubted in self._doubted)]
        return Times(min(possible), max(possible))

    @property
    def steady(self) -> bool:
        """Whether it has run for a day without a jump."""
        return self._clock.monotonic() - self._steady_since >= HOLD_SECONDS

    def _note_jump(self, zero: datetime, monotonic: float) -> None:
        jump = zero - self._expected
        clock_jumps.inc("forward" if jump > timedelta() else "back")
        # Only the extremes count, so any number of jumps is kept in two values.
        if not self._doubted:
            self._trusted = self._expected
        possible = [*self._doubted, self._expected]
        self._doubted = [min(possible), max(possible)]
        self._steady_since = monotonic
        if abs(zero - self._trusted) <= TOLERANCE:
            self._doubted.clear()  # back to where it was: a mistake, put right
        outcome(
            log,
            logging.ERROR,
            "the clock has jumped: waits of hosted domains go by the slower reckoning for a day; see to the clock",
            seconds=round(jump.total_seconds()),
        )
