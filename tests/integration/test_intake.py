"""The part of `stsguard inbound` that empties the spool: nothing is lost or looped over, whatever fails."""

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.core.received_record import ReceivedIntake, SavedIntake
from stsguard.discovery.health import PartHealth, PartState
from stsguard.inbound import intake as intake_module
from stsguard.inbound.intake_reader import BATCH_ROWS, Batch
from stsguard.inbound.spool import SET_ASIDE
from stsguard.store.received_schema import received_daily, received_intakes, received_reports
from stsguard.store.stores import open_stores
from tests.integration.intake_desk import Desk, FailingStore, StuckStore, opened_desk, reports
from tests.integration.intake_site import IntakeSite
from tests.integration.store.test_disk import needs_root, small_file_system
from tests.received import detail, document, intake, policy, report_json
from tests.unit.hosting import hosted


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened_desk(tmp_path) as made:
        yield made


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
    (name,) = desk.spool.pending()  # it is kept, and told of
    assert drain.health() == PartHealth(
        PartState.LIMITED,
        f"1 received report waits in the spool; the database fails at 1 report ({desk.spool.directory}/{name}): SQLite "
        "database x: no space left on its disk; tried again every 5 minutes, and nothing is lost while the file is "
        "there",
    )
    assert caplog.text.count("received report passed over, it stays") == 1
    assert await desk.empty(drain)
    store.bad = "nothing"
    desk.clock.advance(intake_module.PASSED_OVER_SECONDS)
    assert await desk.empty(drain)
    assert reports(site) == ["r0", "r1", "r2", "r3", "r4"]
    assert drain.health() == PartHealth(PartState.OK, "0 received reports wait in the spool")


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


def test_batch_is_bounded_by_what_it_takes_of_memory() -> None:
    batch = Batch()
    batch.add(intake(document()))
    assert not batch.is_full
    many = report_json(policy("a.example", 0, BATCH_ROWS, *[detail() for _ in range(BATCH_ROWS)]))
    batch.add(intake(document(many)))
    assert batch.is_full
