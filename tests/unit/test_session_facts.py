"""What discovery knows of a session: its policy, failed fetches, DANE; and what a failure sets off."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial
from ipaddress import ip_address

import pytest

from stsguard.core import netstring
from stsguard.core.dane import MxRecord
from stsguard.core.errors import FetchReason, LookupReason
from stsguard.core.session import FailureDetail, PolicyType, Seen
from stsguard.discovery.policies import LOG_TIME_SECONDS
from stsguard.names import Domain
from stsguard.outbound import session_facts
from stsguard.outbound.lookup import LookupService
from stsguard.outbound.replies import ReplyCache
from tests.unit.desk import FAILED_IN_LOG, MX, NAME, Desk, datagram, logged, plain_desk
from tests.unit.fakes import START, TLSA, World, virtual

# Policies that can't be had.


@virtual
async def test_rfc8461_6_a_policy_that_cannot_be_had_is_reported(world: World) -> None:
    world.publish(NAME, "enforce")
    world.fetcher.policies[NAME] = FetchReason.HTTP_STATUS
    desk = Desk(world)
    await desk.start()
    await world.ask(NAME)
    desk.sent(datagram(), times=2)
    await desk.settle()
    assert desk.store.types() == {PolicyType.STS: {"failures": 2}}
    assert desk.store.results() == {"sts-policy-fetch-error": 2}


@virtual
async def test_a_fetch_that_failed_with_most_others_is_not_reported(world: World) -> None:
    names = [Domain(f"d{number}.test") for number in range(6)]
    for name in names:
        world.publish(name, "enforce")
        world.fetcher.policies[name] = FetchReason.CONNECTION_REFUSED
    desk = Desk(world)
    await desk.start()
    await asyncio.gather(*(world.ask(name) for name in names))
    desk.sent(datagram(name=names[0]))
    await desk.settle()
    assert desk.store.types(names[0]) == {PolicyType.NO_POLICY_FOUND: {"successes": 1}}


@virtual
async def test_rfc8461_6_a_refresh_failure_counts_once_whatever_the_sessions(world: World) -> None:
    desk = await plain_desk(world, mode="enforce")
    world.fetcher.policies[NAME] = FetchReason.HTTP_STATUS
    entry = world.cache.entry(NAME)
    assert entry is not None
    for _ in range(2):
        await world.tender.tend(entry, force=True)
    desk.sent(datagram(kind=2), times=5)
    desk.sent(datagram(kind=2))
    await desk.settle()
    assert desk.store.types() == {PolicyType.STS: {"successes": 6}}
    assert desk.store.results() == {"sts-policy-fetch-error": 2}


@virtual
async def test_failed_refreshes_that_nobody_asks_for_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_facts, "MAX_REFRESHED", 1)
    monkeypatch.setattr(session_facts, "MAX_REFRESH_FAILURES", 3)
    desk = await plain_desk(world, mode="enforce")
    other = Domain("b.test")
    world.publish(other, "enforce")
    await world.ask(other)
    for name, times in ((NAME, 1), (other, 5)):
        world.fetcher.policies[name] = FetchReason.HTTP_STATUS
        entry = world.cache.entry(name)
        assert entry is not None
        for _ in range(times):
            await world.tender.tend(entry, force=True)
    desk.sent(datagram(kind=2), datagram(kind=2, name=other))
    await desk.settle()
    assert desk.store.results() == {"sts-policy-fetch-error": 3}


@virtual
async def test_a_refresh_failure_waits_for_a_session_of_its_day_only(world: World) -> None:
    desk = await plain_desk(world, mode="enforce")
    world.fetcher.policies[NAME] = FetchReason.HTTP_STATUS
    entry = world.cache.entry(NAME)
    assert entry is not None
    await world.tender.tend(entry, force=True)
    world.clock.advance(86_400)
    desk.sent(datagram(kind=2))
    await desk.settle()
    assert desk.store.results() == {}


@virtual
async def test_a_session_before_its_policy_counts_under_the_one_before(world: World) -> None:
    desk = await plain_desk(world, log=True)
    first = START - timedelta(seconds=LOG_TIME_SECONDS + 1)
    world.publish(NAME, "testing")
    world.cache.forget(NAME)
    await world.ask(NAME)
    desk.logged(logged(at=first))
    await desk.settle()
    assert desk.store.types() == {PolicyType.NO_POLICY_FOUND: {"successes": 1}}
    world.clock.advance(100)
    world.publish(NAME, "enforce", record_id="2")
    entry = world.cache.entry(NAME)
    assert entry is not None
    await world.tender.tend(entry, force=True)
    desk.logged(logged(at=world.clock.now() - timedelta(seconds=50)), logged(at=world.clock.now()))
    await desk.settle()
    modes = {row.policy.policy_strings[1]: row.unverified for row in desk.store.rows if row.policy.policy_strings}
    assert modes == {"mode: testing": 1, "mode: enforce": 0}


# What a failure sets off.


@virtual
async def test_rfc8461_5_1_a_failed_session_has_the_id_and_the_mx_host_looked_at(world: World) -> None:
    desk = await plain_desk(world, log=True, mode="enforce")
    entry = world.cache.entry(NAME)
    assert entry is not None
    desk.logged(logged())
    assert entry.id_check_at > world.clock.monotonic()
    waiting = world.verifier.waiting
    desk.logged(FAILED_IN_LOG)
    assert entry.id_check_at <= world.clock.monotonic()
    assert world.verifier.waiting == waiting + 1


# DANE.


def publish_tlsa(world: World, *, bogus: bool = False) -> None:
    world.publish(NAME, "", secure=True)
    if bogus:
        world.resolver.fail("TLSA", f"_25._tcp.{MX}", LookupReason.BOGUS)
    else:
        world.resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)


@virtual
async def test_rfc8460_1_1_a_logged_dane_session_counts_for_domain_and_mx_host(world: World) -> None:
    publish_tlsa(world)
    desk = Desk(world, log=True)
    await desk.start()
    await world.ask(NAME)
    desk.logged(logged())
    await desk.settle()
    assert desk.store.types() == desk.store.types(MX) == {PolicyType.TLSA: {"successes": 1}}
    assert {(row.recipient_domain, row.for_mx_host) for row in desk.store.rows} == {(NAME, False), (NAME, True)}


@virtual
async def test_where_postfix_cannot_do_dane_there_is_no_tlsa(world: World) -> None:
    publish_tlsa(world)
    world.demands.postfix_can_dane = False
    desk = Desk(world, log=True)
    await desk.start()
    await world.ask(NAME)
    desk.logged(logged())
    await desk.settle()
    assert desk.store.types() == {PolicyType.NO_POLICY_FOUND: {"successes": 1}}


@virtual
async def test_unusable_tlsa_of_the_only_mx_host_is_told_though_a_datagram_names_none(world: World) -> None:
    publish_tlsa(world)
    world.resolver.give("TLSA", f"_25._tcp.{MX}", replace(TLSA, usage=1))
    desk = Desk(world)
    await desk.start()
    await world.ask(NAME)
    desk.sent(datagram())
    await desk.settle()
    assert desk.store.types() == {PolicyType.TLSA: {"failures": 1}}
    assert desk.store.results() == {"tlsa-invalid": 1}


class Postfix:
    """Asks by socketmap, as smtp(8) does: once for each MX host that it comes to, and for parent domains after that."""

    def __init__(self, desk: Desk) -> None:
        world = desk.world
        self.replies = ReplyCache(world.demands, observe=False)
        self.service = LookupService(world.demands, self.replies, world.clock.monotonic)
        self.service.on_bogus_tlsa = desk.intake.note_bogus_tlsa

    async def ask(self, key: str = NAME) -> bytes:
        request = netstring.encode(f"policy {key}".encode())
        cell = self.replies.cells.get(request)
        if cell is not None and cell.expires_at > self.service.now():
            return cell.reply
        answer = self.service.answer(request)
        if isinstance(answer, bytes):
            return answer
        made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.notify = partial(made.set_result, None)
        await made
        assert answer.reply is not None
        return answer.reply


@virtual
async def test_rfc8460_4_3_2_1_a_bogus_tlsa_lookup_counts_once_per_delivery_attempt(world: World) -> None:
    publish_tlsa(world, bogus=True)
    desk = Desk(world)
    await desk.start()
    postfix = Postfix(desk)
    assert await world.reply(NAME) == "temp"  # an admin's look-up
    for _ in range(3):
        assert b"TEMP" in await postfix.ask()
        await postfix.ask(f".{NAME}")
        await world.ask(NAME)
    await world.let_pass(3600)  # nobody asks, whatever is renewed
    assert desk.store.types() == desk.store.types(MX) == {PolicyType.TLSA: {"failures": 3}}
    assert dict(desk.store.details) == {FailureDetail("dnssec-invalid", receiving_mx_hostname=MX): 3}


@virtual
async def test_postfix_asks_once_for_each_mx_host_of_an_attempt(world: World) -> None:
    publish_tlsa(world, bogus=True)
    other, nowhere = Domain("mx2.a.test"), Domain("mx3.a.test")
    world.resolver.give("MX", NAME, *(MxRecord(10, each) for each in (MX, other, nowhere)), secure=True)
    world.resolver.give("A", other, ip_address("192.0.2.2"), secure=True)
    world.resolver.fail("TLSA", f"_25._tcp.{other}", LookupReason.SERVFAIL)
    desk = Desk(world)
    await desk.start()
    postfix = Postfix(desk)
    for _ in range(5):  # two attempts, and the first look-up of a third; one host has no address
        assert b"TEMP" in await postfix.ask()
    await desk.settle()
    assert desk.store.total() == {"failures": 3}
    assert dict(desk.store.details) == {FailureDetail("dnssec-invalid", receiving_mx_hostname=MX): 3}


@pytest.mark.parametrize(("preference", "expected"), [(5, {"failures": 1}), (20, {})])
def test_where_mail_goes_to_other_hosts_only_the_best_is_certain_to_be_come_to(
    preference: int, expected: dict[str, int]
) -> None:
    @virtual
    async def run(world: World) -> None:
        publish_tlsa(world, bogus=True)
        other = Domain("mx2.a.test")
        world.resolver.give("MX", NAME, MxRecord(preference, MX), MxRecord(10, other), secure=True)
        world.resolver.give("A", other, ip_address("192.0.2.2"), secure=True)
        world.resolver.give("TLSA", f"_25._tcp.{other}", TLSA)
        desk = Desk(world)
        await desk.start()
        assert b"dane" in await Postfix(desk).ask()
        await desk.settle()
        assert desk.store.total() == expected

    run()


@virtual
async def test_with_a_log_its_lines_tell_of_the_attempts_and_no_lookup_counts(world: World) -> None:
    publish_tlsa(world, bogus=True)
    desk = Desk(world, log=True)
    await desk.start()
    postfix = Postfix(desk)
    await postfix.ask()
    await postfix.ask()
    await desk.settle()
    assert desk.store.days == {}
    desk.logged(logged(Seen.NO_TLS_POLICY, receiving_ip=""))
    await desk.settle()
    assert desk.store.types() == desk.store.types(MX) == {PolicyType.TLSA: {"failures": 1}}
    assert dict(desk.store.details) == {FailureDetail("dnssec-invalid", receiving_mx_hostname=MX): 1}


@virtual
async def test_a_reply_is_cached_again_once_the_tlsa_records_are_mended(world: World) -> None:
    publish_tlsa(world)
    desk = Desk(world)
    await desk.start()
    postfix = Postfix(desk)
    assert b"dane" in await postfix.ask()
    assert len(postfix.replies.cells) == 1
    world.resolver.fail("TLSA", f"_25._tcp.{MX}", LookupReason.BOGUS)
    world.demands.redecide_all()
    assert b"TEMP" in await postfix.ask()
    assert postfix.replies.cells == {}
    world.resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    world.demands.redecide_all()
    assert b"dane" in await postfix.ask()
    assert len(postfix.replies.cells) == 1


@pytest.mark.parametrize("why", ["observe", "other failure", "site's level", "no DANE"])
def test_a_failed_tlsa_lookup_that_is_no_fault_of_theirs_or_kept_nothing_back_is_not_reported(why: str) -> None:
    @virtual
    async def run(world: World) -> None:
        publish_tlsa(world, bogus=True)
        if why == "other failure":
            world.resolver.fail("TLSA", f"_25._tcp.{MX}", LookupReason.SERVFAIL)
        if why == "site's level":
            world.resolver.give("MX", NAME, MxRecord(10, MX), MxRecord(20, Domain("mx2.test")))
            world.resolver.give("A", "mx2.test", ip_address("192.0.2.2"))
        world.demands.postfix_can_dane = why != "no DANE"
        desk = Desk(world, observe=why == "observe")
        await desk.start()
        await Postfix(desk).ask()
        await desk.settle()
        assert desk.store.days == {}

    run()
