"""What the store of received reports promises, on SQLite and on PostgreSQL alike."""

import asyncio
import json
import zlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from stsguard.core.arrival import Via
from stsguard.core.errors import StoreUnavailable
from stsguard.core.received_record import Fate, SavedIntake, Signer, Standing
from stsguard.core.received_report import MAX_SESSIONS
from stsguard.store.database import open_database
from stsguard.store.instants import to_micros
from stsguard.store.received_schema import (
    received_daily,
    received_daily_failures,
    received_details,
    received_intakes,
    received_keys,
    received_policies,
    received_reports,
)
from stsguard.store.received_table import MAX_REFUSALS, MAX_SUM
from stsguard.store.stores import Stores
from tests.integration.store.conftest import OpenStores
from tests.received import NOW, detail, document, intake, policy, report_json

NEW, DUPLICATE, CONFLICT = Fate.NEW, Fate.DUPLICATE, Fate.CONFLICT


def rows(url: str, table: Any) -> list[dict[str, Any]]:
    database = open_database(url)
    try:
        with database.alchemy.scanning() as connection:
            query = select(table).order_by(*table.primary_key.columns)
            return [dict(row._mapping) for row in connection.execute(query)]
    finally:
        database.close()


def daily(url: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows(url, received_daily)]


async def save(stores: Stores, *intakes: Any) -> list[SavedIntake]:
    return list(await stores.received.save_intakes(intakes))


async def test_report_is_stored_with_all_that_was_read_of_it(stores: Stores, url: str) -> None:
    content = report_json(policy("a.example", 5, 3, detail(sessions=2), detail("Odd", 1, "MX2.a.example.")))
    saved = await save(stores, intake(document(content), refusals=("second part: no report",)))
    assert saved == [SavedIntake(False, (NEW,))]
    (came,) = rows(url, received_intakes)
    assert (came["via"], came["recipient"], came["client"]) == ("milter", "tls@a.example", "192.0.2.1")
    assert (came["received_at"], came["subject"]) == (to_micros(NOW), "Report\ufffd Domain: ?")
    assert (came["dkim_status"], came["dkim_domain"], came["aligned"]) == ("pass", "sender.example", True)
    assert (came["refused"], came["refusals"], came["reports"]) == (True, '["second part: no report"]', 1)
    (report,) = rows(url, received_reports)
    assert (report["intake"], report["day"], report["report_id"]) == (came["intake"], "2026-03-01", "r1")
    assert (report["successes"], report["failures"], report["duplicates"], report["conflict"]) == (5, 3, 0, False)
    (stored,) = rows(url, received_policies)
    assert (stored["policy_domain"], stored["policy_type"], stored["mx_hosts"]) == ("a.example", "sts", '["*"]')
    first, second = rows(url, received_details)
    assert (first["result_type"], first["mx_hostname"], first["sessions"]) == (
        "certificate-expired",
        "mx1.a.example",
        2,
    )
    assert (second["result_type"], second["result_type_text"], second["mx_hostname"]) == (
        "unknown",
        "Odd",
        "mx2.a.example",
    )
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 1, 5, 3)]
    assert [tuple(row.values())[4:] for row in rows(url, received_daily_failures)] == [
        ("certificate-expired", "mx1.a.example", 2),
        ("unknown", "mx2.a.example", 1),
    ]
    assert await stores.received.load_raw(came["intake"]) == b"a mail"
    assert await stores.received.load_raw(99) is None


async def test_same_octets_again_are_known_and_change_nothing(stores: Stores, url: str) -> None:
    assert await save(stores, intake(document())) == [SavedIntake(False, (NEW,))]
    before = rows(url, received_reports)
    assert await save(stores, intake(document())) == [SavedIntake(True)]
    assert rows(url, received_reports) == before
    assert len(rows(url, received_intakes)) == 1
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 1, 5, 0)]


async def test_same_report_in_another_mail_is_a_duplicate_that_says_so(stores: Stores, url: str) -> None:
    await save(stores, intake(document()))
    for number in (1, 2):
        assert await save(stores, intake(document(), octets=b"%d" % number)) == [SavedIntake(False, (DUPLICATE,))]
    (report,) = rows(url, received_reports)
    assert report["duplicates"] == 2
    assert report["last_duplicate_at"] is not None
    assert len(rows(url, received_intakes)) == 3
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 1, 5, 0)]


