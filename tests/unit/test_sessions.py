"""The intake of sessions: counted once whatever the sources, and corrected when more is known."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest

from stsguard.core.errors import ResultType
from stsguard.core.overrides import Override, OverrideKind, Overrides
from stsguard.core.session import PolicyType
from stsguard.core.session_text import session_text
from stsguard.names import Domain
from stsguard.outbound import provisional, sessions, unplaced
from tests.unit.desk import (
    BARE_DETAIL,
    FAILED_IN_LOG,
    INSTANCE,
    MX,
    NAME,
    TODAY,
    WHOLE_DETAIL,
    Desk,
    datagram,
    desk_in_testing,
    logged,
    plain_desk,
    probe,
)
from tests.unit.fakes import START, World, counts, virtual

# One source counts.


@virtual
async def test_without_a_log_datagrams_count_as_often_as_they_came(world: World) -> None:
    desk = await plain_desk(world)
    desk.sent(datagram(), times=7)
    desk.sent(datagram(code=204), times=3)
    await desk.settle()
    assert desk.store.total() == {"successes": 7, "failures": 3}
    assert desk.store.results() == {"certificate-expired": 3}


@virtual
async def test_with_a_log_its_lines_count_and_datagrams_do_not(world: World) -> None:
    desk = await plain_desk(world, log=True)
    desk.sent(datagram(), datagram(code=204), times=5)
    desk.logged(logged(), FAILED_IN_LOG)
    await desk.settle()
    assert desk.store.total() == {"successes": 1, "failures": 1}


@virtual
async def test_a_log_of_one_instance_does_not_silence_the_datagrams_of_another(world: World) -> None:
    desk = await plain_desk(world, log=True)
    desk.logged(logged())
    desk.hear([(datagram(), 2)], world.clock.now(), "postfix-out")
    await desk.settle()
    assert desk.store.total() == {"successes": 3}


@pytest.mark.parametrize("order", ["log first", "datagram first"])
@pytest.mark.parametrize("written_between", [False, True])
def test_a_failure_heard_twice_counts_once_with_the_detail_of_both(order: str, written_between: bool) -> None:
    @virtual
    async def run(world: World) -> None:
        desk = await plain_desk(world, log=True)
        for source in ("log", "datagram") if order == "log first" else ("datagram", "log"):
            if source == "log":
                desk.logged(FAILED_IN_LOG)
            else:
                desk.sent(datagram(code=204))
            if written_between:
                await desk.settle()
        await desk.settle()
        assert desk.store.total() == {"failures": 1}
        assert {k: v for k, v in desk.store.details.items() if v} == {WHOLE_DETAIL: 1}

    run()


@virtual
async def test_each_datagram_tells_of_one_logged_failure(world: World) -> None:
    desk = await plain_desk(world, log=True)
    desk.logged(FAILED_IN_LOG, FAILED_IN_LOG, FAILED_IN_LOG)
    desk.sent(datagram(code=204), times=1)
    desk.sent(datagram(code=204), times=3)
    desk.logged(FAILED_IN_LOG, FAILED_IN_LOG)
    await desk.settle()
    assert desk.store.total() == {"failures": 5}
    assert {k: v for k, v in desk.store.details.items() if v} == {WHOLE_DETAIL: 4, BARE_DETAIL: 1}


@virtual
async def test_a_datagram_of_another_failure_or_another_minute_adds_nothing(world: World) -> None:
    desk = await plain_desk(world, log=True)
    desk.sent(datagram(code=203), datagram(code=204, mx="mx2.a.test"), datagram(code=204, name="b.test"))
    desk.sent(datagram(code=204), at=START - timedelta(seconds=90))
    desk.logged(FAILED_IN_LOG)
    await desk.settle()
    assert dict(desk.store.details) == {BARE_DETAIL: 1}


@virtual
async def test_details_are_forgotten_after_a_minute(world: World) -> None:
    desk = await plain_desk(world, log=True)
    desk.sent(datagram(code=204))
    await asyncio.sleep(62)
    desk.logged(FAILED_IN_LOG._replace(at=START + timedelta(seconds=50)))
    await asyncio.sleep(62)
    desk.sent(datagram(code=204), at=START + timedelta(seconds=50))
    await desk.settle()
    assert dict(desk.store.details) == {BARE_DETAIL: 1}


@virtual
async def test_the_policy_that_postfix_applied_comes_from_the_datagram_of_a_logged_failure(world: World) -> None:
    desk = await plain_desk(world, log=True)
    desk.logged(FAILED_IN_LOG)
    await desk.settle()
    assert desk.store.types() == {PolicyType.NO_POLICY_FOUND: {"failures": 1}}
    desk.sent(datagram(code=204, kind=1, base=MX))
    await desk.settle()
    assert desk.store.types() == {PolicyType.TLSA: {"failures": 1}}
    assert desk.store.types(MX) == {PolicyType.TLSA: {"failures": 1}}


@virtual
async def test_what_cannot_be_parsed_is_kept_and_stops_nothing(world: World) -> None:
    desk = await plain_desk(world)
    desk.sent(b"{", datagram())
    await desk.settle()
    assert desk.store.total() == {"successes": 1}
    assert [(each.start, each.instance) for each in desk.intake.refused.kept()] == [(b"{", INSTANCE)]


@virtual
async def test_rfc8460_3_sessions_with_our_own_reports_are_not_counted(world: World) -> None:
    desk = await plain_desk(world, log=True)
    before = counts(sessions.not_reported)
    desk.logged(FAILED_IN_LOG._replace(instance="reports"), logged())
    await desk.settle()
    assert desk.store.total() == {"successes": 1}
    assert sessions.not_reported.values["by-verdict",] == before["by-verdict",] + 1


@virtual
async def test_an_override_takes_a_domain_out_of_reports(world: World) -> None:
    desk = await plain_desk(world, log=True, mode="enforce")
    world.demands.overrides = Overrides({NAME: Override(NAME, OverrideKind.EXEMPT)})
    world.demands.redecide_all()
    await world.ask(NAME)
    desk.logged(logged(), FAILED_IN_LOG, logged(receiving_mx_hostname=Domain("relay.test")))
    await desk.settle()
    assert desk.store.total() == {}


# What a log does not say: whether the MX host is one of the domain's.


@virtual
async def test_a_session_with_a_relay_is_not_reported_to_the_recipient_domain(world: World) -> None:
    desk = await plain_desk(world, log=True)
    before = counts(sessions.not_reported)
    desk.logged(logged(receiving_mx_hostname=Domain("relay.test")), logged())
    await desk.settle()
    assert desk.store.total() == {"successes": 1}
    assert sessions.not_reported.values["not-its-mx-host",] == before["not-its-mx-host",] + 1


@virtual
async def test_mx_hosts_that_nobody_has_asked_for_are_looked_up(world: World) -> None:
    world.publish(NAME, "enforce")
    desk = Desk(world, log=True)
    await desk.start()
    desk.logged(logged(), logged(receiving_mx_hostname=Domain("relay.test")), FAILED_IN_LOG)
    await desk.settle()
    assert desk.store.total() == {"successes": 1, "failures": 1}
    assert world.resolver.count("MX", NAME) == 1


@virtual
async def test_mx_hosts_that_cannot_be_known_make_no_claim(world: World) -> None:
    world.resolver.fail("MX", NAME)
    world.resolver.held["A"] = asyncio.Event()
    hanging = Domain("b.test")
    desk = Desk(world, log=True)
    await desk.start()
    desk.logged(logged(), logged(recipient_domain=hanging))
    await world.until(lambda: desk.intake.unplaced == 0, 200)
    await desk.settle()
    assert desk.store.days == {}


@virtual
async def test_sessions_that_wait_for_their_mx_hosts_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unplaced, "MAX_UNPLACED", 3)
    world.publish(NAME, "")
    desk = Desk(world, log=True)
    await desk.start()
    desk.logged(*[logged()] * 5)
    await desk.settle()
    assert desk.store.total() == {"successes": 3}
    desk.logged(logged())
    await desk.settle()
    assert desk.store.total() == {"successes": 4}


@virtual
async def test_what_waits_for_its_mx_hosts_outlives_a_kill_with_the_position(world: World) -> None:
    world.publish(NAME, "")
    world.resolver.held["MX"] = asyncio.Event()
    killed = Desk(world, log=True)
    await killed.start()
    killed.intake.sessions([logged(), FAILED_IN_LOG], {"log:postfix": "offset=7"})
    await killed.settle()
    killed.intake.sessions([logged()], {"log:postfix": "offset=8"})
    await killed.settle()
    assert (killed.store.total(), killed.store.positions["log:postfix"]) == ({}, "offset=8")
    await world.stop()  # nothing is closed

    world.resolver.held["MX"].set()
    again = Desk(world, log=True, store=killed.store)
    again.intake.restore("postfix-out", again.store.positions)
    assert again.intake.unplaced == 0  # another instance's
    again.intake.restore(INSTANCE, again.store.positions)
    assert again.intake.unplaced == 3
    await again.start()
    await again.settle()
    assert again.store.total() == {"successes": 2, "failures": 1}
    assert again.store.positions == {"log:postfix": "offset=8"}


@virtual
async def test_a_stored_session_that_is_unreadable_is_told_and_forgotten(world: World) -> None:
    world.publish(NAME, "")
    desk = Desk(world, log=True)
    desk.store.positions = {f"waiting:{INSTANCE} {NAME}:25": "nonsense\n" + session_text(logged())}
    await desk.start()
    desk.intake.restore(INSTANCE, desk.store.positions)
    await desk.settle()
    assert desk.store.total() == {"successes": 1}
    assert desk.store.positions == {}


# Testing mode.


@virtual
async def test_testing_is_unverified_until_a_probe_and_corrected_then(world: World) -> None:
    desk = await desk_in_testing(world)
    desk.logged(logged(), logged())
    await desk.settle()
    assert desk.store.types() == {PolicyType.STS: {"successes": 2, "unverified": 2}}
    world.verifier.on_probe(probe(ResultType.CERTIFICATE_EXPIRED, world.clock.now()))
    await desk.settle()
    assert desk.store.types() == {PolicyType.STS: {"failures": 2}}
    assert desk.store.results() == {"certificate-expired": 2}


@virtual
async def test_testing_verified_afterwards_is_a_success(world: World) -> None:
    desk = await desk_in_testing(world)
    desk.logged(logged())
    await world.let_pass(3500)
    world.verifier.on_probe(probe(None, world.clock.now()))
    await desk.settle()
    assert desk.store.total() == {"successes": 1}


@virtual
async def test_a_real_probe_of_the_verifier_corrects(world: World) -> None:
    desk = await desk_in_testing(world)
    desk.logged(logged())
    world.prober.found[MX] = probe(ResultType.CERTIFICATE_NOT_TRUSTED, world.clock.now())
    world.tasks.append(asyncio.create_task(world.verifier.run()))
    await desk.settle()
    assert desk.store.total() == {"failures": 1}
    desk.logged(logged())  # and the next is judged by it at once
    await desk.settle()
    assert desk.store.total() == {"failures": 2}


@virtual
async def test_an_inconclusive_probe_or_one_of_another_address_verifies_nothing(world: World) -> None:
    desk = await desk_in_testing(world)
    desk.logged(logged(), logged(receiving_ip=""))
    world.verifier.on_probe(probe(None, world.clock.now(), inconclusive=True))
    world.verifier.on_probe(replace(probe(None, world.clock.now()), address=ip_address("192.0.2.2")))
    await desk.settle()
    assert desk.store.total() == {"successes": 2, "unverified": 2}


@virtual
async def test_after_an_hour_a_session_stays_unverified(world: World) -> None:
    desk = await desk_in_testing(world)
    desk.logged(logged())
    await world.let_pass(3700)
    assert desk.intake.unverified == 0
    world.verifier.on_probe(probe(ResultType.CERTIFICATE_EXPIRED, world.clock.now()))
    await desk.settle()
    assert desk.store.total() == {"successes": 1, "unverified": 1}


@virtual
async def test_sessions_that_wait_for_a_probe_are_bounded_and_alike_ones_wait_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisional, "MAX_PENDING", 3)
    desk = await desk_in_testing(world)
    for minute in range(5):
        desk.logged(*[logged(at=START + timedelta(minutes=minute))] * 10)
    assert desk.intake.unverified == 3
    world.verifier.on_probe(probe(ResultType.CERTIFICATE_EXPIRED, world.clock.now()))
    await desk.settle()
    assert desk.store.total() == {"failures": 30, "successes": 20, "unverified": 20}


@virtual
async def test_a_correction_is_made_on_the_day_of_the_session(world: World) -> None:
    world.clock.advance(12 * 3600 - 60)  # a minute before midnight
    desk = await desk_in_testing(world)
    desk.logged(logged(at=world.clock.now()))
    await asyncio.sleep(300)
    world.verifier.on_probe(probe(ResultType.CERTIFICATE_EXPIRED, world.clock.now()))
    await desk.settle()
    assert desk.store.total() == {"failures": 1}
    assert desk.store.total(day=TODAY + timedelta(days=1)) == {}


@virtual
async def test_what_a_probe_has_told_is_written_at_the_end(world: World) -> None:
    desk = await desk_in_testing(world)
    desk.logged(*[logged(at=START + timedelta(minutes=n)) for n in range(30)])
    world.verifier.on_probe(probe(ResultType.CERTIFICATE_EXPIRED, world.clock.now()))
    await world.stop()
    await desk.intake.close()
    assert desk.store.total() == {"failures": 30}


@virtual
async def test_observe_mode_verifies_enforce_as_well(world: World) -> None:
    desk = await plain_desk(world, log=True, mode="enforce", observe=True)
    desk.logged(logged())
    await desk.settle()
    assert desk.store.total() == {"successes": 1, "unverified": 1}
