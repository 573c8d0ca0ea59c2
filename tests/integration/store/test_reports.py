"""What the reports and their deliveries promise, on SQLite and on PostgreSQL alike."""

import asyncio
import logging
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.core.report_record import Delivery, DeliveryState, ReportRecord, ReportState
from stsguard.names import Domain
from stsguard.store.database import open_database
from stsguard.store.stores import Stores
from tests.integration.store.conftest import OpenStores
from tests.integration.store.counting import DAY, row
from tests.integration.store.examples import NOW

ROOT = Path(__file__).parents[3]
A, B, C = (Domain.parse(f"{letter}.example") for letter in "abc")
MAIL, POST = "mailto:tls@a.example", "https://a.example/tls?x=%2C"
LEASE = 900.0
AFTER_LEASE = NOW + timedelta(seconds=LEASE)


def report(name: Domain = A, number: int = 1, *, day: date = DAY) -> ReportRecord:
    return ReportRecord(
        report_id=f"{day:%Y%m%d}.{name}.{number}@mx.example",
        day=day,
        report_domain=name,
        message_id=f"<{number}.{name}@mx.example>",
        created_at=NOW,
        json=bytes(range(256)),
        sessions=7,
        failures=2,
    )


def delivery(of: ReportRecord, endpoint: str = MAIL, **changes: object) -> Delivery:
    made = Delivery(of.report_id, endpoint, DeliveryState.PENDING, NOW)
    return replace(made, **changes)  # type: ignore[arg-type] # the caller knows the fields


async def saved(stores: Stores, *endpoints: str) -> ReportRecord:
    made = report()
    assert await stores.reports.save_report(made, [delivery(made, endpoint) for endpoint in endpoints])
    return made


async def state_of(stores: Stores, made: ReportRecord) -> ReportState:
    found = await stores.reports.load_report(made.report_id)
    assert found is not None
    return found.state


async def test_report_and_deliveries_come_back_as_they_were_saved(stores: Stores) -> None:
    made = report()
    deliveries = [delivery(made, POST), delivery(made, MAIL, state=DeliveryState.SKIPPED, last_error="dry run")]
    assert await stores.reports.claim_day(DAY, A, "n1", NOW, LEASE)
    assert await stores.reports.save_report(made, deliveries)
    assert await stores.reports.load_report(made.report_id) == made
    assert await stores.reports.load_deliveries(made.report_id) == deliveries
    assert await stores.reports.load_report("unknown") is None
    assert await stores.reports.load_deliveries("unknown") == []


async def test_reports_are_listed_latest_day_first_and_without_their_json(stores: Stores) -> None:
    later = DAY + timedelta(days=1)
    made = [report(name, day=day) for day in (later, DAY) for name in (A, B)]
    for each in reversed(made):
        await stores.reports.save_report(each, [delivery(each)] if each.report_domain == A else [])
    await stores.reports.mark_not_wanted(DAY, C, NOW)
    await stores.reports.claim_day(later, C, "n1", NOW, LEASE)
    listed = [replace(each, json=b"") for each in made]
    assert await stores.reports.list_reports() == listed
    assert await stores.reports.list_reports(limit=3) == listed[:3]
    assert await stores.reports.list_reports(day=DAY) == listed[2:]
    assert await stores.reports.list_reports(day=DAY, report_domain=B) == listed[3:]
    assert await stores.reports.list_reports(state=ReportState.SENT) == []
    (mark,) = await stores.reports.list_reports(state=ReportState.NOT_WANTED)
    assert (mark.report_domain, mark.report_id, mark.message_id, mark.sessions) == (C, "", "", 0)
    (claim,) = await stores.reports.list_reports(state=ReportState.BUILDING)
    assert (claim.day, claim.report_domain) == (later, C)


async def test_one_node_builds_a_report(stores: Stores, new_stores: OpenStores, url: str) -> None:
    other = await new_stores(url)
    assert await stores.reports.claim_day(DAY, A, "n1", NOW, LEASE)
    assert not await other.reports.claim_day(DAY, A, "n2", NOW, LEASE)
    # A process of the same name is another one nevertheless.
    assert not await stores.reports.claim_day(DAY, A, "n1", NOW, LEASE)
    assert await other.reports.claim_day(DAY, B, "n2", NOW, LEASE)
    assert await other.reports.claim_day(DAY + timedelta(days=1), A, "n2", NOW, LEASE)


