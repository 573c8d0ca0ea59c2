"""The tables of counters, read a bounded page at a time: a day may hold more than memory does. Every call blocks.

A row that can't be read is named and left out; it is never deleted before its time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import NamedTuple

from stsguard.core.counter_text import CounterTextInvalid, parse_detail_text, parse_policy_text
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail
from stsguard.names import Domain, NameInvalid
from stsguard.store.connection import Connection, Row
from stsguard.store.database import Database

PAGE_ROWS = 1000
PAGE_DETAILS = 20_000
PAGE_DOMAINS = 10_000
PARSED_POLICIES = 100  # those of one domain follow one another


class CounterKey(NamedTuple):
    """Where a counter stands within its day."""

    report_domain: str
    policy_key: bytes
    recipient_domain: str
    for_mx_host: bool


_START = CounterKey("", b"", "", False)  # before every other
_KEY = ", ".join(CounterKey._fields)
_FIRST, _LAST, _AFTER = (
    ", ".join(f":{bound}_{part}" for part in CounterKey._fields) for bound in ("first", "last", "after")
)
_DOMAINS = """
    SELECT DISTINCT report_domain FROM session_counters
    WHERE day = :on AND report_domain > :after ORDER BY report_domain LIMIT :rows"""
_COUNTERS = f"""
    SELECT {_KEY}, successes, failures, unverified,
        (SELECT policy FROM report_policies WHERE report_policies.policy_key = session_counters.policy_key)
    FROM session_counters WHERE day = :on"""
_PAGE = f"{_COUNTERS} AND ({_AFTER}) < ({_KEY}) ORDER BY {_KEY} LIMIT :rows"
# By what follows the domain in the key: SQLite would use the comparison of the whole, and read the day to its end.
_PAGE_OF_DOMAIN = f"""
    {_COUNTERS} AND report_domain = :after_report_domain
    AND (:after_policy_key, :after_recipient_domain, :after_for_mx_host) < (policy_key, recipient_domain, for_mx_host)
    ORDER BY {_KEY} LIMIT :rows"""
_DETAILS_OF_PAGE = f"""
    SELECT {_KEY}, detail, sessions FROM session_details
    WHERE day = :on AND ({_KEY}) BETWEEN ({_FIRST}) AND ({_LAST}) ORDER BY {_KEY}, detail_key"""
_BOUNDED_DETAILS_OF_PAGE = f"{_DETAILS_OF_PAGE} LIMIT :details"


class _Stored(NamedTuple):
    """A row of counters."""

    key: CounterKey
    successes: int
    failures: int
    unverified: int
    policy: object


def _values(name: str, key: CounterKey) -> dict[str, object]:
    return {f"{name}_{part}": value for part, value in key._asdict().items()}


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
        values = {"on": day.isoformat(), "after": after, "rows": PAGE_DOMAINS}
        with self._database.scanning() as connection:
            return [name for (name,) in connection.query(_DOMAINS, values)]

    def load(self, day: date, report_domain: str | None, after: CounterKey | None) -> CounterPage:
        """The next counters of `day` after the key `after`, those of `report_domain` alone where one is given."""
        query = _PAGE if report_domain is None else _PAGE_OF_DOMAIN
        after = after or _START._replace(report_domain=report_domain or "")
        values = {"on": day.isoformat(), "rows": PAGE_ROWS, **_values("after", after)}
        with self._database.scanning() as connection:
            rows: Sequence[_Stored] = [
                _Stored(_key(row), *row[len(_START) :]) for row in connection.query(query, values)
            ]
            if not rows:
                return CounterPage()
            found = len(rows)
            rows, details = _with_details(connection, day, rows)
        at_end = found < PAGE_ROWS and len(rows) == found
        page = CounterPage(last=None if at_end else rows[-1].key)
        for row in rows:
            try:
                counter = self._read(day, row, details.get(row.key, ()))
            except _RowInvalid as exc:
                page.invalid.append((str(row.key.report_domain), str(exc)))
            else:
                if counter.successes or counter.failures or counter.unverified or counter.details:
                    page.rows.append(counter)
        return page

    def _read(self, day: date, row: _Stored, details: Sequence[tuple[str, int]]) -> CounterRow:
        numbers = (row.successes, row.failures, row.unverified, *(sessions for _, sessions in details))
        # SQLite keeps values of any type in any column.
        if not all(isinstance(number, int) for number in numbers):
            raise _RowInvalid("a count is no number")
        try:
            return CounterRow(
                day=day,
                report_domain=Domain.parse(row.key.report_domain),
                recipient_domain=Domain.parse(row.key.recipient_domain),
                for_mx_host=row.key.for_mx_host,
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


def _key(row: Row) -> CounterKey:
    report_domain, policy_key, recipient_domain, for_mx_host = row[: len(_START)]
    return CounterKey(report_domain, bytes(policy_key), recipient_domain, bool(for_mx_host))


def _with_details(
    connection: Connection, day: date, rows: Sequence[_Stored]
) -> tuple[Sequence[_Stored], Mapping[CounterKey, Sequence[tuple[str, int]]]]:
    """As many of the rows, from the first on, as have a bounded number of details, and those."""
    values = {"on": day.isoformat(), **_values("first", rows[0].key), **_values("last", rows[-1].key)}
    found: dict[CounterKey, list[tuple[str, int]]] = {}
    seen = 0
    for row in connection.query(_BOUNDED_DETAILS_OF_PAGE, {**values, "details": PAGE_DETAILS}):
        found.setdefault(_key(row), []).append(row[len(_START) :])
        seen += 1
    if seen < PAGE_DETAILS:
        return rows, found
    # The last one may have more details than that: it begins the next page, unless it is alone on this one.
    cut = list(found)[-1]
    before = [row for row in rows if row.key < cut]
    if before:
        return before, found
    first = rows[0].key
    alone = {"on": day.isoformat(), **_values("first", first), **_values("last", first)}
    return rows[:1], {first: [row[len(_START) :] for row in connection.query(_DETAILS_OF_PAGE, alone)]}
