"""The tables of reports and deliveries: rows and `ReportRecord`, `Delivery` values. Every call blocks.

Each step of a report or a delivery is one statement that says from which state it starts, so that of several nodes
one succeeds.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, or_, select, tuple_, update

from stsguard.core.report_record import Delivery, DeliveryState, ReportRecord, ReportState
from stsguard.names import Domain
from stsguard.store.counter_table import counted_days
from stsguard.store.database import Database
from stsguard.store.instants import from_micros, to_micros
from stsguard.store.rows import (
    Readable,
    RowInvalid,
    insert_into,
    one_line,
    optional_instant,
    optional_micros,
    read_rows,
)
from stsguard.store.schema import report_deliveries, reports, session_counters

MAX_ERROR_LENGTH = 500
_REPORTS, _DELIVERIES, _COUNTERS = reports.c, report_deliveries.c, session_counters.c
_BUILT = _REPORTS.state.not_in([ReportState.BUILDING, ReportState.NOT_WANTED])
_OPEN = (DeliveryState.PENDING, DeliveryState.SENDING)
_WITHOUT_JSON = tuple(column for column in reports.columns if column.name != "json")


class ReportTable:
    """The tables in an open database. Reads may come from one thread and writes from another.

    Every call raises `StoreUnavailable` for every fault of the database; a write is then not done.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def counted_days(self, before: date) -> Readable[date]:
        """The days before `before` with counters."""
        with self._database.scanning() as connection:
            return read_rows(_day, counted_days(connection, before.isoformat()))

    def unbuilt_domains(self, day: date, after: str, limit: int) -> list[str]:
        """The next report domains after `after` with counters on `day` and neither report nor mark."""
        name = _COUNTERS.report_domain
        done = select(1).where(
            _REPORTS.day == _COUNTERS.day, _REPORTS.report_domain == name, _REPORTS.state != ReportState.BUILDING
        )
        query = select(name).distinct().where(_COUNTERS.day == day.isoformat(), name > after, ~done.exists())
        with self._database.scanning() as connection:
            return list(connection.execute(query.order_by(name).limit(limit)).scalars())

    def claim(self, day: date, report_domain: Domain, node: str, now: datetime, until: datetime) -> bool:
        """Begin the row, or take it over from a node whose lease has run out."""
        values = {"claimed_by": node, "claimed_until": to_micros(until), "created_at": to_micros(now)}
        return self._put(
            _row(day, report_domain, ReportState.BUILDING, values),
            where=and_(_REPORTS.state == ReportState.BUILDING, _REPORTS.claimed_until <= to_micros(now)),
        )

    def mark_not_wanted(self, day: date, report_domain: Domain, now: datetime) -> bool:
        """Set the mark, unless there is a report or a mark."""
        values = _row(day, report_domain, ReportState.NOT_WANTED, {"created_at": to_micros(now)})
        return self._put(values, where=_REPORTS.state == ReportState.BUILDING)

    def save(self, report: ReportRecord, deliveries: Sequence[Delivery]) -> bool:
        """Write the report and its deliveries, unless there is a report or a mark."""
        values = _row(
            report.day,
            report.report_domain,
            report.state,
            {
                "report_id": report.report_id,
                "message_id": report.message_id,
                "created_at": to_micros(report.created_at),
                "json": report.json,
                "sessions": report.sessions,
                "failures": report.failures,
            },
        )
        return self._put(values, where=_REPORTS.state == ReportState.BUILDING, deliveries=deliveries)

    def _put(
        self, values: dict[str, object], *, where: ColumnElement[bool], deliveries: Sequence[Delivery] = ()
    ) -> bool:
        """Insert the row, or replace it where `where` holds for the one that is there; whether it was written."""
        with self._database.writing() as connection:
            statement = insert_into(connection, reports).values(values)
            statement = statement.on_conflict_do_update(
                index_elements=["day", "report_domain"],
                set_={name: statement.excluded[name] for name in values if name not in {"day", "report_domain"}},
                where=where,
            )
            if connection.execute(statement.returning(_REPORTS.day)).first() is None:
                return False
            if deliveries:
                connection.execute(
                    insert_into(connection, report_deliveries), [_delivery_values(each) for each in deliveries]
                )
                _sum_up(connection, str(values["report_id"]))
        return True

    def load(self, report_id: str) -> Readable[ReportRecord]:
        """The report, or nothing."""
        with self._database.scanning() as connection:
            return read_rows(_record, connection.execute(select(reports).where(_REPORTS.report_id == report_id)))

    def load_list(
        self, *, day: date | None, report_domain: Domain | None, state: ReportState | None, limit: int
    ) -> Readable[ReportRecord]:
        """Reports without their JSON, latest day first; by default without claims and marks."""
        query = select(*_WITHOUT_JSON).where(_BUILT if state is None else _REPORTS.state == state)
        if day is not None:
            query = query.where(_REPORTS.day == day.isoformat())
        if report_domain is not None:
            query = query.where(_REPORTS.report_domain == str(report_domain))
        with self._database.scanning() as connection:
            rows = connection.execute(query.order_by(_REPORTS.day.desc(), _REPORTS.report_domain).limit(limit))
            return read_rows(_record, rows)

    def load_deliveries(self, report_id: str) -> Readable[Delivery]:
        """The deliveries of one report."""
        query = select(report_deliveries).where(_DELIVERIES.report_id == report_id)
        return self._deliveries(query.order_by(_DELIVERIES.endpoint))

    def due(self, now: datetime, limit: int, *, force: bool, report_id: str | None) -> Readable[Delivery]:
        """Deliveries that may be claimed, those due longest first."""
        query = select(report_deliveries).where(_claimable(now, force=force))
        if report_id is not None:
            query = query.where(_DELIVERIES.report_id == report_id)
        order = (_DELIVERIES.next_attempt_at, _DELIVERIES.report_id, _DELIVERIES.endpoint)
        return self._deliveries(query.order_by(*order).limit(limit))

    def _deliveries(self, query: Any) -> Readable[Delivery]:
        with self._database.scanning() as connection:
            return read_rows(_delivery, connection.execute(query))

    def claim_delivery(
        self, report_id: str, endpoint: str, node: str, now: datetime, until: datetime, *, force: bool
    ) -> bool:
        """Take a delivery that is due, or whose node is gone."""
        statement = (
            update(report_deliveries)
            .where(_is(report_id, endpoint), _claimable(now, force=force))
            .values(
                state=DeliveryState.SENDING,
                attempts=_DELIVERIES.attempts + 1,
                first_attempt_at=func.coalesce(_DELIVERIES.first_attempt_at, to_micros(now)),
                claimed_by=node,
                claimed_until=to_micros(until),
            )
        )
        with self._database.writing() as connection:
            return connection.execute(statement).rowcount == 1

    def finish_delivery(
        self,
        report_id: str,
        endpoint: str,
        node: str,
        *,
        state: DeliveryState,
        error: str,
        next_attempt_at: datetime | None,
    ) -> bool:
        """Note what came of an attempt, and what that makes of the report."""
        claimed = and_(_DELIVERIES.state == DeliveryState.SENDING, _DELIVERIES.claimed_by == node)
        values: dict[str, object] = {
            "state": state,
            "last_error": one_line(error, MAX_ERROR_LENGTH),
            "claimed_until": None,
        }
        if next_attempt_at is not None:
            values["next_attempt_at"] = to_micros(next_attempt_at)
        statement = update(report_deliveries).where(
            _is(report_id, endpoint), _DELIVERIES.state != state if state is DeliveryState.SENT else claimed
        )
        with self._database.writing() as connection:
            # Two nodes that end the last two deliveries at once must not both see the other's as under way.
            connection.execute(select(_REPORTS.day).where(_REPORTS.report_id == report_id).with_for_update())
            done = connection.execute(statement.values(values)).rowcount == 1
            if done:
                _sum_up(connection, report_id)
        return done

    def count_before(self, before: date) -> int:
        """How many reports and marks the days before `before` have."""
        query = select(func.count()).select_from(reports).where(_REPORTS.day < before.isoformat())
        with self._database.scanning() as connection:
            return int(connection.execute(query).scalar_one())

    def delete_some(self, before: date, limit: int) -> int:
        """Delete up to `limit` reports and marks of the days before `before`, with their deliveries: how many."""
        query = select(_REPORTS.day, _REPORTS.report_domain, _REPORTS.report_id)
        query = query.where(_REPORTS.day < before.isoformat()).order_by(_REPORTS.day, _REPORTS.report_domain)
        with self._database.writing() as connection:
            rows = connection.execute(query.limit(limit)).all()
            ids = [row.report_id for row in rows if row.report_id is not None]
            connection.execute(delete(report_deliveries).where(_DELIVERIES.report_id.in_(ids)))
            keys = [(row.day, row.report_domain) for row in rows]
            connection.execute(delete(reports).where(tuple_(_REPORTS.day, _REPORTS.report_domain).in_(keys)))
            return len(rows)


