"""What `stsguard received` does: straight on the database, whether or not the daemon runs."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from stsguard.app.database_work import with_stores
from stsguard.config.model import Config
from stsguard.core.errors import ReportInvalid
from stsguard.core.received_mail import find_reports
from stsguard.core.received_query import FoundReport, IntakeRow, PageKey, ReportLine, Summary, Wanted
from stsguard.core.received_record import identity_of
from stsguard.core.unpack import Limits, unpack

if TYPE_CHECKING:
    from stsguard.store.stores import Stores

ALIKE = 20  # reports of one id, or of one mail, that are named
_LARGE = 1024 * 1024 * 1024  # what is stored was within the limits that held when it came


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list. `after` is where the next one begins; None at the end."""

    lines: tuple[ReportLine, ...]
    after: PageKey | None


@dataclass(frozen=True, slots=True)
class RefusedPage:
    """A page of what could not be read. `before` is the number below which the next one begins; None at the end."""

    intakes: tuple[IntakeRow, ...]
    before: int | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What a name that was given stands for: one report, an intake with the reports in it, or several reports."""

    report: FoundReport | None = None
    intake: IntakeRow | None = None
    others: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pruned:
    """Intakes that came before `before` and are deleted, or would be."""

    before: datetime
    intakes: int


def list_reports(config: Config, wanted: Wanted, after: PageKey | None, limit: int) -> Page:
    """A page of reports.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    async def work(stores: "Stores") -> Page:
        lines = await stores.received_views.lines(wanted, after=after, limit=limit + 1)
        return Page(tuple(lines[:limit]), lines[limit - 1].key if len(lines) > limit else None)

    return with_stores(config, work)


def list_refused(config: Config, wanted: Wanted, before: int | None, limit: int) -> RefusedPage:
    """A page of what came in and could not be read, or not all of it.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    async def work(stores: "Stores") -> RefusedPage:
        found = await stores.received_views.refused(wanted, before=before, limit=limit + 1)
        return RefusedPage(tuple(found[:limit]), found[limit - 1].intake if len(found) > limit else None)

    return with_stores(config, work)


def show_report(config: Config, name: str) -> Choice:
    """What `name` stands for: a number of the list, one with "i" before it for what came in, or a report-id. A number
    of a report is meant before a report-id that is written so.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    async def work(stores: "Stores") -> Choice:
        views = stores.received_views
        intake = _number(name[1:]) if name[:1] in {"i", "I"} else None
        if intake is not None:
            found = await views.intake(intake)
            if found is not None:
                return Choice(intake=found, others=tuple(await views.reports_of(intake, limit=ALIKE)))
        number = _number(name)
        report = await views.load(number) if number is not None else None
        if report is not None:
            return Choice(report)
        numbers = await views.with_id(name, limit=ALIKE)
        if len(numbers) == 1:
            return Choice(await views.load(numbers[0]))
        return Choice(others=tuple(numbers))

    return with_stores(config, work)


def load_raw(config: Config, intake: int) -> bytes:
    """The octets as they came in; empty where they are gone by now.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    async def work(stores: "Stores") -> bytes:
        return await stores.received.load_raw(intake) or b""

    return with_stores(config, work)


def report_text(config: Config, found: FoundReport) -> bytes | None:
    """The JSON of a report as it was in what came in; None where it is not to be found there any more.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    octets = load_raw(config, found.intake.intake)
    for text in _documents(octets, found.intake.media_type):
        if identity_of(found.report_key, hashlib.sha256(text).digest()) == found.identity:
            return text
    return None


def summarise(config: Config, wanted: Wanted, top: int) -> Summary:
    """What counts, added up.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    async def work(stores: "Stores") -> Summary:
        return await stores.received_views.summary(wanted, top=top)

    return with_stores(config, work)


def export_reports(config: Config, wanted: Wanted, write: Callable[[FoundReport], None]) -> int:
    """Hand every report that is wanted to `write`, one after the other; how many there were.

    Raises:
        StoreUnavailable: the database can't be read; those before were written.
    """

    async def work(stores: "Stores") -> int:
        number = 0
        async for report in stores.received_views.export(wanted):
            write(report)
            number += 1
        return number

    return with_stores(config, work)


def prune(config: Config, *, dry_run: bool) -> Pruned:
    """Delete what is older than [intake] keep_raw, as the daemon does it once a day; the sums of each day stay.

    Raises:
        StoreUnavailable: the database can't be used.
    """
    before = datetime.now(UTC) - timedelta(seconds=config.intake.keep_raw_seconds)

    async def work(stores: "Stores") -> Pruned:
        return Pruned(before, await stores.received.delete_intakes(before, dry_run=dry_run))

    return with_stores(config, work)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(2**63)) - 1 else None


def _documents(octets: bytes, media_type: str) -> Iterator[bytes]:
    """The JSON texts in what came in, as they were when it was read."""
    try:
        parts = [part.content for part in find_reports(octets).parts] if media_type == "message/rfc822" else [octets]
    except ReportInvalid:
        return
    for part in parts:
        try:
            yield from unpack(part, Limits(_LARGE, _LARGE, 1000)).documents
        except ReportInvalid:
            continue
