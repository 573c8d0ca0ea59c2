"""The tables of received reports: one transaction for each call, whole or not at all. Every call blocks.

Several intakes may be written at once, which costs one sync of the disk; what each becomes is the same as one after the
other. Who is first with a report is decided by the primary key of `received_keys`, so two nodes never count it twice.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, bindparam, case, delete, func, insert, select, update

from stsguard.core.received_record import (
    MAX_HEADER_TEXT,
    Fate,
    ReceivedDocument,
    ReceivedIntake,
    SavedIntake,
    Standing,
    mx_hostname_of,
    policy_text,
    result_type_of,
    warnings_text,
)
from stsguard.core.received_report import ReceivedDetail
from stsguard.store.alchemy import AlchemyDatabase, insert_into
from stsguard.store.instants import to_micros
from stsguard.store.received_schema import (
    received_daily,
    received_daily_failures,
    received_details,
    received_intakes,
    received_keys,
    received_policies,
    received_reports,
)
from stsguard.store.rows import one_line, optional_micros

Values = dict[str, object]
_INTAKES, _REPORTS, _KEYS = received_intakes.c, received_reports.c, received_keys.c
_ASKED_AT_ONCE = 500  # parameters of one IN (…); SQLite allows 32,766
MAX_REFUSALS = 50
MAX_SUM = 10**13  # of sessions in one row: what senders make up must not overflow where rows are added up
_MAX_REPORT_ID = 255
_INSERTED_AT_ONCE = 2000  # rows, as values for the database: a dictionary each


@dataclass(slots=True)
class _Written:
    """What one transaction adds, collected for few statements."""

    policies: list[Values] = field(default_factory=list)
    details: list[tuple[int, int, Sequence[ReceivedDetail]]] = field(default_factory=list)  # of report and policy
    daily: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    failures: dict[tuple[str, ...], list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawIntake:
    """What came in, as it is stored, to be read anew. `raw` is zlib's form."""

    intake: int
    via: str
    received_at: int
    recipient: str
    client: str
    media_type: str
    dkim_status: str
    dkim_domain: str
    dkim_selector: str
    dkim_reason: str
    aligned: bool
    raw: bytes
    raw_length: int


class ReceivedTable:
    """The tables in an open database. Reads may come from one thread and writes from another.

    Every call raises `StoreUnavailable` for every fault of the database; a write is then not done.
    """

    def __init__(self, database: AlchemyDatabase) -> None:
        self._database = database

    def save(self, intakes: Sequence[ReceivedIntake], now: datetime, parsed_by: str) -> list[SavedIntake]:
        """Write what is new of `intakes`, and mark what is there already; what became of each, in their order."""
        with self._database.writing() as connection:
            numbers = _insert_intakes(connection, intakes, now, parsed_by)
            written = _Written()
            fresh: list[tuple[int, ReceivedIntake]] = []
            for intake in intakes:
                number = numbers.pop(intake.key, None)  # of the same twice at once, the second is known
                if number is not None:
                    fresh.append((number, intake))
            documents = [(number, intake, each) for number, intake in fresh for each in intake.documents]
            fates = iter(_insert_documents(connection, documents, now, written))
            _add_up(connection, written)
        by_key = {intake.key: SavedIntake(False, tuple(next(fates) for _ in intake.documents)) for _, intake in fresh}
        return [by_key.pop(intake.key, SavedIntake(known=True)) for intake in intakes]

    def save_again(self, number: int, intake: ReceivedIntake, now: datetime, parsed_by: str) -> SavedIntake:
        """Put in place of what was read of a stored intake what is read of it now: what counts stays, is added where it
        is new, and is never counted twice; all else is replaced."""
        with self._database.writing() as connection:
            before = connection.execute(select(_INTAKES.intake).where(_INTAKES.intake == number)).first()
            if before is None:
                return SavedIntake(known=True)
            _forget_uncounted(connection, number)
            values = _intake_values(intake, now, parsed_by)
            for kept in ("intake_key", "received_at", "stored_at", "raw", "raw_length"):
                values.pop(kept)
            connection.execute(update(received_intakes).where(_INTAKES.intake == number).values(values))
            written = _Written()
            documents = [(number, intake, each) for each in intake.documents]
            fates = _insert_documents(connection, documents, now, written, mark_duplicates=False)
            _add_up(connection, written)
        return SavedIntake(False, tuple(fates))

    def load_unread(self, after: int, limit: int) -> list[RawIntake]:
        """The next intakes after number `after` of which something could not be read, or whose signature could not be
        verified for want of an answer."""
        columns = (getattr(_INTAKES, name) for name in RawIntake.__dataclass_fields__)
        wanted = (_INTAKES.refused) | (_INTAKES.dkim_status == "temperror")
        query = select(*columns).where(wanted, _INTAKES.intake > after).order_by(_INTAKES.intake).limit(limit)
        with self._database.scanning() as connection:
            return [RawIntake(**row._mapping) for row in connection.execute(query)]

    def load_raw(self, number: int) -> bytes | None:
        """The octets of an intake in zlib's form; None where there is none of that number."""
        with self._database.scanning() as connection:
            return connection.execute(select(_INTAKES.raw).where(_INTAKES.intake == number)).scalar()

    def count_before(self, before: datetime) -> int:
        """How many intakes were stored before that."""
        with self._database.scanning() as connection:
            query = select(func.count()).select_from(received_intakes)
            return connection.execute(query.where(_INTAKES.stored_at < to_micros(before))).scalar_one()

    def newest(self) -> int | None:
        """When the last intake was stored; None where there is none."""
        with self._database.scanning() as connection:
            return connection.execute(select(func.max(_INTAKES.stored_at))).scalar()

    def delete_some(self, before: datetime, limit: int) -> int:
        """Delete up to `limit` intakes that were stored before that, with their reports and details; how many. Keys and
        sums stay."""
        with self._database.writing() as connection:
            old = select(_INTAKES.intake).where(_INTAKES.stored_at < to_micros(before)).limit(limit)
            numbers = list(connection.execute(old).scalars())
            _delete_reports(connection, select(_REPORTS.report).where(_REPORTS.intake.in_(numbers)))
            connection.execute(delete(received_intakes).where(_INTAKES.intake.in_(numbers)))
        return len(numbers)


