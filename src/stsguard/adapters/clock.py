"""The machine's clocks."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial


class SystemClock:
    """`ports.Clock` by the operating system. `monotonic` gives the seconds since boot, time asleep included, so that a
    policy also ages while a machine is suspended."""

    def __init__(self) -> None:
        # No method of ours around it: every cached look-up reads it, and a third of its own time went into that call.
        self.monotonic: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)

    def now(self) -> datetime:
        """The wall clock, aware, UTC; the operator or NTP may set it at any time."""
        return datetime.now(UTC)
