"""Asking for received reports, on SQLite and on PostgreSQL alike."""

from datetime import UTC, date, datetime

from sqlalchemy import update

from stsguard.core.received_query import (
    ApartSum,
    DaySum,
    Group,
    NamedSum,
    PageKey,
    ReportLine,
    Wanted,
)
from stsguard.core.received_record import Standing
from stsguard.store import received_queries
from stsguard.store.database import open_database
from stsguard.store.received_schema import (
    received_daily,
    received_daily_failures,
    received_details,
    received_policies,
    received_reports,
)
from stsguard.store.stores import Stores
from tests.received import NOW, detail, document, intake, policy, report_json

EVERY = Wanted(group=None)


async def save(stores: Stores) -> None:
    """Reports of each group."""
    made = [
        document(report_json(policy("a.example", 5, 3, detail(sessions=2), detail("other", 1, "mx2.a.example")))),
        document(
            report_json(policy("a.example", 10), policy("a.example", 1, kind="tlsa"), policy("x.example", 1000)),
            reporter="big.example",
            foreign=("x.example",),
        ),
        document(
            report_json(policy("b.example", 7, 1, detail("certificate-host-mismatch")), day="2026-03-02"),
            reporter="big.example",
        ),
        document(report_json(policy("a.example", 4)), standing=Standing.UNSIGNED),
        document(report_json(policy("a.example", 2), report_id="r2"), standing=Standing.UNVOUCHED),
        document(report_json(policy("x.example", 3)), foreign=("x.example",)),
        document(report_json(policy("a.example", 6, 3))),  # r1 of sender.example with other content
    ]
    intakes = [intake(each, octets=b"%d" % at) for at, each in enumerate(made)]
    intakes.append(intake(octets=b"rubbish", refusals=("no report in the mail",)))
    await stores.received.save_intakes(intakes)


async def lines(stores: Stores, wanted: Wanted, limit: int = 100) -> list[ReportLine]:
    return await stores.received_views.lines(wanted, limit=limit)


async def numbers(stores: Stores, wanted: Wanted) -> list[int]:
    return [line.key.report for line in await lines(stores, wanted)]


async def test_each_report_is_in_one_group(stores: Stores) -> None:
    await save(stores)
    by_group = {group: await numbers(stores, Wanted(group=group)) for group in Group}
    assert by_group == {
        Group.COUNTED: [3, 2, 1],
        Group.UNSIGNED: [4],
        Group.UNVOUCHED: [5],
        Group.FOREIGN: [6],
        Group.CONFLICT: [7],
    }
    assert await numbers(stores, EVERY) == [3, 7, 6, 5, 4, 2, 1]
    assert {line.key.report: line.group for line in await lines(stores, EVERY)} == {
        number: group for group, found in by_group.items() for number in found
    }


async def test_lines_have_sessions_of_what_is_asked_for_alone(stores: Stores) -> None:
    await save(stores)
    (_, second, first) = await lines(stores, Wanted())
    assert (first.successes, first.failures, first.reporter) == (5, 3, "sender.example")
    # 1000 sessions of a foreign domain are not ours, and several policies are not multiplied
    assert (second.successes, second.policy_domain, second.domains, second.policy_types) == (11, "a.example", 1, 2)
    assert (first.received_at, first.report_id, first.organization_name) == (NOW, "r1", "Sender Inc.")
    (foreign,) = await lines(stores, Wanted(policy_domain="x.example", group=Group.FOREIGN))
    assert (foreign.successes, foreign.policy_domain) == (3, "x.example")


async def test_filters(stores: Stores) -> None:
    await save(stores)
    assert await numbers(stores, Wanted(policy_domain="a.example")) == [2, 1]
    assert await numbers(stores, Wanted(policy_domain="x.example")) == []
    assert await numbers(stores, Wanted(reporter="big.example")) == [3, 2]
    assert await numbers(stores, Wanted(reporter="big.example", policy_domain="b.example")) == [3]
    assert await numbers(stores, Wanted(since=date(2026, 3, 2))) == [3]
    assert await numbers(stores, Wanted(until=date(2026, 3, 1))) == [2, 1]
    assert await numbers(stores, Wanted(result_type="unknown")) == [1]
    assert await numbers(stores, Wanted(result_type="unknown", mx_hostname="mx1.a.example")) == []
    assert await numbers(stores, Wanted(mx_hostname="mx1.a.example")) == [3, 1]
    assert await numbers(stores, Wanted(mx_hostname="mx1.a.example", policy_domain="a.example")) == [1]
    assert await numbers(stores, Wanted(group=None, result_type="certificate-host-mismatch")) == [3]


