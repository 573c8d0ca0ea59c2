"""Whether a hosted domain may enforce: time in testing, and all that was looked at just now (RFC 8461 §5, §8.2).

Evidence from elsewhere, such as received reports, joins as further items; one that fails or is unknown keeps back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from stsguard.core.hosted import HostedDomain, Stage
from stsguard.core.hosted_checks import (
    AddressState,
    RecordState,
    address_state,
    failing_probes,
    record_state,
    stage_versions,
    uncovered_hosts,
    unproven_hosts,
)
from stsguard.core.inspection import Inspection
from stsguard.core.mtasts import MxPattern

MIN_TESTING = timedelta(days=14)  # two of the weekly rhythms that mail has
# An inspection older than this says nothing of now.
MAX_INSPECTION_AGE = timedelta(hours=2)


class ItemState(StrEnum):
    """OK; FAILED: not so; UNKNOWN: could not be looked at. Only OK lets a domain enforce."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ReadinessItem:
    """One condition. `code` is a constant word, `text` one line for the admin. `from_at`: when the mere passing of time
    makes it OK, None where that doesn't."""

    code: str
    state: ItemState
    text: str
    from_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """All conditions, in the order in which an admin goes through them."""

    items: tuple[ReadinessItem, ...]

    @property
    def ready(self) -> bool:
        """Whether nothing keeps the domain from enforcing."""
        return not self.missing

    @property
    def missing(self) -> tuple[ReadinessItem, ...]:
        """What keeps the domain from enforcing."""
        return tuple(item for item in self.items if item.state is not ItemState.OK)


def assess(
    domain: HostedDomain, inspection: Inspection, now: datetime, *, evidence: Sequence[ReadinessItem] = ()
) -> Readiness:
    """What enforcing needs of `domain`: 14 days of testing, everything live green, and `evidence` on top."""
    return Readiness((_testing_item(domain, now), *assess_live(domain, inspection, now).items, *evidence))


def assess_live(
    domain: HostedDomain, inspection: Inspection, now: datetime, *, mx_patterns: Sequence[MxPattern] | None = None
) -> Readiness:
    """What can be seen now: the record, the policy over the public path, the MX hosts. `mx_patterns` are those that are
    to come, where they are not the present ones."""
    if not timedelta() <= now - inspection.at <= MAX_INSPECTION_AGE:
        text = "the last inspection is not of now: inspect the domain again"
        return Readiness((ReadinessItem("inspection", ItemState.UNKNOWN, text),))
    return Readiness(
        (
            _record_item(domain, inspection),
            _policy_item(domain, inspection),
            _coverage_item(mx_patterns or domain.current.mx_patterns, inspection),
            _verification_item(inspection),
        )
    )


def _testing_item(domain: HostedDomain, now: datetime) -> ReadinessItem:
    code = "testing-time"
    if domain.stage is not Stage.TESTING:
        return ReadinessItem(code, ItemState.FAILED, f"the stage is {domain.stage.value}, not testing")
    if not any(version.published_at for version in stage_versions(domain)):
        text = "testing begins for senders when the id of its policy is in DNS, which it is not yet"
        return ReadinessItem(code, ItemState.FAILED, text)
    from_at = domain.stage_since + MIN_TESTING
    days = max(0, (now - domain.stage_since).days)
    since = f"since {domain.stage_since:%Y-%m-%d %H:%M} UTC"
    if now < from_at:
        text = f"{days} of {MIN_TESTING.days} days in testing, {since}"
        return ReadinessItem(code, ItemState.FAILED, text, from_at)
    return ReadinessItem(code, ItemState.OK, f"{days} days in testing, where {MIN_TESTING.days} are needed, {since}")


def _record_item(domain: HostedDomain, inspection: Inspection) -> ReadinessItem:
    code = "record"
    if inspection.sts_records_problem or not inspection.sts_records:
        why = inspection.sts_records_problem or "no authoritative server was asked"
        return ReadinessItem(code, ItemState.UNKNOWN, f"the _mta-sts record can't be looked at: {why}")
    states = {found.server: record_state(found, domain.current.record_id) for found in inspection.sts_records}
    silent = [server for server, state in states.items() if state is RecordState.UNKNOWN]
    wrong = [server for server, state in states.items() if state not in {RecordState.UNKNOWN, RecordState.IN_SYNC}]
    if wrong:
        text = f"not id {domain.current.record_id} of the policy that is served at {', '.join(wrong)}"
        return ReadinessItem(code, ItemState.FAILED, text)
    if silent:
        return ReadinessItem(code, ItemState.UNKNOWN, f"no answer from the DNS server {', '.join(silent)}")
    return ReadinessItem(code, ItemState.OK, f"id {domain.current.record_id} at every authoritative server")


def _policy_item(domain: HostedDomain, inspection: Inspection) -> ReadinessItem:
    code = "policy"
    if inspection.policies_problem or not inspection.policies:
        why = inspection.policies_problem or f"{domain.policy_host} has no address"
        return ReadinessItem(code, ItemState.UNKNOWN, f"the policy can't be fetched: {why}")
    states = [(found, address_state(found, domain.current)) for found in inspection.policies]
    wrong = [
        f"{found.address}: {found.problem or 'another policy'}"
        for found, state in states
        if state is not AddressState.SERVED
    ]
    if wrong:
        return ReadinessItem(code, ItemState.FAILED, f"not served as a sender sees it: {'; '.join(wrong)}")
    return ReadinessItem(code, ItemState.OK, f"served at every public address ({len(states)})")


def _coverage_item(mx_patterns: Sequence[MxPattern], inspection: Inspection) -> ReadinessItem:
    code = "mx-covered"
    if inspection.null_mx:
        return ReadinessItem(code, ItemState.OK, "null MX: the domain takes no mail, so none can bounce")
    if inspection.mx_problem or not inspection.mx_hosts:
        why = inspection.mx_problem or "there is none"
        return ReadinessItem(code, ItemState.UNKNOWN, f"the MX hosts can't be looked up: {why}")
    missing = uncovered_hosts(mx_patterns, inspection)
    if missing:
        text = f"no mx of the policy permits {', '.join(missing)}: senders would not deliver there"
        return ReadinessItem(code, ItemState.FAILED, text)
    return ReadinessItem(code, ItemState.OK, f"the policy permits every MX host ({len(inspection.mx_hosts)})")


def _verification_item(inspection: Inspection) -> ReadinessItem:
    code = "mx-verified"
    if inspection.null_mx:
        return ReadinessItem(code, ItemState.OK, "null MX: there is no host to verify")
    failing = [
        f"{seen.mx_hostname} ({probes[0].failure_reason_code or probes[0].result_type})"
        for seen in inspection.mx_hosts
        if (probes := failing_probes(seen))
    ]
    if failing:
        return ReadinessItem(code, ItemState.FAILED, f"senders would not deliver to {', '.join(failing)}")
    unproven = unproven_hosts(inspection)
    if unproven or not inspection.mx_hosts:
        return ReadinessItem(code, ItemState.UNKNOWN, f"not verified: {', '.join(unproven) or 'no MX host'}")
    return ReadinessItem(code, ItemState.OK, "every MX host passes RFC 8461 §4.2 at every address")
