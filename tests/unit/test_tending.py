"""Keeping policies fresh: id checks, refreshes, pauses, loading, the clock, and faults (RFC 8461 §3.3, §5.1, §10.2)."""

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from stsguard.core.errors import FetchReason
from stsguard.core.policycache import IN_USE_SECONDS, Downgrade, fetch_pause_seconds
from stsguard.discovery import demand, policies, supervisor, tending
from stsguard.discovery.policy_entry import PolicyEntry
from stsguard.names import Domain
from tests.unit.fakes import DAY, TEN_YEARS, World, virtual

NAME = Domain("example.com")
TXT = f"_mta-sts.{NAME}"


def entry_of(world: World, name: str = NAME) -> PolicyEntry:
    entry = world.cache.entry(Domain(name))
    assert entry is not None
    return entry


async def in_force(world: World, name: str = NAME, *, max_age: int = 604_800) -> PolicyEntry:
    """The domain's policy, published and looked up."""
    world.publish(name, max_age=max_age)
    await world.start()
    assert await world.reply(name) == "secure"
    return entry_of(world, name)


@virtual
async def test_rfc8461_3_3_the_id_is_checked_every_five_minutes_while_in_use(world: World) -> None:
    await in_force(world)
    before = world.resolver.count("TXT")
    await world.keep_asking(NAME, 3600)
    assert 9 <= world.resolver.count("TXT") - before <= 14
    assert world.fetcher.fetched == [NAME]  # the same id: no fetch


@virtual
async def test_the_id_is_not_checked_while_nobody_asks(world: World) -> None:
    await in_force(world)
    await world.let_pass(900)  # the first check follows the use before
    before = world.resolver.count("TXT")
    await world.let_pass(DAY / 4)
    assert world.resolver.count("TXT") == before
    await world.reply(NAME)
    await asyncio.sleep(2)
    assert world.resolver.count("TXT") == before + 1  # asked for again: the check is due at once


@virtual
async def test_rfc8461_3_3_a_new_id_leads_to_a_fetch_and_the_decision_changes(world: World) -> None:
    await in_force(world)
    world.publish(NAME, "testing", record_id="2")
    replies = await world.keep_asking(NAME, 420, every=30)
    assert await world.reply(NAME) == "notfound"
    assert replies["secure"] > 0
    assert world.fetcher.fetched == [NAME, NAME]
    assert world.store.rows[NAME].record_id == "2"


@pytest.mark.parametrize("lost", ["vanished", "failed"])
@virtual
async def test_rfc8461_10_2_daily_refresh_even_if_txt_is_gone(world: World, lost: str) -> None:
    first = await in_force(world)
    if lost == "vanished":
        world.resolver.deny("TXT", TXT)
    else:
        world.resolver.fail("TXT", TXT)
    replies = await world.keep_asking(NAME, 10 * DAY, every=600)
    assert 10 <= len(world.fetcher.fetched) <= 15
    assert set(replies) == {"secure"}
    assert entry_of(world).expires_at > first.expires_at


@virtual
async def test_a_policy_nobody_asks_for_is_refreshed_for_sixty_days_and_again_once_it_is(world: World) -> None:
    await in_force(world, max_age=200 * int(DAY))
    await world.let_pass(IN_USE_SECONDS + 3 * DAY)
    fetched = len(world.fetcher.fetched)
    assert 50 <= fetched <= 90  # from three quarters of a day to a day apart
    await world.let_pass(3 * DAY)
    assert len(world.fetcher.fetched) == fetched
    await world.reply(NAME)
    await world.let_pass(600)
    assert len(world.fetcher.fetched) == fetched + 1


@virtual
async def test_one_lookup_of_a_short_lived_policy_is_not_fetched_for_ever(world: World) -> None:
    await in_force(world, max_age=130)
    await world.let_pass(DAY)
    assert len(world.fetcher.fetched) < 180
    fetched = len(world.fetcher.fetched)
    await world.let_pass(DAY)
    assert len(world.fetcher.fetched) == fetched


@virtual
async def test_a_policy_that_lives_seconds_is_not_fetched_ahead_of_time(world: World) -> None:
    await in_force(world, max_age=10)
    await world.let_pass(3600)
    assert len(world.fetcher.fetched) <= 2  # the look-up, and the renewal of its reply


@virtual
async def test_a_short_lived_policy_in_use_is_renewed_before_it_expires(world: World) -> None:
    await in_force(world, max_age=600)
    replies = await world.keep_asking(NAME, 7200)
    assert set(replies) == {"secure"}
    assert policies.expired.value() >= 0
    assert len(world.fetcher.fetched) <= 7200 / 200


