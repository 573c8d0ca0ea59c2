"""The counters of sessions: on their UTC day, once, whatever the store and the clock do, and bounded."""

import asyncio
import logging
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from stsguard.core.errors import ResultType
from stsguard.core.session import PolicyType
from stsguard.outbound import counters, provisional
from stsguard.outbound.counters import RETRY_SECONDS
from tests.unit.desk import (
    BARE_DETAIL,
    FAILED_IN_LOG,
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

# Days and clocks.


@virtual
async def test_rfc8460_4_1_the_day_is_the_sessions_own_in_utc(world: World) -> None:
    midnight = START + timedelta(hours=12)
    world.clock.advance(12 * 3600)
    desk = await plain_desk(world, log=True)
    east = timezone(timedelta(hours=11))
    desk.logged(logged(at=midnight - timedelta(microseconds=1)), logged(at=midnight))
    desk.logged(logged(at=(midnight - timedelta(hours=1)).astimezone(east)))
    await desk.settle()
    assert desk.store.total() == {"successes": 2}
    assert desk.store.total(day=midnight.date()) == {"successes": 1}


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), TODAY - timedelta(days=1)),
        (datetime(2999, 1, 1, tzinfo=UTC), TODAY + timedelta(days=1)),
    ],
)
def test_a_time_stamp_that_cannot_be_true_is_brought_near(at: datetime, day: date) -> None:
    @virtual
    async def run(world: World) -> None:
        desk = await plain_desk(world, log=True)
        desk.logged(logged(at=at))
        await desk.settle()
        assert desk.store.total(day=day) == {"successes": 1}

    run()


@pytest.mark.parametrize("step", [-7200.0, 7200.0, -86_400.0 * 400, 86_400.0 * 400])
def test_a_clock_step_loses_and_doubles_nothing(step: float) -> None:
    @virtual
    async def run(world: World) -> None:
        desk = await plain_desk(world)
        desk.sent(datagram(), times=3)
        world.clock.jump(step)
        desk.sent(datagram(), times=4)
        await desk.settle()
        assert sum(row.successes for row in desk.store.rows) == 7

    run()


# The store.


@virtual
async def test_counters_are_written_within_a_second(world: World) -> None:
    desk = await plain_desk(world)
    await asyncio.sleep(10)
    desk.sent(datagram())
    await asyncio.sleep(0.5)
    assert desk.store.total() == {"successes": 1}


@virtual
async def test_positions_go_with_the_counters_of_their_lines(world: World) -> None:
    desk = await plain_desk(world, log=True)
    desk.store.broken = True
    desk.intake.sessions([logged()], {"mail.log": "10"})
    await desk.settle()
    desk.intake.sessions([logged()], {"mail.log": "20"})
    desk.intake.sessions([], {"other.log": "5"})
    assert desk.store.positions == {}
    desk.store.broken = False
    await asyncio.sleep(RETRY_SECONDS + 1)
    assert desk.store.positions == {"mail.log": "20", "other.log": "5"}
    assert desk.store.total() == {"successes": 2}


@virtual
async def test_a_position_that_is_made_late_is_of_the_moment_of_writing(world: World) -> None:
    desk = await plain_desk(world, log=True)
    memory = ["1"]
    desk.store.broken = True
    desk.intake.sessions([logged()], {"mail.log": "10", "memory": lambda: memory[0]})
    await desk.settle()
    memory[0] = "2"  # what is read meanwhile has not advanced the position yet
    desk.store.broken = False
    await asyncio.sleep(RETRY_SECONDS + 1)
    assert desk.store.positions == {"mail.log": "10", "memory": "1"}
    desk.intake.sessions([logged()], {"mail.log": "20", "memory": lambda: memory[0]})
    memory[0] = "3"
    await desk.settle()
    assert desk.store.positions == {"mail.log": "20", "memory": "3"}


@virtual
async def test_a_store_that_fails_and_recovers_has_everything_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    desk = await plain_desk(world)
    desk.store.broken = True
    for _ in range(5):
        desk.sent(datagram(), datagram(code=204), times=2)
        await asyncio.sleep(RETRY_SECONDS)
    assert desk.store.rows == []
    desk.store.broken = False
    await asyncio.sleep(2 * RETRY_SECONDS)
    assert desk.store.total() == {"successes": 10, "failures": 10}
    assert desk.store.results() == {"certificate-expired": 10}
    assert not desk.intake.counters.failing
    told = [record.getMessage() for record in caplog.records if record.name.endswith("counters")]
    assert told == ["sessions can't be stored, trying again", "sessions are stored again"]


@virtual
async def test_what_comes_in_while_a_transaction_runs_goes_into_the_next(world: World) -> None:
    desk = await plain_desk(world)
    desk.store.held = asyncio.Event()
    desk.sent(datagram(), times=3)
    await desk.settle()
    desk.sent(datagram(), times=4)
    assert desk.intake.counters.unwritten == 2
    desk.store.held.set()
    await desk.settle()
    assert [row.successes for row in desk.store.rows] == [3, 4]


