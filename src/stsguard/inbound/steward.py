"""The steward: carries every hosted domain's next step out, for as long as the daemon runs.

What a step is follows from what is stored (`core.rollout_steps`), so nothing is lost when the process is killed. A
domain that has changed is looked at at once; one that waits for something outside is tried again, less and less often.
"""

import asyncio
import logging
from dataclasses import dataclass

from stsguard.core.errors import StoreUnavailable
from stsguard.core.hosted import Stage
from stsguard.discovery.health import PartHealth, PartState
from stsguard.discovery.supervisor import supervised
from stsguard.inbound.clock_watch import ClockWatch
from stsguard.inbound.steward_steps import Result, StepTaker, StewardSettings, Taken
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import Authority, Clock, DomainStore, FindingStore, Inspector, RecordPublisher

log = logger(__name__)
store_failures = Counter("steward_store_failures_total", "Times that the steward could not use the database.")

POLL_SECONDS = 1.0
AT_ONCE = 8  # each asks a few DNS servers and one or two addresses
# From the first try on: a change that was just made is served everywhere within a second.
FIRST_RETRY_SECONDS = 2.0
LAST_RETRY_SECONDS = 300.0
IDLE_SECONDS = 600.0  # findings and targets of aliases don't change the domain's own revision


@dataclass(slots=True)
class _Turn:
    """When a domain is looked at next, by the monotonic clock, and how often its step was tried in vain."""

    at: float
    tries: int = 0
    why: str = ""
    busy: bool = False


class Steward:
    """All hosted domains. `publisher` None: records are published by hand, and looked at."""

    def __init__(
        self,
        *,
        domains: DomainStore,
        findings: FindingStore,
        inspector: Inspector,
        authority: Authority,
        publisher: RecordPublisher | None,
        clock: Clock,
        settings: StewardSettings,
    ) -> None:
        self._domains = domains
        self._clock = clock
        self._watch = ClockWatch(clock)
        self._taker = StepTaker(
            domains=domains,
            findings=findings,
            inspector=inspector,
            authority=authority,
            publisher=publisher,
            watch=self._watch,
            settings=settings,
        )
        self._turns: dict[Domain, _Turn] = {}
        self._revision = 0
        self._problem: str | None = None

    async def step(self, policy_domain: Domain) -> None:
        """Take the next step of one domain, or find out that there is none now.

        Raises:
            StoreUnavailable: the database can't be used; nothing was noted.
        """
        await self._taker.take(policy_domain)

    async def run(self) -> None:
        """Look after all domains, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._watch.look()
                await self._find_changed()
                busy = sum(turn.busy for turn in self._turns.values())
                for policy_domain in self._due()[: AT_ONCE - busy]:
                    turn = self._turns[policy_domain]
                    turn.busy = True
                    group.create_task(self._take_turn(policy_domain, turn))
                await asyncio.sleep(POLL_SECONDS)

    def health(self) -> PartHealth:
        """Whether it can use the database, and how many domains wait for something outside."""
        if self._problem is not None:
            detail = f"no step of a hosted domain is taken: {self._problem}"
            return PartHealth(PartState.FAILED, detail)
        waiting = sorted(policy_domain for policy_domain, turn in self._turns.items() if turn.tries)
        shown = f": {', '.join(waiting[:5])}" if waiting else ""
        return PartHealth(PartState.OK, f"{len(self._turns)} domains, {len(waiting)} wait for DNS or addresses{shown}")

    def _due(self) -> list[Domain]:
        now = self._clock.monotonic()
        due = [(turn.at, name) for name, turn in self._turns.items() if not turn.busy and turn.at <= now]
        return [name for _, name in sorted(due)]

    async def _find_changed(self) -> None:
        """Have every domain that was changed since looked at now."""
        try:
            if await self._domains.revision() == self._revision:
                self._recovered()
                return
            changed = await self._domains.load_domains(self._revision)
        except StoreUnavailable as exc:
            self._failed(str(exc))
            return
        self._recovered()
        for domain in changed:
            self._revision = max(self._revision, domain.revision)
            if domain.stage is Stage.RETIRED:
                self._turns.pop(domain.policy_domain, None)
                continue
            turn = self._turns.setdefault(domain.policy_domain, _Turn(0.0))
            turn.at, turn.tries = self._clock.monotonic(), 0

    async def _take_turn(self, policy_domain: Domain, turn: _Turn) -> None:
        turn.at = self._clock.monotonic() + LAST_RETRY_SECONDS  # after a fault of ours; a change meanwhile is sooner
        try:
            await supervised("steward", self._try(policy_domain, turn))
        finally:
            turn.busy = False  # after a fault of the loop itself it is begun anew with these turns

    async def _try(self, policy_domain: Domain, turn: _Turn) -> None:
        planned = turn.at
        try:
            taken = await self._taker.take(policy_domain)
        except StoreUnavailable as exc:
            self._failed(str(exc))
            turn.at = self._clock.monotonic() + FIRST_RETRY_SECONDS
            return
        if taken.step is None and taken.result is Result.IDLE:
            self._turns.pop(policy_domain, None)
            return
        if turn.at == planned:
            turn.at = self._clock.monotonic() + self._pause_seconds(taken, turn)
        self._tell(policy_domain, taken, turn)

    def _pause_seconds(self, taken: Taken, turn: _Turn) -> float:
        """How long until the next look."""
        match taken.result:
            case Result.DONE:
                turn.tries = 0
                return 0.0
            case Result.PENDING:
                turn.tries += 1
                return min(FIRST_RETRY_SECONDS * 2.0 ** min(turn.tries - 1, 10), LAST_RETRY_SECONDS)
            case Result.IDLE:
                turn.tries = 0
                until = taken.step.until if taken.step is not None else None
                left = (until - self._watch.look().earliest).total_seconds() if until is not None else IDLE_SECONDS
                return min(max(left, 1.0), IDLE_SECONDS)

    def _tell(self, policy_domain: Domain, taken: Taken, turn: _Turn) -> None:
        """Log once what a step waits for, and again when that is something else."""
        why = taken.why if taken.result is Result.PENDING else ""
        if why and why != turn.why and turn.tries != 1:
            action = taken.step.action.value if taken.step is not None else None
            outcome(log, logging.WARNING, "step waits", policy_domain=policy_domain, action=action, why=why)
            turn.why = why
        elif not why:
            turn.why = ""

    def _failed(self, problem: str) -> None:
        store_failures.inc()
        if self._problem is None:
            outcome(
                log, logging.ERROR, "the steward can't use the database, hosted domains stay as they are", why=problem
            )
        self._problem = problem

    def _recovered(self) -> None:
        if self._problem is not None:
            outcome(log, logging.INFO, "the steward can use the database again")
        self._problem = None
