"""The table of what is wrong with our own domains: rows and `SeenFinding` values. Every call blocks."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, select, tuple_, update

from stsguard.core.findings import HostingFinding, SeenFinding, Severity
from stsguard.names import Domain
from stsguard.store.alchemy import AlchemyDatabase, insert_into
from stsguard.store.hosting_schema import domain_findings, hosted_domains
from stsguard.store.instants import from_micros, to_micros
from stsguard.store.rows import (
    Readable,
    RowInvalid,
    one_line,
    optional_instant,
    optional_micros,
    read_rows,
)

MAX_SUBJECT_LENGTH = 300
MAX_TEXT_LENGTH = 2000
_DOMAINS, _FINDINGS = hosted_domains.c, domain_findings.c
_KEY = tuple_(*domain_findings.primary_key)

Findings = tuple[list[SeenFinding], list[SeenFinding]]
Seen = tuple[Domain, SeenFinding]


class FindingTable:
    """The table in an open database. Reads may come from one thread and writes from another.

    Every call raises `StoreUnavailable` for every fault of the database; a write is then not done.
    """

    def __init__(self, database: AlchemyDatabase) -> None:
        self._database = database

    def save(self, policy_domain: Domain, findings: Sequence[HostingFinding], now: datetime) -> Findings:
        """Note what an inspection found: the findings that came, and those that went."""
        found: dict[tuple[str, str], HostingFinding] = {}
        for each in map(_as_stored, findings):
            found.setdefault((each.code, each.subject), each)
        with self._database.writing() as connection:
            # The first statement, so that of two inspections at once the second sees what the first has noted.
            this = update(hosted_domains).where(_DOMAINS.policy_domain == str(policy_domain))
            if connection.execute(this.values(inspected_at=to_micros(now))).rowcount == 0:
                return [], []
            open_before = _open_findings(connection, policy_domain)
            came = [SeenFinding(each, now, now) for key, each in found.items() if key not in open_before]
            went = [replace(each, gone_at=now) for key, each in open_before.items() if key not in found]
            stayed = [
                replace(open_before[key], finding=each, last_seen_at=now)
                for key, each in found.items()
                if key in open_before
            ]
            _put(connection, policy_domain, [*came, *went, *stayed])
        return came, went

    def load(self, policy_domain: Domain | None, *, only_open: bool) -> Readable[Seen]:
        """The findings of one domain or of all, latest first."""
        query = select(domain_findings)
        if policy_domain is not None:
            query = query.where(_FINDINGS.policy_domain == str(policy_domain))
        if only_open:
            query = query.where(_FINDINGS.gone_at.is_(None))
        order = (_FINDINGS.last_seen_at.desc(), _FINDINGS.first_seen_at.desc(), *domain_findings.primary_key)
        with self._database.scanning() as connection:
            return read_rows(_seen, connection.execute(query.order_by(*order)))

    def inspected(self, policy_domain: Domain | None) -> dict[Domain, datetime]:
        """When each domain was inspected last; those that never were are left out."""
        query = select(_DOMAINS.policy_domain, _DOMAINS.inspected_at).where(_DOMAINS.inspected_at.is_not(None))
        if policy_domain is not None:
            query = query.where(_DOMAINS.policy_domain == str(policy_domain))
        with self._database.scanning() as connection:
            return {Domain(name): from_micros(at) for name, at in connection.execute(query)}

    def delete_some(self, gone_before: datetime, limit: int) -> int:
        """Delete up to `limit` findings that went before that: how many."""
        query = select(*domain_findings.primary_key).where(_FINDINGS.gone_at < to_micros(gone_before)).limit(limit)
        with self._database.writing() as connection:
            keys = [tuple(row) for row in connection.execute(query)]
            connection.execute(delete(domain_findings).where(_KEY.in_(keys)))
        return len(keys)


def _as_stored(finding: HostingFinding) -> HostingFinding:
    """The finding as it is stored, one line and bounded: its subject and text may quote what strangers publish."""
    return replace(
        finding,
        subject=one_line(finding.subject, MAX_SUBJECT_LENGTH),
        text=one_line(finding.text, MAX_TEXT_LENGTH),
    )


def _open_findings(connection: Connection, policy_domain: Domain) -> dict[tuple[str, str], SeenFinding]:
    this = and_(_FINDINGS.policy_domain == str(policy_domain), _FINDINGS.gone_at.is_(None))
    rows = read_rows(
        _seen, connection.execute(select(domain_findings).where(this).order_by(_FINDINGS.code, _FINDINGS.subject))
    )
    return {(seen.finding.code, seen.finding.subject): seen for _, seen in rows.values}


def _put(connection: Connection, policy_domain: Domain, findings: Sequence[SeenFinding]) -> None:
    rows = [
        {
            "policy_domain": str(policy_domain),
            "code": each.finding.code,
            "subject": each.finding.subject,
            "first_seen_at": to_micros(each.first_seen_at),
            "severity": each.finding.severity.value,
            "text": each.finding.text,
            "last_seen_at": to_micros(each.last_seen_at),
            "gone_at": optional_micros(each.gone_at),
        }
        for each in findings
    ]
    if not rows:
        return
    statement = insert_into(connection, domain_findings)
    # A conflict is the row of the same finding; also where a clock was set back to the very instant of an old one.
    statement = statement.on_conflict_do_update(
        index_elements=["policy_domain", "code", "subject", "first_seen_at"],
        set_={name: statement.excluded[name] for name in ("severity", "text", "last_seen_at", "gone_at")},
    )
    connection.execute(statement, rows)


def _seen(row: Row[Any]) -> Seen:
    try:
        finding = HostingFinding(row.code, row.subject, Severity(row.severity), row.text)
        seen = SeenFinding(
            finding,
            from_micros(row.first_seen_at),
            from_micros(row.last_seen_at),
            optional_instant(row.gone_at),
        )
    except (ValueError, TypeError, OverflowError) as exc:
        raise RowInvalid(f"finding {str(row.code)[:64]!r} of {str(row.policy_domain)[:253]!r}: {exc}") from exc
    return Domain(row.policy_domain), seen
