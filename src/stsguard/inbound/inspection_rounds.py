"""Looks at every domain of ours again and again, and keeps what is wrong with it, since when and until when.

Each domain has its own hour: the time of its last inspection is stored, so that a restart neither forgets nor repeats
one, and of several nodes one is enough. Findings are logged when they come and when they go, one line each.

Where our own resolver or network fails, every domain looks broken. Before a finding is made of an inspection that may
be such a one, other domains are looked at, too; see `core.vantage`. Then nothing is stored, and that is said instead.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from stsguard.core.errors import LookupFailed, StoreUnavailable
from stsguard.core.findings import HostingFinding, SeenFinding, Severity
from stsguard.core.hosted import HostedDomain, Stage
from stsguard.core.inspection import Inspection
from stsguard.core.vantage import dead_families, lookups_failed, sees_nothing, without_families
from stsguard.discovery.health import PartHealth, PartState
from stsguard.discovery.supervisor import supervised
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import Clock, DomainStore, FindingStore

log = logger(__name__)
inspections = Counter("hosting_inspections_total", "Inspections of our own domains, by what came of them.", "outcome")
findings_come = Counter("hosting_findings_total", "Findings on our own domains that came.", "severity")
findings_gone = Counter("hosting_findings_gone_total", "Findings on our own domains that went.")

JITTER = 0.1  # of the interval, so that domains added together do not stay together
LOOK_SECONDS = 30.0  # how often the list of domains is read; a new domain waits no longer
RETRY_SECONDS = 300.0  # after an inspection that could not be judged or stored
OTHERS = 2  # domains that are looked at beside one that looks as if we were blind
SAME_BLINDNESS_SECONDS = 60.0  # for so long the answer holds for the next domain, too
KEEP = timedelta(days=400)  # findings that went
DELETE_SECONDS = 86_400.0

_LEVELS = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING, Severity.NOTE: logging.INFO}

Judge = Callable[[HostedDomain, Inspection, datetime], Sequence[HostingFinding]]


@dataclass(frozen=True, slots=True)
class _Sight:
    """What is wrong with our own view: no resolver, or IP versions over which nobody is to be reached."""

    resolver_problem: str = ""
    dead: frozenset[int] = frozenset()

    def __str__(self) -> str:
        families = " and ".join(f"IPv{version}" for version in sorted(self.dead))
        return self.resolver_problem or (f"nobody answers over {families}" if families else "")


class Inspects(Protocol):
    """What looks at a domain: `inspecting.Inspector`."""

    async def inspect(self, policy_domain: Domain) -> Inspection:
        """All that can be seen now; never raises."""


class InspectionRounds:
    """Inspects all domains that are served, for ever.

    Args:
        judge: what an inspection shows to be wrong.
        ask_resolver: asks our resolver what every working one can answer; raises LookupFailed.
        random: numbers from 0 up to 1, for the jitter.
        every_seconds: between two inspections of a domain, on the whole.
        concurrency: domains under inspection at one time.
    """

    def __init__(
        self,
        domains: DomainStore,
        findings: FindingStore,
        inspector: Inspects,
        clock: Clock,
        *,
        judge: Judge,
        ask_resolver: Callable[[], Awaitable[object]],
        random: Callable[[], float],
        every_seconds: float,
        concurrency: int = 4,
    ) -> None:
        self._domains = domains
        self._findings = findings
        self._inspector = inspector
        self._clock = clock
        self._judge = judge
        self._ask_resolver = ask_resolver
        self._random = random
        self._every = every_seconds
        self._concurrency = concurrency
        self._due: dict[Domain, tuple[datetime | None, datetime]] = {}  # by the inspection that it follows
        self._looking = asyncio.Lock()
        self._sight = _Sight()
        self._sight_until = float("-inf")
        self._served: tuple[HostedDomain, ...] = ()
        self._problem = ""
        self._delete_at = float("-inf")

    async def run(self) -> None:
        """Inspect what is due, for ever. A fault at one domain ends no other's inspection."""
        while True:
            await self.round()
            await asyncio.sleep(min(LOOK_SECONDS, self._every / 10))

    async def round(self) -> None:
        """Inspect the domains that are due now."""
        try:
            loaded = await self._domains.load_domains()
            times = await self._findings.load_inspection_times()
            await self._delete_old()
        except StoreUnavailable as exc:
            self._tell(f"the domains can't be read: {exc}")
            return
        self._served = tuple(domain for domain in loaded if domain.stage is not Stage.RETIRED)
        now = self._clock.now()
        due = [each for each in self._served if self._is_due(each.policy_domain, times.get(each.policy_domain), now)]
        if not due:
            return
        slots = asyncio.Semaphore(self._concurrency)

        async def inspect(domain: HostedDomain) -> None:
            async with slots:
                await supervised("inspection", self._inspect(domain))

        async with asyncio.TaskGroup() as group:
            for domain in due:
                group.create_task(inspect(domain))

    def health(self) -> PartHealth:
        """Whether the last inspections could be judged and stored."""
        if self._problem:
            return PartHealth(PartState.FAILED, f"our own domains are not looked after: {self._problem}")
        return PartHealth(PartState.OK, f"{len(self._served)} domains are looked at every {self._every:g} s")

    def _is_due(self, policy_domain: Domain, inspected_at: datetime | None, now: datetime) -> bool:
        known = self._due.get(policy_domain)
        if known is None or known[0] != inspected_at:
            seconds = self._every * (1 + JITTER * (self._random() - 0.5))
            due_at = now if inspected_at is None else inspected_at + timedelta(seconds=seconds)
            known = self._due[policy_domain] = (inspected_at, due_at)
        # An inspection in the future was made before the clock was set back.
        return now >= known[1] or (inspected_at is not None and inspected_at > now)

    def _retry_later(self, policy_domain: Domain) -> None:
        inspected_at, _ = self._due[policy_domain]
        seconds = min(RETRY_SECONDS, self._every)
        self._due[policy_domain] = (inspected_at, self._clock.now() + timedelta(seconds=seconds))

    async def _inspect(self, domain: HostedDomain) -> None:
        policy_domain = domain.policy_domain
        self._retry_later(policy_domain)  # whatever happens here, it is not done over and over
        inspection = await self._inspector.inspect(policy_domain)
        sight = await self._check_sight(inspection)
        if sight.resolver_problem or sees_nothing(inspection, sight.dead):
            inspections.inc("blind")
            self._tell(f"our own resolver or network fails, nothing is said of any domain: {sight}")
            return
        seen = without_families(inspection, sight.dead)
        found = self._judge(domain, seen, inspection.at)
        try:
            came, went = await self._findings.save_findings(policy_domain, found, inspection.at)
        except StoreUnavailable as exc:
            inspections.inc("unsaved")
            self._tell(f"findings can't be stored: {exc}")
            return
        inspections.inc("judged")
        self._tell(f"{sight} from here, so nothing is said of that" if sight.dead else "")
        _log_findings(policy_domain, came, went)

    async def _check_sight(self, inspection: Inspection) -> _Sight:
        """What is wrong with our own view at the time of `inspection`; other domains are looked at where it may be."""
        if not lookups_failed(inspection) and not dead_families([inspection]):
            return _Sight()
        async with self._looking:  # of many inspections that fail alike one finds out why
            if self._clock.monotonic() >= self._sight_until:
                self._sight = await self._look_around(inspection)
                self._sight_until = self._clock.monotonic() + SAME_BLINDNESS_SECONDS
            return self._sight

    async def _look_around(self, inspection: Inspection) -> _Sight:
        try:
            await self._ask_resolver()
        except LookupFailed as exc:
            return _Sight(resolver_problem=str(exc))
        others = [each.policy_domain for each in self._served if each.policy_domain != inspection.policy_domain]
        looks = [self._inspector.inspect(policy_domain) for policy_domain in others[:OTHERS]]
        seen = await asyncio.gather(*looks)
        if seen and all(map(lookups_failed, (inspection, *seen))):
            # The resolver answers, perhaps from its cache: either it reaches nobody, or nobody serves any of them.
            return _Sight(resolver_problem=f"no look-up works for any of {len(seen) + 1} domains")
        return _Sight(dead=dead_families([inspection, *seen]))

    async def _delete_old(self) -> None:
        if self._clock.monotonic() >= self._delete_at:
            self._delete_at = self._clock.monotonic() + DELETE_SECONDS
            await self._findings.delete_findings(self._clock.now() - KEEP)

    def _tell(self, problem: str) -> None:
        """Log what keeps us from looking after the domains, once, and when it is over."""
        if problem and problem != self._problem:
            outcome(log, logging.ERROR, "domains can't be looked after as they should", reason=problem)
        elif self._problem and not problem:
            outcome(log, logging.INFO, "domains are looked after again")
        self._problem = problem


def _log_findings(policy_domain: Domain, came: Iterable[SeenFinding], went: Iterable[SeenFinding]) -> None:
    for seen in came:
        finding = seen.finding
        findings_come.inc(finding.severity.value)
        outcome(
            log,
            _LEVELS[finding.severity],
            "finding on a domain of ours",
            policy_domain=policy_domain,
            code=finding.code,
            subject=finding.subject or None,
            severity=finding.severity.value,
            text=finding.text,
        )
    for seen in went:
        findings_gone.inc()
        outcome(
            log,
            logging.INFO,
            "finding on a domain of ours is gone",
            policy_domain=policy_domain,
            code=seen.finding.code,
            subject=seen.finding.subject or None,
            first_seen_at=seen.first_seen_at.isoformat(timespec="seconds"),
        )