@virtual
async def test_rfc8461_3_3_a_failed_refresh_pauses_five_minutes_and_backs_off(world: World) -> None:
    await in_force(world)
    world.announce(NAME, "2")
    world.fetcher.policies[NAME] = FetchReason.HTTP_STATUS
    at: list[float] = []
    world.cache.on_fetch = lambda _domain, _failure: at.append(world.clock.monotonic())
    replies = await world.keep_asking(NAME, DAY)
    assert set(replies) == {"secure"}  # RFC 8461 §3.3: the cached policy goes on being applied
    pauses = [later - earlier for earlier, later in pairwise(at)]
    assert pauses[0] >= 300
    assert pauses[1] >= 600
    assert pauses[2] >= 1200
    assert all(pause >= fetch_pause_seconds(failures, world.random) for failures, pause in enumerate(pauses, 1))
    assert 8 < len(at) < 12


@virtual
async def test_a_new_id_goes_sooner_but_flipping_ids_make_no_storm(world: World) -> None:
    entry = await in_force(world)
    world.fetcher.policies[NAME] = FetchReason.HTTP_STATUS
    fetched = len(world.fetcher.fetched)
    for number in range(600):  # a new id every second, checked every second
        world.announce(NAME, f"n{number}")
        await world.tender.tend(entry)
        await asyncio.sleep(1)
    assert 2 <= len(world.fetcher.fetched) - fetched <= 11
    world.publish(NAME, record_id="good")
    await asyncio.sleep(61)
    await world.tender.tend(entry)
    assert entry_of(world).record_id == "good"


@virtual
async def test_rfc8461_3_3_failing_refreshes_keep_the_policy_until_max_age_since_the_last_fetch(world: World) -> None:
    entry = await in_force(world, max_age=5 * int(DAY))
    await world.keep_asking(NAME, 1.5 * DAY, every=600)
    last = entry_of(world)
    assert last is not entry
    world.fetcher.policies[NAME] = FetchReason.TIMEOUT
    world.resolver.deny("TXT", TXT)
    replies = await world.keep_asking(NAME, last.expires_at - world.clock.monotonic() - 1200, every=600)
    assert set(replies) == {"secure"}
    assert entry_of(world) is last
    before = policies.expired.value()
    await world.let_pass(last.expires_at - world.clock.monotonic())
    assert await world.reply(NAME) == "notfound"
    assert policies.expired.value() == before + 1
    await asyncio.sleep(1)
    assert NAME not in world.store.rows


@virtual
async def test_rfc8461_10_2_a_vanished_record_is_noted_once(world: World) -> None:
    await in_force(world)
    before = policies.downgrades_seen.value(Downgrade.TXT_VANISHED.value)
    world.resolver.deny("TXT", TXT)
    await world.keep_asking(NAME, 3600)
    assert policies.downgrades_seen.value(Downgrade.TXT_VANISHED.value) == before + 1
    world.announce(NAME, "1")
    await world.keep_asking(NAME, 900)
    world.resolver.deny("TXT", TXT)
    await world.keep_asking(NAME, 900)
    assert policies.downgrades_seen.value(Downgrade.TXT_VANISHED.value) == before + 2


@virtual
async def test_rfc8461_8_3_none_and_then_no_record_is_no_downgrade(world: World) -> None:
    world.publish(NAME, "none")
    await world.start()
    await world.reply(NAME)
    before = dict(policies.downgrades_seen.values)
    world.resolver.deny("TXT", TXT)
    await world.keep_asking(NAME, 1800)
    assert policies.downgrades_seen.values == before


@virtual
async def test_after_a_forced_refresh_the_entry_tells_why_it_failed(world: World) -> None:
    entry = await in_force(world)
    world.fetcher.policies[NAME] = FetchReason.CERTIFICATE_EXPIRED
    assert await world.tender.tend(entry, force=True) is entry
    assert entry.upkeep.failure is not None
    assert entry.upkeep.failure.reason is FetchReason.CERTIFICATE_EXPIRED


# --- loading -------------------------------------------------------------------------------------


@virtual
async def test_all_stored_policies_are_read_at_the_start_and_refreshed_unasked(world: World) -> None:
    await world.start()
    for number in range(1200):
        name = f"d{number:04}.example"
        world.publish(name)
        await world.cache.fetch(Domain(name), "1")
    await world.restart(down_seconds=2 * DAY)
    await world.until(lambda: world.tender.loaded, 5)
    assert len(world.cache) == 1200
    fetched = len(world.fetcher.fetched)
    await world.let_pass(600)
    assert len(world.fetcher.fetched) == fetched + 1200


@virtual
async def test_what_is_in_memory_is_not_replaced_by_what_was_stored(world: World) -> None:
    await in_force(world)
    old = world.store.rows[NAME]
    world.store.broken = True
    await world.restart()
    world.publish(NAME, "testing", record_id="2")
    await world.reply(NAME)
    world.store.rows[NAME] = old
    world.store.broken = False
    await world.until(lambda: world.tender.loaded, 30)
    assert entry_of(world).record_id == "2"