async def test_claim_of_a_node_that_is_gone_passes_on_and_its_late_report_does_not_count(stores: Stores) -> None:
    assert await stores.reports.claim_day(DAY, A, "n1", NOW, LEASE)
    assert not await stores.reports.claim_day(DAY, A, "n2", AFTER_LEASE - timedelta(seconds=1), LEASE)
    assert await stores.reports.claim_day(DAY, A, "n2", AFTER_LEASE, LEASE)
    second, first = report(number=2), report(number=1)
    assert await stores.reports.save_report(second, [delivery(second)])
    assert not await stores.reports.save_report(first, [delivery(first, POST)])
    assert not await stores.reports.mark_not_wanted(DAY, A, NOW)
    assert not await stores.reports.claim_day(DAY, A, "n3", NOW + timedelta(days=9), LEASE)
    assert [each.report_id for each in await stores.reports.list_reports()] == [second.report_id]
    assert await stores.reports.load_deliveries(first.report_id) == []


async def test_report_whose_id_is_taken_is_refused_and_nothing_of_it_is_written(stores: Stores) -> None:
    made = await saved(stores, MAIL)
    same_id = replace(report(B), report_id=made.report_id)
    with pytest.raises(StoreUnavailable):
        await stores.reports.save_report(same_id, [delivery(made, POST)])
    assert await stores.reports.list_reports(report_domain=B) == []
    assert await stores.reports.load_deliveries(made.report_id) == [delivery(made, MAIL)]


async def test_days_are_unbuilt_until_each_domain_has_its_report_or_mark(stores: Stores) -> None:
    days = [DAY + timedelta(days=number) for number in range(3)]
    rows = [row(name, day=day) for day in days for name in (A, B)] + [row("a.b.example")]
    await stores.sessions.add_counters(rows, {})

    async def unbuilt(day: date) -> list[str]:
        return [name async for name in stores.reports.unbuilt_domains(day)]

    assert await stores.reports.unbuilt_days(days[2]) == days[:2]
    assert await unbuilt(days[0]) == ["a.b.example", A, B]
    assert await stores.reports.save_report(report(), [])
    assert await stores.reports.mark_not_wanted(DAY, B, NOW)
    assert await stores.reports.claim_day(DAY, Domain.parse("a.b.example"), "n1", NOW, LEASE)
    assert await unbuilt(days[0]) == ["a.b.example"]
    assert await stores.reports.unbuilt_days(days[2]) == days[:2]
    assert await stores.reports.mark_not_wanted(DAY, Domain.parse("a.b.example"), NOW)
    assert await unbuilt(days[0]) == []
    assert await stores.reports.unbuilt_days(days[2]) == days[1:2]
    await stores.sessions.add_counters([row("late.example")], {})
    assert await stores.reports.unbuilt_days(days[1]) == days[:1]


