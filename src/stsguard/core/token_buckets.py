"""How much each of many clients may do: a token bucket each, in bounded memory.

A bucket holds `burst` tokens and gets `rate` of them a second. What was taken may exceed what was there, and has to
come in again before more is given: so the cost of a request may be known only after it.
"""

from collections import OrderedDict


class TokenBuckets:
    """Buckets by key. Whoever is forgotten since there are more than `most` begins with a full one."""

    def __init__(self, *, rate: float, burst: float, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now: float, cost: float = 1.0) -> float:
        """Take `cost` tokens if there is at least one, and say 0; else take none, and say in how many seconds there
        is one. `now` is in seconds of a monotonic clock."""
        tokens = self._tokens(key, now)
        if tokens < 1:
            self._keep(key, tokens, now)
            return (1 - tokens) / self._rate
        self._keep(key, tokens - cost, now)
        return 0.0

    def charge(self, key: str, now: float, cost: float) -> None:
        """Take `cost` tokens, whether they are there or not."""
        self._keep(key, self._tokens(key, now) - cost, now)

    def _tokens(self, key: str, now: float) -> float:
        tokens, since = self._buckets.pop(key, (self._burst, now))
        return min(self._burst, tokens + max(0.0, now - since) * self._rate)

    def _keep(self, key: str, tokens: float, now: float) -> None:
        self._buckets[key] = tokens, now
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