async def test_same_id_with_other_content_is_kept_marked_and_not_counted(stores: Stores, url: str) -> None:
    await save(stores, intake(document()))
    other = document(report_json(policy(successes=99)))
    assert await save(stores, intake(other, octets=b"2")) == [SavedIntake(False, (CONFLICT,))]
    assert await save(stores, intake(other, octets=b"3")) == [SavedIntake(False, (CONFLICT,))]
    first, second = rows(url, received_reports)
    assert (first["conflict"], second["conflict"]) == (False, True)
    assert (second["successes"], second["duplicates"]) == (99, 1)
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 1, 5, 0)]


async def test_same_id_for_another_domain_is_another_report(stores: Stores, url: str) -> None:
    await save(stores, intake(document()))
    other = document(report_json(policy("b.example")))
    assert await save(stores, intake(other, octets=b"2")) == [SavedIntake(False, (NEW,))]
    assert [row[1] for row in daily(url)] == ["a.example", "b.example"]


async def test_counts_of_several_policies_never_multiply(stores: Stores, url: str) -> None:
    content = report_json(
        policy("a.example", 10, 3, detail(sessions=1), detail(sessions=2)),
        policy("a.example", 7, 1, detail(sessions=1), kind="tlsa"),
        policy("a.example", 100, 0),
        policy("b.example", 1000, 0),
    )
    await save(stores, intake(document(content)))
    (report,) = rows(url, received_reports)
    assert (report["policies"], report["successes"], report["failures"]) == (4, 1117, 4)
    assert [row[1:] for row in daily(url)] == [
        ("a.example", "sender.example", "sts", 1, 110, 3),
        ("a.example", "sender.example", "tlsa", 1, 7, 1),
        ("b.example", "sender.example", "sts", 1, 1000, 0),
    ]
    assert [row["sessions"] for row in rows(url, received_daily_failures)] == [3, 1]


@pytest.mark.parametrize("standing", [Standing.UNSIGNED, Standing.UNVOUCHED])
async def test_rfc8460_3_report_without_a_signature_is_kept_and_never_counted(
    stores: Stores, url: str, standing: Standing
) -> None:
    assert await save(stores, intake(document(standing=standing))) == [SavedIntake(False, (NEW,))]
    assert daily(url) == []
    assert await save(stores, intake(document(), octets=b"signed")) == [SavedIntake(False, (NEW,))]
    assert [report["standing"] for report in rows(url, received_reports)] == [standing.value, "counted"]
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 1, 5, 0)]


async def test_policies_of_foreign_domains_are_marked_and_not_counted(stores: Stores, url: str) -> None:
    both = report_json(policy("a.example"), policy("z.example"))
    await save(stores, intake(document(both, foreign=("z.example",))))
    await save(stores, intake(document(report_json(policy("z.example")), foreign=("z.example",)), octets=b"2"))
    assert [row["foreign_domain"] for row in rows(url, received_policies)] == [False, True, True]
    assert [row["foreign_report"] for row in rows(url, received_reports)] == [False, True]
    assert [row[1] for row in daily(url)] == ["a.example"]


async def test_batch_is_as_one_after_the_other(stores: Stores, url: str) -> None:
    other = document(report_json(policy(successes=99)))
    saved = await save(
        stores,
        intake(document(), octets=b"1"),
        intake(document(), octets=b"1"),
        intake(document(), other, octets=b"2"),
        intake(other, document(report_json(report_id="r2")), octets=b"3"),
        intake(octets=b"4", refusals=("no report",)),
    )
    assert saved == [
        SavedIntake(False, (NEW,)),
        SavedIntake(True),
        SavedIntake(False, (DUPLICATE, CONFLICT)),
        SavedIntake(False, (CONFLICT, NEW)),
        SavedIntake(False),
    ]
    assert [row["duplicates"] for row in rows(url, received_reports)] == [1, 1, 0]
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 2, 10, 0)]
    assert await save(stores) == []


