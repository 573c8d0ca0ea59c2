"""The received reports, asked for: pages in order of day and number, one report, sums. Every call blocks.

A page is found by its key, never by an offset, so that the last page of a million reports costs what the first does.
Sums are those of `received_daily`, which stay when the reports are gone; reports that do not count are found by an
index of their own.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from functools import reduce
from operator import add
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Row,
    Select,
    Table,
    and_,
    cast,
    distinct,
    exists,
    func,
    literal_column,
    select,
    tuple_,
)

from stsguard.core.received_query import (
    ApartSum,
    DaySum,
    DetailRow,
    FoundReport,
    Group,
    IntakeRow,
    NamedSum,
    PageKey,
    PolicyRow,
    ReportLine,
    Summary,
    Wanted,
    group_of,
)
from stsguard.core.received_record import Standing
from stsguard.store.alchemy import AlchemyDatabase
from stsguard.store.instants import from_micros, to_micros
from stsguard.store.received_schema import (
    APART,
    received_daily,
    received_daily_failures,
    received_details,
    received_intakes,
    received_policies,
    received_reports,
)
from stsguard.store.rows import optional_instant

_INTAKES, _REPORTS, _POLICIES, _DETAILS = (
    received_intakes.c,
    received_reports.c,
    received_policies.c,
    received_details.c,
)
_DAILY, _FAILURES = received_daily.c, received_daily_failures.c
DETAILS_AT_ONCE = 5000  # read for an export; one report has 20,000 at most
_NO_RAW = tuple(column for column in received_intakes.columns if column.name != "raw")
_NOTHING: ColumnElement[str] = literal_column("''")
_APART: ColumnElement[bool] = literal_column(f"({APART})")  # the very words of the partial index

Condition = ColumnElement[bool]


class ReceivedQueries:
    """The tables in an open database, for one thread. Every call raises `StoreUnavailable` for every fault of it."""

    def __init__(self, database: AlchemyDatabase) -> None:
        self._database = database

    def keys(self, wanted: Wanted, after: PageKey | None, limit: int) -> list[PageKey]:
        """The next reports after `after`: the latest day first, and of a day the latest stored."""
        found: list[PageKey] = []
        with self._database.scanning() as connection:
            while len(found) < limit:
                # A report has a row for each of its policies of the domain, beside each other.
                rows = [PageKey(*row) for row in connection.execute(_page(wanted, after, limit))]
                found += [key for key in dict.fromkeys(rows) if not found or key != found[-1]]
                if len(rows) < limit:
                    break
                after = rows[-1]
        return found[:limit]

    def lines(self, wanted: Wanted, after: PageKey | None, limit: int) -> list[ReportLine]:
        """The same reports as lines of a list."""
        keys = self.keys(wanted, after, limit)
        numbers = [key.report for key in keys]
        sums = select(
            _POLICIES.report,
            func.min(_POLICIES.policy_domain).label("policy_domain"),
            func.count(distinct(_POLICIES.policy_domain)).label("domains"),
            func.min(_POLICIES.policy_type).label("policy_type"),
            func.count(distinct(_POLICIES.policy_type)).label("policy_types"),
            _sum(_POLICIES.successes).label("successes"),
            _sum(_POLICIES.failures).label("failures"),
        ).where(_POLICIES.report.in_(numbers), *_of_policies(wanted))
        with self._database.scanning() as connection:
            reports = _by_number(connection, select(received_reports).where(_REPORTS.report.in_(numbers)))
            summed = _by_number(connection, sums.group_by(_POLICIES.report))
        return [_line(key, reports[key.report], summed.get(key.report)) for key in keys if key.report in reports]

    def load(self, numbers: Sequence[int]) -> list[FoundReport]:
        """These reports in this order, with all that was read of them; those that are gone are left out."""
        policies: dict[int, list[Row[Any]]] = {}
        details: dict[tuple[int, int], list[DetailRow]] = {}
        with self._database.scanning() as connection:
            reports = _by_number(connection, select(received_reports).where(_REPORTS.report.in_(numbers)))
            intakes = _intakes(connection, {row.intake for row in reports.values()})
            for row in connection.execute(_in_order(received_policies, numbers)):
                policies.setdefault(row.report, []).append(row)
            for row in connection.execute(_in_order(received_details, numbers)):
                details.setdefault((row.report, row.policy), []).append(_detail(row))
        there = [reports[number] for number in numbers if number in reports and reports[number].intake in intakes]
        return [_report(row, intakes[row.intake], policies.get(row.report, ()), details) for row in there]

    def batches(self, keys: Sequence[PageKey]) -> list[list[int]]:
        """The numbers of these reports in parts with not more than `DETAILS_AT_ONCE` details, but one report each."""
        numbers = [key.report for key in keys]
        query = select(_DETAILS.report, func.count()).where(_DETAILS.report.in_(numbers)).group_by(_DETAILS.report)
        with self._database.scanning() as connection:
            counts = {row[0]: int(row[1]) for row in connection.execute(query)}
        parts: list[list[int]] = []
        room = 0
        for number in numbers:
            room -= counts.get(number, 0)
            if not parts or room < 0:
                parts.append([])
                room = DETAILS_AT_ONCE - counts.get(number, 0)
            parts[-1].append(number)
        return parts

    def with_id(self, report_id: str, limit: int) -> list[int]:
        """The numbers of the reports of this report-id, the latest stored first."""
        query = select(_REPORTS.report).where(_REPORTS.report_id == report_id)
        with self._database.scanning() as connection:
            return list(connection.execute(query.order_by(_REPORTS.report.desc()).limit(limit)).scalars())

    def reports_of(self, intake: int, limit: int) -> list[int]:
        """The numbers of the reports that came in with this intake."""
        query = select(_REPORTS.report).where(_REPORTS.intake == intake).order_by(_REPORTS.report).limit(limit)
        with self._database.scanning() as connection:
            return list(connection.execute(query).scalars())

    def intake(self, number: int) -> IntakeRow | None:
        """What came in, without its octets; None where there is none of this number."""
        with self._database.scanning() as connection:
            return _intakes(connection, {number}).get(number)

    def refused(self, wanted: Wanted, before: int | None, limit: int) -> list[IntakeRow]:
        """The next intakes in which something could not be read, below the number `before`, the latest first."""
        query = select(*_NO_RAW).where(*_refused(wanted)).order_by(_INTAKES.intake.desc()).limit(limit)
        if before is not None:
            query = query.where(_INTAKES.intake < before)
        with self._database.scanning() as connection:
            return [_intake(row) for row in connection.execute(query)]

    def summary(self, wanted: Wanted, top: int) -> Summary:
        """What counts, added up; of each list the `top` largest. Where details choose there are failures alone."""
        with self._database.scanning() as connection:
            sums = _Sums(connection, wanted, top)
            days = sums.days()
            successes = None if wanted.of_details else sum(day.successes or 0 for day in days)
            return Summary(
                successes=successes,
                failures=sum(day.failures for day in days),
                days=days,
                policy_domains=sums.by("policy_domain", "policy_domains"),
                reporters=sums.by("reporter", "reporters"),
                policy_types=sums.by("policy_type", "policy_types"),
                result_types=sums.of_failures("result_type", "result_types"),
                mx_hostnames=sums.of_failures("mx_hostname", "mx_hostnames"),
                more=sums.more,
                apart=_apart(connection, wanted),
                refused=_count(connection, select(func.count()).where(*_refused(wanted))),
            )

    def sums_of_domains(self, names: Sequence[str], since: str) -> tuple[list[NamedSum], list[tuple[str, str, int]]]:
        """Of each of these domains the sessions since that day, and its failures by result-type."""
        daily = select(_DAILY.policy_domain, _sum(_DAILY.successes), _sum(_DAILY.failures))
        failures = select(_FAILURES.policy_domain, _FAILURES.result_type, _sum(_FAILURES.sessions))
        with self._database.scanning() as connection:
            sums = connection.execute(
                daily.where(_DAILY.policy_domain.in_(names), _DAILY.day >= since).group_by(_DAILY.policy_domain)
            )
            found = [NamedSum(name, int(good), int(bad)) for name, good, bad in sums]
            kinds = connection.execute(
                failures.where(_FAILURES.policy_domain.in_(names), _FAILURES.day >= since).group_by(
                    _FAILURES.policy_domain, _FAILURES.result_type
                )
            )
            return found, [(name, kind, int(sessions)) for name, kind, sessions in kinds]


class _Sums:
    """Sums of what counts, on one connection. `more` says of each list how many it leaves out."""

    def __init__(self, connection: Connection, wanted: Wanted, top: int) -> None:
        self._connection = connection
        self._wanted = wanted
        self._top = top
        self._table: Table = received_daily_failures if wanted.of_details else received_daily
        self.more: dict[str, int] = {}

    def days(self) -> tuple[DaySum, ...]:
        """All days with anything, the latest first."""
        day = self._table.c.day
        query = self._select(self._table, day).order_by(day.concat(_NOTHING).desc())
        return tuple(DaySum(row[0], *self._numbers(row)) for row in self._connection.execute(query))

    def by(self, column: str, name: str) -> tuple[NamedSum, ...]:
        """By a column that all sessions have."""
        return self._largest(self._table, column, name)

    def of_failures(self, column: str, name: str) -> tuple[NamedSum, ...]:
        """By a column that failure-details alone have."""
        return self._largest(received_daily_failures, column, name)

    def _largest(self, table: Table, column: str, name: str) -> tuple[NamedSum, ...]:
        key = table.c[column]
        query = self._select(table, key).order_by(_total(table).desc(), key.concat(_NOTHING)).limit(self._top + 1)
        rows = self._connection.execute(query).all()
        if len(rows) > self._top:
            all_of_them = select(func.count(distinct(key))).where(*_of_sums(table, self._wanted))
            self.more[name] = _count(self._connection, all_of_them) - self._top
        return tuple(NamedSum(row[0], *self._numbers(row)) for row in rows[: self._top])

    def _select(self, table: Table, key: ColumnElement[str]) -> Select[Any]:
        """Key, failures, and successes where there are any."""
        failures, *successes = (_DAILY.failures, _DAILY.successes) if table is received_daily else (_FAILURES.sessions,)
        query: Select[Any] = select(key.concat(_NOTHING), _sum(failures), *map(_sum, successes))
        # An expression, since for a column SQLite would read the whole table in the order of its index, whatever the
        # days asked for.
        return query.where(*_of_sums(table, self._wanted)).group_by(key.concat(_NOTHING))

    @staticmethod
    def _numbers(row: Row[Any]) -> tuple[int | None, int]:
        failures, *successes = tuple(row)[1:]
        return (int(successes[0]) if successes else None), int(failures)


def _total(table: Table) -> ColumnElement[Any]:
    return _sum(_DAILY.successes, _DAILY.failures) if table is received_daily else _sum(_FAILURES.sessions)


def _sum(*columns: ColumnElement[int]) -> ColumnElement[Any]:
    """The sum of all in these columns: as a float, which is exact up to 2**53 and, unlike an integer, never too large
    for the database, whatever senders made up."""
    return func.sum(reduce(add, [cast(column, Double) for column in columns]))


def _page(wanted: Wanted, after: PageKey | None, limit: int) -> Select[Any]:
    """Keys of reports, beside each other more than once where a report has several policies of the domain."""
    conditions = [*_of_group(wanted.group)]
    if wanted.policy_domain is None:
        day, number = _REPORTS.day, _REPORTS.report
        query = select(day, number)
        if wanted.of_details:
            conditions.append(number.in_(_with_details(wanted)))
    else:
        day, number = _POLICIES.day, _POLICIES.report
        query = select(day, number).join_from(received_policies, received_reports, number == _REPORTS.report)
        conditions += _of_policies(wanted)
        if wanted.of_details:
            own = and_(_DETAILS.report == number, _DETAILS.policy == _POLICIES.number, *_of_details(wanted))
            conditions.append(exists().where(own))
    if wanted.reporter is not None:
        conditions.append(_REPORTS.reporter == wanted.reporter)
    conditions += _between(day, wanted)
    if after is not None:
        # beside the comparison of both, which SQLite does not use an index for as it would for this
        conditions += [day <= after.day, tuple_(day, number) < tuple_(*after)]
    return query.where(*conditions).order_by(day.desc(), number.desc()).limit(limit)


def _with_details(wanted: Wanted) -> Select[Any]:
    query = select(_DETAILS.report).where(*_of_details(wanted))
    if wanted.group is Group.COUNTED:
        own = and_(_POLICIES.report == _DETAILS.report, _POLICIES.number == _DETAILS.policy)
        query = query.join_from(received_details, received_policies, own).where(~_POLICIES.foreign_domain)
    return query


def _of_details(wanted: Wanted) -> Iterator[Condition]:
    if wanted.result_type is not None:
        yield _DETAILS.result_type == wanted.result_type
    if wanted.mx_hostname is not None:
        yield _DETAILS.mx_hostname == wanted.mx_hostname


def _of_policies(wanted: Wanted) -> Iterator[Condition]:
    if wanted.policy_domain is not None:
        yield _POLICIES.policy_domain == wanted.policy_domain
    if wanted.group is Group.COUNTED:
        yield ~_POLICIES.foreign_domain


def _of_sums(table: Table, wanted: Wanted) -> Iterator[Condition]:
    yield from _between(table.c.day, wanted)
    for name in ("policy_domain", "reporter", "result_type", "mx_hostname"):
        value = getattr(wanted, name)
        if value is not None and name in table.c:
            yield table.c[name] == value


def _between(day: ColumnElement[str], wanted: Wanted) -> Iterator[Condition]:
    if wanted.since is not None:
        yield day >= wanted.since.isoformat()
    if wanted.until is not None:
        yield day <= wanted.until.isoformat()


def _of_group(group: Group | None) -> Iterator[Condition]:
    """What `group_of` says, for the database."""
    if group is None:
        return
    if group is Group.COUNTED:
        yield _REPORTS.standing == Standing.COUNTED
        yield ~_REPORTS.conflict
        yield ~_REPORTS.foreign_report
        return
    yield _APART
    if group is Group.FOREIGN:
        yield _REPORTS.foreign_report
        return
    yield ~_REPORTS.foreign_report
    if group is Group.CONFLICT:
        yield and_(_REPORTS.standing == Standing.COUNTED, _REPORTS.conflict)
    else:
        yield _REPORTS.standing == group.value


def _refused(wanted: Wanted) -> Iterator[Condition]:
    """By the day they came in: there may be no other."""
    yield _INTAKES.refused
    if wanted.since is not None:
        yield _INTAKES.received_at >= to_micros(datetime.combine(wanted.since, time(), UTC))
    if wanted.until is not None:
        yield _INTAKES.received_at < to_micros(datetime.combine(wanted.until + timedelta(days=1), time(), UTC))


def _apart(connection: Connection, wanted: Wanted) -> tuple[ApartSum, ...]:
    """What does not count, by group."""
    columns = (_REPORTS.standing, _REPORTS.conflict, _REPORTS.foreign_report)
    query = select(*columns, func.count(), _sum(_REPORTS.successes, _REPORTS.failures))
    conditions = [_APART, *_between(_REPORTS.day, wanted)]
    if wanted.policy_domain is not None:
        own = and_(_POLICIES.report == _REPORTS.report, _POLICIES.policy_domain == wanted.policy_domain)
        conditions.append(exists().where(own))
    if wanted.reporter is not None:
        conditions.append(_REPORTS.reporter == wanted.reporter)
    sums: dict[Group, list[int]] = {}
    for standing, conflict, foreign, reports, sessions in connection.execute(
        query.where(*conditions).group_by(*columns)
    ):
        found = sums.setdefault(group_of(standing, conflict=conflict, foreign=foreign), [0, 0])
        found[0] += int(reports)
        found[1] += int(sessions)
    return tuple(ApartSum(group, *sums[group]) for group in Group if group in sums)


def _count(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(query).scalar_one())


def _by_number(connection: Connection, query: Select[Any]) -> dict[int, Row[Any]]:
    return {row.report: row for row in connection.execute(query)}


def _in_order(table: Table, numbers: Sequence[int]) -> Select[Any]:
    return select(table).where(table.c.report.in_(numbers)).order_by(*table.primary_key.columns)


def _intakes(connection: Connection, numbers: set[int]) -> dict[int, IntakeRow]:
    query = select(*_NO_RAW).where(_INTAKES.intake.in_(numbers))
    return {row.intake: _intake(row) for row in connection.execute(query)}


def _intake(row: Row[Any]) -> IntakeRow:
    values = {name: getattr(row, name) for name in IntakeRow.__dataclass_fields__}
    values["received_at"] = from_micros(row.received_at)
    values["sent_at"] = optional_instant(row.sent_at)
    values["refusals"] = _strings(row.refusals)
    return IntakeRow(**values)


def _strings(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _warnings(text: str) -> tuple[tuple[str, str, int], ...]:
    return tuple((code, told, times) for code, told, times in json.loads(text))


def _detail(row: Row[Any]) -> DetailRow:
    return DetailRow(**{name: getattr(row, name) for name in DetailRow.__dataclass_fields__})


def _line(key: PageKey, row: Row[Any], sums: Row[Any] | None) -> ReportLine:
    return ReportLine(
        key=key,
        group=group_of(row.standing, conflict=row.conflict, foreign=row.foreign_report),
        reporter=row.reporter,
        organization_name=row.organization_name,
        report_id=row.report_id,
        policy_domain=sums.policy_domain if sums else "",
        domains=sums.domains if sums else 0,
        policy_type=sums.policy_type if sums else "",
        policy_types=sums.policy_types if sums else 0,
        successes=int(sums.successes) if sums else 0,
        failures=int(sums.failures) if sums else 0,
        warnings=row.warning_count,
        duplicates=row.duplicates,
        received_at=from_micros(row.received_at),
    )


def _report(
    row: Row[Any],
    intake: IntakeRow,
    policies: Sequence[Row[Any]],
    details: dict[tuple[int, int], list[DetailRow]],
) -> FoundReport:
    return FoundReport(
        key=PageKey(row.day, row.report),
        group=group_of(row.standing, conflict=row.conflict, foreign=row.foreign_report),
        report_key=bytes(row.report_key),
        identity=bytes(row.identity),
        intake=intake,
        reporter=row.reporter,
        organization_name=row.organization_name,
        contact_info=row.contact_info,
        report_id=row.report_id,
        start_at=from_micros(row.start_at),
        end_at=from_micros(row.end_at),
        packing=row.packing,
        duplicates=row.duplicates,
        last_duplicate_at=optional_instant(row.last_duplicate_at),
        warnings=_warnings(row.warnings),
        policies=tuple(_policy(each, details) for each in policies),
    )


def _policy(row: Row[Any], details: dict[tuple[int, int], list[DetailRow]]) -> PolicyRow:
    return PolicyRow(
        number=row.number,
        policy_domain=row.policy_domain,
        policy_domain_text=row.policy_domain_text,
        policy_type=row.policy_type,
        policy_type_text=row.policy_type_text,
        foreign=row.foreign_domain,
        policy_strings=_strings(row.policy_strings),
        mx_hosts=_strings(row.mx_hosts),
        successes=row.successes,
        failures=row.failures,
        warnings=_warnings(row.warnings),
        details=tuple(details.get((row.report, row.number), ())),
    )
