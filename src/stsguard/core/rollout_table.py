"""What the transitions of a hosted domain share: the table of what is allowed from where, new versions, instants.

The transitions themselves are in `rollout` (what an operator asks for) and `rollout_evidence` (what the steward sees).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from stsguard.core.errors import TransitionRefused
from stsguard.core.hosted import HistoryEvent, HostedDomain, PolicyVersion, Stage
from stsguard.core.mtasts import Mode, MxPattern
from stsguard.core.record_ids import new_record_id

FIRST_MAX_AGE_SECONDS = 86_400  # RFC 8461 §8.3: "a small max_age (e.g., one day)"; for testing as well
# Two machines' clocks, or a command's and the daemon's, are never equal; more than this is a clock that is wrong.
CLOCK_SKEW = timedelta(minutes=5)

Change = tuple[HostedDomain, HistoryEvent]


class Operation(StrEnum):
    """What may be asked of a domain that is hosted, and what may be noted of it."""

    ADD = "add"
    EDIT_MX = "edit"
    ENFORCE = "enforce"
    TESTING = "testing"
    RETIRE = "retire"
    FOLLOW = "follow"
    GROW = "grow"
    STOP_SERVING = "stop serving"


# The table: from which stages an operation leads on. What is not in it is refused in every case, --force or not.
ALLOWED: dict[Operation, frozenset[Stage]] = {
    Operation.ADD: frozenset({Stage.RETIRED}),  # or not hosted yet
    Operation.EDIT_MX: frozenset({Stage.TESTING, Stage.ENFORCE}),
    Operation.ENFORCE: frozenset({Stage.TESTING}),
    Operation.TESTING: frozenset({Stage.ENFORCE, Stage.RETIRING}),
    Operation.RETIRE: frozenset({Stage.TESTING, Stage.ENFORCE}),
    Operation.FOLLOW: frozenset({Stage.TESTING, Stage.ENFORCE}),
    Operation.GROW: frozenset({Stage.ENFORCE}),
    Operation.STOP_SERVING: frozenset({Stage.RETIRING}),
}
STAGE_OF_MODE = {Mode.ENFORCE: Stage.ENFORCE, Mode.TESTING: Stage.TESTING, Mode.NONE: Stage.RETIRING}
_WHY_NOT = {
    Operation.ADD: "it is hosted already; `domain edit` and `domain mode` change it",
    Operation.EDIT_MX: "bring it back with `domain mode testing` first",
    Operation.ENFORCE: "a domain enforces after testing; `domain mode testing` begins that",
    Operation.TESTING: "testing begins from enforce or retiring; a retired domain is added anew",
    Operation.RETIRE: "its policy is on its way out already; `domain show` says until when",
    Operation.FOLLOW: "it follows no other domain any more",
    Operation.GROW: "max_age grows only while it enforces",
    Operation.STOP_SERVING: "senders may hold its policy; `domain retire` begins the safe way out",
}


def latest_instant(domain: HostedDomain) -> datetime:
    """The latest instant noted of the domain."""
    noted = [domain.stage_since, domain.added_at, domain.quiet_since, domain.record_gone_at]
    for version in domain.versions:
        noted += [version.created_at, version.served_at, version.published_at]
    return max(instant for instant in noted if instant is not None)


def check(domain: HostedDomain, operation: Operation) -> None:
    """Raises TransitionRefused where the table does not have `operation` from the stage that `domain` is in."""
    if domain.stage not in ALLOWED[operation]:
        raise TransitionRefused(
            f"{domain.policy_domain} is {domain.stage.value}, so {operation.value!r} is not possible: "
            f"{_WHY_NOT[operation]}"
        )


def check_own(domain: HostedDomain) -> None:
    """Raises TransitionRefused where `domain` follows another one, whose terms are not its own to change."""
    if domain.alias_of is not None:
        raise TransitionRefused(f"{domain.policy_domain} follows {domain.alias_of}: change that domain")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy demands: its mode, max_age in seconds, and mx."""

    mode: Mode
    max_age: int
    mx_patterns: tuple[MxPattern, ...]


def terms_of(version: PolicyVersion) -> Terms:
    """What `version` demands."""
    return Terms(version.mode, version.max_age, version.mx_patterns)


def new_version(
    versions: Sequence[PolicyVersion], terms: Terms, now: datetime, dns_ids: Collection[str], reason: str
) -> PolicyVersion:
    """The version after `versions`, with an id greater than all of theirs and than those in DNS."""
    number = versions[-1].number + 1 if versions else 1
    record_id = new_record_id(now, [*(version.record_id for version in versions), *dns_ids])
    return PolicyVersion(number, record_id, terms.mode, terms.max_age, terms.mx_patterns, now, reason)


def with_new_version(
    domain: HostedDomain, terms: Terms, now: datetime, dns_ids: Collection[str], reason: str
) -> HostedDomain:
    """`domain` with one version more, in the stage of its mode."""
    version = new_version(domain.versions, terms, now, dns_ids, reason)
    stage = STAGE_OF_MODE[terms.mode]
    since = domain.stage_since if stage is domain.stage else now
    return replace(domain, stage=stage, stage_since=since, versions=(*domain.versions, version), record_gone_at=None)
