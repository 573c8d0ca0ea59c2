"""What `stsguard domain` does to a domain: add, edit, mode, retire. Each is one transaction on the database."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from stsguard.app.domain_work import Change, DomainWork, MxInDns, with_work
from stsguard.config.model import Config
from stsguard.core.errors import StoreUnavailable, TransitionRefused
from stsguard.core.findings import MX_UNUSED
from stsguard.core.hosted import HostedDomain, Stage
from stsguard.core.mtasts import MxPattern
from stsguard.core.rollout import LivePolicy, adopt, back_to_testing, edit_mx, leave_target, retire
from stsguard.core.rollout_plan import MxPlan, plan_mx_change
from stsguard.core.rollout_steps import Step, next_step
from stsguard.names import Domain, NameInvalid


@dataclass(frozen=True, slots=True)
class Changed:
    """A domain after a change. `plan` is the order of an MX change; `warnings` is what the admin should know; `was` the
    stage of before, and `followed` the target that it has left."""

    domain: HostedDomain
    step: Step
    now: datetime
    warnings: tuple[str, ...] = ()
    plan: MxPlan | None = None
    was: Stage | None = None
    followed: Domain | None = None


@dataclass(frozen=True, slots=True)
class WantedMx:
    """The `mx` that are asked for: all of them, or from DNS, or what to add and to remove."""

    exactly: tuple[MxPattern, ...] = ()
    from_dns: bool = False
    add: tuple[MxPattern, ...] = ()
    remove: tuple[MxPattern, ...] = ()

    def patterns(self, policy_domain: Domain, before: Sequence[MxPattern], dns: MxInDns) -> tuple[MxPattern, ...]:
        """The `mx` that a policy is to have, which had `before`.

        Raises:
            TransitionRefused: what is to be removed is not there.
            CouldNotCheck: DNS is to be followed, and can't be asked.
        """
        if self.from_dns:
            return dns.patterns(policy_domain)
        if self.exactly:
            return tuple(dict.fromkeys(self.exactly))
        if missing := [pattern for pattern in self.remove if pattern not in before]:
            raise TransitionRefused(f"{policy_domain}: its policy has no mx {', '.join(map(str, missing))}")
        kept = (pattern for pattern in before if pattern not in self.remove)
        return tuple(dict.fromkeys((*kept, *self.add)))


def add_domain(
    config: Config, policy_domain: Domain, wanted: WantedMx, *, alias_of: Domain | None, forced: str = ""
) -> Changed:
    """Host a domain: take over what it has, or begin with testing.

    Raises:
        TransitionRefused: it is hosted already, or can't be.
        CouldNotCheck: what it has can't be seen, and could be weakened.
        StoreUnavailable: the database can't be used.
    """
    _check_name(policy_domain)

    async def work(work: DomainWork) -> Changed:
        stored = await work.stores.domains.load_domain(policy_domain)
        if stored is not None and stored.stage is not Stage.RETIRED:
            raise TransitionRefused(
                f"{policy_domain} is hosted already, in {stored.stage.value}; stsguard domain show {policy_domain}"
            )
        target = None if alias_of is None else await work.load(alias_of)
        live = await work.live_policy(policy_domain, forced=bool(forced))
        dns = await work.dns_mx(policy_domain)
        patterns = wanted.patterns(policy_domain, (), dns) if wanted.from_dns or wanted.exactly else ()
        now = work.now()
        domain, event = adopt(policy_domain, live, now, mx_patterns=patterns, target=target, retired=stored)
        event = replace(event, detail=event.detail + (f" (forced: {forced})" if forced else ""))
        saved = await work.stores.domains.save_domain(domain, [event])
        if saved is None:
            raise StoreUnavailable(
                f"another process added {policy_domain} just now; stsguard domain show tells what it is"
            )
        warnings = dns.warnings(policy_domain, saved.current.mx_patterns)
        return changed_result(work, saved, now, warnings=(*_taken_over(live), *warnings))

    return with_work(config, work, make_database=True)


def edit_domain(
    config: Config, policy_domain: Domain, wanted: WantedMx, *, only_plan: bool, forced: str = ""
) -> Changed:
    """Serve other `mx`, in the safe order; with `only_plan` only say which that is.

    Raises:
        TransitionRefused: it would make mail bounce now; the message says what is safe.
        CouldNotCheck, StoreUnavailable: DNS or the database can't be asked.
    """

    async def work(work: DomainWork) -> Changed:
        domain = await work.load(policy_domain)
        dns, ids = await work.dns_mx(policy_domain), await work.dns_ids(policy_domain)
        dns_mx = dns.for_plan(await _unused_since(work, policy_domain))
        now = work.now()
        patterns = wanted.patterns(policy_domain, domain.current.mx_patterns, dns)
        plan = plan_mx_change(domain, patterns, dns_mx, now)
        if only_plan:
            return changed_result(work, domain, now, plan=plan)

        def decide(stored: HostedDomain) -> Change:
            chosen = wanted.patterns(policy_domain, stored.current.mx_patterns, dns)
            return edit_mx(stored, chosen, dns_mx, now, dns_ids=ids, forced=forced)

        saved = await work.change(policy_domain, decide)
        return changed_result(work, saved, now, plan=plan, warnings=dns.warnings(policy_domain, patterns))

    return with_work(config, work)


def to_testing(config: Config, policy_domain: Domain) -> Changed:
    """Back to testing, from enforce or retiring: no condition, no question. One that is testing stays as it is, but for
    an alias, which leaves its target.

    Raises:
        TransitionRefused: it is retired.
        StoreUnavailable: the database can't be used.
    """

    async def work(work: DomainWork) -> Changed:
        before, now = await work.load(policy_domain), work.now()
        if before.stage is Stage.TESTING and before.alias_of is None:
            return changed_result(work, before, now, before=before)
        ids = () if before.stage is Stage.TESTING else await work.dns_ids(policy_domain)

        def decide(stored: HostedDomain) -> Change:
            if stored.stage is Stage.TESTING:
                return leave_target(stored, now)
            return back_to_testing(stored, now, dns_ids=ids)

        saved = await work.change(policy_domain, decide)
        return changed_result(work, saved, now, before=before)

    return with_work(config, work)


def retire_domain(config: Config, policy_domain: Domain) -> Changed:
    """Begin the way out.

    Raises:
        TransitionRefused: it is retiring already, or others follow it.
        StoreUnavailable: the database can't be used.
    """

    async def work(work: DomainWork) -> Changed:
        domains = await work.stores.domains.load_domains()
        aliases = [each.policy_domain for each in domains if each.alias_of == policy_domain]
        before, ids, now = await work.load(policy_domain), await work.dns_ids(policy_domain), work.now()
        saved = await work.change(policy_domain, lambda stored: retire(stored, now, aliases=aliases, dns_ids=ids))
        return changed_result(work, saved, now, before=before)

    return with_work(config, work)


def changed_result(
    work: DomainWork,
    domain: HostedDomain,
    now: datetime,
    *,
    warnings: tuple[str, ...] = (),
    plan: MxPlan | None = None,
    before: HostedDomain | None = None,
) -> Changed:
    """`domain` as it is after a command, with its next step; `before` is what it was."""
    step = next_step(domain, now, max_age_cap=work.config.policy_host.max_age_cap_seconds)
    followed = before.alias_of if before is not None and domain.alias_of is None else None
    return Changed(domain, step, now, warnings, plan, before.stage if before else None, followed)


async def _unused_since(work: DomainWork, policy_domain: Domain) -> dict[MxPattern, datetime]:
    """Since when no MX host has matched a pattern, as the inspections saw it."""
    found = await work.stores.findings.load_findings(policy_domain, only_open=True)
    return {
        MxPattern.parse(seen.finding.subject): seen.first_seen_at for _, seen in found if seen.finding.code == MX_UNUSED
    }


def _taken_over(live: LivePolicy) -> tuple[str, ...]:
    if live.policy is None:
        return ()
    return tuple(f"the live policy: {warning}" for warning in live.policy.warnings)


def _check_name(policy_domain: Domain) -> None:
    """Raises TransitionRefused for a name that no Policy Host can serve."""
    if "." not in policy_domain:
        raise TransitionRefused(f"{policy_domain} has a single label: no CA issues a certificate below it")
    if "_" in policy_domain:
        raise TransitionRefused(f"{policy_domain} has an underscore, so it is not the name of a mail domain")
    try:
        policy_domain.child("mta-sts")
    except NameInvalid as exc:
        raise TransitionRefused(f"{policy_domain}: there can be no mta-sts.{policy_domain}: {exc}") from exc
