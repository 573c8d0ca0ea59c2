"""Our own RFC 8460 reports: built once a UTC day is over, claimed, sent, tried again, given up, and in the end deleted.

Several nodes share the work over one database: a report is built by the node that claims its day and domain, and each
endpoint is served by the node that claims the delivery. A claim is a lease, so what a killed node has begun is done by
another: at least once for each endpoint, with the same report-id and Message-ID (RFC 8460 §5.5).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from stsguard.core.errors import DeliveryFailed, StoreUnavailable
from stsguard.core.report_record import Delivery, DeliveryState, ReportRecord
from stsguard.core.report_schedule import given_up, may_build, retry_after, send_at
from stsguard.core.tlsrpt_report import build_report, compress, report_id, to_json
from stsguard.core.tlsrpt_report_model import Report
from stsguard.discovery.supervisor import supervised
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.outbound.destinations import Destinations
from stsguard.outbound.dispatch import Dispatcher
from stsguard.ports import Clock, CounterReader, ReportStore

log = logger(__name__)
built = Counter("reports_built_total", "Days of a domain, by what came of them.", "outcome")
sent = Counter("report_deliveries_total", "Attempts to deliver a report, by outcome.", "outcome")

ROUND_SECONDS = 60.0
BUILD_ROUND_SECONDS = 300.0  # it looks through the counters of all days that are not built
BUILD_CONCURRENCY = 8
SEND_CONCURRENCY = 8
LEASE_SECONDS = 900.0
BATCH = 500


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What the operator chose: who reports, when, to whom not, and for how long things are kept."""

    organization: str
    contact: str
    node: str
    spread: timedelta
    retry_for: timedelta
    keep: timedelta
    failures_only: bool = False
    never_to: frozenset[Domain] = field(default_factory=frozenset)
    dry_run: bool = False


