"""What the steward sees of a hosted domain, and what follows from time alone (RFC 8461 §3.2, §8.2, §8.3).

Each function refuses what contradicts what is known. All take `now` as the later of the clocks that the caller has,
since a moment noted too early would make a wait too short; `stop_serving` alone takes the earlier.
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from stsguard.core.errors import TransitionRefused
from stsguard.core.hosted import HistoryEvent, HostedDomain, PolicyVersion, Stage
from stsguard.core.hosted_checks import stage_versions
from stsguard.core.mtasts import MAX_MAX_AGE, Mode
from stsguard.core.readiness import Readiness
from stsguard.core.rollout_table import (
    ALLOWED,
    CLOCK_SKEW,
    Change,
    Operation,
    Terms,
    check,
    check_own,
    latest_instant,
    terms_of,
    with_new_version,
)


def served(domain: HostedDomain, number: int, now: datetime) -> Change:
    """Every public address served version `number` when it was fetched, the last of them at `now`."""
    version = _expect_current(domain, number)
    now = _evidence_instant(domain, now)
    return _with_current(domain, replace(version, served_at=now)), _event(version, now, "served")


def not_served(domain: HostedDomain, number: int, now: datetime) -> Change:
    """Some address has been seen with another policy than version `number`, though it was served before. Which one a
    sender got there is not known, so every earlier one is held from when on the current one is served everywhere again
    (RFC 8461 §8.3 step 3)."""
    version = _expect_current(domain, number)
    now = _evidence_instant(domain, now)
    versions = tuple(replace(other, served_at=None) for other in domain.versions)
    return replace(domain, versions=versions), _event(version, now, "another policy seen")


def published(domain: HostedDomain, number: int, record_ttl: int, now: datetime) -> Change:
    """Every authoritative server has the id of version `number`, with a TTL of up to `record_ttl` seconds.

    Raises:
        TransitionRefused: its policy is not served everywhere (RFC 8461 §8.2), or it is not the latest.
    """
    version = _expect_current(domain, number)
    if version.served_at is None:
        raise TransitionRefused(f"{domain.policy_domain}: id {version.record_id} is not served everywhere yet")
    now = _evidence_instant(domain, now)
    first = all(other.published_at is None for other in stage_versions(domain))
    ttl = max(version.record_ttl, record_ttl)
    changed = _with_current(domain, replace(version, published_at=version.published_at or now, record_ttl=ttl))
    return replace(changed, stage_since=now if first else domain.stage_since), _event(version, now, "published")


def record_ttl_seen(domain: HostedDomain, record_ttl: int, now: datetime) -> Change:
    """The record has been seen with a longer TTL than before: it may be in caches for that long."""
    now = _evidence_instant(domain, now)
    version = replace(domain.current, record_ttl=max(domain.current.record_ttl, record_ttl))
    return _with_current(domain, version), HistoryEvent(now, "record TTL", f"{version.record_ttl} seconds")


def record_gone(domain: HostedDomain, now: datetime) -> Change:
    """No authoritative server has the `_mta-sts` record any more, while retiring."""
    check(domain, Operation.STOP_SERVING)
    now = _evidence_instant(domain, now)
    return replace(domain, record_gone_at=now), HistoryEvent(now, "record gone")


def record_back(domain: HostedDomain, now: datetime) -> Change:
    """The `_mta-sts` record is there again, or an authoritative server still has it."""
    check(domain, Operation.STOP_SERVING)
    now = _evidence_instant(domain, now)
    return replace(domain, record_gone_at=None), HistoryEvent(now, "record back")


def stop_serving(domain: HostedDomain, now: datetime) -> Change:
    """The end: no sender can hold a policy, and none finds a record (RFC 8461 §8.3 step 3). `now` is here the earlier
    of the clocks.

    Raises:
        TransitionRefused: it is not over yet.
    """
    check(domain, Operation.STOP_SERVING)
    until = stop_at(domain)
    if until is None or now < until:
        when = f"until {until:%Y-%m-%d %H:%M} UTC" if until else "for an unknown time"
        raise TransitionRefused(f"{domain.policy_domain}: senders may hold a policy or its record {when}")
    now = max(now, latest_instant(domain))
    return replace(domain, stage=Stage.RETIRED, stage_since=now), HistoryEvent(now, "retired")


def grow(domain: HostedDomain, now: datetime, *, max_age_cap: int, dns_ids: Collection[str] = ()) -> Change:
    """Double max_age, up to the cap: a sender is bound for about as long as the policy has proven itself, so a fault
    that comes later reaches no further than that."""
    check(domain, Operation.GROW)
    check_own(domain)
    old, now = domain.current, max(now, latest_instant(domain))
    max_age = min(max(old.max_age, 1) * 2, max_age_cap, MAX_MAX_AGE)
    if max_age <= old.max_age:
        raise TransitionRefused(f"{domain.policy_domain}: max_age {old.max_age} is at its cap")
    reason = f"max_age {old.max_age} to {max_age}, no finding for 30 days"
    changed = with_new_version(domain, Terms(old.mode, max_age, old.mx_patterns), now, dns_ids, reason)
    return changed, HistoryEvent(now, "max_age grown", reason)


def follow(
    domain: HostedDomain, target: HostedDomain, now: datetime, *, live: Readiness, dns_ids: Collection[str] = ()
) -> Change | None:
    """The alias `domain` takes mode, mx and max_age of its target, with an id of its own; None where it has them.

    `live` is what is seen of the alias itself: its own MX hosts decide whether it may begin to enforce.

    Raises:
        TransitionRefused: it would begin to enforce and is not ready.
    """
    check(domain, Operation.FOLLOW)
    old, new = domain.current, target.current
    same = (old.mode, old.max_age, set(old.mx_patterns)) == (new.mode, new.max_age, set(new.mx_patterns))
    if domain.alias_of != target.policy_domain or target.stage not in ALLOWED[Operation.FOLLOW] or same:
        return None
    if new.mode is Mode.ENFORCE and not live.ready:
        missing = "; ".join(item.text for item in live.missing)
        raise TransitionRefused(f"{domain.policy_domain} can't follow {target.policy_domain} yet: {missing}")
    now = max(now, latest_instant(domain))
    reason = f"follows {target.policy_domain} version {new.number}"
    changed = with_new_version(domain, terms_of(new), now, dns_ids, reason)
    return changed, HistoryEvent(now, "follows", reason)


def quiet(domain: HostedDomain, since: datetime | None, now: datetime) -> Change:
    """No finding above a note since then; None: there is one."""
    now = max(now, latest_instant(domain))
    since = None if since is None else min(since, now)
    what = "no finding" if since else "findings"
    return replace(domain, quiet_since=since), HistoryEvent(now, what)


def ahead_until(domain: HostedDomain, now: datetime) -> datetime | None:
    """The latest instant noted, where it is ahead of the clock by more than clocks differ: one of the two is wrong, and
    nothing that needs time may be decided."""
    latest = latest_instant(domain)
    return latest if latest > now + CLOCK_SKEW else None


def restamp(domain: HostedDomain, now: datetime) -> Change:
    """Move every instant ahead of the clock back to `now`, once the clock is known to be right. What happened did so
    before now, so no wait gets shorter than it is."""
    versions = tuple(
        replace(
            version,
            created_at=min(version.created_at, now),
            served_at=version.served_at and min(version.served_at, now),
            published_at=version.published_at and min(version.published_at, now),
        )
        for version in domain.versions
    )
    changed = replace(
        domain,
        versions=versions,
        stage_since=min(domain.stage_since, now),
        added_at=min(domain.added_at, now),
        quiet_since=domain.quiet_since and min(domain.quiet_since, now),
        record_gone_at=domain.record_gone_at and min(domain.record_gone_at, now),
    )
    return changed, HistoryEvent(now, "clock put right", f"an instant was noted as {latest_instant(domain):%Y-%m-%d}")


def reachable(domain: HostedDomain) -> bool:
    """Whether any version has ever been served everywhere or had its id in DNS, as far as seen."""
    return any(version.served_at or version.published_at for version in domain.versions)


def held_until(domain: HostedDomain) -> datetime | None:
    """Until when a sender may hold a policy from before the current one: the latest over every version ever served
    (RFC 8461 §8.3 step 3); None while that is not known."""
    instants = [domain.held_until(version) for version in domain.versions[:-1]]
    known = [instant for instant in instants if instant is not None]
    return None if len(known) < len(instants) else max(known, default=domain.current.served_at)


def record_cached_until(domain: HostedDomain) -> datetime | None:
    """Until when a resolver may have the record in its cache; None while it is in DNS."""
    if domain.record_gone_at is None:
        return None
    return domain.record_gone_at + timedelta(seconds=max(version.record_ttl for version in domain.versions))


def stop_at(domain: HostedDomain) -> datetime | None:
    """When a retiring domain may stop being served; None while that is not known.

    A domain whose Policy Host never got to be reached at all its addresses can't be fetched back. Some sender may have
    found one of them, and holds what it got for its max_age after the record was last seen.
    """
    cached_until = record_cached_until(domain)
    if cached_until is None:
        return None
    if not reachable(domain):
        return cached_until + timedelta(seconds=max(version.max_age for version in domain.versions))
    until = held_until(domain)
    return None if until is None else max(until, cached_until)


def _expect_current(domain: HostedDomain, number: int) -> PolicyVersion:
    if domain.current.number != number or domain.stage is Stage.RETIRED:
        raise TransitionRefused(f"{domain.policy_domain}: version {number} is not the one that is served")
    return domain.current


def _with_current(domain: HostedDomain, version: PolicyVersion) -> HostedDomain:
    return replace(domain, versions=(*domain.versions[:-1], version))


def _evidence_instant(domain: HostedDomain, now: datetime) -> datetime:
    """The instant to note: never before the last one. A clock that is behind by more than clocks differ is no evidence:
    once it is put right, a wait that began by it would be too short."""
    latest = latest_instant(domain)
    if latest > now + CLOCK_SKEW:
        raise TransitionRefused(
            f"{domain.policy_domain}: the clock says {now:%Y-%m-%d %H:%M} UTC, but something was noted at "
            f"{latest:%Y-%m-%d %H:%M} UTC: put the clock right"
        )
    return max(now, latest)


def _event(version: PolicyVersion, now: datetime, what: str) -> HistoryEvent:
    return HistoryEvent(now, what, f"version {version.number}, id {version.record_id}")
