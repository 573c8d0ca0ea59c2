"""Rounds of inspections over a real store: when each domain is looked at, what is stored and logged, and that faults of
our own make no findings. What is seen is given by the test, and so is the time."""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.core.findings import HostingFinding, Severity
from stsguard.core.hosted import HostedDomain, PolicyVersion, Stage
from stsguard.core.inspection import Inspection, RecordAt
from stsguard.core.mtasts import Mode, MxPattern
from stsguard.discovery.health import PartState
from stsguard.inbound.inspection_rounds import RETRY_SECONDS, InspectionRounds
from stsguard.names import Domain
from stsguard.store.stores import Stores, open_stores

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = 3600.0
NAMES = tuple(Domain(f"{label}.test") for label in ("one", "two", "three", "four"))


@dataclass
class HandClock:
    """Moved by the test."""

    elapsed: float = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed


@dataclass
class Seen:
    """What an inspection sees, by domain, and how often each was inspected."""

    clock: HandClock
    records: dict[Domain, tuple[RecordAt, ...]] = field(default_factory=dict)
    no_look_ups: set[Domain] = field(default_factory=set)
    inspected: list[Domain] = field(default_factory=list)

    async def inspect(self, policy_domain: Domain) -> Inspection:
        self.inspected.append(policy_domain)
        problem = "servfail" if policy_domain in self.no_look_ups else ""
        records = self.records.get(policy_domain, (RecordAt("ns.test [192.0.2.1]", (b"v=STSv1; id=1;",), 60),))
        return Inspection(
            policy_domain=policy_domain,
            at=self.clock.now(),
            sts_records=() if problem else records,
            sts_records_problem=problem,
            tlsrpt_records=(),
            tlsrpt_records_problem=problem,
            policies=(),
            policies_problem=problem,
            mx_hosts=(),
            mx_problem=problem,
            null_mx=not problem,
        )


@dataclass
class World:
    """Rounds over a store with four domains."""

    stores: Stores
    clock: HandClock
    seen: Seen
    rounds: InspectionRounds
    resolver: list[str] = field(default_factory=list)  # its problems

    async def round_after(self, seconds: float) -> Sequence[Domain]:
        self.clock.elapsed += seconds
        self.seen.inspected.clear()
        await self.rounds.round()
        return sorted(self.seen.inspected)

    async def open_findings(self) -> dict[Domain, list[str]]:
        found: dict[Domain, list[str]] = {}
        for policy_domain, seen in await self.stores.findings.load_findings(only_open=True):
            found.setdefault(policy_domain, []).append(seen.finding.subject)
        return found


def judge(_domain: HostedDomain, inspection: Inspection, _now: datetime) -> Sequence[HostingFinding]:
    """A finding for each thing that is not known."""
    if inspection.sts_records_problem:
        return [HostingFinding("record-unknown", "", Severity.WARNING, inspection.sts_records_problem)]
    silent = [each for each in inspection.sts_records if each.problem]
    return [HostingFinding("record-unknown", each.server, Severity.ERROR, each.problem) for each in silent]


