"""The reporter over a real database: built once, claimed, sent, tried again, given up, deleted.

The resolver is a table of records; mailer and poster are recorders that fail when told to. Their real counterparts have
tests of their own.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from email import message_from_bytes
from pathlib import Path

import pytest

from stsguard.core.errors import DeliveryFailed
from stsguard.core.report_record import DeliveryState, ReportState
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail, PolicyType
from stsguard.core.tlsrpt_report_model import Report
from stsguard.names import Domain
from stsguard.outbound.destinations import Destinations
from stsguard.outbound.dispatch import Dispatcher
from stsguard.outbound.reporter import Reporter, ReportSettings
from stsguard.store.stores import Stores, open_stores
from tests.unit.fakes import Clock, FakeResolver

DAY = date(2026, 11, 20)
ONE, TWO = Domain("one.example"), Domain("two.example")
HOUR = timedelta(hours=1)


@dataclass
class Recorder:
    """Takes what is sent, unless `failure` is set."""

    mails: list[tuple[str, tuple[str, ...], bytes]] = field(default_factory=list)
    posts: list[tuple[str, bytes, str]] = field(default_factory=list)
    failure: DeliveryFailed | None = None

    async def send(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.mails.append((sender, tuple(recipients), message))

    async def post(self, url: str, body: bytes, media_type: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.posts.append((url, body, media_type))


class Bench:
    """One node over a database of its own, or over that of another node."""

    def __init__(self, directory: Path, *, node: str = "node1", **options: object) -> None:
        self.clock = Clock(datetime(2026, 11, 21, 0, 30, tzinfo=UTC))
        self.resolver = FakeResolver()
        self.recorder = Recorder()
        self.copies: list[tuple[Report, Domain, bytes]] = []
        self.stores: Stores = open_stores(f"sqlite:///{directory}/stsguard.db")
        settings = ReportSettings(
            organization="Example Org",
            contact="tlsrpt@sender.example",
            node=node,
            spread=timedelta(hours=4),
            retry_for=timedelta(hours=24),
            keep=timedelta(days=30),
            **options,  # type: ignore[arg-type]  # a test's shorthand
        )
        self.reporter = Reporter(
            settings,
            counters=self.stores.sessions,
            reports=self.stores.reports,
            destinations=Destinations(self.resolver),
            dispatcher=Dispatcher(
                "tlsrpt@sender.example",
                mailer=self.recorder,
                poster=self.recorder,
                signer=None,
                clock=self.clock,
            ),
            clock=self.clock,
            random=lambda: 0.0,
            keep_copy=lambda *kept: self.copies.append(kept),
        )

    def asks(self, domain: Domain, *ruas: str) -> None:
        """`domain` publishes a TLSRPT record."""
        self.resolver.give("TXT", f"_smtp._tls.{domain}", b"v=TLSRPTv1; rua=" + ",".join(ruas).encode())

    async def count(self, *rows: CounterRow) -> None:
        """Sessions were counted."""
        await self.stores.sessions.add_counters(rows, {})

    def at(self, when: datetime) -> None:
        """Move both clocks to `when`."""
        self.clock.advance((when - self.clock.now()).total_seconds())


def row(domain: Domain, good: int, bad: int = 0, *, day: date = DAY, mx_host_of: Domain | None = None) -> CounterRow:
    details = {FailureDetail("certificate-expired", receiving_mx_hostname="mx.example"): bad} if bad else {}
    policy = AppliedPolicy(PolicyType.STS, domain, ("version: STSv1", "mode: enforce"), ("mx.example",))
    return CounterRow(day, domain, mx_host_of or domain, mx_host_of is not None, policy, good, bad, 0, details)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.stores.policies.open()
    yield made
    await made.stores.policies.close()


MORNING = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)  # later than any spread


async def test_rfc8460_4_1_nothing_is_built_before_the_day_is_over_and_settled(bench: Bench) -> None:
    bench.asks(ONE, "mailto:rpt@one.example")
    await bench.count(row(ONE, 3))
    await bench.reporter.build_due()
    assert not await bench.stores.reports.list_reports()
    bench.at(datetime(2026, 11, 21, 1, 5, tzinfo=UTC))
    await bench.reporter.build_due()
    (made,) = await bench.stores.reports.list_reports()
    assert (made.report_domain, made.day, made.sessions, made.failures) == (ONE, DAY, 3, 0)
    (delivery,) = await bench.stores.reports.load_deliveries(made.report_id)
    assert timedelta() <= delivery.next_attempt_at - bench.clock.now() <= 4 * HOUR  # §4.1: spread
    assert await bench.reporter.send_due() == 0
    bench.at(MORNING)
    assert await bench.reporter.send_due() == 1
    assert [mail[:2] for mail in bench.recorder.mails] == [("tlsrpt@sender.example", ("rpt@one.example",))]
    assert (await bench.stores.reports.list_reports())[0].state is ReportState.SENT


async def test_today_is_never_built_but_can_be_looked_at(bench: Bench) -> None:
    bench.asks(ONE, "mailto:rpt@one.example")
    today = MORNING.date()
    bench.at(MORNING)
    await bench.count(row(ONE, 1, 2, day=today))
    await bench.reporter.build_due()
    assert not await bench.stores.reports.list_reports()
    report = await bench.reporter.build(today, ONE)
    assert report is not None
    assert (report.successes, report.failures) == (1, 2)
    assert await bench.reporter.build(today, TWO) is None


async def test_who_does_not_ask_gets_nothing_and_is_not_asked_again(bench: Bench) -> None:
    bench.resolver.deny("TXT", f"_smtp._tls.{ONE}", nxdomain=True)
    await bench.count(row(ONE, 3))
    bench.at(MORNING)
    await bench.reporter.build_due()
    await bench.reporter.build_due()
    assert not await bench.stores.reports.list_reports()
    assert bench.resolver.count("TXT") == 1


async def test_a_record_that_cant_be_looked_up_is_looked_up_again(bench: Bench) -> None:
    bench.resolver.fail("TXT", f"_smtp._tls.{ONE}")
    await bench.count(row(ONE, 3))
    bench.at(MORNING)
    await bench.reporter.build_due()
    bench.asks(ONE, "mailto:rpt@one.example")
    await bench.reporter.build_due()
    assert not await bench.stores.reports.list_reports()  # the claim still holds
    bench.clock.advance(16 * 60)
    await bench.reporter.build_due()
    assert len(await bench.stores.reports.list_reports()) == 1


async def test_every_endpoint_gets_the_same_report(bench: Bench) -> None:
    bench.asks(ONE, "mailto:a@one.example", "https://one.example/rpt", "mailto:a@one.example", "ftp://one.example/")
    await bench.count(row(ONE, 3, 1))
    bench.at(MORNING)
    await bench.reporter.build_due()
    assert await bench.reporter.send_due(force=True) == 2
    ((_, _, message),) = bench.recorder.mails
    ((url, body, media_type),) = bench.recorder.posts
    assert (url, media_type) == ("https://one.example/rpt", "application/tlsrpt+gzip")
    attached = message_from_bytes(message).get_payload()[1].get_payload(decode=True)  # type: ignore[union-attr,index]
    assert attached == body


async def test_rfc8460_5_5_retries_with_the_same_ids_then_gives_up_after_a_day(bench: Bench) -> None:
    bench.asks(ONE, "mailto:a@one.example")
    await bench.count(row(ONE, 3))
    bench.at(MORNING)
    await bench.reporter.build_due()
    bench.recorder.failure = DeliveryFailed(True, "connection refused")
    attempts = 0
    while bench.clock.now() < MORNING + timedelta(hours=30):
        attempts += await bench.reporter.send_due()
        bench.clock.advance(60)
    (made,) = await bench.stores.reports.list_reports()
    (delivery,) = await bench.stores.reports.load_deliveries(made.report_id)
    assert (made.state, delivery.state, delivery.last_error) == (
        ReportState.FAILED,
        DeliveryState.FAILED,
        "connection refused",
    )
    assert 8 <= attempts == delivery.attempts <= 20
    assert delivery.first_attempt_at is not None
    assert bench.clock.now() - delivery.first_attempt_at >= timedelta(hours=24)


async def test_a_restart_sends_with_the_same_report_id_and_message_id(bench: Bench, tmp_path: Path) -> None:
    bench.asks(ONE, "mailto:a@one.example", "mailto:b@one.example")
    await bench.count(row(ONE, 3))
    bench.at(MORNING)
    await bench.reporter.build_due()
    (made,) = await bench.stores.reports.list_reports()
    # A node claims a delivery and is killed before it finishes.
    claimed = await bench.stores.reports.claim_delivery(
        made.report_id, "mailto:a@one.example", "node1", bench.clock.now(), 900
    )
    assert claimed
    other = Bench(tmp_path, node="node2")
    other.asks(ONE, "mailto:a@one.example", "mailto:b@one.example")
    other.at(MORNING)
    await other.stores.policies.open()
    try:
        assert await other.reporter.send_due() == 1  # b; a is the other's until its lease is over
        other.clock.advance(901)
        assert await other.reporter.send_due() == 1
    finally:
        await other.stores.policies.close()
    ids = {message_from_bytes(message)["Message-ID"] for _, _, message in other.recorder.mails}
    assert ids == {made.message_id}
    assert sorted(recipients for _, recipients, _ in other.recorder.mails) == [("a@one.example",), ("b@one.example",)]


async def test_the_record_is_looked_up_again_before_sending(bench: Bench) -> None:
    bench.asks(ONE, "mailto:a@one.example")
    await bench.count(row(ONE, 3))
    bench.at(MORNING)
    await bench.reporter.build_due()
    bench.asks(ONE, "mailto:other@one.example")
    await bench.reporter.send_due(force=True)
    assert bench.recorder.mails == []
    (made,) = await bench.stores.reports.list_reports()
    (delivery,) = await bench.stores.reports.load_deliveries(made.report_id)
    assert (delivery.state, delivery.last_error) == (DeliveryState.SKIPPED, "no longer asked for")


async def test_an_mx_host_hears_once_where_its_rua_is_the_recipients(bench: Bench) -> None:
    """DANE: the policy domain is the TLSA base domain, whose own record is asked as well."""
    mx_host = Domain("mx.host.example")
    bench.asks(ONE, "mailto:rpt@host.example")
    bench.asks(TWO, "mailto:rpt@two.example")
    bench.asks(mx_host, "mailto:rpt@host.example")
    bench.at(MORNING)
    await bench.count(row(mx_host, 5, mx_host_of=ONE), row(mx_host, 7, mx_host_of=TWO))
    report = await bench.reporter.build(DAY, mx_host)
    assert report is not None
    assert report.successes == 7


async def test_options_failures_only_never_to_dry_run_and_copies(tmp_path: Path) -> None:
    bench = Bench(tmp_path, failures_only=True, never_to=frozenset({TWO}), dry_run=True)
    await bench.stores.policies.open()
    try:
        good, bad = Domain("good.example"), Domain("bad.example")
        for domain in (good, bad, TWO):
            bench.asks(domain, f"mailto:rpt@{domain}")
        await bench.count(row(good, 9), row(bad, 9, 1), row(TWO, 9, 1))
        bench.at(MORNING)
        await bench.reporter.build_due()
        (made,) = await bench.stores.reports.list_reports()
        assert (made.report_domain, made.state) == (bad, ReportState.SKIPPED)
        ((report, name, content),) = bench.copies
        assert (name, json.loads(content)["report-id"]) == (bad, report.report_id)
        assert await bench.reporter.send_due(force=True) == 0
        assert bench.recorder.mails == []
    finally:
        await bench.stores.policies.close()


async def test_two_nodes_build_a_report_once(bench: Bench, tmp_path: Path) -> None:
    bench.asks(ONE, "mailto:a@one.example")
    await bench.count(row(ONE, 3))
    bench.at(MORNING)
    other = Bench(tmp_path, node="node2")
    other.asks(ONE, "mailto:a@one.example")
    other.at(MORNING)
    await other.stores.policies.open()
    try:
        await bench.reporter.build_due()
        await other.reporter.build_due()
        assert len(await other.stores.reports.list_reports()) == 1
        assert await bench.reporter.send_due() + await other.reporter.send_due() == 1
    finally:
        await other.stores.policies.close()


async def test_a_late_start_builds_the_days_that_were_missed(bench: Bench) -> None:
    bench.asks(ONE, "mailto:a@one.example")
    await bench.count(row(ONE, 1, day=DAY), row(ONE, 2, day=DAY - timedelta(days=1)))
    bench.at(MORNING)
    await bench.reporter.build_due()
    assert [made.sessions for made in await bench.stores.reports.list_reports()] == [1, 2]


async def test_a_damaged_stored_report_is_a_failed_delivery_not_a_crash(bench: Bench) -> None:
    bench.asks(ONE, "mailto:a@one.example")
    await bench.count(row(ONE, 3))
    bench.at(MORNING)
    await bench.reporter.build_due()
    (made,) = await bench.stores.reports.list_reports()
    record = await bench.stores.reports.load_report(made.report_id)
    assert record is not None
    dispatcher = Dispatcher("a@b.example", mailer=bench.recorder, poster=bench.recorder, signer=None, clock=bench.clock)
    for damaged in (b"", b"no gzip", record.json[:20]):
        with pytest.raises(DeliveryFailed, match="can't be read"):
            await dispatcher.send(replace(record, json=damaged), "mailto:a@one.example")
    with pytest.raises(DeliveryFailed, match="no address"):
        await dispatcher.send(record, "mailto:")


async def test_what_was_due_while_the_store_failed_is_built_in_the_next_round(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.asks(ONE, "mailto:rpt@one.example")
    bench.at(MORNING)
    await bench.reporter.do_due()  # not open yet
    await bench.stores.policies.open()
    await bench.count(row(ONE, 1))
    await bench.reporter.do_due()
    assert [mail[1] for mail in bench.recorder.mails] == [("rpt@one.example",)]
    await bench.stores.policies.close()