# --- the clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [TEN_YEARS, -TEN_YEARS])
@virtual
async def test_after_a_jump_of_the_wall_clock_policies_are_refreshed_as_before(world: World, jump: float) -> None:
    await in_force(world)
    await world.restart()  # so that the last use is known from the store alone
    world.clock.jump(jump)
    fetched = len(world.fetcher.fetched)
    await world.let_pass(10 * DAY)
    assert len(world.fetcher.fetched) >= fetched + 10
    assert entry_of(world).expires_at - world.clock.monotonic() > 5 * DAY


@virtual
async def test_a_slow_drift_of_the_wall_clock_is_no_jump(world: World) -> None:
    await in_force(world)
    before = tending.clock_jumps.value()
    for _ in range(200):
        world.clock.jump(30)
        await asyncio.sleep(60)
    assert tending.clock_jumps.value() == before


# --- bounds and faults ---------------------------------------------------------------------------


@virtual
async def test_the_agenda_does_not_grow_with_what_is_replaced(world: World) -> None:
    await in_force(world)
    for _ in range(3000):
        await world.cache.fetch(NAME, "1")
    assert len(world.tender._due) == 1
    await world.let_pass(2 * DAY)
    assert world.clock.now() - entry_of(world).fetched_at < timedelta(days=1.1)  # and what is left in it still counts


@virtual
async def test_no_more_than_so_many_are_tended_at_once(world: World) -> None:
    await world.start()
    for number in range(100):
        world.publish(f"d{number}.example")
        await world.cache.fetch(Domain(f"d{number}.example"), "1")
    world.fetcher.held = asyncio.Event()
    world.fetcher.most = 0
    await world.let_pass(2 * DAY)
    assert world.fetcher.most == tending.CONCURRENCY
    world.fetcher.held.set()
    await asyncio.sleep(60)
    assert len(world.fetcher.fetched) == 200


@virtual
async def test_a_fault_of_ours_in_one_refresh_is_not_repeated_at_once_and_the_others_go_on(world: World) -> None:
    await in_force(world)
    world.publish("other.example")
    await world.reply("other.example")
    world.fetcher.policies[NAME] = ZeroDivisionError("a bug")
    before, fetched = supervisor.crashes.value("tending"), world.fetcher.fetched.count(NAME)
    await world.let_pass(2 * DAY)
    crashes = supervisor.crashes.value("tending") - before
    assert 1 <= crashes <= 2 * DAY / 300
    assert world.fetcher.fetched.count(NAME) - fetched == crashes
    assert world.fetcher.fetched.count("other.example") >= 3
    assert await world.reply(NAME) == "secure"


@virtual
async def test_a_fault_of_ours_in_the_resolver_is_not_repeated_at_once(world: World) -> None:
    await in_force(world)
    world.resolver.crash("TXT", TXT)
    before = world.resolver.count("TXT")
    await world.keep_asking(NAME, 3600)
    assert 1 <= world.resolver.count("TXT") - before <= 15


@pytest.mark.parametrize("method", ["open", "save"])
@virtual
async def test_a_fault_of_ours_in_the_store_ends_no_loop(world: World, method: str) -> None:
    if method == "open":
        world.store.crash = ZeroDivisionError("a bug")
    await world.start()
    world.store.crash = ZeroDivisionError("a bug")
    world.publish(NAME)
    if method == "save":
        world.store.crash = None
        task = asyncio.create_task(world.cache.fetch(NAME, "1"))
        world.store.crash = ZeroDivisionError("a bug")
        await task
    await asyncio.sleep(60)
    assert not any(task.done() for task in world.tasks)
    world.store.crash = None
    await world.until(lambda: world.tender.loaded, 30)
    if method == "save":
        await world.until(lambda: NAME in world.store.rows, 30)


@virtual
async def test_a_fault_of_ours_in_a_decision_does_not_keep_policies_from_being_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = (await in_force(world)).stored(world.clock.now())
    world.fetcher.policies[NAME] = FetchReason.CONNECT_FAILED
    world.store.broken = True
    await world.restart()
    assert await world.reply(NAME) == "temp"  # there is a decision to make anew once the store is read
    world.store.broken = False
    world.store.rows[NAME] = stored

    def crash(*_arguments: object, **_more: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(demand, "decide", crash)
        await world.until(lambda: world.tender.loaded, 30)
        with pytest.raises(ZeroDivisionError):
            await world.reply(NAME)
    assert await world.reply(NAME) == "secure"
    assert not any(task.done() for task in world.tasks)


@pytest.mark.parametrize("early", [True, False])
@virtual
async def test_single_policies_are_sought_before_the_store_is_open_where_it_can_do_that(
    world: World, early: bool
) -> None:
    world.store.early = early
    assert await world.tender.open_early() is early
    assert world.cache.store_tried.is_set() is early
