"""The exact DNS records of a hosted domain beside what is published (RFC 8461 §3.1, §3.3, RFC 8460 §3, RFC 8659, 8657).

Whether a record may be there now depends on what is served: an id that comes before its policy is marked to wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from stsguard.core.errors import RecordInvalid
from stsguard.core.hosted import HostedDomain, Stage, record_text
from stsguard.core.hosted_checks import RecordState, record_state
from stsguard.core.inspection import Inspection, IPAddress, RecordAt
from stsguard.core.rollout_steps import Action, next_step
from stsguard.core.tlsrpt_record import VERSION, select_tlsrpt_record
from stsguard.names import Domain


class Mark(StrEnum):
    """What is to be done with a record. `WAIT`: not yet; `REMOVE`: it has to go; `UNKNOWN`: it can't be looked at;
    `INFO`: nothing to compare with."""

    OK = "ok"
    MISSING = "missing"
    DIFFERS = "differs"
    WAIT = "wait"
    REMOVE = "remove"
    UNKNOWN = "unknown"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class WantedRecord:
    """One record. `value` is what it has to be, empty where there is to be none; `published` what DNS has, each once;
    `note` says in a few words why the mark is what it is."""

    name: Domain
    rtype: str
    value: str
    ttl: int
    published: tuple[str, ...]
    mark: Mark
    note: str = ""


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """What the Policy Host's name has in DNS, and what it should: our own public addresses (empty where they are not
    known). `cname`: it is an alias, which is as good."""

    published: tuple[IPAddress, ...] = ()
    wanted: tuple[IPAddress, ...] = ()
    cname: Domain | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class CaaWanted:
    """The CAA records in DNS as text, and the value that only lets our own account get certificates (RFC 8657);
    `value` None: there is no account."""

    value: str | None = None
    published: tuple[str, ...] = ()


def hosted_records(
    domain: HostedDomain,
    inspection: Inspection,
    addresses: HostAddresses,
    caa: CaaWanted,
    now: datetime,
    *,
    ruas: Sequence[str],
    record_ttl: int,
) -> tuple[WantedRecord, ...]:
    """All records of `domain`, in the order in which they are made."""
    records = [*_address_records(domain, addresses, record_ttl), _sts_record(domain, inspection, now, record_ttl)]
    if domain.stage is not Stage.RETIRED:
        records.append(_tlsrpt_record(domain, inspection, ruas, record_ttl))
        if caa.value is not None:
            records.append(_caa_record(domain, caa, record_ttl))
    return tuple(records)


def tlsrpt_text(ruas: Sequence[str]) -> str:
    """The `_smtp._tls` TXT record (RFC 8460 §3)."""
    return f"v={VERSION}; rua={','.join(ruas)}"


def _address_records(domain: HostedDomain, addresses: HostAddresses, ttl: int) -> Sequence[WantedRecord]:
    name, retired = domain.policy_host, domain.stage is Stage.RETIRED
    if addresses.problem:
        return [WantedRecord(name, "A", "", ttl, (), Mark.UNKNOWN, addresses.problem)]
    if retired:
        published = tuple(map(str, addresses.published))
        mark, note = (Mark.REMOVE, "the domain is retired") if published else (Mark.OK, "")
        return [WantedRecord(name, "A", "", ttl, published, mark, note)]
    if not addresses.wanted:
        mark = Mark.INFO if addresses.published else Mark.MISSING
        published = tuple(map(str, addresses.published))
        return [WantedRecord(name, "A", "", ttl, published, mark, "the public addresses of this host")]
    note = f"an alias of {addresses.cname}" if addresses.cname else ""
    return [
        _one_address_record(name, version, addresses, ttl, note)
        for version in (4, 6)
        if any(address.version == version for address in (*addresses.wanted, *addresses.published))
    ]


def _one_address_record(name: Domain, version: int, addresses: HostAddresses, ttl: int, note: str) -> WantedRecord:
    wanted = {str(address) for address in addresses.wanted if address.version == version}
    published = {str(address) for address in addresses.published if address.version == version}
    mark = Mark.OK if published == wanted else Mark.DIFFERS if published else Mark.MISSING
    rtype = "A" if version == 4 else "AAAA"
    return WantedRecord(name, rtype, " ".join(sorted(wanted)), ttl, tuple(sorted(published)), mark, note)


def _sts_record(domain: HostedDomain, inspection: Inspection, now: datetime, ttl: int) -> WantedRecord:
    name, published = domain.policy_domain.child("_mta-sts"), _published(inspection.sts_records)
    problem = _problem(inspection.sts_records_problem, inspection.sts_records)
    wanted = domain.publishable
    if problem:
        text = record_text(wanted.record_id) if wanted else ""
        return WantedRecord(name, "TXT", text, ttl, published, Mark.UNKNOWN, problem)
    if _record_goes(domain, now):
        mark, note = (Mark.REMOVE, "no sender may find it any more") if published else (Mark.OK, "")
        return WantedRecord(name, "TXT", "", ttl, published, mark, note)
    if wanted is None:
        note = f"not yet: version {domain.current.number} is not served at every address"
        return WantedRecord(name, "TXT", record_text(domain.current.record_id), ttl, published, Mark.WAIT, note)
    states = {record_state(found, wanted.record_id) for found in inspection.sts_records}
    note = ""
    if wanted.number < domain.current.number:
        note = f"id {domain.current.record_id} follows when version {domain.current.number} is served at every address"
    return WantedRecord(name, "TXT", record_text(wanted.record_id), ttl, published, _record_mark(states), note)


def _record_goes(domain: HostedDomain, now: datetime) -> bool:
    removing = next_step(domain, now, max_age_cap=0).action is Action.REMOVE_RECORD
    return removing or domain.stage is Stage.RETIRED or domain.record_gone_at is not None


def _record_mark(states: set[RecordState]) -> Mark:
    if states == {RecordState.IN_SYNC}:
        return Mark.OK
    return Mark.MISSING if states == {RecordState.MISSING} else Mark.DIFFERS


def _tlsrpt_record(domain: HostedDomain, inspection: Inspection, ruas: Sequence[str], ttl: int) -> WantedRecord:
    name, published = domain.policy_domain.child("_smtp", "_tls"), _published(inspection.tlsrpt_records)
    problem = _problem(inspection.tlsrpt_records_problem, inspection.tlsrpt_records)
    if not ruas:
        note = "[policy_host] rua names no address for reports"
        return WantedRecord(name, "TXT", "", ttl, published, Mark.INFO, note)
    text = tlsrpt_text(ruas)
    if problem:
        return WantedRecord(name, "TXT", text, ttl, published, Mark.UNKNOWN, problem)
    if not published:
        return WantedRecord(name, "TXT", text, ttl, published, Mark.MISSING)
    same = all(_reports_to(found, ruas) for found in inspection.tlsrpt_records)
    note = "" if same else "further addresses of yours may stand beside ours"
    return WantedRecord(name, "TXT", text, ttl, published, Mark.OK if same else Mark.DIFFERS, note)


def _reports_to(found: RecordAt, ruas: Sequence[str]) -> bool:
    try:
        record = select_tlsrpt_record(found.texts)
    except RecordInvalid:
        return False
    return record is not None and set(ruas) <= set(record.ruas)


def _caa_record(domain: HostedDomain, caa: CaaWanted, ttl: int) -> WantedRecord:
    value = caa.value or ""
    mark = Mark.OK if value in caa.published else Mark.DIFFERS if caa.published else Mark.MISSING
    note = "" if mark is Mark.OK else "optional: no one else gets a certificate for the policy host then"
    return WantedRecord(domain.policy_host, "CAA", value, ttl, caa.published, mark, note)


def _published(records: Sequence[RecordAt]) -> tuple[str, ...]:
    texts = (text.decode("ascii", "backslashreplace") for found in records for text in found.texts)
    return tuple(dict.fromkeys(texts))


def _problem(problem: str, records: Sequence[RecordAt]) -> str:
    """Why nothing is known; one server that is silent among others keeps nothing from being compared."""
    if problem or not records:
        return problem or "no authoritative server was asked"
    silent = [f"{found.server}: {found.problem}" for found in records if found.problem]
    return "; ".join(silent) if len(silent) == len(records) else ""
