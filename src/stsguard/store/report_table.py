"""The tables of reports and deliveries: rows and `ReportRecord`, `Delivery` values. Every call blocks.

Each step of a report or a delivery is one statement that says from which state it starts, so that of several nodes
one succeeds.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from stsguard.core.report_record import Delivery, DeliveryState, ReportRecord, ReportState
from stsguard.names import Domain
from stsguard.store.connection import Connection, Row
from stsguard.store.counter_table import counted_days
from stsguard.store.database import Database
from stsguard.store.instants import from_micros, to_micros
from stsguard.store.rows import (
    Readable,
    RowInvalid,
    one_line,
    optional_instant,
    optional_micros,
    read_rows,
)

MAX_ERROR_LENGTH = 500
_OPEN = (DeliveryState.PENDING, DeliveryState.SENDING)

_REPORT = "report_id, day, report_domain, message_id, created_at, sessions, failures, state"
_LOAD = f"SELECT {_REPORT}, json FROM reports WHERE report_id = :report_id"
_UNBUILT_DOMAINS = """
    SELECT DISTINCT report_domain FROM session_counters
    WHERE day = :day AND report_domain > :after AND NOT EXISTS (
        SELECT 1 FROM reports WHERE reports.day = session_counters.day
            AND reports.report_domain = session_counters.report_domain AND reports.state <> :building)
    ORDER BY report_domain LIMIT :some"""
# The row of a day and domain is written while there is none, or one that is only being built.
_PUT = """
    INSERT INTO reports (day, report_domain, state, report_id, message_id, created_at, json, sessions, failures,
        claimed_by, claimed_until)
    VALUES (:day, :report_domain, :state, :report_id, :message_id, :created_at, :json, :sessions, :failures,
        :claimed_by, :claimed_until)
    ON CONFLICT (day, report_domain) DO UPDATE SET
        state = excluded.state, report_id = excluded.report_id, message_id = excluded.message_id,
        created_at = excluded.created_at, json = excluded.json, sessions = excluded.sessions,
        failures = excluded.failures, claimed_by = excluded.claimed_by, claimed_until = excluded.claimed_until
    WHERE reports.state = :building"""
_CLAIM = f"{_PUT} AND reports.claimed_until <= :now"
_DELIVERY = """report_id, endpoint, state, next_attempt_at, attempts, last_error, claimed_by, claimed_until,
    first_attempt_at"""
_PUT_DELIVERY = f"""
    INSERT INTO report_deliveries ({_DELIVERY})
    VALUES (:report_id, :endpoint, :state, :next_attempt_at, :attempts, :last_error, :claimed_by, :claimed_until,
        :first_attempt_at)"""
_IS = "report_id = :report_id AND endpoint = :endpoint"
_LEFT_BEHIND = "state = :sending AND claimed_until <= :now"  # its node is gone
_DUE = f"((state = :pending AND next_attempt_at <= :now) OR ({_LEFT_BEHIND}))"
_FREE = f"(state = :pending OR ({_LEFT_BEHIND}))"
_CLAIM_DELIVERY = f"""
    UPDATE report_deliveries SET state = :sending, attempts = attempts + 1,
        first_attempt_at = coalesce(first_attempt_at, :now), claimed_by = :node, claimed_until = :until
    WHERE {_IS} AND """
_FINISH = f"""
    UPDATE report_deliveries SET state = :state, last_error = :error, claimed_until = NULL,
        next_attempt_at = coalesce(:next_attempt_at, next_attempt_at)
    WHERE {_IS} AND """
_DELETE = "DELETE FROM reports WHERE day = :day AND report_domain = :report_domain"
_STATES = {"pending": DeliveryState.PENDING.value, "sending": DeliveryState.SENDING.value}


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
        values = {"day": day.isoformat(), "after": after, "building": ReportState.BUILDING.value, "some": limit}
        with self._database.scanning() as connection:
            return [name for (name,) in connection.query(_UNBUILT_DOMAINS, values)]

    def claim(self, day: date, report_domain: Domain, node: str, now: datetime, until: datetime) -> bool:
        """Begin the row, or take it over from a node whose lease has run out."""
        values = {"claimed_by": node, "claimed_until": to_micros(until), "created_at": to_micros(now)}
        row = _row(day, report_domain, ReportState.BUILDING, values)
        with self._database.writing() as connection:
            return connection.execute(_CLAIM, {**row, "now": to_micros(now)}) == 1

    def mark_not_wanted(self, day: date, report_domain: Domain, now: datetime) -> bool:
        """Set the mark, unless there is a report or a mark."""
        row = _row(day, report_domain, ReportState.NOT_WANTED, {"created_at": to_micros(now)})
        with self._database.writing() as connection:
            return connection.execute(_PUT, row) == 1

    def save(self, report: ReportRecord, deliveries: Sequence[Delivery]) -> bool:
        """Write the report and its deliveries, unless there is a report or a mark."""
        row = _row(
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
        with self._database.writing() as connection:
            if connection.execute(_PUT, row) == 0:
                return False
            if deliveries:
                connection.execute_many(_PUT_DELIVERY, [_delivery_values(each) for each in deliveries])
                _sum_up(connection, report.report_id)
        return True

    def load(self, report_id: str) -> Readable[ReportRecord]:
        """The report, or nothing."""
        with self._database.scanning() as connection:
            return read_rows(_record, connection.query(_LOAD, {"report_id": report_id}))

    def load_list(
        self, *, day: date | None, report_domain: Domain | None, state: ReportState | None, limit: int
    ) -> Readable[ReportRecord]:
        """Reports without their JSON, latest day first; by default without claims and marks."""
        wanted = ["state = :state"] if state else ["state NOT IN (:unbuilt)"]
        wanted += ["day = :day"] * (day is not None) + ["report_domain = :report_domain"] * (report_domain is not None)
        values: dict[str, object] = {
            "state": state and state.value,
            "unbuilt": [ReportState.BUILDING.value, ReportState.NOT_WANTED.value],
            "day": day and day.isoformat(),
            "report_domain": report_domain and str(report_domain),
            "some": limit,
        }
        query = f"""
            SELECT {_REPORT}, NULL FROM reports WHERE {" AND ".join(wanted)}
            ORDER BY day DESC, report_domain LIMIT :some"""
        with self._database.scanning() as connection:
            return read_rows(_record, connection.query(query, values))

    def load_deliveries(self, report_id: str) -> Readable[Delivery]:
        """The deliveries of one report."""
        return self._deliveries("report_id = :report_id ORDER BY endpoint", {"report_id": report_id})

    def due(self, now: datetime, limit: int, *, force: bool, report_id: str | None) -> Readable[Delivery]:
        """Deliveries that may be claimed, those due longest first."""
        of_report = "" if report_id is None else "AND report_id = :report_id"
        where = f"{_FREE if force else _DUE} {of_report} ORDER BY next_attempt_at, report_id, endpoint LIMIT :some"
        return self._deliveries(where, {**_STATES, "now": to_micros(now), "report_id": report_id, "some": limit})

    def _deliveries(self, where: str, values: Mapping[str, object]) -> Readable[Delivery]:
        with self._database.scanning() as connection:
            rows = connection.query(f"SELECT {_DELIVERY} FROM report_deliveries WHERE {where}", values)
        return read_rows(_delivery, rows)

    def claim_delivery(
        self, report_id: str, endpoint: str, node: str, now: datetime, until: datetime, *, force: bool
    ) -> bool:
        """Take a delivery that is due, or whose node is gone."""
        values = {
            **_STATES,
            "report_id": report_id,
            "endpoint": endpoint,
            "node": node,
            "now": to_micros(now),
            "until": to_micros(until),
        }
        with self._database.writing() as connection:
            return connection.execute(_CLAIM_DELIVERY + (_FREE if force else _DUE), values) == 1

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
        values = {
            **_STATES,
            "report_id": report_id,
            "endpoint": endpoint,
            "node": node,
            "state": state.value,
            "error": one_line(error, MAX_ERROR_LENGTH),
            "next_attempt_at": optional_micros(next_attempt_at),
        }
        # What is sent can't be undone, whoever has claimed it meanwhile.
        where = "state <> :state" if state is DeliveryState.SENT else "state = :sending AND claimed_by = :node"
        with self._database.writing() as connection:
            # Two nodes that end the last two deliveries at once must not both see the other's as under way: this
            # changes nothing, and has the second wait for the first.
            connection.execute("UPDATE reports SET state = state WHERE report_id = :report_id", values)
            done = connection.execute(_FINISH + where, values) == 1
            if done:
                _sum_up(connection, report_id)
        return done

    def count_before(self, before: date) -> int:
        """How many reports and marks the days before `before` have."""
        query = "SELECT count(*) FROM reports WHERE day < :before"
        with self._database.scanning() as connection:
            ((number,),) = connection.query(query, {"before": before.isoformat()})
        return int(number)

    def delete_some(self, before: date, limit: int) -> int:
        """Delete up to `limit` reports and marks of the days before `before`, with their deliveries: how many."""
        query = """
            SELECT day, report_domain, report_id FROM reports WHERE day < :before
            ORDER BY day, report_domain LIMIT :some"""
        with self._database.writing() as connection:
            rows = connection.query(query, {"before": before.isoformat(), "some": limit})
            ids = [(report_id,) for _, _, report_id in rows if report_id is not None]
            if rows:
                connection.execute_many("DELETE FROM report_deliveries WHERE report_id = ?", ids)
                connection.execute_many(_DELETE, [{"day": day, "report_domain": name} for day, name, _ in rows])
        return len(rows)


def _row(day: date, report_domain: Domain, state: ReportState, values: dict[str, object]) -> dict[str, object]:
    unbuilt = {"report_id": None, "message_id": None, "json": None, "sessions": 0, "failures": 0}
    key = {"day": day.isoformat(), "report_domain": str(report_domain), "state": state.value}
    return {**key, **unbuilt, "claimed_by": "", "claimed_until": 0, "building": ReportState.BUILDING.value, **values}


def _sum_up(connection: Connection, report_id: str) -> None:
    """Set the state of a report to what its deliveries make of it."""
    query = "SELECT DISTINCT state FROM report_deliveries WHERE report_id = :report_id"
    states = {state for (state,) in connection.query(query, {"report_id": report_id})}
    if states & set(_OPEN):
        state = ReportState.PENDING
    elif DeliveryState.FAILED in states:
        state = ReportState.FAILED
    elif DeliveryState.SENT in states:
        state = ReportState.SENT
    else:
        state = ReportState.SKIPPED
    statement = "UPDATE reports SET state = :state WHERE report_id = :report_id"
    connection.execute(statement, {"state": state.value, "report_id": report_id})


def _delivery_values(delivery: Delivery) -> dict[str, object]:
    return {
        "report_id": delivery.report_id,
        "endpoint": delivery.endpoint,
        "state": delivery.state.value,
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


def _record(row: Row) -> ReportRecord:
    report_id, day, report_domain, message_id, created_at, sessions, failures, state, json = row
    try:
        return ReportRecord(
            report_id=report_id or "",
            day=date.fromisoformat(day),
            report_domain=Domain(report_domain),
            message_id=message_id or "",
            created_at=from_micros(created_at),
            json=bytes(json or b""),
            sessions=sessions,
            failures=failures,
            state=ReportState(state),
        )
    except (ValueError, TypeError, OverflowError) as exc:
        raise RowInvalid(f"report {str(report_id)[:100]!r}: {exc}") from exc


def _delivery(row: Row) -> Delivery:
    (report_id, endpoint, state, next_attempt_at, attempts, last_error, claimed_by, claimed_until, first) = row
    try:
        return Delivery(
            report_id=report_id,
            endpoint=endpoint,
            state=DeliveryState(state),
            next_attempt_at=from_micros(next_attempt_at),
            attempts=attempts,
            last_error=last_error,
            claimed_by=claimed_by,
            claimed_until=optional_instant(claimed_until),
            first_attempt_at=optional_instant(first),
        )
    except (ValueError, TypeError, OverflowError) as exc:
        raise RowInvalid(f"delivery of report {str(report_id)[:100]!r}: {exc}") from exc