def _insert_intakes(
    connection: Connection, intakes: Sequence[ReceivedIntake], now: datetime, parsed_by: str
) -> dict[bytes, int]:
    """The numbers of those that are new."""
    rows = {intake.key: _intake_values(intake, now, parsed_by) for intake in reversed(intakes)}  # of the same the first
    statement = insert_into(connection, received_intakes).on_conflict_do_nothing(index_elements=["intake_key"])
    found = (
        connection.execute(
            statement.returning(_INTAKES.intake, _INTAKES.intake_key), [rows[key] for key in sorted(rows)]
        )
        if rows
        else ()
    )
    return {bytes(row.intake_key): row.intake for row in found}


def _intake_values(intake: ReceivedIntake, now: datetime, parsed_by: str) -> Values:
    arrival, signer, mail = intake.arrival, intake.signer, intake.mail
    refusals = [one_line(text, MAX_HEADER_TEXT) for text in intake.refusals[:MAX_REFUSALS]]
    if len(intake.refusals) > MAX_REFUSALS:
        refusals[-1] = f"and {len(intake.refusals) - MAX_REFUSALS + 1} more"
    return {
        "intake_key": intake.key,
        "received_at": to_micros(arrival.received_at),
        "stored_at": to_micros(now),
        "via": arrival.via.value,
        "recipient": _text(arrival.recipient),
        "client": _text(arrival.client),
        "media_type": _text(arrival.media_type),
        "from_address": _text(mail.from_address),
        "submitter": _text(mail.submitter),
        "subject": _text(mail.subject),
        "message_id": _text(mail.message_id),
        "sent_at": optional_micros(mail.sent_at),
        "dkim_status": signer.status,
        "dkim_domain": signer.domain,
        "dkim_selector": _text(signer.selector),
        "dkim_reason": _text(signer.reason),
        "aligned": signer.aligned,
        "reports": len(intake.documents),
        "refused": bool(refusals),
        "refusals": json.dumps(refusals, ensure_ascii=False),
        "raw": intake.raw,
        "raw_length": intake.raw_length,
        "parsed_by": parsed_by,
    }


def _text(text: str) -> str:
    """A stranger's text as a database takes it: no NUL, no lone surrogate, bounded."""
    return text[:MAX_HEADER_TEXT].replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


Numbered = tuple[int, ReceivedIntake, ReceivedDocument]


def _insert_documents(
    connection: Connection,
    documents: Sequence[Numbered],
    now: datetime,
    written: _Written,
    *,
    mark_duplicates: bool = True,
) -> list[Fate]:
    """Insert the reports that are new, with policies and details; what became of each."""
    found = iter(_claim_keys(connection, [document for _, _, document in documents]))
    fates: list[Fate] = []
    rows: dict[bytes, tuple[Fate, ReceivedDocument, Values]] = {}
    again: list[bytes] = []
    for number, intake, document in documents:
        identity = document.identity
        fate = next(found)
        fates.append(fate)
        if fate is Fate.DUPLICATE or identity in rows:
            again.append(identity)
        else:
            rows[identity] = (fate, document, _report_values(number, intake, document, fate))
    stored = _insert_reports(connection, [values for _, _, values in rows.values()])
    for identity, number in stored.items():
        fate, document, _ = rows[identity]
        _collect(number, document, fate, written)
    again += [identity for identity in rows if identity not in stored]  # a conflict that is there already
    if mark_duplicates:
        _mark_duplicates(connection, again, now)
    return fates


