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

from sqlalchemy import Connection, Table, and_, bindparam, delete, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert

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
from stsguard.store.counter_bound import CounterBound
from stsguard.store.database import Database
from stsguard.store.flush import Flush
from stsguard.store.schema import counter_flushes, log_positions, report_policies, session_counters, session_details

POLICIES_IN_MEMORY = 16 * 2**20  # characters: a policy may have 64 KiB, and mostly has 300
DETAILS_IN_MEMORY = 10_000
SORTED_AT_ONCE = 256  # rows, a tenth of a millisecond in which no other thread has its turn
PARAMETERS = 500  # in one IN (…); SQLite's own limit was 999 for long
_COUNTERS, _DETAILS = session_counters.c, session_details.c


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
            # Not a plain read: this one waits for a transaction that writes the same row.
            statement = (
                _insert(connection, counter_flushes)
                .values(writer=writer, number=0, last_day=today.isoformat())
                .on_conflict_do_update(index_elements=["writer"], set_={"last_day": today.isoformat()})
                .returning(counter_flushes.c.number)
            )
            return int(connection.execute(statement).scalar_one())

    def add(self, rows: Sequence[CounterRow], positions: Mapping[str, str], flush: Flush) -> None:
        """Add `rows`, replace `positions` (an empty one is deleted), and note that `flush` is written."""
        with self._database.writing() as connection:
            stored = self._add_rows(connection, rows)
            if kept := [{"log": log, "position": position} for log, position in sorted(positions.items()) if position]:
                statement = _insert(connection, log_positions)
                statement = statement.on_conflict_do_update(
                    index_elements=["log"], set_={"position": statement.excluded.position}
                )
                connection.execute(statement, kept)
            if gone := [{"gone": log} for log, position in sorted(positions.items()) if not position]:
                connection.execute(delete(log_positions).where(log_positions.c.log == bindparam("gone")), gone)
            statement = _insert(connection, counter_flushes)
            statement = statement.on_conflict_do_update(
                index_elements=["writer"],
                set_={"number": statement.excluded.number, "last_day": statement.excluded.last_day},
            )
            values = {"writer": flush.writer, "number": flush.number, "last_day": flush.on.isoformat()}
            connection.execute(statement, [values])
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
        _add(connection, report_policies, policies)
        _add(connection, session_counters, [_counter(each) for each in placed])
        _add(connection, session_details, details)
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
            return {str(log): str(position) for log, position in connection.execute(select(log_positions))}

    def old_days(self, before: date) -> list[str]:
        """The days before `before` that have counters."""
        with self._database.scanning() as connection:
            return list(counted_days(connection, before.isoformat()))

    def count(self, day: str) -> int:
        """How many counters a day has."""
        query = select(func.count()).select_from(session_counters).where(_COUNTERS.day == day)
        with self._database.scanning() as connection:
            return int(connection.execute(query).scalar_one())

    def delete_some(self, day: str, limit: int) -> tuple[int, int]:
        """Delete up to `limit` details of a day and, once there are none left, up to `limit` counters: how many
        details and counters those were."""
        with self._database.writing() as connection:
            details = _delete_some(connection, session_details, day, limit)
            return details, 0 if details == limit else _delete_some(connection, session_counters, day, limit)

    def delete_unused(self, before: date) -> None:
        """Delete what only days before `before` needed."""
        self._forget()
        with self._database.writing() as connection:
            for table in (report_policies, counter_flushes):
                connection.execute(delete(table).where(table.c.last_day < before.isoformat()))


def counted_days(connection: Connection, before: str) -> Iterator[str]:
    """The days before `before` that have counters, in order: one step in the key each, however many counters."""
    last = ""
    while True:
        query = select(func.min(_COUNTERS.day)).where(_COUNTERS.day > last, _COUNTERS.day < before)
        day = connection.execute(query).scalar_one()
        if day is None:
            return
        last = str(day)
        yield last