@pytest.mark.parametrize("broken", [False, True])
def test_stopping_within_a_transaction_counts_nothing_twice_and_loses_nothing(broken: bool) -> None:
    @virtual
    async def run(world: World) -> None:
        desk = await plain_desk(world)
        desk.store.held, desk.store.broken = asyncio.Event(), broken
        desk.sent(datagram(), times=3)
        await desk.settle()
        await world.stop()
        desk.sent(datagram(), times=4)
        desk.store.held.set()
        closing = asyncio.create_task(desk.intake.close())
        await world.until(lambda: desk.store.calls == 2)
        await closing
        left = {} if broken else {"successes": 7}
        assert desk.store.total() == left
        if broken:
            desk.store.broken = False
            await desk.intake.close()
            assert desk.store.total() == {"successes": 7}

    run()


@virtual
async def test_at_the_end_what_the_store_does_not_take_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    desk = await plain_desk(world)
    desk.store.broken = True
    desk.sent(datagram())
    await world.stop()
    await desk.intake.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR][
        -1
    ] == "sessions are lost"


@virtual
async def test_a_fault_in_the_store_keeps_the_counters_and_is_tried_again(world: World) -> None:
    desk = await plain_desk(world)
    desk.store.crash = ZeroDivisionError("a bug in the store")
    desk.sent(datagram())
    await desk.settle()
    desk.store.crash = None
    await asyncio.sleep(30)
    assert desk.store.total() == {"successes": 1}


@virtual
async def test_what_adds_up_to_nothing_is_not_written(world: World) -> None:
    desk = await plain_desk(world, log=True)
    desk.logged(FAILED_IN_LOG)
    desk.sent(datagram(code=204, kind=1, base=MX))  # it was a DANE session
    await desk.settle()
    assert {row.policy.policy_type for row in desk.store.rows} == {PolicyType.TLSA}


# Floods.


@virtual
async def test_a_flood_of_domains_is_bounded_and_told_while_the_store_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "MAX_TALLIES", 10)
    desk = await plain_desk(world)
    desk.store.broken = True
    before = counts(counters.sessions_lost)
    for number in range(40):
        desk.sent(datagram(name=f"d{number}.test"), times=2)
        await asyncio.sleep(1)
        assert desk.intake.counters.unwritten <= 10
    desk.sent(datagram(name="d0.test"))  # known already, so it still counts
    assert counters.sessions_lost.value() == before[()] + 60
    desk.store.broken = False
    await asyncio.sleep(RETRY_SECONDS + 2)
    assert desk.store.total("d0.test") == {"successes": 3}
    assert sum(row.successes for row in desk.store.rows) == 21


@virtual
async def test_a_flood_of_details_keeps_every_session_and_names_the_rest_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "MAX_DETAILS", 10)
    desk = await plain_desk(world)
    desk.store.broken = True
    for number in range(30):
        desk.sent(datagram(code=204, mx=f"mx{number}.a.test"), times=2)
        await asyncio.sleep(0.5)
    desk.store.broken = False
    await asyncio.sleep(RETRY_SECONDS + 2)
    assert desk.store.total() == {"failures": 60}
    assert desk.store.results() == {"certificate-expired": 60}
    assert len(desk.store.details) <= 12


@virtual
async def test_a_flood_of_failures_that_wait_for_detail_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisional, "MAX_FAILURES", 5)
    desk = await plain_desk(world, log=True)
    desk.logged(*[FAILED_IN_LOG._replace(port=25, at=START + timedelta(seconds=n)) for n in range(20)])
    desk.sent(datagram(code=204), times=20)
    await desk.settle()
    assert desk.store.total() == {"failures": 20}
    assert desk.store.details[WHOLE_DETAIL] == 5
    assert desk.store.details[BARE_DETAIL] == 15


@virtual
async def test_a_correction_without_room_is_left_out_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await desk_in_testing(world)
    desk.logged(logged())
    await desk.settle()
    monkeypatch.setattr(counters, "MAX_TALLIES", 0)
    world.verifier.on_probe(probe(ResultType.CERTIFICATE_EXPIRED, world.clock.now()))
    await desk.settle()
    assert desk.store.total() == {"successes": 1, "unverified": 1}


@virtual
async def test_a_fault_with_one_session_takes_no_other_along(world: World) -> None:
    world.publish(NAME, "")
    desk = Desk(world, log=True)
    await desk.start()
    await world.ask(NAME)
    naive = logged(at=START.replace(tzinfo=None))
    desk.logged(naive, logged())
    await desk.settle()
    assert desk.store.total() == {"successes": 1}
