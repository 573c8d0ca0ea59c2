"""How often a CA is asked, by all hosts together: never more than so many orders an hour, and not while it is down or
has asked for patience (RFC 8555 §6.6).

It runs by the monotonic clock: no jump of the wall clock, which may make every certificate due at once, speeds it up.
"""

from collections import deque
from collections.abc import Callable

from stsguard.core.certificate_schedule import failure_pause
from stsguard.core.errors import CertificateFailed, CertificateFault

ORDERS_PER_HOUR = 60  # Let's Encrypt permits 300 in three hours to an account
HOUR = 3600.0
FIRST_DOWN_SECONDS = 60.0
LONGEST_DOWN_SECONDS = HOUR  # a CA that is back is noticed within
LONGEST_LIMIT_SECONDS = 86_400.0
# A longer Retry-After concerns one name: Let's Encrypt's limits for an account are refilled within minutes, those for a
# name last days. When the next host hears the same, it was meant for all.
_SHORT_LIMIT_SECONDS = 3 * HOUR


class OrderPace:
    """Whether another order may be begun now. `random` gives 0 … 1."""

    def __init__(
        self, monotonic: Callable[[], float], random: Callable[[], float], *, per_hour: int = ORDERS_PER_HOUR
    ) -> None:
        self._monotonic = monotonic
        self._random = random
        self._per_hour = per_hour
        self._begun: deque[float] = deque(maxlen=per_hour)
        self._not_before = 0.0
        self._failures = 0
        self._failed_at = 0.0
        self._limited = False
        self.problem = ""

    def permits(self) -> bool:
        """Whether an order may be begun."""
        now = self._monotonic()
        if now < self._not_before:
            return False
        return len(self._begun) < self._per_hour or now - self._begun[0] >= HOUR

    def begin(self) -> float:
        """An order is begun, at this time. While the CA is down one host tries for all."""
        now = self._monotonic()
        self._begun.append(now)
        if self._failures:
            self._pause(FIRST_DOWN_SECONDS)
        return now

    def succeeded(self) -> None:
        """The CA works."""
        self._failures, self._limited, self._not_before, self.problem = 0, False, 0.0, ""

    def failed(self, begun_at: float, failure: CertificateFailed) -> None:
        """The order begun then failed: what that means for the next host's."""
        match failure.fault:
            case CertificateFault.HOST:
                self._failures, self._limited, self.problem = 0, False, ""
            case CertificateFault.RATE_LIMIT:
                wanted = HOUR if failure.retry_after_seconds is None else failure.retry_after_seconds
                if wanted <= _SHORT_LIMIT_SECONDS or self._limited:
                    self._pause(min(wanted, LONGEST_LIMIT_SECONDS))
                self._limited, self.problem = True, str(failure)
            case CertificateFault.CA:
                if begun_at >= self._failed_at:  # those under way together fail together, which counts once
                    self._failures += 1
                self._failed_at = self._monotonic()
                pause = failure_pause(
                    self._failures,
                    self._random(),
                    first_seconds=FIRST_DOWN_SECONDS,
                    longest_seconds=LONGEST_DOWN_SECONDS,
                )
                pause = max(pause, failure.retry_after_seconds or 0.0)
                self._pause(min(pause, LONGEST_LIMIT_SECONDS))
                self.problem = str(failure)

    def _pause(self, seconds: float) -> None:
        self._not_before = max(self._not_before, self._monotonic() + seconds)