async def test_failure_in_the_middle_leaves_nothing(stores: Stores, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from stsguard.store import received_table

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(received_table, "_add_sums", fail)
        with pytest.raises(StoreUnavailable, match="No space left"):
            await save(stores, intake(document()))
    assert rows(url, received_intakes) == rows(url, received_keys) == rows(url, received_policies) == []
    assert await save(stores, intake(document())) == [SavedIntake(False, (NEW,))]


async def test_two_nodes_count_a_report_once(url: str, new_stores: OpenStores) -> None:
    nodes = [await new_stores(url) for _ in range(2)]

    async def run(node: int) -> list[SavedIntake]:
        saved = []
        for number in range(30):
            documents = [document(report_json(report_id=str(each))) for each in (number, number + 1)]
            saved += await save(nodes[node], intake(*documents, octets=b"%d %d" % (node, number)))
        return saved

    fates = [fate for saved in await asyncio.gather(run(0), run(1)) for each in saved for fate in each.fates]
    assert fates.count(NEW) == 31
    assert fates.count(DUPLICATE) == 120 - 31
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 31, 31 * 5, 0)]
    assert sum(report["duplicates"] for report in rows(url, received_reports)) == 120 - 31


async def test_what_could_not_be_read_is_kept_and_read_anew(stores: Stores, url: str) -> None:
    await save(stores, intake(octets=b"1", refusals=("not JSON",)), intake(document(), octets=b"2"))
    ((number, entry, signer),) = await stores.received.load_unread(0)
    assert signer == Signer("pass", "sender.example", "s1", "", aligned=True)
    assert (entry.octets, entry.arrival.via, entry.arrival.received_at) == (b"1", Via.MILTER, NOW)
    assert await stores.received.load_unread(number) == []
    better = document(report_json(report_id="r2"))
    assert await stores.received.save_again(number, intake(better, octets=b"1")) == SavedIntake(False, (NEW,))
    assert await stores.received.load_unread(0) == []
    assert await stores.received.load_raw(number) == b"1"
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 2, 10, 0)]
    assert await stores.received.save_again(99, intake(better)) == SavedIntake(True)


async def test_octets_to_be_read_anew_come_one_at_a_time(stores: Stores, url: str) -> None:
    await save(stores, *[intake(octets=b"%d" % number, refusals=("not JSON",)) for number in range(3)])
    found, last = [], 0
    while entries := await stores.received.load_unread(last):
        ((last, entry, _),) = entries
        found.append(entry.octets)
    assert sorted(found) == [b"0", b"1", b"2"]


async def test_report_whose_key_is_found_at_last_counts_once(stores: Stores, url: str) -> None:
    waiting = Signer("temperror", "sender.example", "s1", "no answer")
    await save(stores, intake(document(standing=Standing.UNSIGNED), signer=waiting))
    ((number, _, _),) = await stores.received.load_unread(0)
    assert (await stores.received.save_again(number, intake(document()))).fates == (NEW,)
    assert (await stores.received.save_again(number, intake(document()))).fates == (DUPLICATE,)
    (report,) = rows(url, received_reports)
    assert (report["standing"], report["duplicates"]) == ("counted", 0)
    assert len(rows(url, received_policies)) == 1
    assert len(rows(url, received_keys)) == 1
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 1, 5, 0)]


async def test_the_same_report_with_one_domain_more_counts_once(stores: Stores, url: str) -> None:
    both = report_json(policy(), policy("b.example"))
    more = report_json(policy(), policy("c.example"))
    found = await save(stores, intake(document()), intake(document(both), octets=b"2"))
    assert [each.fates for each in found] == [(NEW,), (CONFLICT,)]
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 1, 5, 0)]
    # Of the others nothing is known by that: who tells of them alone counts, later as at once.
    of_b, of_c = (document(report_json(policy(domain))) for domain in ("b.example", "c.example"))
    assert await save(stores, intake(of_b, octets=b"3")) == [SavedIntake(False, (NEW,))]
    assert [each.fates for each in await save(stores, intake(document(more), of_c, octets=b"4"))] == [(CONFLICT, NEW)]
    assert [each.fates for each in await save(stores, intake(of_c, octets=b"5"))] == [(DUPLICATE,)]
    assert [row[1:] for row in daily(url)] == [
        (f"{name}.example", "sender.example", "sts", 1, 5, 0) for name in ("a", "b", "c")
    ]
    assert len(rows(url, received_keys)) == 3


async def test_a_mail_whose_other_signature_is_seen_first_counts_once(stores: Stores, url: str) -> None:
    one = document(reporter="mail.sender.example", organization="sender.example")
    other = document(reporter="sender.example", organization="sender.example")
    assert [each.fates for each in await save(stores, intake(one), intake(other, octets=b"2"))] == [
        (NEW,),
        (DUPLICATE,),
    ]
    assert [row[4:] for row in daily(url)] == [(1, 5, 0)]


