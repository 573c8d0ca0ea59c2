"""A change of MX hosts in its safe order, with dates (RFC 8461 §3.2, §3.3, §8.2, §10.2).

A host is added to the policy first, and to DNS when no sender can hold an enforcing policy without it. It is removed
from DNS first, and from the policy when no resolver can have it in its cache. Some senders look at the id only when
max_age is over, so that is waited for, but 30 days at most: whoever serves a year can't wait for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from stsguard.core.hosted import HostedDomain, PolicyVersion
from stsguard.core.mtasts import Mode, MxPattern, mx_matches, mx_permitted
from stsguard.names import Domain

MAX_WAIT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class DnsMx:
    """The MX hosts that DNS has now, and the TTL of their records in seconds. `unused_since`: since when no MX host in
    DNS has matched a pattern, as inspections saw it. `known` False: the look-up failed."""

    hosts: tuple[Domain, ...] = ()
    ttl: int = 0
    unused_since: Mapping[MxPattern, datetime] = field(default_factory=dict)
    known: bool = True


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One thing to do. `from_at`: from when on it is safe, None while that depends on a step before it."""

    text: str
    from_at: datetime | None
    safe_now: bool


@dataclass(frozen=True, slots=True)
class MxPlan:
    """The steps in their order. `refusal` is empty, or says why the policy may not be changed now and what is safe."""

    added: tuple[MxPattern, ...]
    removed: tuple[MxPattern, ...]
    steps: tuple[PlanStep, ...]
    refusal: str = ""


def plan_mx_change(domain: HostedDomain, mx_patterns: Sequence[MxPattern], dns_mx: DnsMx, now: datetime) -> MxPlan:
    """How to get from the mx that are served to `mx_patterns`. Empty steps: it is all done."""
    old = domain.current.mx_patterns
    added = tuple(pattern for pattern in mx_patterns if pattern not in old)
    removed = tuple(pattern for pattern in old if pattern not in mx_patterns)
    refusal, removable_at = _removal(domain, mx_patterns, removed, dns_mx, now)
    steps: list[PlanStep] = []
    if removed:
        names = _names(removed)
        gone = removable_at is not None
        steps += [
            PlanStep(f"take the hosts of {names} out of DNS MX", None if gone else now, safe_now=not gone),
            PlanStep(f"take {names} out of the policy, when the TTL is over", removable_at, safe_now=not refusal),
        ]
    if added:
        wait = held_wait(domain, now)
        text = f"add {_names(added)} to DNS MX {_length(wait)} after the new id is in DNS"
        steps += [
            PlanStep(
                f"add {_names(added)} to the policy; its id follows when all addresses serve it", now, not refusal
            ),
            PlanStep(f"{text}: not before {now + wait:%Y-%m-%d %H:%M} UTC", now + wait, safe_now=False),
        ]
    return MxPlan(added, removed, tuple(steps), refusal)


def _length(wait: timedelta) -> str:
    """How long that is in words, to the minute."""
    minutes = -(-wait // timedelta(minutes=1))
    parts = ((minutes // 1440, "day"), (minutes // 60 % 24, "hour"), (minutes % 60, "minute"))
    return " ".join(f"{number} {unit}{'s' if number > 1 else ''}" for number, unit in parts if number) or "at once"


def held_wait(domain: HostedDomain, now: datetime) -> timedelta:
    """How long after the next id is in DNS a sender may go by a policy of before: the record's TTL, then max_age, 30
    days at most."""
    return _record_ttl(domain) + _longest(domain, domain.versions, now)


def dns_mx_safe_at(domain: HostedDomain, mx_hostname: Domain) -> datetime | None:
    """From when on `mx_hostname` may be in DNS MX: every enforcing version without it has run out by then, or 30 days
    have passed. None while the policy does not permit it, or the id of the one that does is not in DNS."""
    before = list(domain.versions)
    shown_at: datetime | None = None
    while before and mx_permitted(before[-1].mx_patterns, mx_hostname):
        shown_at = before.pop().published_at or shown_at
    if shown_at is None:
        return None
    blocking = [version for version in before if not mx_permitted(version.mx_patterns, mx_hostname)]
    return shown_at + _record_ttl(domain) + _longest(domain, blocking, shown_at)


def _longest(domain: HostedDomain, versions: Sequence[PolicyVersion], at: datetime) -> timedelta:
    """The largest max_age of these that a sender may hold at `at`. A policy that only tests keeps no mail back."""
    ages = [
        timedelta(seconds=version.max_age)
        for version in versions
        if version.mode is Mode.ENFORCE and ((until := domain.held_until(version)) is None or until > at)
    ]
    return min(max(ages, default=timedelta()), MAX_WAIT)


def _record_ttl(domain: HostedDomain) -> timedelta:
    return timedelta(seconds=max(version.record_ttl for version in domain.versions))


def _removal(
    domain: HostedDomain,
    mx_patterns: Sequence[MxPattern],
    removed: Sequence[MxPattern],
    dns_mx: DnsMx,
    now: datetime,
) -> tuple[str, datetime | None]:
    """Why `removed` may not go now (empty: they may), and since or from when they may; None while that is unknown."""
    name, names = domain.policy_domain, _names(removed)
    if not removed:
        return "", now
    if not dns_mx.known:
        return f"{name}: its MX records can't be looked up, so nobody knows whether {names} is in use; try again", None
    used = [host for host in dns_mx.hosts if mx_permitted(removed, host) and not mx_permitted(mx_patterns, host)]
    if used:
        why = (
            f"{name}: {', '.join(used)} is in DNS MX and would no longer be permitted. Take it out of DNS first, which "
            f"is safe today, and out of the policy {dns_mx.ttl} seconds later, when no cache has it any more"
        )
        return why, None
    if domain.current.mode is not Mode.ENFORCE:
        return "", now  # RFC 8461 §5: whoever fetches this delivers all the same, to a host that a cache has too
    # Hosts that a pattern permits now are all permitted otherwise; of the patterns that permit none, time decides.
    unused = [pattern for pattern in removed if not any(mx_matches(pattern, host) for host in dns_mx.hosts)]
    since = [dns_mx.unused_since.get(pattern) for pattern in unused if not _replaced(pattern, mx_patterns)]
    known = [instant for instant in since if instant is not None]
    if len(known) < len(since):
        why = (
            f"{name}: nobody knows since when {names} is unused. The next inspection notes it; {dns_mx.ttl} seconds "
            "after that it can go. Leaving it in the policy is safe"
        )
        return why, None
    if not known:
        return "", now
    at = max(known) + timedelta(seconds=dns_mx.ttl)
    if now < at:
        return f"{name}: caches may have the MX record of {names} until {at:%Y-%m-%d %H:%M} UTC; it can go then", at
    return "", at


def _replaced(pattern: MxPattern, mx_patterns: Sequence[MxPattern]) -> bool:
    """Whether whatever `pattern` permits is permitted by one of the others."""
    return not pattern.wildcard and mx_permitted(mx_patterns, pattern.name)


def _names(patterns: Sequence[MxPattern]) -> str:
    return ", ".join(map(str, patterns))
