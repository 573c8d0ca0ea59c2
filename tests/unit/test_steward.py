"""The steward: the whole life of a domain by the ports alone, killed anywhere, with clocks that jump (RFC 8461 §8)."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from stsguard.core.findings import POLICY_DIFFERS, HostingFinding, SeenFinding, Severity
from stsguard.core.hosted import HostedDomain, Stage, record_text
from stsguard.core.mtasts import Mode
from stsguard.core.readiness import Readiness, assess
from stsguard.core.rollout import LivePolicy, adopt, back_to_testing, edit_mx, enforce, retire
from stsguard.core.rollout_plan import DnsMx
from stsguard.core.rollout_table import Change
from stsguard.discovery.health import PartState
from stsguard.inbound.steward import Steward
from stsguard.inbound.steward_steps import StewardSettings, conflicts, update_failures
from stsguard.names import Domain
from tests.unit.fakes import Clock, VirtualLoop
from tests.unit.lives import DOMAIN, MX, live, patterns
from tests.unit.steward_world import Domains, World

NAME = Domain("_mta-sts.example.com")
ALIAS = Domain("example.org")
DAY = 86_400.0
REPORTS = Domain("_smtp._tls.example.com")
SETTINGS = StewardSettings(30 * 86_400, 300, ("mailto:tls@example.com",))


@dataclass
class Desk:
    """A steward in its world. `by_hand`: no dynamic updates."""

    world: World
    by_hand: bool = False

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """As after kill -9: nothing is left but what is stored."""
        world = self.world
        self.steward = Steward(
            domains=world.domains,
            findings=world,
            inspector=world,
            authority=world,
            publisher=None if self.by_hand else world,
            clock=world.clock,
            settings=SETTINGS,
        )

    @property
    def domain(self) -> HostedDomain:
        return self.world.domains.stored[DOMAIN]

    def add(self, found: LivePolicy | None = None) -> None:
        found = found or LivePolicy()
        domain = adopt(DOMAIN, found, self.world.clock.now(), mx_patterns=() if found.policy else MX)[0]
        self.world.domains.put(domain)

    def ask(self, change: Callable[[HostedDomain], Change]) -> None:
        """What an operator does by a command."""
        self.world.domains.put(change(self.domain)[0])

    async def steps(self, count: int, *, days: float = 0.0) -> None:
        """So many steps, each by a process started anew, over so much time."""
        for _ in range(count):
            self.restart()
            await self.steward.step(DOMAIN)
            self.world.clock.advance(days * DAY / count)


@pytest.fixture(name="desk")
def make_desk() -> Desk:
    clock = Clock()
    return Desk(World(clock, Domains()))


async def enforcing(desk: Desk) -> None:
    """As far as enforce, after 15 days."""
    desk.add()
    await desk.steps(4)
    desk.world.clock.advance(15 * DAY)
    now = desk.world.clock.now()
    readiness = assess(desk.domain, await desk.world.inspect(DOMAIN), now)
    assert readiness.ready
    desk.ask(lambda domain: enforce(domain, readiness, now, first_max_age=604_800))
    await desk.steps(4)


async def test_the_whole_life_with_dynamic_updates(desk: Desk) -> None:
    world = desk.world
    await enforcing(desk)
    assert world.records[NAME] == record_text(desk.domain.current.record_id)
    assert (desk.domain.stage, desk.domain.current.max_age) == (Stage.ENFORCE, 604_800)
    await desk.steps(100, days=100)
    assert desk.domain.current.max_age == 30 * 86_400
    assert world.records[NAME] == record_text(desk.domain.current.record_id)
    now = world.clock.now()
    desk.ask(lambda domain: edit_mx(domain, (*MX, *patterns("mx3.example.com")), DnsMx(), now))
    await desk.steps(4)
    assert desk.domain.published == desk.domain.current
    desk.ask(lambda domain: retire(domain, world.clock.now()))
    retired_at = world.clock.now()
    await desk.steps(29, days=29)
    assert world.records[NAME] == record_text(desk.domain.current.record_id)
    assert desk.domain.stage is Stage.RETIRING
    await desk.steps(20, days=2)
    assert NAME not in world.records
    assert desk.domain.stage is Stage.RETIRED
    assert (desk.domain.stage_since - retired_at).days >= 30
    assert [event.what for event in world.domains.history if event.what != "no finding"][-4:] == [
        "served",
        "published",
        "record gone",
        "retired",
    ]
    await desk.steps(1)
    assert desk.domain.stage is Stage.RETIRED


async def test_by_hand_each_step_waits_for_the_operator(desk: Desk) -> None:
    desk.by_hand = True
    world = desk.world
    desk.add()
    await desk.steps(5)
    assert desk.domain.current.served_at is not None
    assert desk.domain.current.published_at is None
    world.records[NAME] = record_text(desk.domain.current.record_id)
    await desk.steps(1)
    assert desk.domain.current.published_at is not None
    desk.ask(lambda domain: retire(domain, world.clock.now()))
    await desk.steps(10, days=2)
    assert desk.domain.record_gone_at is None
    world.ttl = 3600
    await desk.steps(2)
    assert desk.domain.current.record_ttl == 3600
    del world.records[NAME]
    await desk.steps(1)
    assert desk.domain.record_gone_at is not None
    world.records[NAME] = "v=STSv1; id=1;"
    world.clock.advance(3601)
    await desk.steps(1)
    assert desk.domain.record_gone_at is None
    del world.records[NAME]
    await desk.steps(1)
    world.clock.advance(3601)
    await desk.steps(1)
    assert desk.domain.stage is Stage.RETIRED


async def test_rfc8461_8_2_no_id_before_every_address_serves_its_text(desk: Desk) -> None:
    world = desk.world
    desk.add()
    world.served = replace(desk.domain.current, max_age=1)
    await desk.steps(5)
    assert desk.domain.current.served_at is None
    world.served, world.down = None, True
    await desk.steps(5)
    assert (desk.domain.current.served_at, world.records) == (None, {})


@pytest.mark.parametrize("trouble", ["dns_problem", "silent_server", "update_problem"])
async def test_an_id_counts_when_every_server_has_it(desk: Desk, trouble: str) -> None:
    failures = update_failures.value()
    desk.add()
    await desk.steps(2)
    setattr(desk.world, trouble, trouble)
    await desk.steps(3)
    assert desk.domain.current.served_at is not None
    assert desk.domain.current.published_at is None
    assert (update_failures.value() > failures) == (trouble == "update_problem")
    setattr(desk.world, trouble, None)
    await desk.steps(1)
    assert desk.domain.current.published_at is not None


async def test_rfc8460_3_reports_are_asked_for_where_nobody_does(desk: Desk) -> None:
    desk.add()
    await desk.steps(4)
    assert desk.world.records[REPORTS] == "v=TLSRPTv1; rua=mailto:tls@example.com"
    desk.world.records[REPORTS] = "v=TLSRPTv1; rua=mailto:mine@example.com"
    desk.ask(lambda domain: edit_mx(domain, (*MX, *patterns("mx3.example.com")), DnsMx(), desk.world.clock.now()))
    await desk.steps(4)
    assert desk.domain.current.published_at is not None
    assert desk.world.records[REPORTS] == "v=TLSRPTv1; rua=mailto:mine@example.com"


async def test_serving_goes_on_while_a_server_is_silent(desk: Desk) -> None:
    desk.add()
    await desk.steps(4)
    desk.ask(lambda domain: retire(domain, desk.world.clock.now()))
    await desk.steps(3)
    desk.world.clock.advance(2 * DAY)
    await desk.steps(1)
    assert desk.domain.record_gone_at is not None
    desk.world.silent_server = True
    await desk.steps(5, days=5)
    assert desk.domain.stage is Stage.RETIRING


async def test_a_finding_keeps_max_age_from_growing(desk: Desk) -> None:
    world = desk.world
    await enforcing(desk)
    now = world.clock.now()
    loud = HostingFinding("mx-failing", "mx1.example.com", Severity.ERROR, "x")
    world.seen = [SeenFinding(loud, now, now)]
    await desk.steps(40, days=40)
    assert (desk.domain.quiet_since, desk.domain.current.max_age) == (None, 604_800)
    gone_at = world.clock.now()
    world.seen = [SeenFinding(loud, now, now, gone_at)]
    await desk.steps(2)
    assert desk.domain.quiet_since == gone_at
    await desk.steps(29, days=29)
    assert desk.domain.current.max_age == 604_800
    world.down = True  # what is seen now counts, too
    await desk.steps(5, days=2)
    assert desk.domain.current.max_age == 604_800
    world.down = False
    await desk.steps(10, days=10)
    assert desk.domain.current.max_age == 2 * 604_800


async def test_all_is_not_quiet_before_anybody_has_looked(desk: Desk) -> None:
    desk.world.inspected = False
    await enforcing(desk)
    assert desk.domain.quiet_since is None
    desk.world.inspected = True
    await desk.steps(2)
    assert desk.domain.quiet_since is not None


async def test_rfc8461_8_3_another_policy_seen_later_is_waited_for(desk: Desk) -> None:
    world = desk.world
    desk.add()
    await desk.steps(4)
    desk.ask(lambda domain: retire(domain, world.clock.now()))
    await desk.steps(3)
    served_at = desk.domain.current.served_at
    world.clock.advance(DAY / 2)
    now = world.clock.now()
    world.seen = [SeenFinding(HostingFinding(POLICY_DIFFERS, "192.0.2.1", Severity.ERROR, "x"), now, now)]
    await desk.steps(2)
    assert desk.domain.current.served_at is None
    await desk.steps(3)
    assert served_at is not None
    assert desk.domain.current.served_at is not None
    assert desk.domain.current.served_at > served_at


async def test_what_another_process_changed_is_decided_anew(desk: Desk) -> None:
    desk.add()
    await desk.steps(1)
    before = conflicts.value()
    now = desk.world.clock.now()
    desk.world.domains.race = retire(desk.domain, now)[0]
    await desk.steps(1)
    assert conflicts.value() == before + 1
    assert desk.domain.current.mode is Mode.NONE
    assert desk.domain.current.served_at is None
    desk.world.domains.race = replace(desk.domain, quiet_since=None)
    await desk.steps(4)
    assert desk.domain.record_gone_at is not None  # it had never been reached, so there was nothing to fetch back


async def test_a_clock_that_jumps_forward_ends_no_wait(desk: Desk) -> None:
    world = desk.world
    await enforcing(desk)
    desk.ask(lambda domain: retire(domain, world.clock.now()))
    await desk.steps(3)
    world.clock.jump(400 * DAY)
    for _ in range(20):
        await desk.steward.step(DOMAIN)  # the same process: it has seen the jump
        world.clock.advance(3600)
    assert desk.domain.record_gone_at is None
    world.clock.jump(-400 * DAY)
    for _ in range(40):
        await desk.steward.step(DOMAIN)
        world.clock.advance(3600)
    assert (desk.domain.stage, desk.domain.record_gone_at) == (Stage.RETIRING, None)


async def test_a_clock_that_is_behind_notes_nothing_until_it_has_proven_itself(desk: Desk) -> None:
    world = desk.world
    desk.add()
    world.clock.jump(-30 * DAY)
    await desk.steps(5)
    assert desk.domain.current.served_at is None
    world.clock.advance(DAY)
    await desk.steward.step(DOMAIN)
    assert desk.domain.current.created_at == world.clock.now()
    assert world.domains.history[-1].what == "clock put right"
    await desk.steps(2)
    assert desk.domain.current.served_at is not None


async def test_an_alias_follows_as_far_as_its_own_mx_hosts_allow(desk: Desk) -> None:
    world = desk.world
    await enforcing(desk)
    world.domains.put(adopt(ALIAS, LivePolicy(), world.clock.now(), target=desk.domain)[0])

    async def turn(count: int) -> HostedDomain:
        for _ in range(count):
            await desk.steward.step(ALIAS)
        return world.domains.stored[ALIAS]

    world.mx_fails = True
    alias = await turn(5)
    assert (alias.stage, alias.current.published_at is not None) == (Stage.TESTING, True)
    world.mx_fails = False
    alias = await turn(3)
    assert (alias.stage, alias.current.max_age) == (Stage.ENFORCE, 604_800)
    desk.ask(lambda domain: edit_mx(domain, (*MX, *patterns("mx3.example.com")), DnsMx(), world.clock.now()))
    world.mx_fails = True  # it is bound already, so this keeps no new host away
    alias = await turn(3)
    assert alias.current.mx_patterns == desk.domain.current.mx_patterns
    desk.ask(lambda domain: back_to_testing(domain, world.clock.now()))
    assert (await turn(3)).stage is Stage.TESTING
    desk.ask(lambda domain: retire(domain, world.clock.now()))
    assert (await turn(3)).stage is Stage.TESTING
    world.domains.put(retire(world.domains.stored[ALIAS], world.clock.now())[0])
    assert (await turn(3)).stage is Stage.RETIRING


async def test_what_was_taken_over_is_confirmed(desk: Desk) -> None:
    desk.world.records[NAME] = "v=STSv1; id=4711;"
    desk.add(live("enforce", mx=("mx1.example.com", "*.example.net"), record_id="4711", record_ttl=60))
    await desk.steps(3)
    assert desk.domain.current.record_id == "4711"
    assert desk.domain.current.served_at is not None
    assert desk.world.records[NAME] == "v=STSv1; id=4711;"


def test_it_runs_by_itself_and_over_a_database_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    desk = Desk(World(clock, Domains()))

    async def main() -> None:
        running = asyncio.create_task(desk.steward.run())
        desk.add()
        await asyncio.sleep(10)
        assert desk.domain.current.published_at is not None
        desk.world.domains.problem = "disk full"
        await asyncio.sleep(5)
        assert desk.steward.health().state is PartState.FAILED
        desk.world.domains.problem = None
        desk.world.down = True
        desk.ask(lambda domain: enforce(domain, Readiness(()), clock.now(), first_max_age=604_800))
        await asyncio.sleep(60)
        assert desk.steward.health().detail == "1 domains, 1 wait for DNS or addresses: example.com"
        assert "step waits" in caplog.text
        desk.world.down = False
        await asyncio.sleep(301)
        assert desk.domain.current.published_at is not None
        desk.ask(lambda domain: back_to_testing(domain, clock.now()))
        desk.ask(lambda domain: retire(domain, clock.now()))
        await asyncio.sleep(30)
        clock.advance(8 * DAY)
        await asyncio.sleep(1000)
        assert desk.domain.stage is Stage.RETIRED
        assert desk.steward.health().detail == "0 domains, 0 wait for DNS or addresses"
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    caplog.set_level("INFO")
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(main())
    assert "the steward can use the database again" in caplog.text


def test_a_database_that_fails_in_the_middle_of_a_step_loses_nothing() -> None:
    clock = Clock()
    desk = Desk(World(clock, Domains()))

    async def main() -> None:
        running = asyncio.create_task(desk.steward.run())
        desk.add()
        desk.world.domains.save_problem = "disk full"
        await asyncio.sleep(10)
        assert desk.domain.current.served_at is None
        desk.world.domains.save_problem = None
        await asyncio.sleep(10)
        assert desk.domain.current.published_at is not None
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(main())
