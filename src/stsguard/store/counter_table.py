"""The tables of counters, written: what sessions add up to, and how far the logs were read. Every call blocks.

A flush is one transaction of additive upserts in the order of their keys, so that several nodes add up and never wait
for each other in a circle.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from datetime import date
from functools import lru_cache
from heapq import merge
from typing import Any, NamedTuple

from stsguard.core.counter_text import (
    MAX_DETAILS,
    MAX_POLICIES,
    detail_text,
    policy_text,
    remainder_detail,
    remainder_policy,
    text_key,
)
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail
from stsguard.store.connection import Connection
from stsguard.store.counter_bound import CounterBound
from stsguard.store.database import Database
from stsguard.store.flush import Flush

POLICIES_IN_MEMORY = 16 * 2**20  # characters: a policy may have 64 KiB, and mostly has 300
DETAILS_IN_MEMORY = 10_000
SORTED_AT_ONCE = 256  # rows, a tenth of a millisecond in which no other thread has its turn
PARAMETERS = 500  # in one IN (…); SQLite's own limit was 999 for long

# The numbers are added; the last day of a policy is the later one. Values in the order of the columns.
_ADD_POLICIES = """
    INSERT INTO report_policies (policy_key, policy, last_day) VALUES (?, ?, ?)
    ON CONFLICT (policy_key) DO UPDATE SET last_day = excluded.last_day
    WHERE report_policies.last_day < excluded.last_day"""
_ADD_COUNTERS = """
    INSERT INTO session_counters
        (day, report_domain, policy_key, recipient_domain, for_mx_host, successes, failures, unverified)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (day, report_domain, policy_key, recipient_domain, for_mx_host) DO UPDATE SET
        successes = session_counters.successes + excluded.successes,
        failures = session_counters.failures + excluded.failures,
        unverified = session_counters.unverified + excluded.unverified"""
_ADD_DETAILS = """
    INSERT INTO session_details
        (day, report_domain, policy_key, recipient_domain, for_mx_host, detail_key, detail, sessions)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (day, report_domain, policy_key, recipient_domain, for_mx_host, detail_key) DO UPDATE SET
        sessions = session_details.sessions + excluded.sessions"""
# Not a plain read: this one waits for a transaction that writes the same row.
_LAST_FLUSH = """
    INSERT INTO counter_flushes (writer, number, last_day) VALUES (:writer, 0, :today)
    ON CONFLICT (writer) DO UPDATE SET last_day = excluded.last_day RETURNING number"""
_NOTE_FLUSH = """
    INSERT INTO counter_flushes (writer, number, last_day) VALUES (:writer, :number, :last_day)
    ON CONFLICT (writer) DO UPDATE SET number = excluded.number, last_day = excluded.last_day"""
_SAVE_POSITION = """
    INSERT INTO log_positions (log, position) VALUES (?, ?)
    ON CONFLICT (log) DO UPDATE SET position = excluded.position"""
_COUNT_POLICIES = """
    SELECT day, report_domain, count(DISTINCT policy_key) FROM session_counters
    WHERE day = :day AND report_domain IN (:domains) GROUP BY day, report_domain"""
_COUNT_DETAILS = """
    SELECT day, report_domain, policy_key, count(*) FROM session_details
    WHERE day = :day AND report_domain IN (:domains) GROUP BY day, report_domain, policy_key"""
_KNOWN_POLICIES = """
    SELECT DISTINCT policy_key FROM session_counters
    WHERE day = :day AND report_domain = :report_domain AND policy_key IN (:entries)"""
_KNOWN_DETAILS = """
    SELECT DISTINCT detail_key FROM session_details
    WHERE day = :day AND report_domain = :report_domain AND policy_key = :policy_key AND detail_key IN (:entries)"""
_COUNTER_KEY = "day, report_domain, policy_key, recipient_domain, for_mx_host"
_DETAIL_KEY = f"{_COUNTER_KEY}, detail_key"
_DELETE_SOME_COUNTERS = f"""
    DELETE FROM session_counters WHERE ({_COUNTER_KEY}) IN (
        SELECT {_COUNTER_KEY} FROM session_counters WHERE day = :day ORDER BY {_COUNTER_KEY} LIMIT :some)"""
_DELETE_SOME_DETAILS = f"""
    DELETE FROM session_details WHERE ({_DETAIL_KEY}) IN (
        SELECT {_DETAIL_KEY} FROM session_details WHERE day = :day ORDER BY {_DETAIL_KEY} LIMIT :some)"""


class _DayDomain(NamedTuple):
    """What the number of policies is limited for."""

    day: str
    report_domain: str


class _DayPolicy(NamedTuple):
    """What the number of details is limited for."""

    day: str
    report_domain: str
    policy_key: bytes


class _Placed(NamedTuple):
    """A row, its day, and the policy that it is counted under."""

    day: str
    row: CounterRow
    policy: AppliedPolicy
    policy_key: bytes


@lru_cache(maxsize=DETAILS_IN_MEMORY)
def _detail(detail: FailureDetail) -> tuple[bytes, str]:
    text = detail_text(detail)
    return text_key(text), text


class CounterTable:
    """The tables in an open database. Reads may come from one thread and writes from another.

    Every call raises `StoreUnavailable` for every fault of the database; a write is then not done.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._policies = CounterBound(MAX_POLICIES, count=_count_policies, known=_known_policies)
        self._details = CounterBound(MAX_DETAILS, count=_count_details, known=_known_details)
        self._keys: dict[AppliedPolicy, bytes] = {}
        self._new_texts: dict[bytes, str] = {}  # of the flush that is being written
        self._characters = 0
        self._stored_for: dict[bytes, str] = {}  # policies on disk, and the last day for which

    def last_flush(self, writer: str, today: date) -> int:
        """The number of the last flush of `writer` that was written, 0 for none. One that a server is still busy
        with is waited for."""
        with self._database.writing() as connection:
            ((number,),) = connection.query(_LAST_FLUSH, {"writer": writer, "today": today.isoformat()})
        return int(number)

    def add(self, rows: Sequence[CounterRow], positions: Mapping[str, str], flush: Flush) -> None:
        """Add `rows`, replace `positions` (an empty one is deleted), and note that `flush` is written."""
        with self._database.writing() as connection:
            stored = self._add_rows(connection, rows)
            if kept := [(log, position) for log, position in sorted(positions.items()) if position]:
                connection.execute_many(_SAVE_POSITION, kept)
            if gone := [(log,) for log, position in sorted(positions.items()) if not position]:
                connection.execute_many("DELETE FROM log_positions WHERE log = ?", gone)
            values = {"writer": flush.writer, "number": flush.number, "last_day": flush.on.isoformat()}
            connection.execute(_NOTE_FLUSH, values)
        self._stored_for.update(stored)

    def _key_of(self, policy: AppliedPolicy) -> bytes:
        key = self._keys.get(policy)
        if key is None:
            text = policy_text(policy)
            if self._characters > POLICIES_IN_MEMORY:
                self._forget()
            self._characters += len(text)
            key = self._keys[policy] = text_key(text)
            self._new_texts[key] = text
        return key

    def _forget(self) -> None:
        self._keys.clear()
        self._stored_for.clear()
        self._characters = 0

    def _add_rows(self, connection: Connection, rows: Iterable[CounterRow]) -> dict[bytes, str]:
        """Add these; the policies that were stored with them, and for which day."""
        placed = self._with_room_for_policy(connection, rows)
        new: dict[bytes, _Placed] = {}
        for each in placed:
            last = new[each.policy_key].day if each.policy_key in new else self._stored_for.get(each.policy_key, "")
            if last < each.day:
                new[each.policy_key] = each
        texts, self._new_texts = self._new_texts, {}
        policies = [(key, texts.get(key) or policy_text(each.policy), each.day) for key, each in new.items()]
        details = self._details_of(connection, [each for each in placed if each.row.details])
        _add(connection, _ADD_POLICIES, policies)
        _add(connection, _ADD_COUNTERS, [_counter(each) for each in placed])
        _add(connection, _ADD_DETAILS, details)
        return {key: each.day for key, each in new.items()}

    def _with_room_for_policy(self, connection: Connection, rows: Iterable[CounterRow]) -> list[_Placed]:
        self._new_texts.clear()
        placed = [_Placed(row.day.isoformat(), row, row.policy, self._key_of(row.policy)) for row in rows]
        wanted: defaultdict[_DayDomain, set[bytes]] = defaultdict(set)
        for each in placed:
            wanted[_DayDomain(each.day, each.row.report_domain)].add(each.policy_key)
        refused = self._policies.refused(connection, wanted)
        if refused:
            for index, (day, row, _, key) in enumerate(placed):
                if (_DayDomain(day, row.report_domain), key) in refused:
                    policy = remainder_policy(row.report_domain, row.policy)
                    placed[index] = _Placed(day, row, policy, self._key_of(policy))
        return placed

    def _details_of(self, connection: Connection, placed: Sequence[_Placed]) -> list[tuple[object, ...]]:
        wanted: defaultdict[_DayPolicy, set[bytes]] = defaultdict(set)
        for each in placed:
            where = _DayPolicy(each.day, each.row.report_domain, each.policy_key)
            wanted[where].update(_detail(detail)[0] for detail in each.row.details)
        refused = self._details.refused(connection, wanted)
        found: list[tuple[object, ...]] = []
        for each in placed:
            where = _DayPolicy(each.day, each.row.report_domain, each.policy_key)
            for detail, sessions in each.row.details.items():
                key, text = _detail(detail)
                if (where, key) in refused:
                    key, text = _detail(remainder_detail(detail))
                found.append((*_key(each), key, text, sessions))
        return found

    def positions(self) -> dict[str, str]:
        """How far each log was read."""
        with self._database.scanning() as connection:
            return {str(log): str(at) for log, at in connection.query("SELECT log, position FROM log_positions")}

    def old_days(self, before: date) -> list[str]:
        """The days before `before` that have counters."""
        with self._database.scanning() as connection:
            return list(counted_days(connection, before.isoformat()))

    def count(self, day: str) -> int:
        """How many counters a day has."""
        with self._database.scanning() as connection:
            ((number,),) = connection.query("SELECT count(*) FROM session_counters WHERE day = :day", {"day": day})
        return int(number)

    def delete_some(self, day: str, limit: int) -> tuple[int, int]:
        """Delete up to `limit` details of a day and, once there are none left, up to `limit` counters: how many
        details and counters those were."""
        with self._database.writing() as connection:
            some = {"day": day, "some": limit}
            details = connection.execute(_DELETE_SOME_DETAILS, some)
            return details, 0 if details == limit else connection.execute(_DELETE_SOME_COUNTERS, some)

    def delete_unused(self, before: date) -> None:
        """Delete what only days before `before` needed."""
        self._forget()
        with self._database.writing() as connection:
            for table in ("report_policies", "counter_flushes"):
                connection.execute(f"DELETE FROM {table} WHERE last_day < :before", {"before": before.isoformat()})


