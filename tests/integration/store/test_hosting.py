"""What is kept beside our own domains: findings, policy fetches, certificates; on SQLite and on PostgreSQL alike."""

import asyncio
from dataclasses import replace
from datetime import date, datetime, timedelta

import pytest

from stsguard.core.findings import HostingFinding, SeenFinding, Severity
from stsguard.core.hosted import AcmeChallenge, CertificateState, PolicyFetchRow
from stsguard.names import Domain
from stsguard.store.stores import Stores
from tests.integration.store.conftest import OpenStores
from tests.integration.store.examples import NOW
from tests.integration.store.hosting import hosted

A, B = (Domain.parse(f"{letter}.example") for letter in "ab")
HOST = A.child("mta-sts")
STALE = HostingFinding("record-stale", "", Severity.ERROR, "the record has an old id")
EXPIRED = HostingFinding("mx-expired", "mx1.a.example", Severity.WARNING, "its certificate has run out")
LEASE = 900.0


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


@pytest.fixture
async def findings(stores: Stores) -> Stores:
    for name in ("a.example", "b.example"):
        await stores.domains.save_domain(hosted(name), [])
    return stores


async def load(stores: Stores, policy_domain: Domain | None = None, *, only_open: bool = False) -> list[SeenFinding]:
    return [each for _, each in await stores.findings.load_findings(policy_domain, only_open=only_open)]


async def test_findings_come_stay_go_and_come_back(findings: Stores) -> None:
    save = findings.findings.save_findings
    assert await save(A, [STALE], at(0)) == ([SeenFinding(STALE, at(0), at(0))], [])
    assert await save(A, [EXPIRED, STALE], at(1)) == ([SeenFinding(EXPIRED, at(1), at(1))], [])
    assert await load(findings) == [SeenFinding(EXPIRED, at(1), at(1)), SeenFinding(STALE, at(0), at(1))]
    gone = SeenFinding(STALE, at(0), at(1), at(2))
    assert await save(A, [EXPIRED], at(2)) == ([], [gone])
    assert await load(findings, only_open=True) == [SeenFinding(EXPIRED, at(1), at(2))]
    assert await save(A, [EXPIRED], at(3)) == ([], [])
    assert await save(A, [EXPIRED, STALE], at(4)) == ([SeenFinding(STALE, at(4), at(4))], [])
    assert await load(findings, A) == [
        SeenFinding(STALE, at(4), at(4)),
        SeenFinding(EXPIRED, at(1), at(4)),
        gone,
    ]
    assert await save(A, [], at(4)) == (
        [],
        [SeenFinding(EXPIRED, at(1), at(4), at(4)), SeenFinding(STALE, at(4), at(4), at(4))],
    )


async def test_finding_takes_its_latest_severity_and_text(findings: Stores) -> None:
    await findings.findings.save_findings(A, [EXPIRED], at(0))
    worse = replace(EXPIRED, severity=Severity.ERROR, text="it has run out for a week")
    assert await findings.findings.save_findings(A, [worse, EXPIRED], at(1)) == ([], [])
    assert await load(findings) == [SeenFinding(worse, at(0), at(1))]


async def test_findings_of_domains_are_apart_and_latest_first(findings: Stores) -> None:
    await findings.findings.save_findings(B, [STALE], at(1))
    await findings.findings.save_findings(A, [STALE, EXPIRED], at(0))
    listed = await findings.findings.load_findings()
    assert [(name, each.finding.code) for name, each in listed] == [
        (B, "record-stale"),
        (A, "mx-expired"),
        (A, "record-stale"),
    ]
    assert await load(findings, B) == [SeenFinding(STALE, at(1), at(1))]


async def test_strangers_text_is_one_line_and_bounded(findings: Stores) -> None:
    odd = HostingFinding("record-invalid", "x\x1b]0;" + "s" * 400, Severity.ERROR, "a\r\nb\x00\x9b" + "t" * 3000)
    for hour in range(2):
        await findings.findings.save_findings(A, [odd], at(hour))
    (seen,) = await load(findings)
    assert (seen.first_seen_at, seen.last_seen_at) == (at(0), at(1))
    assert len(seen.finding.subject) == 300
    assert len(seen.finding.text) == 2000
    assert (seen.finding.subject + seen.finding.text).isprintable()