async def test_unbuilt_domains_come_page_by_page(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stsguard.store.reports.PAGE_DOMAINS", 3)
    names = sorted(f"d{number}.example" for number in range(10))
    await stores.sessions.add_counters([row(name) for name in names], {})
    found = []
    async for name in stores.reports.unbuilt_domains(DAY):
        found.append(name)
        assert await stores.reports.mark_not_wanted(DAY, name, NOW)
    assert found == names


async def test_delivery_is_due_claimed_tried_again_and_sent(stores: Stores) -> None:
    made = await saved(stores, MAIL)
    store = stores.reports
    assert await store.due_deliveries(NOW - timedelta(seconds=1), 10) == []
    assert await store.due_deliveries(NOW, 10) == [delivery(made)]
    assert await store.claim_delivery(made.report_id, MAIL, "n1", NOW, LEASE)
    assert await store.due_deliveries(NOW, 10) == []
    again_at = NOW + timedelta(minutes=5)
    assert await store.finish_delivery(
        made.report_id,
        MAIL,
        "n1",
        state=DeliveryState.PENDING,
        error="421 no\nmore\0" + "x" * 999,
        next_attempt_at=again_at,
    )
    (found,) = await store.due_deliveries(again_at, 10)
    assert (found.attempts, found.first_attempt_at, found.next_attempt_at) == (1, NOW, again_at)
    assert found.last_error == "421 no more " + "x" * 488
    # Who listed it before it failed must not send it again at once.
    assert not await store.claim_delivery(made.report_id, MAIL, "n2", NOW + timedelta(seconds=1), LEASE)
    assert await store.claim_delivery(made.report_id, MAIL, "n2", again_at, LEASE)
    assert await store.finish_delivery(made.report_id, MAIL, "n2", state=DeliveryState.SENT)
    (found,) = await store.load_deliveries(made.report_id)
    assert found == delivery(
        made, state=DeliveryState.SENT, attempts=2, first_attempt_at=NOW, next_attempt_at=again_at, claimed_by="n2"
    )
    assert not await store.claim_delivery(made.report_id, MAIL, "n3", NOW + timedelta(days=9), LEASE, force=True)
    assert await store.due_deliveries(NOW + timedelta(days=9), 10, force=True) == []


async def test_delivery_of_a_node_that_is_gone_is_claimed_again(stores: Stores) -> None:
    made = await saved(stores, MAIL)
    store = stores.reports
    assert await store.claim_delivery(made.report_id, MAIL, "n1", NOW, LEASE)
    assert not await store.claim_delivery(made.report_id, MAIL, "n2", AFTER_LEASE - timedelta(seconds=1), LEASE)
    assert [each.claimed_by for each in await store.due_deliveries(AFTER_LEASE, 10)] == ["n1"]
    assert await store.claim_delivery(made.report_id, MAIL, "n2", AFTER_LEASE, LEASE)
    # The first one lives after all: its failure says nothing, its success can't be undone.
    assert not await store.finish_delivery(made.report_id, MAIL, "n1", state=DeliveryState.FAILED)
    assert [each.state for each in await store.load_deliveries(made.report_id)] == [DeliveryState.SENDING]
    assert await store.finish_delivery(made.report_id, MAIL, "n1", state=DeliveryState.SENT)
    assert not await store.finish_delivery(made.report_id, MAIL, "n2", state=DeliveryState.PENDING)
    assert await state_of(stores, made) is ReportState.SENT
    assert (await store.load_report(made.report_id) or made).message_id == made.message_id


async def test_forced_delivery_need_not_be_due_but_free(stores: Stores) -> None:
    made = await saved(stores, MAIL, POST)
    other = report(B)
    await stores.reports.save_report(other, [delivery(other)])
    store, early = stores.reports, NOW - timedelta(hours=1)
    assert await store.claim_delivery(made.report_id, POST, "n1", NOW, LEASE)
    assert not await store.claim_delivery(made.report_id, POST, "n2", NOW, LEASE, force=True)
    assert await store.due_deliveries(early, 10, force=True, report_id=made.report_id) == [delivery(made)]
    assert await store.due_deliveries(early, 10, force=True) == [delivery(made), delivery(other)]
    assert await store.due_deliveries(early, 1, force=True) == [delivery(made)]
    assert await store.due_deliveries(early, 10, report_id=made.report_id) == []
    assert not await store.claim_delivery(made.report_id, MAIL, "n2", early, LEASE)
    assert await store.claim_delivery(made.report_id, MAIL, "n2", early, LEASE, force=True)


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (DeliveryState.SENT, DeliveryState.SENT, ReportState.SENT),
        (DeliveryState.SENT, DeliveryState.FAILED, ReportState.FAILED),
        (DeliveryState.SENT, DeliveryState.SKIPPED, ReportState.SENT),
        (DeliveryState.SKIPPED, DeliveryState.SKIPPED, ReportState.SKIPPED),
        (DeliveryState.FAILED, DeliveryState.PENDING, ReportState.PENDING),
    ],
)
async def test_report_is_what_its_deliveries_make_of_it(
    stores: Stores, first: DeliveryState, second: DeliveryState, state: ReportState
) -> None:
    made = await saved(stores, MAIL, POST)
    for endpoint, outcome in ((MAIL, first), (POST, second)):
        assert await state_of(stores, made) is ReportState.PENDING
        assert await stores.reports.claim_delivery(made.report_id, endpoint, "n1", NOW, LEASE)
        assert await stores.reports.finish_delivery(made.report_id, endpoint, "n1", state=outcome)
    assert await state_of(stores, made) is state
    assert [each.report_id for each in await stores.reports.list_reports(state=state)] == [made.report_id]


async def test_dry_run_is_skipped_from_the_start(stores: Stores) -> None:
    made = report()
    await stores.reports.save_report(made, [delivery(made, state=DeliveryState.SKIPPED)])
    assert await state_of(stores, made) is ReportState.SKIPPED
    assert await stores.reports.due_deliveries(NOW, 10, force=True) == []


async def test_last_two_deliveries_that_end_at_once_end_the_report(
    stores: Stores, new_stores: OpenStores, url: str
) -> None:
    other = await new_stores(url)
    for number in range(20):
        made = report(Domain.parse(f"d{number}.example"))
        await stores.reports.save_report(made, [delivery(made, MAIL), delivery(made, POST)])
        for node, endpoint in ((stores, MAIL), (other, POST)):
            assert await node.reports.claim_delivery(made.report_id, endpoint, "n", NOW, LEASE)
        await asyncio.gather(
            stores.reports.finish_delivery(made.report_id, MAIL, "n", state=DeliveryState.SENT),
            other.reports.finish_delivery(made.report_id, POST, "n", state=DeliveryState.SENT),
        )
        assert await state_of(stores, made) is ReportState.SENT


