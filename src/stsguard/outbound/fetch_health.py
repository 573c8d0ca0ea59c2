"""Whether failed policy fetches are likely to be our own fault: most independent ones of the same minute failed too.

RFC 8460 §4.3.4 leaves transient network trouble out of reports, and a broken uplink, proxy or trust store of ours is
no fault of anybody we would tell of it. A server that answered over verified TLS shows that our side works, whatever
it answered; a domain whose fetch failed the last time as well tells nothing new.
"""

from collections import OrderedDict

from stsguard.core.errors import FetchReason
from stsguard.names import Domain

MINUTE_SECONDS = 60.0
LEAST_FAILURES = 5  # a few domains with broken policies may well be fetched in one minute
MAX_DOMAINS = 10_000
MAX_MINUTES = 1440  # a day: no failure is reported later
_ANSWERED = frozenset(
    {
        *(FetchReason.HTTP_MALFORMED, FetchReason.HTTP_REDIRECT, FetchReason.HTTP_STATUS),
        *(FetchReason.MEDIA_TYPE, FetchReason.TOO_LARGE, FetchReason.POLICY_SYNTAX),
    }
)


class FetchHealth:
    """The fetches of the present minute, and which minutes before were bad. Instants are of the monotonic clock."""

    def __init__(self) -> None:
        self._minute = -1
        self._failed: set[Domain] = set()
        self._reached: set[int] = set()  # by hash, a third of the names: they are only counted
        self._failing: OrderedDict[Domain, None] = OrderedDict()  # those whose last fetch failed
        self._bad: OrderedDict[int, None] = OrderedDict()
        self._goes_on = False  # the last minute was bad, and nothing was reached since

    def note(self, policy_domain: Domain, reason: FetchReason | None, at: float) -> None:
        """A fetch ended; `reason` None is a good one."""
        self._turn_to(_minute(at))
        if reason is None or reason in _ANSWERED:
            self._failing.pop(policy_domain, None)
            if len(self._reached) < MAX_DOMAINS:
                self._reached.add(hash(policy_domain))
            return
        if policy_domain not in self._failing and len(self._failed) < MAX_DOMAINS:
            self._failed.add(policy_domain)
        self._failing[policy_domain] = None
        self._failing.move_to_end(policy_domain)
        if len(self._failing) > MAX_DOMAINS:
            self._failing.popitem(last=False)

    def outage(self, at: float) -> bool:
        """Whether the minute of `at` is one in which failures are not reported. It goes on being one, though only
        the same domains are tried again and again, until anything is reached."""
        minute = _minute(at)
        return self._is_bad() if minute == self._minute else minute in self._bad

    def _turn_to(self, minute: int) -> None:
        if minute == self._minute:
            return
        if self._is_bad():
            self._bad[self._minute] = None
            if len(self._bad) > MAX_MINUTES:
                self._bad.popitem(last=False)
        self._goes_on = self._is_bad()
        self._minute = minute
        self._failed.clear()
        self._reached.clear()

    def _is_bad(self) -> bool:
        if self._goes_on and not self._reached:
            return True
        return len(self._failed) >= LEAST_FAILURES and len(self._failed) > len(self._reached)


def _minute(at: float) -> int:
    return int(at // MINUTE_SECONDS)
