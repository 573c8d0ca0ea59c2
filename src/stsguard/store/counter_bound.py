"""How many distinct entries may be counted below one key: policies of a domain, or details of a policy.

Asking the database about every key of every flush would cost more than counting. So an upper bound for each key is kept
in memory, which grows with every entry whether it is new or not; only where it reaches the limit the database is asked
what is really there. Of several nodes each knows what it has asked last: together they may go over the limit by what
they add at the same moment.
"""

from collections.abc import Callable, Collection, Mapping, Set
from typing import Generic, TypeVar

from stsguard.store.connection import Connection

K = TypeVar("K")
MAX_KEYS = 200_000  # forgotten together; then the database is asked once more for each


class CounterBound(Generic[K]):
    """At most `limit` entries for each key. `count` says how many there are for some keys, keys without any left
    out; `known` which of some entries of a key there are."""

    def __init__(
        self,
        limit: int,
        *,
        count: Callable[[Connection, Collection[K]], Mapping[K, int]],
        known: Callable[[Connection, K, Collection[bytes]], Set[bytes]],
    ) -> None:
        self._limit = limit
        self._count = count
        self._known = known
        self._at_most: dict[K, int] = {}
        self._full: set[K] = set()

    def refused(self, connection: Connection, wanted: Mapping[K, Set[bytes]]) -> set[tuple[K, bytes]]:
        """Those of the wanted entries for which there is no room. The others count as added: where the transaction
        fails, the bound is only higher than it need be."""
        if len(self._at_most) + len(self._full) > MAX_KEYS:
            self._at_most.clear()
            self._full.clear()
        doubtful = [
            key
            for key, entries in wanted.items()
            if key not in self._full and self._at_most.get(key, self._limit) + len(entries) > self._limit
        ]
        if doubtful:
            counted = self._count(connection, doubtful)
            self._at_most.update((key, counted.get(key, 0)) for key in doubtful)
        found: set[tuple[K, bytes]] = set()
        for key, entries in wanted.items():
            if key in self._full or self._at_most[key] + len(entries) > self._limit:
                found.update((key, entry) for entry in self._without_room(connection, key, entries))
            else:
                self._at_most[key] += len(entries)
        return found

    def _without_room(self, connection: Connection, key: K, entries: Set[bytes]) -> list[bytes]:
        new = sorted(entries - self._known(connection, key, entries))
        room = 0 if key in self._full else max(0, self._limit - self._at_most[key])
        if len(new) >= room:
            self._full.add(key)
            self._at_most.pop(key, None)
        else:
            self._at_most[key] += len(new)
        return new[room:]
