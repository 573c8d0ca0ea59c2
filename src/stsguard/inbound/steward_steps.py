"""One step of one hosted domain: done by the ports, and noted by a transition (RFC 8461 §8.2, §8.3).

What is noted is derived anew when another process was first. Nothing here waits: a step that has to is tried again.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from stsguard.core.errors import LookupFailed, TransitionRefused, UpdateFailed
from stsguard.core.findings import POLICY_DIFFERS, SeenFinding, Severity, is_quiet, judge, quiet_since
from stsguard.core.hosted import HostedDomain, PolicyVersion, Stage, record_text
from stsguard.core.hosted_checks import AddressState, RecordState, address_state, record_id_at, record_state
from stsguard.core.hosted_records import tlsrpt_text
from stsguard.core.inspection import RecordAt
from stsguard.core.mtasts import Mode
from stsguard.core.readiness import Readiness, assess_live
from stsguard.core.rollout_evidence import (
    ahead_until,
    follow,
    grow,
    not_served,
    published,
    quiet,
    record_back,
    record_gone,
    record_ttl_seen,
    restamp,
    served,
    stop_serving,
)
from stsguard.core.rollout_steps import Action, Step, next_step
from stsguard.core.rollout_table import Change, terms_of
from stsguard.inbound.clock_watch import ClockWatch
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import Authority, DomainStore, FindingStore, Inspector, RecordPublisher

log = logger(__name__)
steps = Counter("steward_steps_total", "Steps of hosted domains, by kind and by what came of them.", "action", "result")
conflicts = Counter("steward_conflicts_total", "Changes that another process had made obsolete, decided anew.")
update_failures = Counter("dns_update_failures_total", "DNS updates that were not taken.")

SAVE_TRIES = 3


class Result(StrEnum):
    """What came of a step. DONE: the next one can follow at once; PENDING: something outside is not so yet; IDLE:
    nothing is to be done before the step's instant, if it has one."""

    DONE = "done"
    PENDING = "pending"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was tried. `why` says what it waits for."""

    step: Step | None
    result: Result
    why: str = ""


@dataclass(frozen=True, slots=True)
class StewardSettings:
    """`max_age_cap` and `record_ttl` in seconds; `ruas` are where reports are to go."""

    max_age_cap: int
    record_ttl: int
    ruas: Sequence[str] = ()


class StepTaker:
    """Takes steps. `publisher` None: records are published by hand, and looked at."""

    def __init__(
        self,
        *,
        domains: DomainStore,
        findings: FindingStore,
        inspector: Inspector,
        authority: Authority,
        publisher: RecordPublisher | None,
        watch: ClockWatch,
        settings: StewardSettings,
    ) -> None:
        self._domains = domains
        self._findings = findings
        self._inspector = inspector
        self._authority = authority
        self._publisher = publisher
        self._watch = watch
        self._settings = settings

    async def take(self, policy_domain: Domain) -> Taken:
        """The next step of this domain.

        Raises:
            StoreUnavailable: the database can't be read or written; nothing was noted.
        """
        domain = await self._domains.load_domain(policy_domain)
        if domain is None or domain.stage is Stage.RETIRED:
            return Taken(None, Result.IDLE)
        times = self._watch.look()
        ahead = ahead_until(domain, times.latest)
        if ahead is not None:
            if not self._watch.steady:
                why = f"the clock is behind {ahead:%Y-%m-%d %H:%M} UTC, when something was noted: put it right"
                return Taken(None, Result.PENDING, why)
            # RFC 8461 §8.3: a wait that began in the future never ends too early, but it might end in years.
            return _noted(None, await self._save(domain, lambda found: restamp(found, times.latest)))
        noted = await self._note_findings(domain) or await self._follow(domain)
        if noted is not None:
            return noted
        step = next_step(domain, times.earliest, max_age_cap=self._settings.max_age_cap)
        taken = await self._do(domain, step)
        steps.inc(step.action.value, taken.result.value)
        return taken

    async def _do(self, domain: HostedDomain, step: Step) -> Taken:
        match step.action:
            case Action.FETCH_BACK:
                return await self._fetch_back(domain, step)
            case Action.PUBLISH_ID:
                return await self._publish(domain, step)
            case Action.GROW_MAX_AGE:
                return await self._grow(domain, step)
            case Action.REMOVE_RECORD:
                return await self._remove_record(domain, step)
            case Action.STOP_SERVING:
                return await self._stop(domain, step)
            case Action.NOTHING | Action.WAIT_UNTIL:
                return Taken(step, Result.IDLE, step.why)

    async def _fetch_back(self, domain: HostedDomain, step: Step) -> Taken:
        seen = await self._inspector.inspect(domain.policy_domain, mx=False)
        wrong = [
            f"{found.address}: {found.problem or 'another policy'}"
            for found in seen.policies
            if address_state(found, step.version) is not AddressState.SERVED
        ]
        if seen.policies_problem or not seen.policies or wrong:
            why = seen.policies_problem or "; ".join(wrong) or f"{domain.policy_host} has no address"
            return Taken(step, Result.PENDING, why)
        return await self._note(domain, step, lambda found: served(found, step.version.number, self._latest()))

    async def _publish(self, domain: HostedDomain, step: Step) -> Taken:
        records, why = await self._look(domain)
        if not _all_have(records, step.version) and self._publisher is not None:
            await self._publish_tlsrpt(domain, self._publisher)
            name, text = domain.policy_domain.child("_mta-sts"), record_text(step.version.record_id)
            why = await _updated(self._publisher.publish_txt(name, text, self._settings.record_ttl))
            records, unseen = await self._look(domain)
            why = why or unseen
        if not _all_have(records, step.version):
            return Taken(step, Result.PENDING, why or f"id {step.version.record_id} is not at every DNS server yet")
        ttl = max(found.ttl for found in records)
        return await self._note(domain, step, lambda found: published(found, step.version.number, ttl, self._latest()))

    async def _publish_tlsrpt(self, domain: HostedDomain, publisher: RecordPublisher) -> None:
        """Ask for reports as well, where nobody does (RFC 8460 §3): before senders fetch the policy they may have
        something to report on. What somebody has put there is left alone; findings tell of it."""
        name, ruas = domain.policy_domain.child("_smtp", "_tls"), self._settings.ruas
        try:
            records = await self._authority.lookup_txt_everywhere(name) if ruas else ()
        except LookupFailed:
            return
        if records and not any(found.texts or found.problem for found in records):
            why = await _updated(publisher.publish_txt(name, tlsrpt_text(ruas), self._settings.record_ttl))
            if why:
                outcome(
                    log, logging.WARNING, "TLSRPT record not published", policy_domain=domain.policy_domain, why=why
                )

    async def _remove_record(self, domain: HostedDomain, step: Step) -> Taken:
        records, why = await self._look(domain)
        ttl = max((found.ttl for found in records if found.texts), default=0)
        if ttl > max(version.record_ttl for version in domain.versions):
            # Caches may have it for longer than was known, so that has to be noted before it is gone.
            return await self._note(domain, step, lambda found: record_ttl_seen(found, ttl, self._latest()))
        if not _none_has(records) and self._publisher is not None:
            why = await _updated(self._publisher.remove_txt(domain.policy_domain.child("_mta-sts")))
            records, unseen = await self._look(domain)
            why = why or unseen
        if not _none_has(records):
            why = why or f"remove the TXT record at _mta-sts.{domain.policy_domain}: no sender may find it any more"
            return Taken(step, Result.PENDING, why)
        return await self._note(domain, step, lambda found: record_gone(found, self._latest()))

    async def _stop(self, domain: HostedDomain, step: Step) -> Taken:
        records, why = await self._look(domain)
        if why or any(found.problem for found in records):
            return Taken(step, Result.PENDING, why or "a DNS server gives no answer, and may still have the record")
        if not _none_has(records):
            return await self._note(domain, step, lambda found: record_back(found, self._latest()))
        return await self._note(domain, step, lambda found: stop_serving(found, self._watch.look().earliest))

    async def _grow(self, domain: HostedDomain, step: Step) -> Taken:
        seen = await self._inspector.inspect(domain.policy_domain)
        loud = [
            finding
            for finding in judge(domain, seen, self._latest(), ruas=self._settings.ruas)
            if finding.severity is not Severity.NOTE
        ]
        if loud:  # the next inspection stores it, and then quiet_since goes as well
            return Taken(step, Result.PENDING, f"max_age does not grow now: {loud[0].text}")
        ids = _ids(seen.sts_records)
        cap = self._settings.max_age_cap
        return await self._note(domain, step, lambda found: grow(found, self._latest(), max_age_cap=cap, dns_ids=ids))

    async def _note_findings(self, domain: HostedDomain) -> Taken | None:
        """Note what inspections have found: another policy seen, and since when all has been quiet."""
        seen = [finding for _, finding in await self._findings.load_findings(domain.policy_domain)]
        current = domain.current
        if any(_differed(finding, current) for finding in seen):
            return _noted(
                None, await self._save(domain, lambda found: not_served(found, current.number, self._latest()))
            )
        if not seen and domain.policy_domain not in await self._findings.load_inspection_times(domain.policy_domain):
            return None  # nobody has looked yet
        since = (quiet_since(seen) or domain.quiet_since or self._latest()) if is_quiet(seen) else None
        if since is not None and domain.quiet_since is not None:
            since = max(since, domain.quiet_since)
        if since == domain.quiet_since:
            return None
        saved = await self._save(domain, lambda found: quiet(found, since, self._latest()))
        return _noted(None, saved)

    async def _follow(self, domain: HostedDomain) -> Taken | None:
        """Let an alias have what its target has; None where it has that, or follows nobody."""
        if domain.alias_of is None or domain.stage is Stage.RETIRING:
            return None
        target = await self._domains.load_domain(domain.alias_of)
        if target is None or terms_of(target.current) == terms_of(domain.current):
            return None
        live = Readiness(())
        ids: tuple[str, ...] = ()
        if target.current.mode is Mode.ENFORCE:
            seen = await self._inspector.inspect(domain.policy_domain)
            patterns = target.current.mx_patterns
            live, ids = assess_live(domain, seen, self._latest(), mx_patterns=patterns), _ids(seen.sts_records)
            if domain.stage is Stage.ENFORCE:  # it is bound already: only a host that would be shut out counts
                live = Readiness(tuple(item for item in live.items if item.code == "mx-covered"))
        try:
            change = follow(domain, target, self._latest(), live=live, dns_ids=ids)
        except TransitionRefused as exc:
            outcome(log, logging.INFO, "alias waits", policy_domain=domain.policy_domain, why=str(exc))
            return None
        if change is None:
            return None
        outcome(log, logging.INFO, "hosted domain", policy_domain=domain.policy_domain, what=change[1].what)
        return _noted(None, await self._domains.save_domain(change[0], [change[1]]) is not None)

    async def _look(self, domain: HostedDomain) -> tuple[Sequence[RecordAt], str]:
        """The record at all authoritative servers, or why it can't be looked at."""
        try:
            return await self._authority.lookup_txt_everywhere(domain.policy_domain.child("_mta-sts")), ""
        except LookupFailed as exc:
            return (), str(exc)

    async def _note(self, domain: HostedDomain, step: Step, change: Callable[[HostedDomain], Change]) -> Taken:
        return _noted(step, await self._save(domain, change, step))

    async def _save(
        self, domain: HostedDomain, change: Callable[[HostedDomain], Change], step: Step | None = None
    ) -> bool:
        """Save what `change` makes of the domain; where another process was first, of what that has left, if `step` is
        still the next one. Whether it was saved."""
        for _ in range(SAVE_TRIES):
            try:
                changed, event = change(domain)
            except TransitionRefused as exc:
                outcome(log, logging.WARNING, "step refused", policy_domain=domain.policy_domain, why=str(exc))
                return False
            if await self._domains.save_domain(changed, [event]) is not None:
                fields = {"what": event.what, "detail": event.detail or None}
                outcome(log, logging.INFO, "hosted domain", policy_domain=domain.policy_domain, **fields)
                return True
            conflicts.inc()
            found = await self._domains.load_domain(domain.policy_domain)
            if found is None or (step is not None and not self._still(found, step)):
                return False
            domain = found
        return False

    def _still(self, domain: HostedDomain, step: Step) -> bool:
        now = next_step(domain, self._watch.look().earliest, max_age_cap=self._settings.max_age_cap)
        return (now.action, now.version.number) == (step.action, step.version.number)

    def _latest(self) -> datetime:
        return self._watch.look().latest


