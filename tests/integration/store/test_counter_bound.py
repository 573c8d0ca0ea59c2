"""The bound on distinct entries: exact where the database is asked, and asked seldom."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Set
from typing import cast

import pytest
from sqlalchemy import Connection

from stsguard import ports
from stsguard.store import counter_bound
from stsguard.store.counter_bound import CounterBound
from stsguard.store.stores import open_stores

NO_CONNECTION = cast(Connection, None)


class Stored:
    """What a database would hold, and how often it was asked."""

    def __init__(self, limit: int) -> None:
        self.entries: defaultdict[str, set[bytes]] = defaultdict(set)
        self.counts = self.looks = 0
        self.bound = CounterBound(limit, count=self._count, known=self._known)

    def _count(self, _connection: Connection, keys: Collection[str]) -> Mapping[str, int]:
        self.counts += 1
        return {key: len(self.entries[key]) for key in keys if self.entries[key]}

    def _known(self, _connection: Connection, key: str, entries: Collection[bytes]) -> Set[bytes]:
        self.looks += 1
        return self.entries[key] & set(entries)

    def add(self, key: str, numbers: range) -> int:
        """Add entries; how many there was no room for."""
        wanted = {b"%05d" % number for number in numbers}
        refused = self.bound.refused(NO_CONNECTION, {key: wanted})
        self.entries[key] |= wanted - {entry for _, entry in refused}
        return len(refused)


def test_room_is_given_to_the_last_entry_and_no_further() -> None:
    stored = Stored(10)
    assert stored.add("a", range(4)) == 0
    assert stored.add("a", range(2, 9)) == 0
    assert stored.add("a", range(8, 15)) == 5
    assert stored.add("a", range(20)) == 10
    assert stored.add("b", range(11)) == 1
    assert {key: len(entries) for key, entries in stored.entries.items()} == {"a": 10, "b": 10}


def test_the_same_entries_again_and_again_rarely_cost_a_question() -> None:
    stored = Stored(1000)
    for _ in range(10_000):
        assert stored.add("a", range(10)) == 0
    assert stored.counts <= 10_000 * 10 / 900
    assert stored.looks <= 10_000 * 10 / 900


def test_full_one_is_not_counted_again() -> None:
    stored = Stored(10)
    assert stored.add("a", range(20)) == 10
    asked = stored.counts
    for start in range(100):
        stored.add("a", range(100 + start, 110 + start))
    assert stored.counts == asked
    assert len(stored.entries["a"]) == 10


def test_what_another_node_added_counts_once_it_is_looked_at() -> None:
    stored = Stored(10)
    stored.entries["a"] = {b"x%d" % number for number in range(9)}
    assert stored.add("a", range(3)) == 2


def test_memory_is_bounded_and_the_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counter_bound, "MAX_KEYS", 5)
    stored = Stored(10)
    for turn in range(4):
        for number in range(50):
            stored.add(str(number), range(turn * 5, turn * 5 + 5))
            assert len(stored.bound._at_most) + len(stored.bound._full) <= 6
    assert {len(entries) for entries in stored.entries.values()} == {10}


def test_stores_are_what_the_sides_ask_for() -> None:
    stores = open_stores("sqlite:////nowhere/stsguard.db")
    counters: ports.CounterStore = stores.sessions
    reader: ports.CounterReader = stores.sessions
    reports: ports.ReportStore = stores.reports
    policies: ports.PolicyStore = stores.policies
    assert len({id(each._access) for each in (stores.sessions, stores.reports, stores.policies)}) == 1
    assert {id(each) for each in (counters, reader)} == {id(stores.sessions)}
    assert (id(reports), id(policies)) == (id(stores.reports), id(stores.policies))
