"""What single parts of an inspection say of a hosted domain; shared by `readiness`, `findings` and `hosted_records`.

Judged as a Sending MTA would: RFC 8461 §3.1 (record), §3.3 (policy), §4.1 and §4.2 (MX hosts).
"""

from collections.abc import Sequence
from enum import Enum, auto

from stsguard.core.errors import RecordInvalid
from stsguard.core.hosted import HostedDomain, PolicyVersion
from stsguard.core.inspection import Inspection, MxSeen, PolicyAt, RecordAt
from stsguard.core.mtasts import MxPattern, Policy, mx_permitted, select_record
from stsguard.core.mxcheck import MxProbe
from stsguard.names import Domain


class RecordState(Enum):
    """What one authoritative server has at `_mta-sts`."""

    IN_SYNC = auto()
    OTHER_ID = auto()
    MISSING = auto()
    INVALID = auto()
    UNKNOWN = auto()


class AddressState(Enum):
    """What one address of the Policy Host serves."""

    SERVED = auto()
    OTHER = auto()
    UNREACHABLE = auto()


def record_id_at(found: RecordAt) -> str | None:
    """The id that this server has; None where it has none, and where a sender could not use the record."""
    try:
        record = select_record(found.texts)
    except RecordInvalid:
        return None
    return record.record_id if record else None


def record_state(found: RecordAt, record_id: str) -> RecordState:
    """How what this server has compares with the id that it should have."""
    if found.problem:
        return RecordState.UNKNOWN
    try:
        record = select_record(found.texts)
    except RecordInvalid:
        return RecordState.INVALID
    if record is None:
        return RecordState.MISSING
    return RecordState.IN_SYNC if record.record_id == record_id else RecordState.OTHER_ID


def same_policy(policy: Policy, version: PolicyVersion) -> bool:
    """Whether a fetched policy means the same to a sender as `version`; the order of its mx values means nothing."""
    seen = (policy.mode, policy.max_age, frozenset(policy.mx_patterns))
    return seen == (version.mode, version.max_age, frozenset(version.mx_patterns))


def address_state(found: PolicyAt, version: PolicyVersion) -> AddressState:
    """Whether a sender gets `version` at this address."""
    if found.policy is None:
        return AddressState.UNREACHABLE
    return AddressState.SERVED if same_policy(found.policy, version) else AddressState.OTHER


def uncovered_hosts(patterns: Sequence[MxPattern], inspection: Inspection) -> tuple[Domain, ...]:
    """The MX hosts in DNS that no pattern permits (RFC 8461 §4.1)."""
    hosts = (seen.mx_hostname for seen in inspection.mx_hosts)
    return tuple(host for host in hosts if not mx_permitted(patterns, host))


def failing_probes(seen: MxSeen) -> tuple[MxProbe, ...]:
    """The probes of this host that fail RFC 8461 §4.2: a sender that enforces does not deliver there."""
    return tuple(probe for probe in seen.probes if not probe.inconclusive and probe.result_type is not None)


def unproven_hosts(inspection: Inspection) -> tuple[Domain, ...]:
    """The MX hosts of which not every address could be probed to an answer."""
    return tuple(
        seen.mx_hostname
        for seen in inspection.mx_hosts
        if seen.problem or not seen.probes or any(probe.inconclusive for probe in seen.probes)
    )


def stage_versions(domain: HostedDomain) -> tuple[PolicyVersion, ...]:
    """The latest versions with the mode of the current one, without a break."""
    versions: list[PolicyVersion] = []
    for version in reversed(domain.versions):
        if version.mode is not domain.current.mode:
            break
        versions.append(version)
    return tuple(reversed(versions))


def parked_patterns(policy_domain: Domain) -> tuple[MxPattern, ...]:
    """The mx of a domain with a null MX (RFC 7505): RFC 8461 §3.2 wants at least one unless mode is none. The domain's
    own name permits no other host, so a forged MX record catches no mail."""
    return (MxPattern(policy_domain, wildcard=False),)
