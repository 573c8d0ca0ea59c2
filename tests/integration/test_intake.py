"""The part of `stsguard inbound` that empties the spool: nothing is lost or looped over, whatever fails."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stsguard.core.arrival import Arrival, Via
from stsguard.core.dkim_verdict import DkimStatus, DkimVerdict
from stsguard.core.errors import StoreUnavailable
from stsguard.core.received_record import ReceivedIntake, SavedIntake
from stsguard.core.taking_in import IntakeRules
from stsguard.discovery.health import PartState
from stsguard.inbound import intake as intake_module
from stsguard.inbound.intake import IntakeDrain
from stsguard.inbound.intake_reader import BATCH_ROWS, Batch, IntakeReader, OurDomains
from stsguard.inbound.spool import SET_ASIDE, Spool
from stsguard.names import Domain
from stsguard.store.received_schema import received_daily, received_intakes, received_reports
from stsguard.store.stores import Stores, open_stores
from tests.integration.intake_site import STSGUARD, IntakeSite, intake_site
from tests.integration.store.test_disk import needs_root, small_file_system
from tests.received import detail, document, intake, policy, report_json
from tests.report_mail import report_mail, signed_mail
from tests.unit.fakes import Clock
from tests.unit.hosting import hosted

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


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    stores = open_stores(f"sqlite:///{tmp_path}/stsguard.db")
    yield Desk(tmp_path, stores)
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


async def test_what_is_stored_is_removed_and_nothing_else(desk: Desk, tmp_path: Path) -> None:
    for number in range(3):
        desk.add(number)
    assert await desk.empty()
    assert desk.spool.pending() == []
    assert reports(IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")) == ["r0", "r1", "r2"]
    assert desk.drain.health().state is PartState.OK
    assert await desk.empty()


async def test_failing_database_keeps_the_spool_and_says_so(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    store = FailingStore(desk.stores, None)
    drain = desk.build(desk.stores.received.open, store)
    names = [desk.add(number) for number in range(3)]
    for _ in range(2):
        assert not await desk.empty(drain)
    assert list(desk.spool.pending()) == sorted(names)
    assert drain.health().state is PartState.FAILED
    assert "3 or more received reports wait in the spool: SQLite database x" in drain.health().detail
    assert caplog.text.count("received reports stay in the spool") == 1
    store.bad = "nothing"
    assert await desk.empty(drain)
    assert desk.spool.pending() == []
    assert drain.health().state is PartState.OK


@needs_root
async def test_full_disk_of_the_database_loses_nothing(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small") as small:
        stores = open_stores(f"sqlite:///{small}/stsguard.db")
        desk = Desk(tmp_path, stores)
        desk.add(0)
        assert await desk.empty()
        filler = small / "filler"
        free = os.statvfs(small)
        filler.write_bytes(bytes(free.f_bavail * free.f_bsize))
        names = [desk.add(number) for number in range(1, 40)]
        assert not await desk.empty()
        assert "no space left on its disk" in desk.drain.health().detail
        filler.unlink()
        assert await desk.empty()
        assert desk.spool.pending() == []
        site = IntakeSite(tmp_path, f"sqlite:///{small}/stsguard.db")
        assert len(reports(site)) == 1 + len(names)
        await stores.received.close()


async def test_database_that_can_t_be_opened_keeps_the_spool(desk: Desk) -> None:
    async def fail() -> None:
        raise StoreUnavailable("locked")

    drain = desk.build(fail)
    name = desk.add(1)
    assert not await desk.empty(drain)
    assert desk.spool.pending() == [name]


async def test_one_that_the_database_does_not_take_is_kept_as_a_refusal(desk: Desk, tmp_path: Path) -> None:
    drain = desk.build(desk.stores.received.open, FailingStore(desk.stores, "r1"))
    for number in range(3):
        desk.add(number)
    assert await desk.empty(drain)
    assert desk.spool.pending() == []
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    assert reports(site) == ["r0", "r2"]
    (refused,) = [row["refusals"] for row in site.rows(received_intakes) if row["refused"]]
    assert "the database does not take it" in refused
    assert await desk.stores.received.load_unread(0)


async def test_database_that_was_locked_for_a_moment_refuses_nothing(desk: Desk, tmp_path: Path) -> None:
    store = FailingStore(desk.stores, None)
    drain = desk.build(desk.stores.received.open, store)
    desk.add(1)
    assert not await desk.empty(drain)
    assert store.calls == 1  # it is not tried to store less of it
    store.bad = "nothing"
    assert await desk.empty(drain)
    assert reports(IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")) == ["r1"]


async def test_one_at_which_the_database_fails_each_time_stops_nobody_behind_it(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = StuckStore(desk.stores, "r1")
    drain = desk.build(desk.stores.received.open, store)
    for number in range(5):
        desk.add(number)
    for _ in range(intake_module.BATCH_TRIES + 1):
        assert not await desk.empty(drain)
    assert await desk.empty(drain)
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    assert reports(site) == ["r0", "r2", "r3", "r4"]
    assert len(desk.spool.pending()) == 1  # it is kept, and told of
    assert caplog.text.count("received report passed over, it stays") == 1
    assert await desk.empty(drain)
    store.bad = "nothing"
    desk.clock.advance(intake_module.PASSED_OVER_SECONDS)
    assert await desk.empty(drain)
    assert reports(site) == ["r0", "r1", "r2", "r3", "r4"]


async def test_fault_of_ours_in_storing_one_is_a_refusal_of_that_one(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FailingStore(desk.stores, "r1")

    async def fault(intakes: Sequence[ReceivedIntake]) -> Sequence[SavedIntake]:
        if any(each.report.report_id == "r1" for intake in intakes for each in intake.documents):
            raise OverflowError("a bug")
        return await desk.stores.received.save_intakes(intakes)

    monkeypatch.setattr(store, "save_intakes", fault)
    for number in range(3):
        desk.add(number)
    assert await desk.empty(desk.build(desk.stores.received.open, store))
    assert reports(IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")) == ["r0", "r2"]
    assert len(await desk.stores.received.load_unread(0)) == 1


async def test_fault_of_ours_on_one_is_a_refusal_that_is_read_anew(desk: Desk, tmp_path: Path) -> None:
    desk.add(1, fault=True)
    desk.add(2)
    assert await desk.empty()
    assert desk.spool.pending() == []
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    assert reports(site) == ["r2"]
    ((_, entry, _),) = await desk.stores.received.load_unread(0)
    assert entry.octets.startswith(b"X-Fault")


async def test_damaged_entry_is_set_aside_and_stops_nobody(desk: Desk, tmp_path: Path) -> None:
    bad = desk.add(1)
    (desk.spool.directory / bad).write_bytes(b"rubbish")
    desk.add(2)
    assert await desk.empty()
    assert reports(IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")) == ["r2"]
    assert [path.name for path in (desk.spool.directory / SET_ASIDE).iterdir()] == [bad]


async def test_report_waits_for_its_key_for_a_day_and_is_kept_then(desk: Desk, tmp_path: Path) -> None:
    desk.verifier.verdict = WAITS
    name = desk.add(1)
    for _ in range(3):
        assert await desk.empty()
        assert desk.spool.pending() == [name]
    desk.verifier.verdict = PASS
    assert await desk.empty()
    assert desk.spool.pending() == [name]  # it is not tried again at once
    desk.clock.advance(intake_module.KEY_RETRY_SECONDS)
    desk.verifier.verdict = WAITS
    assert await desk.empty()
    desk.clock.advance(86_400)
    assert await desk.empty()
    assert desk.spool.pending() == []
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    assert [row["standing"] for row in site.rows(received_reports)] == ["unsigned"]
    assert [row["dkim_status"] for row in site.rows(received_intakes)] == ["temperror"]


async def test_key_that_is_found_in_time_makes_it_count(desk: Desk, tmp_path: Path) -> None:
    desk.verifier.verdict = WAITS
    desk.add(1)
    await desk.empty()
    desk.verifier.verdict = PASS
    desk.clock.advance(intake_module.KEY_RETRY_SECONDS)
    await desk.empty()
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    assert [row["reports"] for row in site.rows(received_daily)] == [1]


async def test_mails_that_wait_for_their_keys_keep_no_others_out(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "LISTED", 5)
    monkeypatch.setattr("stsguard.inbound.spool.LISTED", 5)
    desk.drain = desk.build(desk.stores.received.open)
    desk.reader._verifier = SomeWait()
    monkeypatch.setattr("stsguard.inbound.spool.time.time", lambda: 1.0)
    waiting = [desk.add(number, field=b"X-Waits: 1\r\n") for number in range(12)]
    monkeypatch.setattr("stsguard.inbound.spool.time.time", lambda: 2.0)
    desk.add(99)
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    assert await desk.empty()
    assert reports(site) == ["r99"]
    desk.clock.advance(intake_module.KEY_RETRY_SECONDS)
    desk.add(100)
    with desk.spool.reading() as spool:
        due = await desk.drain._due(spool)
    assert due[0] not in waiting  # what has not been tried is first
    assert set(due[1:]) == set(waiting)
    assert len(desk.spool.pending(None)) == 13


async def test_what_is_read_is_stored_before_a_slow_answer(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "SAVE_SECONDS", 0.01)
    verifier = SomeWait()
    desk.reader._verifier = verifier
    desk.add(1, field=b"X-Slow: 1\r\n")
    desk.add(2)
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    store = TellingStore(desk.stores, "nothing")
    emptying = asyncio.create_task(desk.empty(desk.build(desk.stores.received.open, store)))
    await asyncio.wait_for(store.saved.wait(), LIMIT_SECONDS)
    assert reports(site) == ["r2"]
    assert not emptying.done()
    verifier.answered.set()
    assert await emptying
    assert reports(site) == ["r1", "r2"]


async def test_ending_leaves_no_look_up_behind(desk: Desk) -> None:
    desk.reader._verifier = verifier = SomeWait()
    name = desk.add(1, field=b"X-Slow: 1\r\n")
    emptying = asyncio.create_task(desk.empty())
    await asyncio.wait_for(verifier.asked.wait(), LIMIT_SECONDS)
    emptying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emptying
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert desk.spool.pending() == [name]


async def test_clock_that_steps_back_or_ahead_ends_no_wait_for_ever(desk: Desk) -> None:
    desk.verifier.verdict = WAITS
    desk.add(1)
    desk.clock.jump(-3000 * 86_400.0)
    for _ in range(intake_module.KEY_TRIES + 1):
        await desk.empty()
        desk.clock.advance(intake_module.KEY_RETRY_SECONDS)
    assert desk.spool.pending() == []


async def test_hosted_domains_are_ours_as_soon_as_they_are_hosted(desk: Desk, tmp_path: Path) -> None:
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    await desk.stores.received.open()
    await desk.stores.domains.save_domain(hosted("b.example"), [])
    desk.add(1)
    await desk.empty()
    assert [row["foreign_report"] for row in site.rows(received_reports)] == [True]
    await desk.stores.domains.save_domain(hosted("a.example"), [])
    desk.add(2)
    await desk.empty()
    assert [row["foreign_report"] for row in site.rows(received_reports)] == [True, False]
    assert [row["reports"] for row in site.rows(received_daily)] == [1]


async def test_old_reports_go_by_the_clock_that_has_not_jumped(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "DELETE_SECONDS", 0.01)
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    await desk.stores.received.open()
    desk.stores.received.now = lambda: NOW - timedelta(days=390)
    await desk.stores.received.save_intakes([intake(document())])
    desk.stores.received.now = lambda: NOW
    await desk.stores.received.save_intakes([intake(document(report_json(report_id="r2")), octets=b"2")])
    store = CountingStore(desk.stores)
    deletion = asyncio.create_task(desk.build(desk.stores.received.open, store).run_deletion())

    async def looked(times: int) -> None:
        limit = time.monotonic() + LIMIT_SECONDS
        wanted = store.looked + times
        while store.looked < wanted:
            assert time.monotonic() < limit
            await asyncio.sleep(0.01)

    await looked(2)
    desk.clock.jump(3000 * 86_400.0)
    await looked(2)
    assert len(site.rows(received_intakes)) == 2
    desk.clock.advance(11 * 86_400)
    await looked(2)
    assert len(site.rows(received_intakes)) == 1
    deletion.cancel()
    assert [row["reports"] for row in site.rows(received_daily)] == [2]


async def test_where_everything_at_once_would_be_old_the_clock_is_doubted(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "DELETE_SECONDS", 0.01)
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    await desk.stores.received.open()
    desk.stores.received.now = lambda: NOW - timedelta(days=800)  # or it is now that is 800 days ahead
    await desk.stores.received.save_intakes([intake(document())])
    asked = asyncio.Semaphore(0)

    class Store(CountingStore):
        async def newest_intake(self) -> datetime | None:
            asked.release()
            return await super().newest_intake()

    deletion = asyncio.create_task(desk.build(desk.stores.received.open, Store(desk.stores)).run_deletion())
    async with asyncio.timeout(LIMIT_SECONDS):
        for _ in range(3):
            await asked.acquire()
    deletion.cancel()
    assert len(site.rows(received_intakes)) == 1


def test_batch_is_bounded_by_what_it_takes_of_memory() -> None:
    batch = Batch()
    batch.add(intake(document()))
    assert not batch.is_full
    many = report_json(policy("a.example", 0, BATCH_ROWS, *[detail() for _ in range(BATCH_ROWS)]))
    batch.add(intake(document(many)))
    assert batch.is_full


# The daemon


DAEMON = """
[policy_host]
listen = []
http_listen = ["unix:{directory}/policy.sock"]
acme_directory = ""
certificate_dir = ""
"""


class Daemon:
    """`stsguard inbound` at a site."""

    def __init__(self, site: IntakeSite) -> None:
        self.site = site
        config = site.directory / "stsguard.toml"
        config.write_text(config.read_text() + DAEMON.format(directory=site.directory))
        self.log = site.directory / "log"

    def start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([str(STSGUARD), "inbound", *self.site.options], stderr=log)
        return self.process

    def wait(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + LIMIT_SECONDS
        while not condition():
            assert time.monotonic() < limit, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        command = [str(STSGUARD), "status", "--json", *self.site.options]
        done = subprocess.run(command, capture_output=True, check=False)
        found = json.loads(done.stdout)["inbound"]
        assert isinstance(found, dict)
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.read_text()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with intake_site(tmp_path / "site", addresses=["tls@a.example"]) as site:
        made = Daemon(site)
        made.start()
        yield made
        if made.process.poll() is None:
            made.process.kill()
        made.process.wait()


def test_daemon_stores_what_comes_into_its_spool(daemon: Daemon) -> None:
    site = daemon.site
    daemon.wait(site.spool.exists)
    spool = Spool(site.spool)
    for octets in (signed_mail(), b"Subject: none\r\n\r\n"):
        assert site.ingest("-", stdin=octets).returncode == 0
    daemon.wait(lambda: "received something that is no report" in daemon.log.read_text())
    assert [row["reports"] for row in site.rows(received_daily)] == [1]
    assert spool.pending() == []
    told = daemon.log.read_text()
    assert "info received a report policy_domain=a.example reporter=sender.example" in told
    assert "standing=counted fate=new successes=5 failures=0 via=pipe" in told
    assert daemon.status()["parts"]["intake"] == {"state": "ok", "detail": "0 received reports wait in the spool"}
    daemon.stop()


def test_daemon_takes_up_what_lay_there_before(daemon: Daemon) -> None:
    daemon.wait(daemon.site.spool.exists)
    daemon.stop()
    Spool(daemon.site.spool).add(Arrival(Via.MILTER, datetime.now(UTC)), signed_mail())
    daemon.start()
    daemon.wait(lambda: "received a report" in daemon.log.read_text())
    daemon.stop()
    assert len(daemon.site.rows(received_reports)) == 1
