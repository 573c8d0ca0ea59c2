"""What is wrong with a domain of our own: values that can be told from those an hour ago, and their judge.

An inspection is judged as senders would: RFC 8461 §3.1 (record), §3.3 (policy), §4 (MX hosts), RFC 8460 §3 (reports).
Each text says what it means for mail and what to do, for whoever is woken by it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from stsguard.core.errors import RecordInvalid
from stsguard.core.hosted import HostedDomain, Stage
from stsguard.core.hosted_checks import (
    AddressState,
    RecordState,
    address_state,
    failing_probes,
    record_id_at,
    record_state,
    uncovered_hosts,
    unproven_hosts,
)
from stsguard.core.inspection import Inspection, MxSeen, PolicyAt, RecordAt
from stsguard.core.mtasts import Mode, mx_matches
from stsguard.core.tlsrpt_record import select_tlsrpt_record

MX_UNUSED = "mx-unused"  # its first_seen_at says since when a pattern may leave the policy
POLICY_DIFFERS = "policy-differs"  # a sender may have got another policy than the one that counts
CERTIFICATE_WARNING = timedelta(days=14)
CERTIFICATE_ERROR = timedelta(days=3)


class Severity(StrEnum):
    """ERROR: mail may bounce, or the policy is not in force. WARNING: it will be, or is weaker than meant. NOTE: for
    information; it keeps nothing from going on."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class HostingFinding:
    """One thing that is wrong. `code` is a constant word, `subject` the host, server or address that it is about (or
    empty): a finding with the same code and subject is the same one. `text` says what it means for mail and what to
    do."""

    code: str
    subject: str
    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class SeenFinding:
    """A finding with its times; `gone_at` None while the last inspection still had it."""

    finding: HostingFinding
    first_seen_at: datetime
    last_seen_at: datetime
    gone_at: datetime | None = None


def judge(
    domain: HostedDomain, inspection: Inspection, now: datetime, *, ruas: Sequence[str] = ()
) -> tuple[HostingFinding, ...]:
    """What `inspection` shows to be wrong with `domain`. `ruas` are where we want reports to go."""
    if domain.stage is Stage.RETIRED:
        return ()
    found = [*_record_findings(domain, inspection), *_policy_findings(domain, inspection, now)]
    if domain.stage is not Stage.RETIRING:
        found += _coverage_findings(domain, inspection, now)
        found += _tlsrpt_findings(inspection, ruas)
    return (*found, *_verification_findings(domain, inspection, now))


def is_quiet(findings: Sequence[SeenFinding]) -> bool:
    """Whether none of these that is still there is more than a note."""
    return all(seen.gone_at is not None or seen.finding.severity is Severity.NOTE for seen in findings)


def quiet_since(findings: Sequence[SeenFinding]) -> datetime | None:
    """When the last finding above a note went; None where none of them ever was one."""
    return max((seen.gone_at for seen in findings if _loud(seen) and seen.gone_at is not None), default=None)


def _loud(seen: SeenFinding) -> bool:
    return seen.finding.severity is not Severity.NOTE


def _enforced(domain: HostedDomain, now: datetime) -> bool:
    """Whether a sender may hold a policy that enforces: then mail to a host that fails waits, and bounces at last."""
    held = ((version, domain.held_until(version)) for version in domain.versions)
    return any(version.mode is Mode.ENFORCE and (until is None or until > now) for version, until in held)


# --- the record, RFC 8461 §3.1


def _record_findings(domain: HostedDomain, inspection: Inspection) -> Iterator[HostingFinding]:
    if inspection.sts_records_problem:
        text = (
            f"the _mta-sts record can't be looked at: {inspection.sts_records_problem}. Senders that hold no policy "
            "may find none. See whether the authoritative servers of the zone answer"
        )
        yield HostingFinding("record-unknown", "", Severity.WARNING, text)
    for found in inspection.sts_records:
        finding = _record_finding(domain, found)
        if finding is not None:
            yield finding


def _record_finding(domain: HostedDomain, found: RecordAt) -> HostingFinding | None:
    wanted = domain.publishable
    if found.problem:
        text = f"the DNS server {found.server} gives no answer for _mta-sts: {found.problem}. See whether it is up"
        return HostingFinding("record-unknown", found.server, Severity.WARNING, text)
    state = record_state(found, wanted.record_id if wanted else "")
    if state is RecordState.INVALID:
        text = (
            f"{found.server} has TXT records at _mta-sts that no sender can use ({_shown(found)}): two, or a malformed "
            "one. Senders that hold no policy find none. Leave only the one that `domain dns` prints"
        )
        return HostingFinding("record-invalid", found.server, Severity.ERROR, text)
    if state is RecordState.MISSING:
        return _missing_record(domain, found)
    if state is RecordState.OTHER_ID:
        return _other_id(domain, found)
    return None


