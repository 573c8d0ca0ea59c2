"""The tables of counters, read a bounded page at a time: a day may hold more than memory does. Every call blocks.

A row that can't be read is named and left out; it is never deleted before its time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, Row, Select, Tuple, bindparam, select, tuple_

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


_START = CounterKey("", b"", "", False)  # before every other
_KEY = CounterKey._fields


def _bound(name: str, parts: Sequence[str] = _KEY) -> Tuple:
    """A key whose parts are given when the query is run, as `name`_`part`."""
    return tuple_(*(bindparam(f"{name}_{part}", type_=_COUNTERS[part].type) for part in parts))


def _values(name: str, key: CounterKey) -> dict[str, object]:
    return {f"{name}_{part}": value for part, value in key._asdict().items()}


# Built once: for one report after the other that would take longer than to run them.
_COUNTERS_OF_DAY = (
    select(session_counters, report_policies.c.policy)
    .outerjoin(report_policies, report_policies.c.policy_key == _COUNTERS.policy_key)
    .where(_COUNTERS.day == bindparam("on"))
    .order_by(*(_COUNTERS[part] for part in _KEY))
    .limit(bindparam("rows", type_=Integer))
)
_PAGE = _COUNTERS_OF_DAY.where(_bound("after") < tuple_(*(_COUNTERS[part] for part in _KEY)))
# By what follows the domain in the key: SQLite would use the comparison of the whole, and read the day to its end.
_PAGE_OF_DOMAIN = _COUNTERS_OF_DAY.where(
    _COUNTERS.report_domain == bindparam("after_report_domain"),
    _bound("after", _KEY[1:]) < tuple_(*(_COUNTERS[part] for part in _KEY[1:])),
)
_DETAILS_OF_PAGE: Select[Any] = (
    select(*(_DETAILS[part] for part in _KEY), _DETAILS.detail, _DETAILS.sessions)
    .where(_DETAILS.day == bindparam("on"))
    .where(tuple_(*(_DETAILS[part] for part in _KEY)).between(_bound("first"), _bound("last")))
    .order_by(*(_DETAILS[part] for part in _KEY), _DETAILS.detail_key)
)
_BOUNDED_DETAILS_OF_PAGE = _DETAILS_OF_PAGE.limit(bindparam("details", type_=Integer))


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
        query = _PAGE if report_domain is None else _PAGE_OF_DOMAIN
        after = after or _START._replace(report_domain=report_domain or "")
        values = {"on": day.isoformat(), "rows": PAGE_ROWS, **_values("after", after)}
        with self._database.scanning() as connection:
            rows: Sequence[Row[Any]] = connection.execute(query, values).all()
            if not rows:
                return CounterPage()
            found = len(rows)
            rows, details = _with_details(connection, day, rows)
        at_end = found < PAGE_ROWS and len(rows) == found
        page = CounterPage(last=None if at_end else _key(rows[-1]))
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
    values = {"on": day.isoformat(), **_values("first", _key(rows[0])), **_values("last", _key(rows[-1]))}
    bounded = {**values, "details": PAGE_DETAILS}
    found: dict[CounterKey, list[tuple[str, int]]] = {}
    seen = 0
    for row in connection.execute(_BOUNDED_DETAILS_OF_PAGE, bounded):
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
    alone = {"on": day.isoformat(), **_values("first", first), **_values("last", first)}
    return rows[:1], {first: [(row.detail, row.sessions) for row in connection.execute(_DETAILS_OF_PAGE, alone)]}
