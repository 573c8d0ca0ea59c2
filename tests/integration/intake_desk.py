"""A spool, a database, and what empties the one into the other as `stsguard inbound` does; stores that fail."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stsguard.core.arrival import Arrival, Via
from stsguard.core.dkim_verdict import DkimStatus, DkimVerdict
from stsguard.core.errors import StoreUnavailable
from stsguard.core.received_record import ReceivedIntake, SavedIntake
from stsguard.core.taking_in import IntakeRules
from stsguard.inbound.intake import IntakeDrain
from stsguard.inbound.intake_reader import IntakeReader, OurDomains
from stsguard.inbound.spool import Spool
from stsguard.names import Domain
from stsguard.store.received_schema import received_reports
from stsguard.store.stores import Stores, open_stores
from tests.integration.intake_site import IntakeSite
from tests.received import report_json
from tests.report_mail import report_mail
from tests.unit.fakes import Clock

NOW = datetime(2026, 3, 2, 3, 10, 6, tzinfo=UTC)
PASS = DkimVerdict(DkimStatus.PASS, Domain("sender.example"), "s1", "", True, True)
WAITS = DkimVerdict(DkimStatus.TEMPORARY, Domain("sender.example"), "s1", "no answer", True, True)
LIMIT_SECONDS = 60.0


class Verifier:
    """Says what it is told to, or fails."""

    def __init__(self, verdict: DkimVerdict = PASS) -> None:
        self.verdict = verdict

    async def verify(self, message: bytes, _received_at: datetime) -> DkimVerdict:
        if b"X-Fault" in message:
            raise RuntimeError("a bug")
        return self.verdict


class SomeWait(Verifier):
    """The keys of some mails can't be looked up; for others the answer is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()

    async def verify(self, message: bytes, received_at: datetime) -> DkimVerdict:
        if b"X-Slow" in message:
            self.asked.set()
            await self.answered.wait()
        return WAITS if b"X-Waits" in message else await super().verify(message, received_at)


class Desk:
    """A spool, a database, and what empties the one into the other."""

    def __init__(self, directory: Path, stores: Stores) -> None:
        self.spool = Spool(directory / "spool")
        self.spool.prepare()
        self.stores = stores
        self.clock = Clock(NOW)
        self.verifier = Verifier()
        self.reader = IntakeReader(self.verifier, IntakeRules())
        self.drain = self.build(stores.received.open)

    def build(self, open_store: Callable[[], Awaitable[None]], store: Any = None, **more: Any) -> IntakeDrain:
        options: dict[str, Any] = {"expected": True, "keep": timedelta(days=400), **more}
        domains = OurDomains(self.stores.domains, ())
        store = store or self.stores.received
        return IntakeDrain(self.spool, self.reader, store, domains, self.clock, open_store=open_store, **options)

    def add(self, number: int, *, fault: bool = False, field: bytes = b"") -> str:
        mail = (b"X-Fault: 1\r\n" if fault else field) + report_mail(report_json(report_id=f"r{number}"))
        return self.spool.add(Arrival(Via.MILTER, self.clock.now()), mail)

    async def empty(self, drain: IntakeDrain | None = None) -> bool:
        with self.spool.reading() as spool:
            return await (drain or self.drain).drain(spool)


@asynccontextmanager
async def opened_desk(directory: Path) -> AsyncIterator[Desk]:
    """A desk whose spool and database are in `directory`."""
    stores = open_stores(f"sqlite:///{directory}/stsguard.db")
    yield Desk(directory, stores)
    await stores.received.close()


class FailingStore:
    """Fails for those whose report-id it is told of, or for all."""

    def __init__(self, stores: Stores, bad: str | None) -> None:
        self._stores = stores
        self.bad = bad
        self.calls = 0

    async def save_intakes(self, intakes: Sequence[ReceivedIntake]) -> Sequence[SavedIntake]:
        self.calls += 1
        ids = [each.report.report_id for intake in intakes for each in intake.documents]
        if self.bad is None or self.bad in ids:
            raise StoreUnavailable("SQLite database x: no space left on its disk", temporary=self.bad is None)
        return await self._stores.received.save_intakes(intakes)


class StuckStore(FailingStore):
    """Fails at those whose report-id it is told of as a database that times out does."""

    async def save_intakes(self, intakes: Sequence[ReceivedIntake]) -> Sequence[SavedIntake]:
        try:
            return await super().save_intakes(intakes)
        except StoreUnavailable as exc:
            raise StoreUnavailable(str(exc)) from exc


class TellingStore(FailingStore):
    """Says when it has saved something."""

    def __init__(self, stores: Stores, bad: str | None) -> None:
        super().__init__(stores, bad)
        self.saved = asyncio.Event()

    async def save_intakes(self, intakes: Sequence[ReceivedIntake]) -> Sequence[SavedIntake]:
        done = await super().save_intakes(intakes)
        self.saved.set()
        return done


class CountingStore:
    """Counts how often it was asked to delete."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.looked = 0

    async def newest_intake(self) -> datetime | None:
        newest = await self._stores.received.newest_intake()
        self.looked += newest is None
        return newest

    async def delete_intakes(self, before: datetime) -> int:
        number = await self._stores.received.delete_intakes(before)
        self.looked += 1
        return number


def reports(site: IntakeSite) -> list[str]:
    return sorted(row["report_id"] for row in site.rows(received_reports))
