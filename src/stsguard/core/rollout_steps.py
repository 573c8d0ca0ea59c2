"""The next step of a hosted domain, from what is stored alone: a process killed anywhere goes on from there.

`rollout_evidence` has the transitions by which its outcome is noted. RFC 8461 §8.2, §8.3 give the order.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from stsguard.core.hosted import HostedDomain, PolicyVersion, Stage
from stsguard.core.mtasts import MAX_MAX_AGE
from stsguard.core.rollout_evidence import held_until, reachable, record_cached_until, stop_at

QUIET_BEFORE_GROWTH = timedelta(days=30)


class Action(StrEnum):
    """What is to be done next."""

    NOTHING = "nothing"
    FETCH_BACK = "fetch back"  # the version from every public address
    PUBLISH_ID = "publish id"  # by dynamic update or by hand; then look at all authoritative servers
    WAIT_UNTIL = "wait until"
    GROW_MAX_AGE = "grow max_age"
    REMOVE_RECORD = "remove record"  # by dynamic update or by hand; then look at all authoritative servers
    STOP_SERVING = "stop serving"


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `until` is the instant of a wait; `why` says for the admin what it is good for."""

    action: Action
    version: PolicyVersion
    why: str
    until: datetime | None = None


def next_step(domain: HostedDomain, now: datetime, *, max_age_cap: int) -> Step:
    """What is to be done for `domain`. `now` is the earlier of the caller's clocks: no wait may end early."""
    if domain.stage is Stage.RETIRED:
        return Step(Action.NOTHING, domain.current, "it is retired")
    if domain.stage is Stage.RETIRING:
        return _retiring_step(domain, now)
    return _new_version_step(domain) or _growth_step(domain, now, max_age_cap)


def _new_version_step(domain: HostedDomain) -> Step | None:
    """RFC 8461 §8.2: text first, then its id."""
    version = domain.current
    if version.served_at is None:
        why = f"version {version.number} has to be served at every public address before its id is published"
        return Step(Action.FETCH_BACK, version, why)
    if version.published_at is None:
        why = f"senders fetch version {version.number} when they see its id {version.record_id} in DNS"
        return Step(Action.PUBLISH_ID, version, why)
    return None


def _growth_step(domain: HostedDomain, now: datetime, max_age_cap: int) -> Step:
    version = domain.current
    if domain.stage is Stage.TESTING:
        return Step(Action.NOTHING, version, "it is in testing; `domain readiness` says what enforcing needs")
    if domain.alias_of is not None:
        return Step(Action.NOTHING, version, f"it follows {domain.alias_of}")
    if version.max_age >= min(max_age_cap, MAX_MAX_AGE):
        return Step(Action.NOTHING, version, "it enforces, and max_age is at its cap")
    if domain.quiet_since is None or version.published_at is None:
        return Step(Action.NOTHING, version, "it enforces; max_age grows after 30 days without a finding")
    at = max(domain.quiet_since, version.published_at) + QUIET_BEFORE_GROWTH
    if now < at:
        return Step(Action.WAIT_UNTIL, version, "30 days without a finding let max_age grow", at)
    return Step(Action.GROW_MAX_AGE, version, "there was no finding for 30 days")


def _retiring_step(domain: HostedDomain, now: datetime) -> Step:
    """RFC 8461 §8.3: serve none, publish its id, wait until all before it has run out, remove the record, stop."""
    version = domain.current
    if reachable(domain):
        if version.served_at is None:
            return Step(Action.FETCH_BACK, version, "mode none has to be served at every public address")
        until = held_until(domain)
        if until is not None and now < until:
            if version.published_at is None:
                return Step(Action.PUBLISH_ID, version, "senders fetch mode none when they see its id in DNS", until)
            return Step(Action.WAIT_UNTIL, version, "senders may hold an earlier policy until then", until)
    if record_cached_until(domain) is None:
        return Step(Action.REMOVE_RECORD, version, "no policy is held any more: the _mta-sts record can go")
    until = stop_at(domain)
    if until is not None and now < until:
        return Step(Action.WAIT_UNTIL, version, "resolvers may have the record in their caches until then", until)
    return Step(Action.STOP_SERVING, version, "no sender can hold a policy or find a record")