async def test_old_intakes_go_and_sums_stay(stores: Stores, url: str) -> None:
    content = report_json(policy("a.example", 5, 1, detail()))
    stores.received.now = lambda: NOW - timedelta(days=401)
    await save(stores, intake(document(content), octets=b"old"))
    stores.received.now = lambda: NOW
    # An archive is kept from the day on which it was taken in.
    new = intake(document(report_json(report_id="r2")), octets=b"new", received_at=NOW - timedelta(days=900))
    await save(stores, new)
    assert await stores.received.newest_intake() == NOW
    sums = daily(url), rows(url, received_daily_failures)
    before = NOW - timedelta(days=400)
    assert await stores.received.delete_intakes(before, dry_run=True) == 1
    assert len(rows(url, received_reports)) == 2
    assert await stores.received.delete_intakes(before) == 1
    assert await stores.received.delete_intakes(before) == 0
    assert [report["report_id"] for report in rows(url, received_reports)] == ["r2"]
    assert len(rows(url, received_intakes)) == len(rows(url, received_policies)) == 1
    assert rows(url, received_details) == []
    assert (daily(url), rows(url, received_daily_failures)) == sums


async def test_report_that_comes_again_after_its_rows_are_gone_is_not_counted_again(stores: Stores, url: str) -> None:
    assert await stores.received.newest_intake() is None
    stores.received.now = lambda: NOW - timedelta(days=401)
    await save(stores, intake(document()))
    await stores.received.delete_intakes(NOW)
    assert await save(stores, intake(document(), octets=b"2")) == [SavedIntake(False, (DUPLICATE,))]
    assert daily(url) == [("2026-03-01", "a.example", "sender.example", "sts", 1, 5, 0)]


async def test_many_refusals_are_kept_to_a_bound_that_says_how_many_more(stores: Stores, url: str) -> None:
    await save(stores, intake(refusals=tuple(f"part {number}" for number in range(MAX_REFUSALS + 3))))
    (came,) = rows(url, received_intakes)
    kept = json.loads(came["refusals"])
    assert (len(kept), kept[-2:]) == (MAX_REFUSALS, ["part 48", "and 4 more"])


async def test_more_details_than_go_in_at_once_are_all_stored(stores: Stores, url: str) -> None:
    content = report_json(*[policy("a.example", 0, 2500, *[detail() for _ in range(2500)]) for _ in range(2)])
    await save(stores, intake(document(content)))
    assert [(row["policy"], row["number"]) for row in rows(url, received_details)] == [
        (at, number) for at in range(2) for number in range(2500)
    ]


async def test_sums_of_absurd_counts_stop_at_a_bound(stores: Stores, url: str) -> None:
    most = MAX_SESSIONS
    for number in range(2):
        details = [detail("certificate-expired", most) for _ in range(200)]
        content = report_json(*[policy("a.example", most, most, *details)], *[policy("a.example", most)] * 200)
        await save(stores, intake(document(content.replace(b'"r1"', b'"r%d"' % number)), octets=b"%d" % number))
    (counted,) = rows(url, received_daily)
    assert (counted["successes"], counted["failures"]) == (MAX_SUM, 2 * most)
    assert [row["sessions"] for row in rows(url, received_daily_failures)] == [MAX_SUM]
    assert [row["successes"] for row in rows(url, received_reports)] == [MAX_SUM, MAX_SUM]


async def test_refusal_of_what_is_written_is_told_from_a_database_that_fails(stores: Stores) -> None:
    wrong = replace(intake(document()), key=None)  # type: ignore[arg-type] # on purpose
    with pytest.raises(StoreUnavailable) as caught:
        await save(stores, wrong)
    assert not caught.value.temporary


async def test_text_of_strangers_at_its_bounds_is_stored(stores: Stores, url: str) -> None:
    wild = "\U0001f600" * 1024
    content = report_json(policy("a.example", 1, 1, detail(wild, 1, wild)), report_id=wild)
    await save(stores, intake(document(content), octets=zlib.compress(b"x")))
    (report,) = rows(url, received_reports)
    assert report["report_id"] == wild[:255]
    (stored,) = rows(url, received_details)
    assert (stored["mx_hostname"], stored["receiving_mx_hostname"]) == (wild[:253], wild)