def _row(day: date, report_domain: Domain, state: ReportState, values: dict[str, object]) -> dict[str, object]:
    unbuilt = {"report_id": None, "message_id": None, "json": None, "sessions": 0, "failures": 0}
    key = {"day": day.isoformat(), "report_domain": str(report_domain), "state": state.value}
    return {**key, **unbuilt, "claimed_by": "", "claimed_until": 0, **values}


def _is(report_id: str, endpoint: str) -> ColumnElement[bool]:
    return and_(_DELIVERIES.report_id == report_id, _DELIVERIES.endpoint == endpoint)


def _claimable(now: datetime, *, force: bool) -> ColumnElement[bool]:
    pending = _DELIVERIES.state == DeliveryState.PENDING
    instant = to_micros(now)
    return or_(
        pending if force else and_(pending, _DELIVERIES.next_attempt_at <= instant),
        and_(_DELIVERIES.state == DeliveryState.SENDING, _DELIVERIES.claimed_until <= instant),
    )


def _sum_up(connection: Connection, report_id: str) -> None:
    """Set the state of a report to what its deliveries make of it."""
    query = select(_DELIVERIES.state).distinct().where(_DELIVERIES.report_id == report_id)
    states = set(connection.execute(query).scalars())
    if states & set(_OPEN):
        state = ReportState.PENDING
    elif DeliveryState.FAILED in states:
        state = ReportState.FAILED
    elif DeliveryState.SENT in states:
        state = ReportState.SENT
    else:
        state = ReportState.SKIPPED
    connection.execute(update(reports).where(_REPORTS.report_id == report_id).values(state=state))