async def _updated(update: Awaitable[None]) -> str:
    """Why a DNS update was not taken; empty where it was."""
    try:
        await update
    except UpdateFailed as exc:
        update_failures.inc()
        return str(exc)
    return ""


def _noted(step: Step | None, saved: bool) -> Taken:
    return Taken(step, Result.DONE) if saved else Taken(step, Result.PENDING, "another process has changed the domain")


def _all_have(records: Sequence[RecordAt], version: PolicyVersion) -> bool:
    """Whether every authoritative server answers with the id of `version`."""
    return bool(records) and all(record_state(found, version.record_id) is RecordState.IN_SYNC for found in records)


def _none_has(records: Sequence[RecordAt]) -> bool:
    """Whether every authoritative server denies that there is a record."""
    return bool(records) and all(record_state(found, "") is RecordState.MISSING for found in records)


def _ids(records: Sequence[RecordAt]) -> tuple[str, ...]:
    return tuple(record_id for found in records if (record_id := record_id_at(found)) is not None)


def _differed(seen: SeenFinding, version: PolicyVersion) -> bool:
    """Whether an inspection has seen another policy after `version` was served everywhere."""
    served_at = version.served_at
    return seen.finding.code == POLICY_DIFFERS and served_at is not None and seen.last_seen_at > served_at