async def test_nothing_is_noted_of_a_domain_that_is_not_hosted(stores: Stores) -> None:
    assert await stores.findings.save_findings(A, [STALE], NOW) == ([], [])
    assert await stores.findings.load_findings() == []
    assert await stores.findings.load_inspection_times() == {}


async def test_inspection_times_are_kept_and_no_change_of_the_domain(findings: Stores) -> None:
    revision = await findings.domains.revision()
    await findings.findings.save_findings(A, [], at(1))
    assert await findings.findings.load_inspection_times() == {A: at(1)}
    assert await findings.findings.load_inspection_times(B) == {}
    assert await findings.domains.revision() == revision
    domain = await findings.domains.load_domain(A)
    assert domain is not None
    await findings.domains.save_domain(domain, [])
    assert await findings.findings.load_inspection_times(A) == {A: at(1)}


async def test_clock_that_is_set_back_loses_no_finding(findings: Stores) -> None:
    for found in ([STALE], [], [STALE]):
        await findings.findings.save_findings(A, found, at(0))
    assert await load(findings) == [SeenFinding(STALE, at(0), at(0))]


async def test_inspections_at_once_note_a_finding_once(findings: Stores, new_stores: OpenStores, url: str) -> None:
    other = await new_stores(url)
    came = await asyncio.gather(
        *(each.findings.save_findings(A, [STALE], at(hour)) for hour, each in enumerate([findings, other] * 5))
    )
    assert sum(len(new) for new, _ in came) == 1
    assert len(await load(findings, only_open=True)) == 1


async def test_findings_that_went_long_ago_are_deleted(findings: Stores) -> None:
    await findings.findings.save_findings(A, [STALE, EXPIRED], at(0))
    await findings.findings.save_findings(A, [EXPIRED], at(1))
    assert await findings.findings.delete_findings(at(1)) == 0
    assert await findings.findings.delete_findings(at(2)) == 1
    assert await load(findings) == [SeenFinding(EXPIRED, at(0), at(1))]


def fetched(day: str = "2026-03-01", name: Domain = A, agent: str = "MTA/1", fetches: int = 1) -> PolicyFetchRow:
    return PolicyFetchRow(day, name, agent, "192.0.2.0/24", fetches)


async def test_policy_fetches_add_up(stores: Stores) -> None:
    await stores.policy_fetches.add_policy_fetches([])
    await stores.policy_fetches.add_policy_fetches([fetched(), fetched(fetches=2), fetched(agent="b", fetches=9)])
    await stores.policy_fetches.add_policy_fetches([fetched(fetches=3), fetched("2026-03-02"), fetched(name=B)])
    assert await stores.policy_fetches.load_policy_fetches(A, date(2026, 3, 1)) == [
        fetched("2026-03-02"),
        fetched(agent="b", fetches=9),
        fetched(fetches=6),
    ]
    assert await stores.policy_fetches.load_policy_fetches(A, date(2026, 3, 2)) == [fetched("2026-03-02")]
    assert await stores.policy_fetches.load_policy_fetches(B, date(2026, 3, 2)) == []


async def test_user_agents_are_printable_and_bounded(stores: Stores) -> None:
    agent = "a\x00\x1b[31m" + "x" * 300
    await stores.policy_fetches.add_policy_fetches([fetched(agent=agent), fetched(agent=agent + "y")])
    (row,) = await stores.policy_fetches.load_policy_fetches(A, date(2026, 3, 1))
    assert (row.user_agent, row.fetches) == ("a  [31m" + "x" * 193, 2)