async def test_pages_follow_one_another_whatever_their_size(stores: Stores) -> None:
    await save(stores)
    for wanted in (EVERY, Wanted(), Wanted(group=None, policy_domain="a.example"), Wanted(group=Group.UNSIGNED)):
        whole = [line.key for line in await lines(stores, wanted)]
        for size in (1, 2, 3):
            after, found = None, []
            while page := await stores.received_views.lines(wanted, after=after, limit=size):
                found += [line.key for line in page]
                after = page[-1].key
            assert found == whole


async def test_report_is_told_with_all_that_was_read(stores: Stores) -> None:
    await save(stores)
    found = await stores.received_views.load(1)
    assert found is not None
    assert (found.key, found.group) == (PageKey("2026-03-01", 1), Group.COUNTED)
    assert (found.start_at, found.end_at) == (
        datetime(2026, 3, 1, tzinfo=UTC),
        datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC),
    )
    assert (found.intake.dkim_status, found.intake.dkim_domain, found.intake.aligned) == (
        "pass",
        "sender.example",
        True,
    )
    assert (found.intake.sent_at, found.intake.raw_length) == (NOW, 1)
    (one,) = found.policies
    assert (one.policy_domain, one.policy_strings, one.mx_hosts, one.foreign) == (
        "a.example",
        ("version: STSv1",),
        ("*",),
        False,
    )
    assert [(each.result_type, each.result_type_text, each.sessions) for each in one.details] == [
        ("certificate-expired", "certificate-expired", 2),
        ("unknown", "other", 1),
    ]
    assert [(code, times) for code, _, times in one.warnings] == [("result-type-unknown", 1)]
    assert await stores.received_views.load(99) is None
    assert await stores.received_views.with_id("r1", limit=2) == [7, 6]
    assert await stores.received_views.reports_of(found.intake.intake, limit=10) == [1]


async def test_export_has_the_policies_that_are_asked_for(stores: Stores) -> None:
    await save(stores)
    for group, foreign in ((Group.COUNTED, [False, False]), (None, [False, False, True])):
        wanted = Wanted(group=group, reporter="big.example", until=date(2026, 3, 1))
        (partly,) = [report async for report in stores.received_views.export(wanted)]
        assert [each.foreign for each in partly.policies] == foreign
    (foreigner,) = [
        report async for report in stores.received_views.export(Wanted(group=Group.COUNTED, policy_domain="b.example"))
    ]
    assert [each.policy_domain for each in foreigner.policies] == ["b.example"]


async def test_what_could_not_be_read_is_apart(stores: Stores) -> None:
    await save(stores)
    (found,) = await stores.received_views.refused(EVERY, limit=10)
    assert found.refusals == ("no report in the mail",)
    assert await stores.received_views.intake(found.intake) == found
    assert await stores.received_views.intake(99) is None
    assert await stores.received_views.refused(EVERY, before=found.intake, limit=10) == []
    assert await stores.received_views.refused(Wanted(since=date(2026, 3, 3)), limit=10) == []
    assert await stores.received_views.refused(Wanted(since=date(2026, 3, 2), until=date(2026, 3, 2)), limit=10) == [
        found
    ]


async def test_sums_are_of_what_counts_alone(stores: Stores) -> None:
    await save(stores)
    found = await stores.received_views.summary(Wanted(), top=10)
    assert (found.successes, found.failures) == (23, 4)
    assert found.days == (DaySum("2026-03-02", 7, 1), DaySum("2026-03-01", 16, 3))
    assert found.policy_domains == (NamedSum("a.example", 16, 3), NamedSum("b.example", 7, 1))
    assert found.reporters == (NamedSum("big.example", 18, 1), NamedSum("sender.example", 5, 3))
    assert found.policy_types == (NamedSum("sts", 22, 4), NamedSum("tlsa", 1, 0))
    assert found.result_types == (
        NamedSum("certificate-expired", None, 2),
        NamedSum("certificate-host-mismatch", None, 1),
        NamedSum("unknown", None, 1),
    )
    assert found.mx_hostnames == (NamedSum("mx1.a.example", None, 3), NamedSum("mx2.a.example", None, 1))
    assert found.apart == (
        ApartSum(Group.UNSIGNED, 1, 4),
        ApartSum(Group.UNVOUCHED, 1, 2),
        ApartSum(Group.CONFLICT, 1, 9),
        ApartSum(Group.FOREIGN, 1, 3),
    )
    assert (found.refused, found.more) == (1, {})