async def test_old_reports_are_deleted_with_their_deliveries(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stsguard.store.reports.DELETED_AT_ONCE", 2)
    days = [DAY + timedelta(days=number) for number in range(3)]
    made = [report(name, day=day) for day in days for name in (A, B)]
    for each in made:
        await stores.reports.save_report(each, [delivery(each, MAIL), delivery(each, POST)])
    await stores.reports.mark_not_wanted(DAY, C, NOW)
    assert await stores.reports.delete_reports(days[2], dry_run=True) == 5
    assert len(await stores.reports.list_reports()) == 6
    assert await stores.reports.delete_reports(days[2]) == 5
    assert await stores.reports.delete_reports(days[2]) == 0
    left = await stores.reports.due_deliveries(NOW, 100)
    assert {each.report_id for each in left} == {each.report_id for each in made[4:]}
    assert len(left) == 4
    assert len(await stores.reports.list_reports()) == 2
    assert await stores.reports.list_reports(state=ReportState.NOT_WANTED) == []


CLAIM = """
import asyncio, sys
from datetime import timedelta
from stsguard.store.stores import open_stores
from tests.integration.store.test_reports import DAY, LEASE, MAIL, NOW, Domain
url, node, report_id = sys.argv[1:]
async def main():
    stores = open_stores(url)
    await stores.reports.open()
    print("ready", flush=True)
    sys.stdin.readline()
    won = []
    for number in range(50):
        if await stores.reports.claim_day(DAY, Domain(f"d{number}.example"), node, NOW, LEASE):
            won.append(number)
    print(*won, await stores.reports.claim_delivery(report_id, MAIL, node, NOW, LEASE), flush=True)
    await stores.reports.close()
asyncio.run(main())
"""


def claimer(url: str, node: str, made: ReportRecord) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLAIM, url, node, made.report_id]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


async def test_of_two_processes_exactly_one_claims_each(stores: Stores, url: str) -> None:
    made = await saved(stores, MAIL)
    nodes = [claimer(url, f"n{number}", made) for number in range(2)]
    for node in nodes:
        assert node.stdout is not None
        assert await asyncio.to_thread(node.stdout.readline) == "ready\n"
    for node in nodes:
        assert node.stdin is not None
        node.stdin.write("go\n")
        node.stdin.flush()
    won = [(await asyncio.to_thread(node.communicate))[0].split() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert sorted(each.pop() for each in won) == ["False", "True"]
    assert sorted(int(number) for each in won for number in each) == list(range(50))


BAD_ROWS = [
    ("state = 'odd'", "state = 'odd'"),
    ("day = 'odd'", "next_attempt_at = -9000000000000000000"),
    ("created_at = 9000000000000000000", "claimed_until = 9000000000000000000"),
]


@pytest.mark.parametrize(("of_report", "of_delivery"), BAD_ROWS)
async def test_row_that_is_no_report_is_reported_and_left_out(
    stores: Stores, url: str, of_report: str, of_delivery: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, other = await saved(stores, MAIL), report(B, 2)
    await stores.reports.save_report(other, [delivery(other)])
    await stores.sessions.add_counters([row(C)], {})
    changes = [
        f"UPDATE reports SET {of_report} WHERE report_domain = 'a.example'",  # noqa: S608
        f"UPDATE report_deliveries SET {of_delivery} WHERE report_id LIKE '%a.example%'",  # noqa: S608
        "UPDATE session_counters SET day = '1 March' WHERE report_domain = 'd.example'",
    ]
    await stores.sessions.add_counters([row("d.example")], {})
    database = open_database(url)
    try:
        with database.writing() as connection:
            for change in changes:
                connection.execute(change)
    finally:
        database.close()
    with caplog.at_level(logging.ERROR, "stsguard"):
        assert await stores.reports.list_reports() == [replace(other, json=b"")]
        assert await stores.reports.load_deliveries(made.report_id) == []
        assert await stores.reports.due_deliveries(NOW, 10) == [delivery(other)]
        assert await stores.reports.unbuilt_days(date(9999, 1, 1)) == [DAY]
    assert {record.message for record in caplog.records} == {"stored report can't be read"}
    reasons = [str(record.__dict__["fields"]["reason"]) for record in caplog.records]
    assert len([each for each in reasons if each == "counters of the day '1 March', which is none"]) == 1
    assert any(each.startswith(f"report '{made.report_id}': ") for each in reasons)
    assert any(each.startswith(f"delivery of report '{made.report_id}': ") for each in reasons)
    with pytest.raises(StoreUnavailable, match=f"^what is stored is no report: report '{made.report_id}': "):
        await stores.reports.load_report(made.report_id)
