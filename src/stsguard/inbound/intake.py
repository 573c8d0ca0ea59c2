"""Empties the spool into the database: the part of `stsguard inbound` that takes reports in.

An entry is removed from the spool when it is stored, and not before: while the database fails all of them stay, however
long. Killed between the two, the entry is read once more and found to be stored. One that the database can't take,
while it takes others, is stored as a refusal; one at which it fails each time is passed over for a while, so that
nobody can send what stops all that comes after it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

from stsguard.core.arrival import SpoolEntry
from stsguard.core.errors import SpoolFailed, StoreUnavailable
from stsguard.core.received_record import Fate, ReceivedDocument, ReceivedIntake, SavedIntake, Standing
from stsguard.discovery.health import PartHealth
from stsguard.inbound.intake_health import IntakeState
from stsguard.inbound.intake_reader import Batch, IntakeReader, OurDomains, Read, save_batch
from stsguard.inbound.spool import Spool, SpoolReader
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.ports import Clock
from stsguard.ports.intake import ReceivedStore

log = logger(__name__)
reports_taken = Counter(
    "received_reports_total", "Received reports by how they count, and whether they were new.", "standing", "fate"
)
intakes_refused = Counter("received_refused_total", "What came in and had something that is no report; it is kept.")
sessions_taken = Counter(
    "received_sessions_total", "Sessions in new reports that count, by policy domain.", "policy_domain", "result"
)
passed_over = Counter("received_passed_over_total", "Times that storing one report failed, and others went before it.")
store_failures = Counter("received_store_failures_total", "Times that reports could not be stored and stayed.")

POLL_SECONDS = 0.5
RETRY_SECONDS = 5.0
BATCH_TRIES = 3  # then what is read is stored one by one
PASSED_OVER_SECONDS = 300.0
NO_SPOOL_SECONDS = 30.0
KEY_RETRY_SECONDS = 300.0
KEY_WAIT = timedelta(hours=24)  # then the report is kept as one whose signature could not be verified
KEY_TRIES = 300  # the same, whatever the clock says
DELETE_SECONDS = 3600.0
LISTED = 1000  # taken up before the spool is looked at again
TRIED_AGAIN = 64  # of them those that have waited: they may well wait again, each for a time limit of DNS
LOOKUPS = 32  # entries that are read at the same time, since most of that is waiting for DNS
HELD_BYTES = 32 * 1024 * 1024  # of these; one that is larger is read alone
SAVE_SECONDS = 1.0  # what is read does not wait longer for what is not
MAX_DOMAINS = 2000  # told apart in the metrics: senders can name any below ours


_Running = dict["asyncio.Task[Read]", tuple[str, SpoolEntry]]


class IntakeDrain:
    """Empties `spool` through `reader` into `store`, for ever.

    Args:
        open_store: opens the database, or looks again whether it can be opened.
        expected: whether reports are expected, so that a spool that can't be used needs somebody.
        keep: how long what came in is kept.
    """

    def __init__(
        self,
        spool: Spool,
        reader: IntakeReader,
        store: ReceivedStore,
        domains: OurDomains,
        clock: Clock,
        *,
        open_store: Callable[[], Awaitable[None]],
        expected: bool,
        keep: timedelta,
    ) -> None:
        self._spool = spool
        self._reader = reader
        self._store = store
        self._domains = domains
        self._clock = clock
        self._open_store = open_store
        self._keep = keep
        self._state = IntakeState(spool.directory, expected)
        self._later: dict[str, tuple[float, int]] = {}  # entries whose key is awaited: when due, and how often tried
        self._passed: dict[str, tuple[float, str]] = {}  # entries at which the database failed: when due, and why
        self._failures = 0  # of storing, one after the other

    @property
    def waiting(self) -> int:
        """How many entries were in the spool when it was last looked at."""
        return self._state.waiting

    def health(self) -> PartHealth:
        """Whether reports get into the database, and which don't."""
        return self._state.health()

    async def run(self) -> None:
        """Empty the spool whenever something is in it."""
        while True:
            try:
                await asyncio.to_thread(self._spool.prepare)
                with self._spool.reading() as spool:
                    self._note_spool(None)
                    while True:
                        pause = RETRY_SECONDS if not await self.drain(spool) else POLL_SECONDS
                        await asyncio.sleep(pause)
            except SpoolFailed as exc:
                self._note_spool(str(exc))
            await asyncio.sleep(NO_SPOOL_SECONDS if not self._state.expected else RETRY_SECONDS)

    async def drain(self, spool: SpoolReader) -> bool:
        """Store all that is there now; whether the database took it.

        Raises:
            SpoolFailed: the spool can't be used.
        """
        while names := await self._due(spool):
            try:
                await self._load_domains()
                await self._drain_some(spool, names)
            except StoreUnavailable as exc:
                self._note_store(str(exc))
                return False
            self._note_store(None)
        return True

    async def _due(self, spool: SpoolReader) -> Sequence[str]:
        """What is to be taken up now: what has never been tried first, so that nobody who sends mails whose keys can't
        be looked up keeps the others out."""
        names = await asyncio.to_thread(spool.pending, None)
        self._later = {name: self._later[name] for name in names if name in self._later}
        self._passed = {name: self._passed[name] for name in names if name in self._passed}
        self._state.waiting, self._state.waiting_for_keys = len(names), len(self._later)
        self._state.passed = {name: reason for name, (_, reason) in self._passed.items()}
        self._state.set_aside = await asyncio.to_thread(spool.set_aside_names)
        now = self._clock.monotonic()
        due = [name for name in names if self._due_at(name, now) <= now]
        tried = [name for name in due if name in self._later or name in self._passed]
        return [*[name for name in due if name not in set(tried)][:LISTED], *tried[:TRIED_AGAIN]]

    def _due_at(self, name: str, now: float) -> float:
        later, passed = self._later.get(name), self._passed.get(name)
        return max(later[0] if later else now, passed[0] if passed else now)

    async def _load_domains(self) -> None:
        await self._open_store()
        ours = await self._domains.load()
        if ours != self._reader.rules.ours:
            self._reader.rules = replace(self._reader.rules, ours=ours)

    async def _drain_some(self, spool: SpoolReader, names: Sequence[str]) -> None:
        batch, read_names = Batch(), list[str]()
        rest = iter(names)
        running: _Running = {}
        try:
            while True:
                await self._start(spool, rest, running)
                # What is read is saved before anything is waited for that takes long.
                limit = SAVE_SECONDS if read_names else None
                done = await _first_of(running, limit)
                for task in done:
                    name, entry = running.pop(task)
                    read = task.result()
                    if not (read.waits and self._is_awaited(name, entry)):
                        batch.add(read.intake)
                        read_names.append(name)
                if read_names and (batch.is_full or not done):
                    await self._save(spool, batch, read_names)
                    batch, read_names = Batch(), []
                elif not done:
                    return
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _start(self, spool: SpoolReader, names: Iterator[str], running: _Running) -> None:
        """Begin to read as many more as may be read at the same time."""
        held = sum(len(entry.octets) for _, entry in running.values())
        while len(running) < LOOKUPS and held < HELD_BYTES and (name := next(names, None)) is not None:
            entry = await asyncio.to_thread(spool.load, name)
            if entry is not None:
                held += len(entry.octets)
                running[asyncio.create_task(self._reader.read(entry))] = name, entry

    def _is_awaited(self, name: str, entry: SpoolEntry) -> bool:
        """Whether the key is worth another try later, since DNS may be back by then."""
        _, tries = self._later.get(name, (0.0, 0))
        if tries >= KEY_TRIES or self._clock.now() - entry.arrival.received_at > KEY_WAIT:
            return False
        self._later[name] = (self._clock.monotonic() + KEY_RETRY_SECONDS, tries + 1)
        if not tries:
            outcome(log, logging.INFO, "received report waits for the key of its signature", entry=name)
        return True

    async def _save(self, spool: SpoolReader, batch: Batch, names: Sequence[str]) -> None:
        """Store them and remove them from the spool: at once, or one by one where that has failed several times, though
        the database could be opened and read before each: then one of them may be why."""
        if self._failures < BATCH_TRIES:
            await self._save_some(spool, batch.intakes, names)
            self._failures = 0
            return
        for intake, name in zip(batch.intakes, names, strict=True):
            try:
                await self._save_some(spool, [intake], [name])
            except StoreUnavailable as exc:
                # No more are tried now, for it may be all of them; it is not among the next.
                self._passed[name] = self._clock.monotonic() + PASSED_OVER_SECONDS, str(exc)
                self._state.passed = {**self._state.passed, name: str(exc)}
                passed_over.inc()
                outcome(log, logging.ERROR, "received report passed over, it stays", entry=name, reason=str(exc))
                raise
        self._failures = 0

    async def _save_some(self, spool: SpoolReader, intakes: Sequence[ReceivedIntake], names: Sequence[str]) -> None:
        try:
            saved = await save_batch(self._store, intakes)
        except StoreUnavailable:
            self._failures += 1
            raise
        await asyncio.to_thread(spool.remove, names)
        for intake, done in saved:
            tell(intake, done)
            self._state.refused += bool(intake.refusals) and not done.known

    def _note_spool(self, problem: str | None) -> None:
        if problem != self._state.spool_problem and (problem or self._state.spool_problem):
            level = logging.ERROR if problem and self._state.expected else logging.INFO
            outcome(log, level, "spool of received reports", state=problem or "in use again")
        self._state.spool_problem = problem

    def _note_store(self, problem: str | None) -> None:
        if problem:
            store_failures.inc()
        if bool(problem) != bool(self._state.store_problem):
            text = "received reports stay in the spool" if problem else "received reports are stored again"
            outcome(log, logging.ERROR if problem else logging.INFO, text, reason=problem)
        self._state.store_problem = problem

    async def run_deletion(self) -> None:
        """Delete what is kept long enough, for ever, by the earlier of the wall clock and the monotonic one since the
        start: a clock that jumps ahead deletes nothing. One that was wrong at the start has time to be set right, and
        where everything at once would be old enough it is the clock that is doubted: the next report shows it."""
        began_at, started = self._clock.now(), self._clock.monotonic()
        while True:
            await asyncio.sleep(DELETE_SECONDS)
            elapsed = timedelta(seconds=self._clock.monotonic() - started)
            now = min(self._clock.now(), began_at + elapsed)
            try:
                newest = await self._store.newest_intake()
                doubtful = newest is None or newest < now - self._keep
                number = 0 if doubtful else await self._store.delete_intakes(now - self._keep)
                if number:
                    outcome(log, logging.INFO, "old received reports deleted, their sums stay", intakes=number)
            except StoreUnavailable as exc:
                log.debug("old received reports not deleted yet: %s", exc)