def counted_days(connection: Connection, before: str) -> Iterator[str]:
    """The days before `before` that have counters, in order: one step in the key each, however many counters."""
    query = "SELECT min(day) FROM session_counters WHERE day > :last AND day < :before"
    last = ""
    while True:
        ((day,),) = connection.query(query, {"last": last, "before": before})
        if day is None:
            return
        last = str(day)
        yield last


def _add(connection: Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Upsert rows in the order of their keys."""
    if rows:
        connection.execute_many(statement, _in_order(rows))


def _in_order(rows: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """As sorted(), but the datagram socket is not left alone meanwhile."""
    parts: list[list[Any]] = [
        sorted(rows[start : start + SORTED_AT_ONCE]) for start in range(0, len(rows), SORTED_AT_ONCE)
    ]
    return list(merge(*parts))


def _key(placed: _Placed) -> tuple[str, str, bytes, str, bool]:
    row = placed.row
    return placed.day, str(row.report_domain), placed.policy_key, str(row.recipient_domain), row.for_mx_host


def _counter(placed: _Placed) -> tuple[object, ...]:
    row = placed.row
    return (*_key(placed), row.successes, row.failures, row.unverified)


def _count_policies(connection: Connection, keys: Collection[_DayDomain]) -> dict[_DayDomain, int]:
    return {
        _DayDomain(day, domain): count
        for some in _of_one_day(keys)
        for day, domain, count in connection.query(_COUNT_POLICIES, _day_and_domains(some))
    }


def _count_details(connection: Connection, keys: Collection[_DayPolicy]) -> dict[_DayPolicy, int]:
    return {
        _DayPolicy(day, domain, bytes(policy_key)): count
        for some in _of_one_day(keys)
        for day, domain, policy_key, count in connection.query(_COUNT_DETAILS, _day_and_domains(some))
    }


def _day_and_domains(keys: Sequence[Any]) -> dict[str, object]:
    return {"day": keys[0].day, "domains": [key.report_domain for key in keys]}


def _of_one_day(keys: Collection[Any]) -> Iterator[list[Any]]:
    """The keys in groups of one day each, none larger than a query takes."""
    by_day: defaultdict[str, list[Any]] = defaultdict(list)
    for key in keys:
        by_day[key.day].append(key)
    for of_day in by_day.values():
        for start in range(0, len(of_day), PARAMETERS):
            yield of_day[start : start + PARAMETERS]


def _known_policies(connection: Connection, key: _DayDomain, entries: Collection[bytes]) -> Set[bytes]:
    return _known(connection, _KNOWN_POLICIES, key._asdict(), entries)


def _known_details(connection: Connection, key: _DayPolicy, entries: Collection[bytes]) -> Set[bytes]:
    return _known(connection, _KNOWN_DETAILS, key._asdict(), entries)


def _known(connection: Connection, query: str, values: Mapping[str, object], entries: Collection[bytes]) -> Set[bytes]:
    some = list(entries)
    return {
        bytes(found)
        for start in range(0, len(some), PARAMETERS)
        for (found,) in connection.query(query, {**values, "entries": some[start : start + PARAMETERS]})
    }
