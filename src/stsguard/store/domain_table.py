"""The tables of our own domains: rows and `HostedDomain`, `HistoryEvent` values. Every call blocks.

Every change takes the next number of `hosting_revision` while it holds that row, and until it is committed. So changes
become visible in the order of their numbers, and who has seen one has missed none before it.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from stsguard.core.errors import PolicyInvalid
from stsguard.core.hosted import HistoryEvent, HostedDomain, PolicyVersion, Stage
from stsguard.core.mtasts import Mode, MxPattern
from stsguard.names import Domain
from stsguard.store.alchemy import AlchemyDatabase, insert_into
from stsguard.store.hosting_schema import domain_history, hosted_domains, hosting_revision, policy_versions
from stsguard.store.instants import from_micros, to_micros
from stsguard.store.rows import (
    Readable,
    RowInvalid,
    one_line,
    optional_instant,
    optional_micros,
    read_rows,
)

MAX_TEXT_LENGTH = 1000  # of a reason or a detail, which operators give
_DOMAINS, _VERSIONS, _HISTORY, _REVISION = hosted_domains.c, policy_versions.c, domain_history.c, hosting_revision.c
_CONTENT = frozenset({"record_id", "mode", "max_age", "mx", "reason"})
_ONLY = 1  # the id of the one row of hosting_revision
_VERSION_COLUMNS = tuple(column for column in policy_versions.columns if column.name != "policy_domain")


class DomainTable:
    """The tables in an open database. Reads may come from one thread and writes from another.

    Every call raises `StoreUnavailable` for every fault of the database; a write is then not done.
    """

    def __init__(self, database: AlchemyDatabase) -> None:
        self._database = database

    def revision(self) -> int:
        """The number of the last change, 0 for none."""
        with self._database.reading() as connection:
            return int(connection.execute(select(_REVISION.revision)).scalar_one_or_none() or 0)

    def load(self, policy_domain: Domain) -> Readable[HostedDomain]:
        """The domain, or nothing."""
        with self._database.scanning() as connection:
            return _domains(connection, _DOMAINS.policy_domain == str(policy_domain))

    def load_changed(self, after_revision: int) -> Readable[HostedDomain]:
        """All domains changed after that revision, in order of their names."""
        with self._database.scanning() as connection:
            return _domains(connection, _DOMAINS.revision > after_revision)

    def save(self, domain: HostedDomain, events: Sequence[HistoryEvent]) -> HostedDomain | None:
        """Write the domain and its events, unless what is stored has another revision.

        Raises:
            ValueError: a version that is stored would be lost or changed. What senders may hold would then be unknown,
                so no caller may ask for it.
        """
        name = str(domain.policy_domain)
        with self._database.writing() as connection:
            revision = _take_turn(connection) + 1
            row = connection.execute(select(_DOMAINS.revision).where(_DOMAINS.policy_domain == name)).first()
            if domain.revision != (0 if row is None else row.revision):
                return None
            saved = _as_stored(replace(domain, revision=revision))
            connection.execute(update(hosting_revision).values(revision=revision))
            _put_domain(connection, saved, is_new=row is None)
            _put_versions(connection, saved)
            _add_events(connection, name, events)
        return saved

    def load_history(self, policy_domain: Domain) -> Readable[HistoryEvent]:
        """What happened to a domain, oldest first."""
        query = select(domain_history).where(_HISTORY.policy_domain == str(policy_domain)).order_by(_HISTORY.number)
        with self._database.scanning() as connection:
            return read_rows(_event, connection.execute(query))


def _take_turn(connection: Connection) -> int:
    """The revision so far; until this transaction ends no other one gets past this."""
    first = insert_into(connection, hosting_revision).values(id=_ONLY, revision=0)
    connection.execute(first.on_conflict_do_nothing(index_elements=["id"]))
    query = select(_REVISION.revision).where(_REVISION.id == _ONLY).with_for_update()  # SQLite: BEGIN IMMEDIATE
    return int(connection.execute(query).scalar_one())


def _put_domain(connection: Connection, domain: HostedDomain, *, is_new: bool) -> None:
    values = {
        "stage": domain.stage.value,
        "stage_since": to_micros(domain.stage_since),
        "added_at": to_micros(domain.added_at),
        "alias_of": None if domain.alias_of is None else str(domain.alias_of),
        "quiet_since": optional_micros(domain.quiet_since),
        "record_gone_at": optional_micros(domain.record_gone_at),
        "revision": domain.revision,
    }
    name = str(domain.policy_domain)
    if is_new:
        connection.execute(insert(hosted_domains).values(policy_domain=name, **values))
    else:
        connection.execute(update(hosted_domains).where(_DOMAINS.policy_domain == name).values(values))


def _put_versions(connection: Connection, domain: HostedDomain) -> None:
    """Add the new versions and write the times of the others."""
    name = str(domain.policy_domain)
    query = select(*_VERSION_COLUMNS).where(_VERSIONS.policy_domain == name)
    stored = {row.number: row._asdict() for row in connection.execute(query)}
    wanted = {version.number: _version_values(version) for version in domain.versions}
    if [*wanted] != sorted(wanted) or len(wanted) != len(domain.versions):
        raise ValueError(f"{name}: its versions are not in the order of their numbers")
    if lost := stored.keys() - wanted.keys():
        raise ValueError(f"{name}: version {min(lost)}, which is stored, would be lost")
    for number, values in wanted.items():
        before = stored.get(number)
        if before is None:
            if stored and number < max(stored):
                raise ValueError(f"{name}: version {number} would come before one that is stored")
            connection.execute(insert(policy_versions).values(policy_domain=name, **values))
        elif before != values:
            _check_kept(name, before, values)
            this = and_(_VERSIONS.policy_domain == name, _VERSIONS.number == number)
            connection.execute(update(policy_versions).where(this).values(values))


def _check_kept(name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    """What was served, and that its id has been in DNS, stays as it is; times may be corrected, and a longer TTL may
    have been seen."""
    for key, value in before.items():
        if key == "published_at":
            refused = value is not None and after[key] is None
        elif key == "record_ttl":
            refused = after[key] < value
        else:
            refused = key in _CONTENT and after[key] != value
        if refused:
            number = before["number"]
            raise ValueError(f"{name}: {key} of version {number}, {value!r}, would become {after[key]!r}")


def _add_events(connection: Connection, name: str, events: Sequence[HistoryEvent]) -> None:
    last = connection.execute(select(func.max(_HISTORY.number)).where(_HISTORY.policy_domain == name)).scalar_one()
    rows = [
        {
            "policy_domain": name,
            "number": number,
            "at": to_micros(event.at),
            "what": one_line(event.what, MAX_TEXT_LENGTH),
            "detail": one_line(event.detail, MAX_TEXT_LENGTH),
        }
        for number, event in enumerate(events, (last or 0) + 1)
    ]
    if rows:
        connection.execute(insert(domain_history), rows)


def _as_stored(domain: HostedDomain) -> HostedDomain:
    """The domain as it will be read again: reasons are one line."""
    versions = tuple(replace(version, reason=one_line(version.reason, MAX_TEXT_LENGTH)) for version in domain.versions)
    return replace(domain, versions=versions)


def _version_values(version: PolicyVersion) -> dict[str, object]:
    return {
        "number": version.number,
        "record_id": version.record_id,
        "mode": version.mode.value,
        "max_age": version.max_age,
        "mx": "\n".join(map(str, version.mx_patterns)),
        "created_at": to_micros(version.created_at),
        "reason": version.reason,
        "served_at": optional_micros(version.served_at),
        "published_at": optional_micros(version.published_at),
        "record_ttl": version.record_ttl,
    }


def _domains(connection: Connection, wanted: Any) -> Readable[HostedDomain]:
    """The domains with their versions, by one statement: on PostgreSQL a second one could see a later state."""
    query = (
        select(hosted_domains, *_VERSION_COLUMNS)
        .join_from(hosted_domains, policy_versions, _DOMAINS.policy_domain == _VERSIONS.policy_domain, isouter=True)
        .where(wanted)
        .order_by(_DOMAINS.policy_domain, _VERSIONS.number)
    )
    rows = groupby(connection.execute(query), key=lambda row: row.policy_domain)
    return read_rows(_domain, (list(some) for _, some in rows))


def _domain(rows: Sequence[Row[Any]]) -> HostedDomain:
    first = rows[0]
    try:
        if first.number is None:
            raise ValueError("it has no version")
        return HostedDomain(
            policy_domain=Domain(first.policy_domain),
            stage=Stage(first.stage),
            stage_since=from_micros(first.stage_since),
            added_at=from_micros(first.added_at),
            versions=tuple(map(_version, rows)),
            alias_of=None if first.alias_of is None else Domain(first.alias_of),
            quiet_since=optional_instant(first.quiet_since),
            record_gone_at=optional_instant(first.record_gone_at),
            revision=first.revision,
        )
    except (ValueError, TypeError, OverflowError, PolicyInvalid) as exc:
        raise RowInvalid(f"domain {str(first.policy_domain)[:253]!r}: {exc}") from exc


def _version(row: Row[Any]) -> PolicyVersion:
    return PolicyVersion(
        number=row.number,
        record_id=row.record_id,
        mode=Mode(row.mode),
        max_age=row.max_age,
        mx_patterns=tuple(map(MxPattern.parse, row.mx.split("\n") if row.mx else ())),
        created_at=from_micros(row.created_at),
        reason=row.reason,
        served_at=optional_instant(row.served_at),
        published_at=optional_instant(row.published_at),
        record_ttl=row.record_ttl,
    )


def _event(row: Row[Any]) -> HistoryEvent:
    try:
        return HistoryEvent(at=from_micros(row.at), what=row.what, detail=row.detail)
    except (TypeError, OverflowError) as exc:
        raise RowInvalid(f"history of {row.policy_domain!r}, line {row.number}: {exc}") from exc