async def _first_of(running: _Running, timeout_seconds: float | None) -> Sequence["asyncio.Task[Read]"]:
    """Those that have ended, in the order in which they came; none where there are none, or none ends in time."""
    if not running:
        return ()
    done, _ = await asyncio.wait(running, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    return [task for task in running if task in done]


def tell(intake: ReceivedIntake, saved: SavedIntake) -> None:
    """Count and log what became of what came in."""
    if saved.known:
        outcome(log, logging.INFO, "received once more, it is stored already", via=intake.arrival.via.value)
        return
    for document, fate in zip(intake.documents, saved.fates, strict=True):
        _tell_report(intake, document, fate)
    if intake.refusals:
        intakes_refused.inc()
        outcome(
            log,
            logging.WARNING,
            "received something that is no report, it is kept",
            via=intake.arrival.via.value,
            client=intake.arrival.client or None,
            sender=intake.mail.from_address or None,
            reason="; ".join(intake.refusals),
        )


def _tell_report(intake: ReceivedIntake, document: ReceivedDocument, fate: Fate) -> None:
    reports_taken.inc(document.standing.value, fate.value)
    report = document.report
    foreign = bool(document.foreign) and all(document.foreign)
    outcome(
        log,
        logging.INFO,
        "received a report",
        policy_domain=",".join(sorted(set(document.domains)))[:200],
        reporter=document.reporter or None,
        organization=report.organization_name or None,
        report_id=report.report_id or None,
        standing=document.standing.value,
        fate=fate.value,
        foreign=True if foreign else None,
        successes=report.successes,
        failures=report.failures,
        via=intake.arrival.via.value,
    )
    if document.standing is Standing.COUNTED and fate is Fate.NEW:
        for policy, domain, is_foreign in zip(report.policies, document.domains, document.foreign, strict=True):
            if not is_foreign and domain:
                known = (domain, "success") in sessions_taken.values or len(sessions_taken.values) < 2 * MAX_DOMAINS
                label = domain if known else "other"
                sessions_taken.inc(label, "success", by=policy.successes)
                sessions_taken.inc(label, "failure", by=policy.failures)