def _insert(connection: Connection, table: Table) -> "SqliteInsert | PostgresqlInsert":
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def _add(connection: Connection, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
    """Upsert rows of all columns of `table`, in the order of its key: numbers are added, the last day of a policy is
    the later one."""
    if rows:
        # Past SQLAlchemy's handling of each parameter, which takes three times as long as SQLite itself.
        connection.exec_driver_sql(_upsert(connection.dialect.name, table), _in_order(rows))


def _in_order(rows: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """As sorted(), but the datagram socket is not left alone meanwhile."""
    parts: list[list[Any]] = [
        sorted(rows[start : start + SORTED_AT_ONCE]) for start in range(0, len(rows), SORTED_AT_ONCE)
    ]
    return list(merge(*parts))


@lru_cache
def _upsert(dialect: str, table: Table) -> str:
    """The statement, with a parameter for each column in their order."""
    statement = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    new = statement.excluded
    if table is report_policies:
        statement = statement.on_conflict_do_update(
            index_elements=["policy_key"],
            set_={"last_day": new.last_day},
            where=table.c.last_day < new.last_day,
        )
    else:
        key = [column.name for column in table.primary_key]
        sums = [name for name in ("successes", "failures", "unverified", "sessions") if name in table.c]
        statement = statement.on_conflict_do_update(
            index_elements=key, set_={name: table.c[name] + new[name] for name in sums}
        )
    by_position = sqlite.dialect() if dialect == "sqlite" else PGDialect_psycopg(paramstyle="format")  # type: ignore[no-untyped-call] # SQLAlchemy has no types there
    return str(statement.compile(dialect=by_position, column_keys=table.c.keys()))


def _key(placed: _Placed) -> tuple[str, str, bytes, str, bool]:
    row = placed.row
    return placed.day, str(row.report_domain), placed.policy_key, str(row.recipient_domain), row.for_mx_host


def _counter(placed: _Placed) -> tuple[object, ...]:
    row = placed.row
    return (*_key(placed), row.successes, row.failures, row.unverified)


def _count_policies(connection: Connection, keys: Collection[_DayDomain]) -> dict[_DayDomain, int]:
    number = func.count(_COUNTERS.policy_key.distinct())
    query = select(_COUNTERS.day, _COUNTERS.report_domain, number).group_by(_COUNTERS.day, _COUNTERS.report_domain)
    return {
        _DayDomain(day, domain): count
        for some in _of_one_day(keys)
        for day, domain, count in connection.execute(
            query.where(_COUNTERS.day == some[0].day, _COUNTERS.report_domain.in_([key.report_domain for key in some]))
        )
    }


def _count_details(connection: Connection, keys: Collection[_DayPolicy]) -> dict[_DayPolicy, int]:
    columns = (_DETAILS.day, _DETAILS.report_domain, _DETAILS.policy_key)
    query = select(*columns, func.count()).group_by(*columns)
    return {
        _DayPolicy(day, domain, bytes(policy_key)): count
        for some in _of_one_day(keys)
        for day, domain, policy_key, count in connection.execute(
            query.where(_DETAILS.day == some[0].day, _DETAILS.report_domain.in_([key.report_domain for key in some]))
        )
    }


def _of_one_day(keys: Collection[Any]) -> Iterator[list[Any]]:
    """The keys in groups of one day each, none larger than a query takes."""
    by_day: defaultdict[str, list[Any]] = defaultdict(list)
    for key in keys:
        by_day[key.day].append(key)
    for of_day in by_day.values():
        for start in range(0, len(of_day), PARAMETERS):
            yield of_day[start : start + PARAMETERS]


def _known_policies(connection: Connection, key: _DayDomain, entries: Collection[bytes]) -> Set[bytes]:
    below = and_(_COUNTERS.day == key.day, _COUNTERS.report_domain == key.report_domain)
    return _known(connection, select(_COUNTERS.policy_key).distinct().where(below), _COUNTERS.policy_key, entries)


def _known_details(connection: Connection, key: _DayPolicy, entries: Collection[bytes]) -> Set[bytes]:
    below = and_(
        _DETAILS.day == key.day, _DETAILS.report_domain == key.report_domain, _DETAILS.policy_key == key.policy_key
    )
    return _known(connection, select(_DETAILS.detail_key).distinct().where(below), _DETAILS.detail_key, entries)


def _known(connection: Connection, query: Any, column: Any, entries: Collection[bytes]) -> Set[bytes]:
    some = list(entries)
    return {
        bytes(found)
        for start in range(0, len(some), PARAMETERS)
        for found in connection.execute(query.where(column.in_(some[start : start + PARAMETERS]))).scalars()
    }


def _delete_some(connection: Connection, table: Table, day: str, limit: int) -> int:
    key = tuple_(*table.primary_key)
    some = select(*table.primary_key).where(table.c.day == day).order_by(*table.primary_key).limit(limit)
    return connection.execute(delete(table).where(key.in_(some))).rowcount
