"""The life of a hosted policy: testing, enforce, retiring, retired (RFC 8461 §3.2, §3.3, §8.2, §8.3).

Three rules hold over every sequence of them:

- an id is published only once its policy is served everywhere, since a sender that sees the id first keeps the old
  policy under it (RFC 8461 §8.2);
- ids never go back (`record_ids`);
- a policy is served until every one that was ever served has run out at every sender (RFC 8461 §8.3 step 3).

Here is what an operator asks for; each raises `TransitionRefused` with what is safe instead. `rollout_evidence` notes
what the steward sees, `rollout_table` has what is allowed from where. `now` is the later of the clocks that the caller
has.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from stsguard.core.errors import TransitionRefused
from stsguard.core.hosted import HistoryEvent, HostedDomain, PolicyVersion, Stage
from stsguard.core.mtasts import MAX_MAX_AGE, Mode, MxPattern, Policy
from stsguard.core.readiness import Readiness
from stsguard.core.record_ids import new_record_id
from stsguard.core.rollout_plan import DnsMx, plan_mx_change
from stsguard.core.rollout_table import (
    ALLOWED,
    FIRST_MAX_AGE_SECONDS,
    STAGE_OF_MODE,
    Change,
    Operation,
    Terms,
    check,
    check_own,
    latest_instant,
    new_version,
    with_new_version,
)
from stsguard.names import Domain


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """What a domain has when it is taken over. `policy` None: nothing is served. `record_id` is that of its record,
    None where there is none that a sender could use; `record_ttl` in seconds."""

    policy: Policy | None = None
    record_id: str | None = None
    record_ttl: int = 0


def is_served(domain: HostedDomain, now: datetime) -> bool:
    """Whether the Policy Host answers for it: in every stage but the last (RFC 8461 §8.3)."""
    return domain.stage is not Stage.RETIRED


def adopt(
    policy_domain: Domain,
    live: LivePolicy,
    now: datetime,
    *,
    mx_patterns: Sequence[MxPattern] = (),
    target: HostedDomain | None = None,
    retired: HostedDomain | None = None,
) -> Change:
    """Take a domain over, weakening nothing: its live mode, mx, max_age and id become the first version (number 0, or
    the next one of a domain that was `retired` here before). Where no policy is in force it starts testing, max_age 1
    day, with `mx_patterns`.

    `target`: the domain whose mode, mx and max_age it is to follow.

    Raises:
        TransitionRefused: it is hosted; there is no mx; its own policy is stronger than its target's.
    """
    earlier: tuple[PolicyVersion, ...] = ()
    if retired is not None:
        check(retired, Operation.ADD)
        now, earlier = max(now, latest_instant(retired)), retired.versions
    versions = (*earlier, *_found_version(live, earlier, now))
    stage = STAGE_OF_MODE[versions[-1].mode] if len(versions) > len(earlier) else Stage.RETIRING
    patterns = target.current.mx_patterns if target else tuple(mx_patterns)
    if target is not None:
        _check_target(policy_domain, stage, target)
    elif stage is not Stage.RETIRING and patterns and set(patterns) != set(versions[-1].mx_patterns):
        found = ", ".join(map(str, versions[-1].mx_patterns))
        raise TransitionRefused(
            f"{policy_domain} has a policy already, with mx {found}: add it without --mx, which takes that over, and "
            "change it with `domain edit` afterwards, which keeps the safe order"
        )
    if stage is Stage.RETIRING:
        _check_patterns(policy_domain, patterns)
        terms = Terms(Mode.TESTING, FIRST_MAX_AGE_SECONDS, patterns)
        versions += (new_version(versions, terms, now, _ids(live), "added"),)
        stage, detail = Stage.TESTING, "no policy is in force, so it starts testing"
    else:
        detail = f"took over mode {stage.value}, id {versions[-1].record_id}"
    domain = HostedDomain(policy_domain, stage, now, retired.added_at if retired else now, versions)
    domain = replace(
        domain, alias_of=target.policy_domain if target else None, revision=retired.revision if retired else 0
    )
    return domain, HistoryEvent(now, "added", detail + (f"; follows {target.policy_domain}" if target else ""))


def edit_mx(
    domain: HostedDomain,
    mx_patterns: Sequence[MxPattern],
    dns_mx: DnsMx,
    now: datetime,
    *,
    dns_ids: Collection[str] = (),
    forced: str = "",
) -> Change:
    """Serve other mx patterns, all of them given; the order in which DNS and policy have to change is that of
    `rollout_plan.plan_mx_change`. `forced` is the reason why a refused one is to be made all the same.

    Raises:
        TransitionRefused: a host in DNS MX would no longer be permitted, or may still be in a cache.
    """
    check(domain, Operation.EDIT_MX)
    check_own(domain)
    _check_patterns(domain.policy_domain, mx_patterns)
    if set(mx_patterns) == set(domain.current.mx_patterns):
        raise TransitionRefused(f"{domain.policy_domain}: these are the mx that it has")
    plan = plan_mx_change(domain, mx_patterns, dns_mx, now)
    if plan.refusal and not forced:
        raise TransitionRefused(plan.refusal)
    old, now = domain.current, max(now, latest_instant(domain))
    changes = [*(f"+{pattern}" for pattern in plan.added), *(f"-{pattern}" for pattern in plan.removed)]
    reason = f"mx {' '.join(changes)}" + _forced(forced if plan.refusal else "")
    changed = with_new_version(domain, Terms(old.mode, old.max_age, tuple(mx_patterns)), now, dns_ids, reason)
    return changed, HistoryEvent(now, "mx changed", reason)


def enforce(
    domain: HostedDomain,
    readiness: Readiness,
    now: datetime,
    *,
    first_max_age: int,
    dns_ids: Collection[str] = (),
    forced: str = "",
) -> Change:
    """From testing to enforce, with `first_max_age` seconds, where `readiness` allows it or with the reason `forced`.

    Raises:
        TransitionRefused: something is missing; the message lists it.
    """
    check(domain, Operation.ENFORCE)
    check_own(domain)
    if not readiness.ready and not forced:
        missing = "; ".join(item.text for item in readiness.missing)
        raise TransitionRefused(
            f"{domain.policy_domain} is not ready to enforce: {missing}. It stays in testing, which is safe"
        )
    now = max(now, latest_instant(domain))
    reason = "enforce"
    if not readiness.ready:
        reason += f" without {', '.join(item.code for item in readiness.missing)}{_forced(forced)}"
    terms = Terms(Mode.ENFORCE, min(first_max_age, MAX_MAX_AGE), domain.current.mx_patterns)
    changed = with_new_version(domain, terms, now, dns_ids, reason)
    return changed, HistoryEvent(now, "enforce", reason)


def back_to_testing(domain: HostedDomain, now: datetime, *, dns_ids: Collection[str] = ()) -> Change:
    """Back to testing, from enforce without any condition, or from retiring as a change of mind. An alias so leaves its
    target: what its own mail needs comes first.

    Raises:
        TransitionRefused: it is testing already, or retired.
    """
    check(domain, Operation.TESTING)
    now = max(now, latest_instant(domain))
    patterns = next(version.mx_patterns for version in reversed(domain.versions) if version.mx_patterns)
    reason = f"testing, from {domain.stage.value}" + _no_longer_follows(domain)
    changed = with_new_version(domain, Terms(Mode.TESTING, FIRST_MAX_AGE_SECONDS, patterns), now, dns_ids, reason)
    return replace(changed, alias_of=None), HistoryEvent(now, "testing", reason)


def leave_target(domain: HostedDomain, now: datetime) -> Change:
    """An alias that is testing goes its own way: what is served stays as it is, and no longer changes with its target.

    Raises:
        TransitionRefused: it follows nobody, or is not testing; `back_to_testing` is for the others.
    """
    if domain.alias_of is None or domain.stage is not Stage.TESTING:
        raise TransitionRefused(f"{domain.policy_domain} is {domain.stage.value}, and no alias that tests")
    detail = f"no longer follows {domain.alias_of}"
    return replace(domain, alias_of=None), HistoryEvent(max(now, latest_instant(domain)), "testing", detail)


def retire(
    domain: HostedDomain, now: datetime, *, aliases: Sequence[Domain] = (), dns_ids: Collection[str] = ()
) -> Change:
    """Begin the way out: `mode: none` with a small max_age (RFC 8461 §8.3 step 1). `aliases` are the domains that
    follow it.

    Raises:
        TransitionRefused: it is retiring already, or others follow it.
    """
    check(domain, Operation.RETIRE)
    if aliases:
        follows, them = ("follows", "it") if len(aliases) == 1 else ("follow", "each of them")
        raise TransitionRefused(
            f"{domain.policy_domain}: {', '.join(aliases)} {follows} it; retire {them} first, or let {them} go its own "
            f"way with `stsguard domain mode {aliases[0] if len(aliases) == 1 else 'DOMAIN'} testing`"
        )
    now = max(now, latest_instant(domain))
    reason = f"retire, from {domain.stage.value}" + _no_longer_follows(domain)
    changed = with_new_version(domain, Terms(Mode.NONE, FIRST_MAX_AGE_SECONDS, ()), now, dns_ids, reason)
    return replace(changed, alias_of=None), HistoryEvent(now, "retiring", reason)


def _check_patterns(policy_domain: Domain, mx_patterns: Sequence[MxPattern]) -> None:
    if not mx_patterns:  # RFC 8461 §3.2: at least one unless mode is none
        raise TransitionRefused(f"{policy_domain}: a policy needs at least one mx; give --mx or --mx-from-dns")


def _check_target(policy_domain: Domain, stage: Stage, target: HostedDomain) -> None:
    if target.alias_of is not None or target.stage not in ALLOWED[Operation.FOLLOW]:
        why = f"follows {target.alias_of}" if target.alias_of else f"is {target.stage.value}"
        raise TransitionRefused(f"{policy_domain} can't follow {target.policy_domain}, which {why}")
    if stage is Stage.ENFORCE and target.stage is Stage.TESTING:
        raise TransitionRefused(
            f"{policy_domain} enforces already, {target.policy_domain} only tests: following it would weaken it. Add "
            "it on its own, or wait until its target enforces"
        )


def _found_version(live: LivePolicy, earlier: Sequence[PolicyVersion], now: datetime) -> tuple[PolicyVersion, ...]:
    """The live policy as a version, a `none` one too. Its id counts as published, since it was seen."""
    policy = live.policy
    if policy is None:
        return ()
    record_id = live.record_id or new_record_id(now, [version.record_id for version in earlier])
    version = PolicyVersion(
        number=earlier[-1].number + 1 if earlier else 0,
        record_id=record_id,
        mode=policy.mode,
        max_age=policy.max_age,
        mx_patterns=policy.mx_patterns,
        created_at=now,
        reason="found live",
        published_at=now if live.record_id else None,
        record_ttl=live.record_ttl,
    )
    return (version,)


def _ids(live: LivePolicy) -> tuple[str, ...]:
    return (live.record_id,) if live.record_id else ()


def _no_longer_follows(domain: HostedDomain) -> str:
    return f"; no longer follows {domain.alias_of}" if domain.alias_of else ""


def _forced(reason: str) -> str:
    return f" (forced: {' '.join(reason.split())})" if reason else ""