def _claim_keys(connection: Connection, documents: Sequence[ReceivedDocument]) -> list[Fate]:
    """What each is: NEW where nothing was known of any of its domains, and now is by it; DUPLICATE where all was known,
    by the very same content; else CONFLICT."""
    claimed: dict[bytes, bytes] = {}
    for document in documents:
        for key in document.domain_keys:
            claimed.setdefault(key, document.identity)
    if not claimed:
        return []
    statement = insert_into(connection, received_keys).on_conflict_do_nothing(index_elements=["domain_key"])
    # in order, so that two nodes never wait for each other
    rows = [{"domain_key": key, "identity": claimed[key]} for key in sorted(claimed)]
    ours = {bytes(key) for key in connection.execute(statement.returning(_KEYS.domain_key), rows).scalars()}
    holders: dict[bytes, bytes | None] = dict.fromkeys(ours)
    for some in _slices([key for key in claimed if key not in ours]):
        for row in connection.execute(select(received_keys).where(_KEYS.domain_key.in_(some))):
            holders[bytes(row.domain_key)] = bytes(row.identity)
    fates = [_fate(document, holders) for document in documents]
    _correct_claims(connection, {key: claimed[key] for key in ours}, holders)
    return fates


def _fate(document: ReceivedDocument, holders: dict[bytes, bytes | None]) -> Fate:
    known = {holders[key] for key in document.domain_keys}
    if known == {None}:
        holders.update(dict.fromkeys(document.domain_keys, document.identity))
        return Fate.NEW
    return Fate.DUPLICATE if known == {document.identity} else Fate.CONFLICT


def _correct_claims(
    connection: Connection, claimed: Mapping[bytes, bytes], holders: Mapping[bytes, bytes | None]
) -> None:
    """A report that conflicts in one of its domains holds none of the others: give them to who does, or nobody."""
    for key, identity in sorted(claimed.items()):
        holder = holders[key]
        if holder is None:
            connection.execute(delete(received_keys).where(_KEYS.domain_key == key))
        elif holder != identity:
            connection.execute(update(received_keys).where(_KEYS.domain_key == key).values(identity=holder))


def _insert_reports(connection: Connection, rows: Sequence[Values]) -> dict[bytes, int]:
    """The numbers of those that are new: a conflicting content may be stored already."""
    if not rows:
        return {}
    statement = insert_into(connection, received_reports).on_conflict_do_nothing(index_elements=["identity"])
    found = connection.execute(statement.returning(_REPORTS.report, _REPORTS.identity), rows)
    return {bytes(row.identity): row.report for row in found}


def _report_values(number: int, intake: ReceivedIntake, document: ReceivedDocument, fate: Fate) -> Values:
    report = document.report
    warnings = tuple(document.all_warnings())
    return {
        "intake": number,
        "identity": document.identity,
        "report_key": document.report_key,
        "reporter": document.reporter,
        "standing": document.standing.value,
        "conflict": fate is Fate.CONFLICT,
        "foreign_report": bool(document.foreign) and all(document.foreign),
        "duplicates": 0,
        "received_at": to_micros(intake.arrival.received_at),
        "organization_name": report.organization_name,
        "contact_info": report.contact_info,
        "report_id": report.report_id[:_MAX_REPORT_ID],
        "start_at": to_micros(report.start_at),
        "end_at": to_micros(report.end_at),
        "day": report.day.isoformat(),
        "packing": document.packing,
        "policies": len(report.policies),
        "successes": _capped(report.successes),
        "failures": _capped(report.failures),
        "warnings": warnings_text(warnings),
        "warning_count": len(warnings) + sum(len(policy.warnings) for policy in report.policies),
    }