def _missing_record(domain: HostedDomain, found: RecordAt) -> HostingFinding | None:
    wanted = domain.publishable
    if wanted is None or domain.record_gone_at is not None:
        return None  # its time has not come, or is over
    if domain.published is None:
        text = f"{found.server} has no _mta-sts record yet. Until then no sender finds the policy: see `domain dns`"
        return HostingFinding("record-awaited", found.server, Severity.NOTE, text)
    severity = Severity.WARNING if domain.stage is Stage.RETIRING else Severity.ERROR
    text = (
        f"{found.server} has lost the _mta-sts record. Senders go on with the policies that they hold, but new ones "
        f"find none, and nobody hears of changes. Publish the record of id {wanted.record_id}: see `domain dns`"
    )
    return HostingFinding("record-missing", found.server, severity, text)


def _other_id(domain: HostedDomain, found: RecordAt) -> HostingFinding:
    record_id, wanted = record_id_at(found), domain.publishable
    version = next((version for version in domain.versions if version.record_id == record_id), None)
    if version is None:
        text = (
            f"{found.server} has id {record_id}, which is not ours: someone else has changed it. Senders fetch the "
            "policy once more, which does no harm, but miss our next change if they take its id for known. Find out "
            "who did, and publish what `domain dns` prints"
        )
        return HostingFinding("record-foreign-id", found.server, Severity.ERROR, text)
    if wanted is None or version.number > wanted.number:
        text = (
            f"{found.server} has id {record_id} although its policy is not yet served at every address: a sender may "
            "keep the old policy under it (RFC 8461 §8.2). See what keeps the policy from being served"
        )
        return HostingFinding("record-early", found.server, Severity.WARNING, text)
    awaited = wanted.published_at is None
    text = (
        f"{found.server} has id {record_id} of version {version.number}; senders fetch version {wanted.number} when "
        f"they see id {wanted.record_id}. Publish it: see `domain dns`"
    )
    if awaited:
        return HostingFinding("record-awaited", found.server, Severity.NOTE, text)
    return HostingFinding("record-out-of-sync", found.server, Severity.ERROR, text)


def _shown(found: RecordAt) -> str:
    return "; ".join(text.decode("ascii", "backslashreplace")[:100] for text in found.texts[:3])


# --- the policy, RFC 8461 §3.3


def _policy_findings(domain: HostedDomain, inspection: Inspection, now: datetime) -> Iterator[HostingFinding]:
    why = inspection.policies_problem or ("" if inspection.policies else "it has no address")
    if why:
        text = (
            f"{domain.policy_host} can't be reached: {why}. Senders that hold a policy go on with it until it runs "
            "out, new ones deliver without. `domain dns` prints its address records"
        )
        yield HostingFinding("policy-unreachable", "", Severity.ERROR, text)
    for found in inspection.policies:
        yield from _address_findings(domain, found)
        yield from _certificate_findings(found, now)


def _address_findings(domain: HostedDomain, found: PolicyAt) -> Iterator[HostingFinding]:
    address, version = str(found.address), domain.current
    state = address_state(found, version)
    if state is AddressState.UNREACHABLE:
        text = (
            f"the policy can't be fetched from {address}: {found.problem} ({found.reason}). Senders that come there go "
            "on with the policy that they hold, or deliver without one"
        )
        yield HostingFinding("policy-unreachable", address, Severity.ERROR, text)
    elif state is AddressState.OTHER and version.served_at is None and version.published_at is None:
        text = f"{address} does not serve version {version.number} yet; its id is published when every address does"
        yield HostingFinding("policy-awaited", address, Severity.NOTE, text)
    elif state is AddressState.OTHER:
        text = (
            f"{address} serves another policy than version {version.number}: an old process, a cache or another host. "
            "Senders hold it for its max_age; make that address serve what `domain show` prints"
        )
        yield HostingFinding(POLICY_DIFFERS, address, Severity.ERROR, text)
    if found.policy is not None and found.policy.warnings:
        text = f"the policy at {address} is read with warnings: {'; '.join(found.policy.warnings)}"
        yield HostingFinding("policy-warnings", address, Severity.NOTE, text)


def _certificate_findings(found: PolicyAt, now: datetime) -> Iterator[HostingFinding]:
    if found.not_after is None or found.not_after - now >= CERTIFICATE_WARNING:
        return
    address = str(found.address)
    if found.not_after <= now:
        text = (
            f"the certificate at {address} has expired on {found.not_after:%Y-%m-%d %H:%M} UTC: no sender can fetch "
            "the policy there. Renew it now; `domain show` says why that failed"
        )
        yield HostingFinding("certificate-expired", address, Severity.ERROR, text)
        return
    severity = Severity.ERROR if found.not_after - now < CERTIFICATE_ERROR else Severity.WARNING
    text = (
        f"the certificate at {address} expires on {found.not_after:%Y-%m-%d %H:%M} UTC and has not been renewed; after "
        "that no sender can fetch the policy there. `domain show` says why that failed"
    )
    yield HostingFinding("certificate-expires", address, severity, text)


