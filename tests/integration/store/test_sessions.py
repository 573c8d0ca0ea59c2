"""What the counters promise, on SQLite and on PostgreSQL alike."""

import random
from datetime import date, timedelta

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.core.session import AppliedPolicy, FailureDetail, PolicyType
from stsguard.names import Domain
from stsguard.store.stores import Stores, open_stores
from tests.integration.store.conftest import OpenStores
from tests.integration.store.counting import DAY, EXPIRED, UNTRUSTED, all_counters, ordered, policy, row, summed

NEXT_DAY = DAY + timedelta(days=1)


async def names(stores: Stores, day: date = DAY) -> list[str]:
    return [name async for name in stores.sessions.report_domains(day)]


async def test_counters_come_back_as_they_were_added(stores: Stores) -> None:
    rows = [
        row("a.example", 3, 2, unverified=1, details={EXPIRED: 1, UNTRUSTED: 1}),
        row("a.example", 1, applied=policy(version="testing")),
        row("a.example", 1, recipient="z.example"),
        row("b.example", 0, 1, details={FailureDetail("x" * 300, receiving_mx_helo="\0\udc80é\u202e"): 1}),
        row("c.example", 1, applied=AppliedPolicy(PolicyType.NO_POLICY_FOUND, "c.example")),
        row("c.example", 1, applied=AppliedPolicy(PolicyType.TLSA, "mx.c.example", ("3 1 1 AA",))),
    ]
    await stores.sessions.add_counters(random.sample(rows, len(rows)), {})
    assert await all_counters(stores.sessions) == ordered(rows)
    assert await all_counters(stores.sessions, name="c.example") == ordered(rows[4:])
    assert await all_counters(stores.sessions, NEXT_DAY) == []
    assert await names(stores) == ["a.example", "b.example", "c.example"]
    assert await names(stores, NEXT_DAY) == []


async def test_counters_add_up(stores: Stores) -> None:
    flushes = [
        [row(good=2, bad=1, details={EXPIRED: 1}), row(good=1), row(good=5, day=NEXT_DAY)],
        [row(good=1, bad=2, unverified=1, details={EXPIRED: 1, UNTRUSTED: 1})],
        [row("b.example"), row("b.example", recipient="c.example"), row("b.example", recipient="d.example")],
    ]
    for flush in flushes:
        await stores.sessions.add_counters(flush, {})
    rows = [each for flush in flushes for each in flush]
    assert await all_counters(stores.sessions) == summed(each for each in rows if each.day == DAY)
    assert await all_counters(stores.sessions, NEXT_DAY) == [row(good=5, day=NEXT_DAY)]


async def test_count_that_turned_out_to_be_another_is_taken_back(stores: Stores) -> None:
    await stores.sessions.add_counters([row(good=2), row("b.example", 0, 1, details={EXPIRED: 1})], {})
    await stores.sessions.add_counters([row(good=-1, bad=1, details={UNTRUSTED: 1})], {})
    await stores.sessions.add_counters([row("b.example", 0, -1, details={EXPIRED: -1})], {})
    assert await all_counters(stores.sessions) == [row(good=1, bad=1, details={UNTRUSTED: 1})]


async def test_two_nodes_add_up(stores: Stores, new_stores: OpenStores, url: str) -> None:
    other = await new_stores(url)
    for _ in range(3):
        for node in (stores, other):
            await node.sessions.add_counters([row(good=1, bad=1, details={EXPIRED: 1})], {})
    for node in (stores, other):
        assert await all_counters(node.sessions) == [row(good=6, bad=6, details={EXPIRED: 6})]


async def test_counters_and_positions_outlive_the_store(stores: Stores, new_stores: OpenStores, url: str) -> None:
    await stores.sessions.add_counters([row()], {"postfix": "1", "postfix-out": "inode=3 offset=9"})
    await stores.sessions.add_counters([row()], {"postfix": "2"})
    await stores.sessions.add_counters([], {"other": "3", "another": "4"})
    await stores.sessions.add_counters([], {"other": "", "unknown": ""})
    await stores.sessions.close()
    again = await new_stores(url)
    assert await all_counters(again.sessions) == [row(good=2)]
    assert await again.sessions.load_positions() == {
        "postfix": "2",
        "postfix-out": "inode=3 offset=9",
        "another": "4",
    }


