"""What `stsguard report` does: straight on the database, whether or not the daemon runs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from stsguard.app.database_work import with_stores
from stsguard.config.model import Config
from stsguard.core.report_record import Delivery, ReportRecord, ReportState
from stsguard.names import Domain

if TYPE_CHECKING:
    from stsguard.outbound.reporter import Reporter
    from stsguard.store.stores import Stores


@dataclass(frozen=True, slots=True)
class Found:
    """A stored report: its record, its deliveries, its JSON as sent."""

    record: ReportRecord
    deliveries: tuple[Delivery, ...]
    report: object


def list_reports(
    config: Config, *, day: date | None, report_domain: Domain | None, state: ReportState | None, limit: int
) -> list[Found]:
    """Stored reports with their deliveries, without their JSON.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    async def work(stores: "Stores") -> list[Found]:
        records = await stores.reports.list_reports(day=day, report_domain=report_domain, state=state, limit=limit)
        return [
            Found(record, tuple(await stores.reports.load_deliveries(record.report_id)), None) for record in records
        ]

    return with_stores(config, work)


def show_report(config: Config, report_id: str) -> Found | None:
    """One stored report; None where there is none of this id.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    async def work(stores: "Stores") -> Found | None:
        record = await stores.reports.load_report(report_id)
        if record is None:
            return None
        deliveries = await stores.reports.load_deliveries(report_id)
        from stsguard.core.tlsrpt_report import decompress

        return Found(record, tuple(deliveries), json.loads(decompress(record.json)))

    return with_stores(config, work)


def build_reports(
    config: Config, day: date, report_domain: Domain | None, directory: Path, told: Callable[[int], None]
) -> list[Path]:
    """Write the reports on `day` as its counters are now, one JSON file each; `told` hears how many are done.

    Nobody's TLSRPT record is asked whether it wants one: what was counted is shown.

    Raises:
        StoreUnavailable: the database can't be read.
        OSError: a file can't be written.
    """
    from stsguard.app.reports import write_report
    from stsguard.core.tlsrpt_report import to_json

    async def work(stores: "Stores") -> list[Path]:
        reporter = _reporter(config, stores)
        names = [report_domain] if report_domain else [name async for name in stores.sessions.report_domains(day)]
        written = []
        for name in names:
            report = await reporter.build(day, name)
            if report is not None:
                written.append(write_report(directory, report, name, to_json(report)))
                told(len(written))
        return written

    return with_stores(config, work)


def send_reports(config: Config, report_id: str | None) -> int:
    """Try every delivery now that is not over, or those of one report; how many were tried.

    Raises:
        StoreUnavailable: the database can't be used.
        OperatorError: something in the configuration can't be used.
    """

    async def work(stores: "Stores") -> int:
        return await _reporter(config, stores).send_due(force=True, only=report_id)

    return with_stores(config, work)


def _reporter(config: Config, stores: "Stores") -> "Reporter":
    from stsguard.adapters.clock import SystemClock
    from stsguard.app.parts import build_resolver
    from stsguard.app.reports import build_reporter, build_signer

    resolver, _ = build_resolver(config)
    return build_reporter(config, stores, resolver, SystemClock(), build_signer(config))