def make_rounds(stores: Stores, clock: HandClock, seen: Seen, resolver: Sequence[str] = ()) -> InspectionRounds:
    async def ask_resolver() -> None:
        for problem in resolver:
            raise LookupFailed(LookupReason.TIMEOUT, problem)

    return InspectionRounds(
        stores.domains,
        stores.findings,
        seen,
        clock,
        judge=judge,
        ask_resolver=ask_resolver,
        random=lambda: 0.5,
        every_seconds=HOUR,
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    stores = open_stores(f"sqlite:///{tmp_path}/stsguard.db")
    await stores.policies.open()
    clock, resolver = HandClock(), list[str]()
    seen = Seen(clock)
    for name in NAMES:
        patterns = (MxPattern(Domain("mx.test"), wildcard=False),)
        version = PolicyVersion(1, "20260301T120000", Mode.TESTING, 86400, patterns, START, "added")
        added = await stores.domains.save_domain(HostedDomain(name, Stage.TESTING, START, START, (version,)), [])
        assert added is not None
    yield World(stores, clock, seen, make_rounds(stores, clock, seen, resolver), resolver)
    await stores.policies.close()


def silent(*addresses: str) -> tuple[RecordAt, ...]:
    return tuple(RecordAt(f"ns.test [{address}]", (), 0, "no answer") for address in addresses)


async def test_each_domain_has_its_own_hour(world: World) -> None:
    assert await world.round_after(0) == sorted(NAMES)
    assert await world.round_after(HOUR - 1) == []
    assert await world.round_after(1) == sorted(NAMES)
    again = make_rounds(world.stores, world.clock, world.seen)  # after a restart
    world.seen.inspected.clear()
    await again.round()
    assert world.seen.inspected == []


async def test_retired_domains_are_left_alone(world: World) -> None:
    domain = await world.stores.domains.load_domain(NAMES[0])
    assert domain is not None
    await world.stores.domains.save_domain(replace(domain, stage=Stage.RETIRED), [])
    assert NAMES[0] not in await world.round_after(0)


async def test_a_clock_that_was_set_back(world: World) -> None:
    await world.round_after(0)
    assert await world.round_after(-2 * HOUR) == sorted(NAMES)


async def test_findings_are_stored_and_logged_when_they_come_and_go(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stsguard")
    world.seen.records[NAMES[0]] = silent("192.0.2.9")
    await world.round_after(0)
    assert await world.open_findings() == {NAMES[0]: ["ns.test [192.0.2.9]"]}
    await world.round_after(HOUR)  # still there: not said again
    world.seen.records.clear()
    await world.round_after(HOUR)
    assert await world.open_findings() == {}
    told = [(record.levelname, record.getMessage(), record.__dict__["fields"]) for record in caplog.records]
    assert [(level, message) for level, message, _ in told] == [
        ("ERROR", "finding on a domain of ours"),
        ("INFO", "finding on a domain of ours is gone"),
    ]
    assert told[0][2] == {
        "policy_domain": NAMES[0],
        "code": "record-unknown",
        "subject": "ns.test [192.0.2.9]",
        "severity": "error",
        "text": "no answer",
    }
    assert told[1][2]["policy_domain"] == NAMES[0]


async def test_a_resolver_of_ours_that_fails_makes_no_findings(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.seen.no_look_ups.update(NAMES)
    world.resolver.append(". DNSKEY")
    await world.round_after(0)
    assert await world.open_findings() == {}
    assert await world.stores.findings.load_inspection_times() == {}
    assert world.rounds.health().state is PartState.FAILED
    assert ". DNSKEY: timeout" in world.rounds.health().detail
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1  # not once a domain
    assert await world.round_after(RETRY_SECONDS - 1) == []
    world.seen.no_look_ups.clear()
    world.resolver.clear()
    assert await world.round_after(1) == sorted(NAMES)
    assert world.rounds.health().state is PartState.OK
    assert len(await world.stores.findings.load_inspection_times()) == len(NAMES)


async def test_one_domain_that_can_t_be_looked_up_is_the_domain_s(world: World) -> None:
    world.seen.no_look_ups.add(NAMES[0])
    await world.round_after(0)
    assert await world.open_findings() == {NAMES[0]: [""]}


async def test_all_domains_that_can_t_be_looked_up_are_our_fault(world: World) -> None:
    world.seen.no_look_ups.update(NAMES)
    await world.round_after(0)
    assert await world.open_findings() == {}
    assert "no look-up works for any of 3 domains" in world.rounds.health().detail


async def test_a_network_over_which_nobody_answers(world: World) -> None:
    for number, name in enumerate(NAMES):
        world.seen.records[name] = silent(f"192.0.2.{number * 2}", f"192.0.2.{number * 2 + 1}")
    await world.round_after(0)
    assert await world.open_findings() == {}
    assert "nobody answers over IPv4" in world.rounds.health().detail


async def test_a_domain_whose_servers_are_all_down_is_the_domain_s(world: World) -> None:
    world.seen.records[NAMES[0]] = silent("192.0.2.8", "192.0.2.9")
    await world.round_after(0)
    found = await world.open_findings()
    assert {name: sorted(subjects) for name, subjects in found.items()} == {
        NAMES[0]: ["ns.test [192.0.2.8]", "ns.test [192.0.2.9]"]
    }


async def test_no_ipv6_of_our_own(world: World) -> None:
    good = RecordAt("ns.test [192.0.2.1]", (b"v=STSv1; id=1;",), 60)
    for number, name in enumerate(NAMES):
        world.seen.records[name] = (good, *silent(f"2001:db8::{number}1", f"2001:db8::{number}2"))
    world.seen.records[NAMES[3]] += silent("192.0.2.77")
    await world.round_after(0)
    assert await world.open_findings() == {NAMES[3]: ["ns.test [192.0.2.77]"]}  # IPv4 is judged as ever
    assert "nobody answers over IPv6 from here" in world.rounds.health().detail


async def test_a_store_that_can_t_be_used(world: World, tmp_path: Path) -> None:
    unusable = open_stores(f"sqlite:///{tmp_path}/nowhere/stsguard.db")
    rounds = make_rounds(unusable, world.clock, world.seen)
    await rounds.round()
    assert rounds.health().state is PartState.FAILED
    assert "the domains can't be read" in rounds.health().detail
    await unusable.policies.close()