def _delivery_values(delivery: Delivery) -> dict[str, object]:
    return {
        "report_id": delivery.report_id,
        "endpoint": delivery.endpoint,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "first_attempt_at": optional_micros(delivery.first_attempt_at),
        "next_attempt_at": to_micros(delivery.next_attempt_at),
        "last_error": one_line(delivery.last_error, MAX_ERROR_LENGTH),
        "claimed_by": delivery.claimed_by,
        "claimed_until": optional_micros(delivery.claimed_until),
    }


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise RowInvalid(f"counters of the day {text[:20]!r}, which is none") from exc


def _record(row: Row[Any]) -> ReportRecord:
    try:
        return ReportRecord(
            report_id=row.report_id or "",
            day=date.fromisoformat(row.day),
            report_domain=Domain(row.report_domain),
            message_id=row.message_id or "",
            created_at=from_micros(row.created_at),
            json=bytes(getattr(row, "json", None) or b""),
            sessions=row.sessions,
            failures=row.failures,
            state=ReportState(row.state),
        )
    except (ValueError, TypeError, OverflowError) as exc:
        raise RowInvalid(f"report {str(row.report_id)[:100]!r}: {exc}") from exc


def _delivery(row: Row[Any]) -> Delivery:
    try:
        return Delivery(
            report_id=row.report_id,
            endpoint=row.endpoint,
            state=DeliveryState(row.state),
            next_attempt_at=from_micros(row.next_attempt_at),
            attempts=row.attempts,
            last_error=row.last_error,
            claimed_by=row.claimed_by,
            claimed_until=optional_instant(row.claimed_until),
            first_attempt_at=optional_instant(row.first_attempt_at),
        )
    except (ValueError, TypeError, OverflowError) as exc:
        raise RowInvalid(f"delivery of report {str(row.report_id)[:100]!r}: {exc}") from exc