def _collect(report: int, document: ReceivedDocument, fate: Fate, written: _Written) -> None:
    """The rows below a report, and where it counts, what it adds to the sums."""
    day = document.report.day.isoformat()
    counts = document.standing is Standing.COUNTED and fate is Fate.NEW
    in_daily = set()
    for at, policy in enumerate(document.report.policies):
        strings, mx_hosts = policy_text(policy)
        domain, foreign = document.domains[at], document.foreign[at]
        policy_type = policy.policy_type.value if policy.policy_type else ""
        written.policies.append(
            {
                "report": report,
                "number": at,
                "day": day,
                "policy_domain": domain,
                "policy_domain_text": policy.policy_domain_text,
                "policy_type": policy_type,
                "policy_type_text": policy.policy_type_text,
                "foreign_domain": foreign,
                "policy_strings": strings,
                "mx_hosts": mx_hosts,
                "successes": policy.successes,
                "failures": policy.failures,
                "warnings": warnings_text(policy.warnings),
            }
        )
        written.details.append((report, at, policy.details))
        if counts and not foreign:
            key = (day, domain, document.reporter, policy_type)
            sums = written.daily.setdefault(key, [0, 0, 0])
            sums[0] += key not in in_daily  # once a report, however many policies of that type it has
            in_daily.add(key)
            sums[1] += policy.successes
            sums[2] += policy.failures
            for detail in policy.details:
                failure = (*key, _result_type(detail), mx_hostname_of(detail.receiving_mx_hostname))
                written.failures.setdefault(failure, [0])[0] += detail.sessions


def _result_type(detail: ReceivedDetail) -> str:
    known = detail.result_type
    return result_type_of(detail.result_type_text, known.value if known else None)


def _detail_values(report: int, policy: int, details: Sequence[ReceivedDetail]) -> Iterator[Values]:
    for number, detail in enumerate(details):
        yield {
            "report": report,
            "policy": policy,
            "number": number,
            "result_type": _result_type(detail),
            "result_type_text": detail.result_type_text,
            "mx_hostname": mx_hostname_of(detail.receiving_mx_hostname),
            "receiving_mx_hostname": detail.receiving_mx_hostname,
            "receiving_mx_helo": detail.receiving_mx_helo,
            "receiving_ip": detail.receiving_ip,
            "sending_mta_ip": detail.sending_mta_ip,
            "additional_information": detail.additional_information,
            "failure_reason_code": detail.failure_reason_code,
            "sessions": detail.sessions,
        }


def _add_up(connection: Connection, written: _Written) -> None:
    details = (values for of_policy in written.details for values in _detail_values(*of_policy))
    for table, rows in ((received_policies, iter(written.policies)), (received_details, details)):
        while some := list(islice(rows, _INSERTED_AT_ONCE)):
            connection.execute(insert(table), some)
    _add_sums(connection, received_daily, written.daily)
    _add_sums(connection, received_daily_failures, written.failures)


def _add_sums(connection: Connection, table: Table, sums: Mapping[tuple[str, ...], Sequence[int]]) -> None:
    """Add to the rows of these primary keys, in order, so that two nodes never wait for each other."""
    if not sums:
        return
    keys = [column.name for column in table.primary_key]
    added = [column.name for column in table.columns if column.name not in keys]
    statement = insert_into(connection, table)
    more = statement.excluded
    capped = {
        name: case((table.c[name] > MAX_SUM - more[name], MAX_SUM), else_=table.c[name] + more[name]) for name in added
    }
    statement = statement.on_conflict_do_update(index_elements=keys, set_=capped)
    rows = [dict(zip((*keys, *added), (*key, *map(_capped, sums[key])), strict=True)) for key in sorted(sums)]
    connection.execute(statement, rows)


def _mark_duplicates(connection: Connection, identities: Sequence[bytes], now: datetime) -> None:
    if identities:
        statement = update(received_reports).where(_REPORTS.identity == bindparam("wanted"))
        values = {"duplicates": _REPORTS.duplicates + 1, "last_duplicate_at": to_micros(now)}
        connection.execute(statement.values(values), [{"wanted": identity} for identity in sorted(identities)])


def _forget_uncounted(connection: Connection, number: int) -> None:
    """Remove what does not count of an intake, with its keys, since it is about to be read anew."""
    chosen = (_REPORTS.intake == number) & (_REPORTS.standing != Standing.COUNTED.value)
    identities = list(connection.execute(select(_REPORTS.identity).where(chosen, ~_REPORTS.conflict)).scalars())
    connection.execute(delete(received_keys).where(_KEYS.identity.in_(identities)))
    _delete_reports(connection, select(_REPORTS.report).where(chosen))


def _capped(number: int) -> int:
    return min(number, MAX_SUM)


def _delete_reports(connection: Connection, wanted: Any) -> None:
    numbers: list[int] = list(connection.execute(wanted).scalars())
    for some in _slices(numbers):
        for table in (received_details, received_policies, received_reports):
            connection.execute(delete(table).where(table.c.report.in_(some)))


def _slices(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _ASKED_AT_ONCE):
        yield values[start : start + _ASKED_AT_ONCE]