async def test_nothing_to_add_is_no_error(stores: Stores) -> None:
    await stores.sessions.add_counters([], {})
    assert await stores.sessions.load_positions() == {}
    assert await stores.sessions.delete_counters(DAY) == 0


async def test_pages_of_a_day_are_complete_and_in_order(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stsguard.store.counter_pages.PAGE_ROWS", 7)
    monkeypatch.setattr("stsguard.store.counter_pages.PAGE_DETAILS", 5)
    monkeypatch.setattr("stsguard.store.counter_pages.PAGE_DOMAINS", 3)
    draw = random.Random(8460)
    rows = [
        row(
            name,
            draw.randint(1, 9),
            5,
            applied=policy(name, version),
            recipient=recipient,
            details={
                FailureDetail("validation-failure", receiving_ip=f"192.0.2.{n}"): n + 1
                for n in range(draw.choice([0, 0, 1, 4, 6, 17]))
            },
        )
        for name in ("a-b.example", "a.b.example", "a.example", "a0.example", "ab.example", "xn--a.example")
        for version in ("enforce", "testing", "none")
        for recipient in (None, "r.example", "s.example")
    ]
    await stores.sessions.add_counters(rows, {})
    await stores.sessions.add_counters([row("a.a.example", day=NEXT_DAY)], {})
    assert await all_counters(stores.sessions) == ordered(rows)
    assert await names(stores) == sorted({each.report_domain for each in rows})
    for name in ("a-b.example", "xn--a.example"):
        assert await all_counters(stores.sessions, name=name) == ordered(
            each for each in rows if each.report_domain == name
        )


async def test_policies_of_a_domain_and_day_are_bounded_and_no_session_is_lost(
    stores: Stores, new_stores: OpenStores, url: str
) -> None:
    applied = [policy("evil.example", str(number)) for number in range(130)]
    for start in range(0, 130, 13):
        flush = [row("evil.example", 1, 1, applied=each, details={EXPIRED: 1}) for each in applied[start : start + 13]]
        await stores.sessions.add_counters(flush, {})
    again = await new_stores(url)  # which begins without knowing what is there
    await again.sessions.add_counters([row("evil.example", 1, applied=each) for each in applied], {})
    await again.sessions.add_counters([row("evil.example", 1, day=NEXT_DAY, applied=applied[-1]), row()], {})
    found = await all_counters(stores.sessions, name="evil.example")
    rest = AppliedPolicy(PolicyType.STS, "evil.example")
    assert len(found) == 101
    assert {each.policy for each in found} <= {*applied, rest}
    assert {(each.successes, each.failures, each.details[EXPIRED]) for each in found if each.policy != rest} == {
        (2, 1, 1)
    }
    assert [each for each in found if each.policy == rest] == [
        row("evil.example", 60, 30, applied=rest, details={EXPIRED: 30})
    ]
    assert (await all_counters(stores.sessions, NEXT_DAY))[0].policy == applied[-1]
    assert await all_counters(stores.sessions, name="a.example") == [row()]


async def test_policies_of_an_mx_host_with_many_recipients_are_not_bounded_by_those(stores: Stores) -> None:
    rows = [row("host.example", 1, recipient=f"d{number}.example") for number in range(300)]
    await stores.sessions.add_counters(rows, {})
    await stores.sessions.add_counters(rows, {})
    assert await all_counters(stores.sessions) == summed([*rows, *rows])


async def test_details_of_a_policy_are_bounded_and_no_session_is_lost(
    stores: Stores, new_stores: OpenStores, url: str
) -> None:
    def details(numbers: range) -> dict[FailureDetail, int]:
        return {FailureDetail("certificate-expired", receiving_mx_helo=f"h{number}"): 2 for number in numbers}

    for start in range(0, 12_000, 4000):
        await stores.sessions.add_counters(
            [row(bad=8000, details=details(range(start, start + 4000))), row(bad=1, details={UNTRUSTED: 1})], {}
        )
    again = await new_stores(url)
    await again.sessions.add_counters([row(bad=20, details=details(range(10)) | details(range(20_000, 20_010)))], {})
    (found,) = await all_counters(stores.sessions)
    rest = FailureDetail("certificate-expired", failure_reason_code="further failure details, not listed")
    assert (found.failures, sum(found.details.values())) == (24_023, 24_023 + 20)
    assert len(found.details) == 10_001
    assert found.details[FailureDetail("certificate-expired", receiving_mx_helo="h0")] == 4
    assert found.details[UNTRUSTED] == 3
    assert found.details[rest] == 2 * (12_000 - 9999) + 20
    # Another policy, and another domain, have room of their own.
    await again.sessions.add_counters([row("b.example", 0, 1, details={EXPIRED: 1})], {})
    assert await all_counters(stores.sessions, name="b.example") == [row("b.example", 0, 1, details={EXPIRED: 1})]


async def test_old_counters_are_deleted_and_the_others_kept(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stsguard.store.sessions.DELETED_AT_ONCE", 4)
    for days in range(3):
        day = DAY + timedelta(days=days)
        await stores.sessions.add_counters(
            [row(f"d{number}.example", 0, 2, day=day, details={EXPIRED: 1, UNTRUSTED: 1}) for number in range(8)]
            + [row("kept.example", day=day)],
            {"postfix": "7"},
        )
    assert await stores.sessions.delete_counters(DAY + timedelta(days=2), dry_run=True) == 18
    assert len(await all_counters(stores.sessions)) == 9
    assert await stores.sessions.delete_counters(DAY + timedelta(days=2)) == 18
    assert await all_counters(stores.sessions) == []
    assert await all_counters(stores.sessions, NEXT_DAY) == []
    assert len(await all_counters(stores.sessions, DAY + timedelta(days=2))) == 9
    assert await stores.sessions.delete_counters(DAY + timedelta(days=2)) == 0
    assert await stores.sessions.load_positions() == {"postfix": "7"}


async def test_policy_counted_again_after_its_day_was_deleted_is_there(stores: Stores) -> None:
    await stores.sessions.add_counters([row()], {})
    await stores.sessions.add_counters([row(day=NEXT_DAY)], {})
    await stores.sessions.add_counters([row()], {})  # late, of the day before
    await stores.sessions.delete_counters(NEXT_DAY)
    assert await all_counters(stores.sessions, NEXT_DAY) == [row(day=NEXT_DAY)]
    await stores.sessions.delete_counters(NEXT_DAY + timedelta(days=1))
    await stores.sessions.add_counters([row(day=NEXT_DAY)], {})
    assert await all_counters(stores.sessions, NEXT_DAY) == [row(day=NEXT_DAY)]


async def test_one_database_for_all_stores(stores: Stores) -> None:
    await stores.sessions.open()
    await stores.reports.open()  # no effect
    assert await stores.policies.load_policy(Domain.parse("a.example")) is None
    await stores.reports.close()
    for call in (stores.policies.load_policies(None, 1), stores.sessions.add_counters([row()], {})):
        with pytest.raises(StoreUnavailable, match=r"^the store is closed$"):
            await call
    await stores.sessions.open()
    await stores.sessions.add_counters([row()], {})
    assert await stores.policies.load_policies(None, 1) == []
    assert await all_counters(stores.sessions) == [row()]


async def test_store_that_was_never_opened_says_so(url: str) -> None:
    stores = open_stores(url)
    for call in (
        stores.sessions.load_positions(),
        stores.sessions.delete_counters(DAY),
        anext(aiter(stores.sessions.report_domains(DAY))),
        anext(aiter(stores.sessions.load_counters(DAY))),
    ):
        with pytest.raises(StoreUnavailable, match=r"^the store is not open$"):
            await call
