"""The machine's clocks."""

import time
from datetime import UTC, datetime


class SystemClock:
    """`ports.Clock` by the operating system."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC; the operator or NTP may set it at any time."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since boot, time asleep included, so that a policy also ages while a machine is suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
