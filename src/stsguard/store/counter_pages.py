"""The tables of counters, read a bounded page at a time: a day may hold more than memory does. Every call blocks.

A row that can't be read is named and left out; it is never deleted before its time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, select, tuple_

from stsguard.core.counter_text import CounterTextInvalid, parse_detail_text, parse_policy_text
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail
from stsguard.names import Domain, NameInvalid
from stsguard.store.database import Database
from stsguard.store.schema import report_policies, session_counters, session_details

PAGE_ROWS = 1000
PAGE_DETAILS = 20_000
PAGE_DOMAINS = 10_000
PARSED_POLICIES = 100  # those of one domain follow one another
_COUNTERS, _DETAILS = session_counters.c, session_details.c


class CounterKey(NamedTuple):
    """Where a counter stands within its day."""

    report_domain: str
    policy_key: bytes
    recipient_domain: str
    for_mx_host: bool


_KEY = CounterKey._fields
_COUNTER_KEY = tuple_(*(_COUNTERS[name] for name in _KEY))
_DETAIL_KEY = tuple_(*(_DETAILS[name] for name in _KEY))


@dataclass(slots=True)
class CounterPage:
    """Counters in the order of their keys, the rows among them that are none (report domain and reason), and the key
    after which the next page begins; None at the end."""

    rows: list[CounterRow] = field(default_factory=list)
    invalid: list[tuple[str, str]] = field(default_factory=list)
    last: CounterKey | None = None


class _RowInvalid(Exception):
    """A row that is no counter; the message says why."""


class CounterPages:
    """The counters in an open database, for one thread. Every call raises `StoreUnavailable` for every fault of it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parse_policy = lru_cache(maxsize=PARSED_POLICIES)(parse_policy_text)

    def domains(self, day: date, after: str) -> list[str]:
        """The next report domains after `after` with counters on `day`; none at the end."""
        name = _COUNTERS.report_domain
        query = select(name).distinct().where(_COUNTERS.day == day.isoformat(), name > after)
        with self._database.scanning() as connection:
            return list(connection.execute(query.order_by(name).limit(PAGE_DOMAINS)).scalars())

    def load(self, day: date, report_domain: str | None, after: CounterKey | None) -> CounterPage:
        """The next counters of `day` after the key `after`, those of `report_domain` alone where one is given."""
        query = (
            select(session_counters, report_policies.c.policy)
            .outerjoin(report_policies, report_policies.c.policy_key == _COUNTERS.policy_key)
            .where(_COUNTERS.day == day.isoformat())
            .order_by(*(_COUNTERS[name] for name in _KEY))
            .limit(PAGE_ROWS)
        )
        if report_domain is not None:
            query = query.where(_COUNTERS.report_domain == report_domain)
        if after is not None:
            query = query.where(tuple_(*after) < _COUNTER_KEY)
        with self._database.scanning() as connection:
            rows = connection.execute(query).all()
            if not rows:
                return CounterPage()
            rows, details = _with_details(connection, day, rows)
        page = CounterPage(last=_key(rows[-1]))
        for row in rows:
            try:
                counter = self._read(day, row, details.get(_key(row), ()))
            except _RowInvalid as exc:
                page.invalid.append((str(row.report_domain), str(exc)))
            else:
                if counter.successes or counter.failures or counter.unverified or counter.details:
                    page.rows.append(counter)
        return page

    def _read(self, day: date, row: Row[Any], details: Sequence[tuple[str, int]]) -> CounterRow:
        numbers = (row.successes, row.failures, row.unverified, *(sessions for _, sessions in details))
        # SQLite keeps values of any type in any column.
        if not all(isinstance(number, int) for number in numbers):
            raise _RowInvalid("a count is no number")
        try:
            return CounterRow(
                day=day,
                report_domain=Domain.parse(row.report_domain),
                recipient_domain=Domain.parse(row.recipient_domain),
                for_mx_host=row.for_mx_host,
                policy=self._policy(row.policy),
                successes=row.successes,
                failures=row.failures,
                unverified=row.unverified,
                details={_detail(text): sessions for text, sessions in details if sessions},
            )
        except NameInvalid as exc:
            raise _RowInvalid(str(exc.args[0])) from exc
        except CounterTextInvalid as exc:
            raise _RowInvalid(str(exc)) from exc

    def _policy(self, text: object) -> AppliedPolicy:
        if not isinstance(text, str):
            raise _RowInvalid("its policy is missing")
        return self._parse_policy(text)


def _detail(text: object) -> FailureDetail:
    if not isinstance(text, str):
        raise _RowInvalid("a detail is no text")
    return parse_detail_text(text)


def _key(row: Row[Any]) -> CounterKey:
    return CounterKey(row.report_domain, bytes(row.policy_key), row.recipient_domain, row.for_mx_host)


def _with_details(
    connection: Connection, day: date, rows: Sequence[Row[Any]]
) -> tuple[Sequence[Row[Any]], Mapping[CounterKey, Sequence[tuple[str, int]]]]:
    """As many of the rows, from the first on, as have a bounded number of details, and those."""
    query: Select[Any] = (
        select(*(_DETAILS[name] for name in _KEY), _DETAILS.detail, _DETAILS.sessions)
        .where(_DETAILS.day == day.isoformat())
        .where(_DETAIL_KEY.between(tuple_(*_key(rows[0])), tuple_(*_key(rows[-1]))))
        .order_by(*(_DETAILS[name] for name in _KEY), _DETAILS.detail_key)
    )
    found: dict[CounterKey, list[tuple[str, int]]] = {}
    seen = 0
    for row in connection.execution_options(yield_per=1000).execute(query.limit(PAGE_DETAILS)):
        found.setdefault(_key(row), []).append((row.detail, row.sessions))
        seen += 1
    if seen < PAGE_DETAILS:
        return rows, found
    # The last one may have more details than that: it begins the next page, unless it is alone on this one.
    cut = list(found)[-1]
    before = [row for row in rows if _key(row) < cut]
    if before:
        return before, found
    first = _key(rows[0])
    all_of_first = query.where(_DETAIL_KEY.in_([first]))
    return rows[:1], {first: [(row.detail, row.sessions) for row in connection.execute(all_of_first)]}