# --- the MX hosts, RFC 8461 §4


def _coverage_findings(domain: HostedDomain, inspection: Inspection, now: datetime) -> Iterator[HostingFinding]:
    if inspection.null_mx:
        text = "the domain has a null MX (RFC 7505): it takes no mail, so its policy can keep none back"
        yield HostingFinding("null-mx", "", Severity.NOTE, text)
        return
    if inspection.mx_problem:
        text = f"the MX hosts can't be looked up: {inspection.mx_problem}. Mail may not arrive at all. See to the DNS"
        yield HostingFinding("mx-unknown", "", Severity.WARNING, text)
        return
    patterns = domain.current.mx_patterns
    effect, severity = _effect(domain, now)
    for mx_hostname in uncovered_hosts(patterns, inspection):
        text = (
            f"{mx_hostname} is in DNS MX but no mx of the policy permits it: {effect}. Take it out of DNS MX, or add "
            "it by `domain edit`, which says from when on it may be there"
        )
        yield HostingFinding("mx-not-covered", mx_hostname, severity, text)
    hosts = [seen.mx_hostname for seen in inspection.mx_hosts]
    for pattern in patterns:
        if not any(mx_matches(pattern, host) for host in hosts):
            text = f"mx {pattern} of the policy matches no host in DNS MX; it does no harm, `domain edit` removes it"
            yield HostingFinding(MX_UNUSED, str(pattern), Severity.NOTE, text)


def _verification_findings(domain: HostedDomain, inspection: Inspection, now: datetime) -> Iterator[HostingFinding]:
    effect, severity = _effect(domain, now)
    for seen in inspection.mx_hosts:
        failing = failing_probes(seen)
        if failing:
            where = ", ".join(f"{probe.address}: {probe.failure_reason_code or probe.result_type}" for probe in failing)
            text = f"{seen.mx_hostname} fails RFC 8461 §4.2 ({where}): {effect}. {_remedy(seen)}"
            yield HostingFinding("mx-failing", seen.mx_hostname, severity, text)
    for mx_hostname in unproven_hosts(inspection):
        text = f"the TLS of {mx_hostname} could not be looked at; that says nothing of it. See whether port 25 answers"
        yield HostingFinding("mx-unproven", mx_hostname, Severity.NOTE, text)


def _effect(domain: HostedDomain, now: datetime) -> tuple[str, Severity]:
    if _enforced(domain, now):
        return "senders that hold the enforcing policy do not deliver there, and mail bounces", Severity.ERROR
    return "senders report it, and mail would bounce if the policy enforced", Severity.WARNING


def _remedy(seen: MxSeen) -> str:
    return (
        f"It has to offer STARTTLS with a certificate in date, of a public CA, for {seen.mx_hostname}; "
        "`domain mode testing` lets mail through meanwhile for senders that fetch anew"
    )


# --- reports, RFC 8460 §3


def _tlsrpt_findings(inspection: Inspection, ruas: Sequence[str]) -> Iterator[HostingFinding]:
    if inspection.null_mx:
        return
    if inspection.tlsrpt_records_problem:
        text = f"the _smtp._tls record can't be looked at: {inspection.tlsrpt_records_problem}"
        yield HostingFinding("tlsrpt-unknown", "", Severity.NOTE, text)
    for found in inspection.tlsrpt_records:
        if not found.problem:
            yield from _tlsrpt_finding(found, ruas)


def _tlsrpt_finding(found: RecordAt, ruas: Sequence[str]) -> Iterator[HostingFinding]:
    try:
        record = select_tlsrpt_record(found.texts)
    except RecordInvalid as exc:
        text = (
            f"{found.server} has an _smtp._tls record that no sender can use: {exc}. No reports come; see `domain dns`"
        )
        yield HostingFinding("tlsrpt-invalid", found.server, Severity.WARNING, text)
        return
    if record is None:
        text = f"{found.server} has no _smtp._tls record, so nobody reports failures to you; see `domain dns`"
        yield HostingFinding("tlsrpt-missing", found.server, Severity.NOTE, text)
        return
    missing = [rua for rua in ruas if rua not in record.ruas]
    if missing:
        text = f"{found.server}: the _smtp._tls record lacks {', '.join(missing)}; stsguard sees no reports there"
        yield HostingFinding("tlsrpt-without-us", found.server, Severity.NOTE, text)