class Reporter:
    """Builds and sends reports. `keep_copy` is given each report that is built, its domain and its JSON."""

    def __init__(
        self,
        settings: ReportSettings,
        *,
        counters: CounterReader,
        reports: ReportStore,
        destinations: Destinations,
        dispatcher: Dispatcher,
        clock: Clock,
        random: Callable[[], float],
        keep_copy: Callable[[Report, Domain, bytes], object] | None = None,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._reports = reports
        self._destinations = destinations
        self._dispatcher = dispatcher
        self._clock = clock
        self._random = random
        self._keep_copy = keep_copy
        self._purged_on: date | None = None
        self._build_at = 0.0

    async def run(self) -> None:
        """Do what is due, for ever. A store that can't be used, and a fault of ours, end one round only."""
        while True:
            await supervised("reports", self.do_due())
            await asyncio.sleep(ROUND_SECONDS)

    async def do_due(self) -> None:
        """One round: build, send and delete what is due. A store that can't be used is tried again in the next one."""
        try:
            if self._clock.monotonic() >= self._build_at:
                self._build_at = self._clock.monotonic() + BUILD_ROUND_SECONDS
                await self.build_due()
            await self.send_due()
            await self._purge()
        except StoreUnavailable as exc:
            self._build_at = 0.0  # what was to be built is due still
            outcome(log, logging.ERROR, "reports wait, the store can't be used", reason=exc)

    async def build(self, day: date, report_domain: Domain) -> Report | None:
        """The report on `day` for the TLSRPT record of `report_domain`, as its counters are now; None without any.

        Raises:
            StoreUnavailable: the counters can't be read.
        """
        rows = [row async for row in self._counters.load_counters(day, report_domain)]
        rows = await self._destinations.without_doubles(report_domain, rows)
        if not rows:
            return None
        settings = self._settings
        report = build_report(
            organization=settings.organization,
            contact=settings.contact,
            day=day,
            report_id=report_id(day, report_domain, settings.node),
            counters=rows,
        )
        return report if report.policies else None

    async def build_due(self) -> None:
        """Build the reports of every day that is over and not built yet."""
        self._destinations.forget()
        now = self._clock.now()
        for day in await self._reports.unbuilt_days(now.date()):
            if not may_build(day, now):
                continue
            batch: list[Domain] = []
            async for name in self._reports.unbuilt_domains(day):
                batch.append(name)
                if len(batch) >= BATCH:
                    await self._build_some(day, batch)
                    batch = []
            await self._build_some(day, batch)

    async def _build_some(self, day: date, names: Sequence[Domain]) -> None:
        slots = asyncio.Semaphore(BUILD_CONCURRENCY)

        async def one(name: Domain) -> None:
            async with slots:
                await self._build_and_save(day, name)

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(one(name))

    async def _build_and_save(self, day: date, report_domain: Domain) -> None:
        node, now = self._settings.node, self._clock.now()
        if not await self._reports.claim_day(day, report_domain, node, now, LEASE_SECONDS):
            return
        ruas: tuple[str, ...] | None = ()
        if report_domain not in self._settings.never_to:
            ruas = await self._destinations.ruas(report_domain)
        if ruas is None:
            built.inc("record-not-to-be-had")
            return  # looked at again when the claim has run out
        report = await self.build(day, report_domain) if ruas else None
        if report is None or (self._settings.failures_only and not report.failures):
            built.inc("not-wanted")
            await self._reports.mark_not_wanted(day, report_domain, now)
            return
        record = self._record(report, report_domain, day, now)
        first = max(now, send_at(day, report_domain, node, self._settings.spread))
        state = DeliveryState.SKIPPED if self._settings.dry_run else DeliveryState.PENDING
        await self._reports.save_report(record, [Delivery(record.report_id, rua, state, first) for rua in ruas])
        built.inc("built")
        self._keep(report, report_domain)
        outcome(
            log,
            logging.INFO,
            "report built",
            policy_domain=report_domain,
            day=day,
            sessions=record.sessions,
            failures=record.failures,
            dry_run=True if self._settings.dry_run else None,
        )

    def _keep(self, report: Report, report_domain: Domain) -> None:
        if self._keep_copy is None:
            return
        try:
            self._keep_copy(report, report_domain, to_json(report))
        except OSError as exc:
            # The report itself is safe in the store: a full or missing directory stops nothing.
            outcome(log, logging.ERROR, "copy of a report not kept", policy_domain=report_domain, reason=exc)

    def _record(self, report: Report, report_domain: Domain, day: date, now: datetime) -> ReportRecord:
        host = self._settings.contact.rpartition("@")[2]
        return ReportRecord(
            report_id=report.report_id,
            day=day,
            report_domain=report_domain,
            message_id=f"<{report.report_id.replace('@', '.')}@{host}>",
            created_at=now,
            json=compress(to_json(report)),
            sessions=report.successes + report.failures,
            failures=report.failures,
        )

    async def send_due(self, *, force: bool = False, only: str | None = None) -> int:
        """Serve every delivery that is due, with `force` every one that is not done; how many were tried.

        Raises:
            StoreUnavailable: the store can't be used.
        """
        if self._settings.dry_run:
            return 0
        slots = asyncio.Semaphore(SEND_CONCURRENCY)
        tried = 0

        async def one(delivery: Delivery) -> None:
            async with slots:
                await self._send(delivery, force=force)

        due = await self._reports.due_deliveries(self._clock.now(), BATCH, force=force, report_id=only)
        async with asyncio.TaskGroup() as group:
            for delivery in due:
                tried += 1
                group.create_task(one(delivery))
        return tried

    async def _send(self, delivery: Delivery, *, force: bool) -> None:
        node, now = self._settings.node, self._clock.now()
        key = delivery.report_id, delivery.endpoint
        if not await self._reports.claim_delivery(*key, node, now, LEASE_SECONDS, force=force):
            return
        record = await self._reports.load_report(delivery.report_id)
        if record is None:
            return
        name = record.report_domain
        # The record counts as it is now: who no longer asks gets nothing.
        ruas = await self._destinations.ruas(name, fresh=True)
        if ruas is not None and delivery.endpoint not in ruas:
            await self._finish(delivery, DeliveryState.SKIPPED, "no longer asked for")
            return
        try:
            await self._dispatcher.send(record, delivery.endpoint)
        except DeliveryFailed as exc:
            await self._failed(delivery, name, exc)
        else:
            sent.inc("sent")
            outcome(log, logging.INFO, "report sent", policy_domain=name, day=record.day, to=delivery.endpoint)
            await self._finish(delivery, DeliveryState.SENT, "")

    async def _failed(self, delivery: Delivery, name: Domain, exc: DeliveryFailed) -> None:
        now = self._clock.now()
        attempts = delivery.attempts + 1
        first = delivery.first_attempt_at or now
        # RFC 8460 §5.5: redelivery for up to 24 hours, with exponential back-off, whatever the failure.
        over = given_up(first, now, self._settings.retry_for)
        pause = retry_after(attempts, self._random())
        sent.inc("given-up" if over else "failed")
        outcome(
            log,
            logging.ERROR if over else logging.WARNING,
            "report given up" if over else "report not sent, trying again",
            policy_domain=name,
            to=delivery.endpoint,
            reason=exc,
            attempts=attempts,
            again_in=None if over else int(pause.total_seconds()),
        )
        state = DeliveryState.FAILED if over else DeliveryState.PENDING
        await self._finish(delivery, state, str(exc), next_attempt_at=None if over else now + pause)

    async def _finish(
        self, delivery: Delivery, state: DeliveryState, error: str, next_attempt_at: datetime | None = None
    ) -> None:
        if state is DeliveryState.SKIPPED:
            sent.inc("skipped")
        await self._reports.finish_delivery(
            delivery.report_id,
            delivery.endpoint,
            self._settings.node,
            state=state,
            error=error,
            next_attempt_at=next_attempt_at,
        )

    async def _purge(self) -> None:
        today = self._clock.now().date()
        if self._purged_on == today:
            return
        before = today - self._settings.keep
        counters = await self._counters.delete_counters(before)
        reports = await self._reports.delete_reports(before)
        self._purged_on = today
        if counters or reports:
            outcome(log, logging.INFO, "old reports deleted", before=before, counters=counters, reports=reports)