async def test_nodes_that_count_at_once_lose_nothing(stores: Stores, new_stores: OpenStores, url: str) -> None:
    other = await new_stores(url)
    rows = [fetched(agent=f"agent {number}") for number in range(50)]
    await asyncio.gather(
        *(
            each.policy_fetches.add_policy_fetches(some)
            for _ in range(10)
            for each, some in ((stores, rows), (other, rows[::-1]))
        )
    )
    counted = await stores.policy_fetches.load_policy_fetches(A, date(2026, 3, 1))
    assert [row.fetches for row in counted] == [20] * 50


async def test_old_policy_fetches_are_deleted(stores: Stores) -> None:
    await stores.policy_fetches.add_policy_fetches(
        [fetched(day, agent=f"{number}") for day in ("2026-03-01", "2026-03-02") for number in range(6000)]
    )
    assert await stores.policy_fetches.delete_policy_fetches(date(2026, 3, 2)) == 6000
    assert await stores.policy_fetches.delete_policy_fetches(date(2026, 3, 2)) == 0
    assert len(await stores.policy_fetches.load_policy_fetches(A, date(2026, 1, 1))) == 6000


def state(**changes: object) -> CertificateState:
    made = CertificateState(HOST, NOW, at(24), at(16), 2, at(1), "refused")
    return replace(made, **changes)  # type: ignore[arg-type] # the caller knows the fields


async def test_certificate_states_are_replaced(stores: Stores) -> None:
    assert await stores.certificates.load_certificate_states() == []
    none_yet = CertificateState(B.child("mta-sts"), None, None, None)
    for each in (none_yet, state(failures=1), state()):
        await stores.certificates.save_certificate_state(each)
    assert await stores.certificates.load_certificate_states() == [state(), none_yet]


async def test_one_node_orders_a_certificate_until_it_is_done_or_gone(
    stores: Stores, new_stores: OpenStores, url: str
) -> None:
    other = await new_stores(url)
    both = await asyncio.gather(
        *(each.certificates.claim_certificate(HOST, name, NOW, LEASE) for each, name in ((stores, "1"), (other, "2")))
    )
    assert sorted(both) == [False, True]
    first = "1" if both[0] else "2"
    assert not await stores.certificates.claim_certificate(HOST, "3", at(0.24), LEASE)
    assert await stores.certificates.claim_certificate(HOST, first, at(0.24), LEASE)
    assert not await other.certificates.claim_certificate(HOST, "3", at(0.25), LEASE)
    assert await other.certificates.claim_certificate(HOST, "3", at(0.49), LEASE)
    await other.certificates.save_certificate_state(state())
    assert await stores.certificates.claim_certificate(HOST, "1", at(0.25), LEASE)
    assert await stores.certificates.load_certificate_states() == [state()]


async def test_challenges_are_answered_by_every_process_until_they_expire(
    stores: Stores, new_stores: OpenStores, url: str
) -> None:
    other = await new_stores(url)
    http = AcmeChallenge("http-01", HOST, "Token-_1", "Token-_1.key", at(1))
    reach = replace(http, kind="reach", content="nonce", expires_at=at(2))
    for each in (reach, replace(http, content="old"), http):
        await stores.certificates.save_challenge(each)
    assert await other.certificates.load_challenge("http-01", "Token-_1", at(0)) == http
    assert await other.certificates.load_challenge("reach", "Token-_1", at(0)) == reach
    assert await other.certificates.load_challenges(at(0)) == [http, reach]
    assert await other.certificates.load_challenge("http-01", "Token-_1", at(1)) is None
    assert await other.certificates.load_challenges(at(1)) == [reach]
    assert await other.certificates.load_challenge("http-01", "Token-_1", at(0)) is None
    await other.certificates.delete_challenge("reach", "Token-_1")
    await other.certificates.delete_challenge("reach", "Token-_1")
    assert await stores.certificates.load_challenges(at(0)) == []


@pytest.mark.parametrize("token", ["", "a\x00b", "\udcff", "ü", "%", "x" * 100_000])
async def test_token_may_be_anything(stores: Stores, token: str) -> None:
    assert await stores.certificates.load_challenge("http-01", token, NOW) is None