async def test_sums_of_some(stores: Stores) -> None:
    await save(stores)
    one = await stores.received_views.summary(Wanted(policy_domain="a.example", until=date(2026, 3, 1)), top=1)
    assert (one.successes, one.failures) == (16, 3)
    assert one.reporters == (NamedSum("big.example", 11, 0),)
    assert one.more == {"reporters": 1, "policy_types": 1, "result_types": 1, "mx_hostnames": 1}
    assert [each.group for each in one.apart] == [Group.UNSIGNED, Group.UNVOUCHED, Group.CONFLICT]
    failed = await stores.received_views.summary(Wanted(mx_hostname="mx1.a.example"), top=10)
    assert (failed.successes, failed.failures) == (None, 3)
    assert failed.days == (DaySum("2026-03-02", None, 1), DaySum("2026-03-01", None, 2))
    assert failed.reporters == (NamedSum("sender.example", None, 2), NamedSum("big.example", None, 1))
    nothing = await stores.received_views.summary(Wanted(policy_domain="c.example"), top=10)
    assert (nothing.successes, nothing.failures, nothing.days) == (0, 0, ())


async def test_sums_of_domains_for_metrics(stores: Stores) -> None:
    await save(stores)
    sums, failures = await stores.received_views.sums_of_domains(["a.example", "c.example"], date(2026, 3, 1))
    assert sums == [NamedSum("a.example", 16, 3)]
    assert sorted(failures) == [("a.example", "certificate-expired", 2), ("a.example", "unknown", 1)]
    assert await stores.received_views.sums_of_domains(["a.example"], date(2026, 3, 2)) == ([], [])


async def test_export_reads_a_bounded_number_of_details_at_once(stores: Stores) -> None:
    many = [detail(sessions=1)] * (received_queries.DETAILS_AT_ONCE // 2)
    for number in range(5):
        content = report_json(policy("a.example", 1, len(many), *many), report_id=str(number))
        await stores.received.save_intakes([intake(document(content), octets=b"%d" % number)])
    found = [report async for report in stores.received_views.export(EVERY)]
    assert [report.report_id for report in found] == ["4", "3", "2", "1", "0"]
    assert all(len(report.policies[0].details) == len(many) for report in found)
    assert [report async for report in stores.received_views.export(Wanted(policy_domain="b.example"))] == []


async def test_no_number_of_sessions_that_is_stored_breaks_a_query(stores: Stores, url: str) -> None:
    most, documents = 2**62, []
    for number, standing in enumerate([Standing.COUNTED, Standing.UNSIGNED] * 2):
        content = report_json(
            *[policy("a.example", 1, 1, detail())] * 2, report_id=f"r{number}", day=f"2026-03-0{number + 1}"
        )
        documents.append(document(content, standing=standing))
    await stores.received.save_intakes([intake(*documents)])
    database = open_database(url)
    with database.alchemy.writing() as connection:
        for table in (received_reports, received_policies, received_daily):
            connection.execute(update(table).values(successes=most, failures=most))
        for table in (received_details, received_daily_failures):
            connection.execute(update(table).values(sessions=most))
    database.close()
    assert [(line.successes, line.failures) for line in await lines(stores, EVERY)] == [(2 * most, 2 * most)] * 4
    summary = await stores.received_views.summary(Wanted(), top=5)
    assert (summary.successes, summary.failures) == (2 * most, 2 * most)
    assert [found.failures for found in (*summary.result_types, *summary.mx_hostnames)] == [2 * most] * 2
    assert summary.apart == (ApartSum(Group.UNSIGNED, 2, 4 * most),)
    found, kinds = await stores.received_views.sums_of_domains(["a.example"], date(2026, 3, 1))
    assert (found, kinds) == (
        [NamedSum("a.example", 2 * most, 2 * most)],
        [("a.example", "certificate-expired", 2 * most)],
    )
    await stores.received.save_intakes(
        [intake(document(report_json(policy("a.example", 3), report_id="more")), octets=b"2")]
    )
