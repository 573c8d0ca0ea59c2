"""The policy cache: one flight a domain, the store, negatives, failures, downgrades (RFC 8461 §3.3, §5.1, §10.2)."""

import asyncio
import gc
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from stsguard.core.errors import FetchReason
from stsguard.core.tlspolicy import StsStatus
from tests.unit.fakes import World, virtual
from tests.unit.policy_status import NAME, entry_of, status


@virtual
async def test_one_flight_a_domain_with_200_waiters(world: World) -> None:
    world.store.shared = True
    world.publish(NAME)
    await world.start()
    world.fetcher.held = asyncio.Event()
    waiters = [asyncio.create_task(status(world)) for _ in range(200)]
    await asyncio.sleep(1)
    world.fetcher.held.set()
    assert set(await asyncio.gather(*waiters)) == {StsStatus.IN_FORCE}
    assert world.fetcher.fetched == [NAME]
    assert world.resolver.count("TXT") == 1
    assert world.store.calls["load_policy"] == 1


@virtual
async def test_rfc8461_5_1_a_slow_fetch_is_pending_and_goes_on(world: World) -> None:
    world.publish(NAME)
    await world.start()
    world.fetcher.held = asyncio.Event()
    begun = world.clock.monotonic()
    assert await status(world) is StsStatus.PENDING
    assert world.clock.monotonic() - begun == pytest.approx(10.0, abs=0.1)
    assert world.cache.is_fetching
    world.fetcher.held.set()
    await world.until(lambda: world.cache.entry(NAME) is not None, 1)
    assert world.fetcher.fetched == [NAME]
    assert not world.cache.is_fetching


@virtual
async def test_cancelled_waiters_do_not_end_the_flight(world: World) -> None:
    world.publish(NAME)
    await world.start()
    world.fetcher.held = asyncio.Event()
    waiters = [asyncio.create_task(status(world)) for _ in range(5)]
    await asyncio.sleep(1)
    for waiter in waiters[1:]:
        waiter.cancel()
    await asyncio.sleep(1)
    world.fetcher.held.set()
    assert await waiters[0] is StsStatus.IN_FORCE


@virtual
async def test_a_policy_is_on_disk_before_it_is_answered_with(world: World) -> None:
    world.publish(NAME)
    await world.start()
    assert await status(world) is StsStatus.IN_FORCE
    assert NAME in world.store.rows


@pytest.mark.parametrize("blocked", ["TXT", "HTTPS", "both", "all"])
@virtual
async def test_rfc8461_3_3_the_stored_policy_is_used_where_discovery_is_blocked(world: World, blocked: str) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    if blocked != "HTTPS":
        world.resolver.fail("TXT", f"_mta-sts.{NAME}")
    if blocked != "TXT":
        world.fetcher.policies[NAME] = FetchReason.TIMEOUT
    if blocked == "all":
        world.resolver.held["TXT"] = asyncio.Event()
    await world.restart()
    assert await status(world) is StsStatus.IN_FORCE
    assert len(world.fetcher.fetched) == 1


@virtual
async def test_a_discovery_leaves_nothing_that_only_the_garbage_collector_finds(world: World) -> None:
    await world.start()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for number in range(5):
            assert await status(world, f"n{number}.example") is StsStatus.ABSENT
        gc.collect()
        found = {type(each).__name__ for each in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not found & {"_Flight", "_Waiter", "Deciding"}


@virtual
async def test_a_store_that_was_read_as_a_whole_is_not_asked_again(world: World) -> None:
    await world.start()
    await world.until(lambda: world.tender.loaded, 5)
    world.store.broken = True
    assert await status(world, "none.example") is StsStatus.ABSENT
    assert world.store.calls["load_policy"] == 0
    assert not world.cache.store_failing


@pytest.mark.parametrize("why", ["another node stores policies", "a row was no policy", "it had expired by the clock"])
@virtual
async def test_rfc8461_3_3_a_store_that_was_read_is_asked_for_what_memory_lacks(world: World, why: str) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    row = world.store.rows.pop(NAME)
    match why:
        case "another node stores policies":
            world.store.shared = True
        case "a row was no policy":
            world.store.invalid = {NAME}
        case _:
            world.store.rows[NAME] = replace(row, fetched_at=row.fetched_at - timedelta(days=60))
    await world.restart()
    await world.until(lambda: world.tender.loaded, 5)
    world.store.rows[NAME] = row
    world.resolver.deny("TXT", f"_mta-sts.{NAME}")
    assert await status(world) is StsStatus.IN_FORCE


@virtual
async def test_a_miss_in_memory_reads_the_store_though_it_was_never_read_as_a_whole(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    row = world.store.rows.pop(NAME)
    world.store.shared = True
    await world.restart()
    world.store.rows[NAME] = row
    world.resolver.deny("TXT", f"_mta-sts.{NAME}")
    assert await status(world) is StsStatus.IN_FORCE


@virtual
async def test_an_expired_row_is_not_used(world: World) -> None:
    world.publish(NAME, max_age=1000)
    await world.start()
    await status(world)
    world.resolver.deny("TXT", f"_mta-sts.{NAME}")
    await world.restart(down_seconds=1000)
    assert await status(world) is StsStatus.ABSENT


@virtual
async def test_rfc8461_3_2_a_policy_expires_exactly_with_its_max_age(world: World) -> None:
    world.publish(NAME, max_age=1000)
    world.cache.store_tried.set()
    saving = asyncio.create_task(world.cache.saver.run())
    await status(world)
    left = entry_of(world).expires_at - world.clock.monotonic()
    assert left == pytest.approx(1000)
    world.clock.advance(left - 0.001)
    assert world.cache.entry(NAME) is not None
    world.clock.advance(0.001)
    assert world.cache.entry(NAME) is None
    await asyncio.sleep(1)
    assert NAME not in world.store.rows
    saving.cancel()


@virtual
async def test_max_age_0_is_held_for_a_minute_and_never_stored(world: World) -> None:
    world.publish(NAME, max_age=0)
    await world.start()
    assert await status(world) is StsStatus.IN_FORCE
    assert entry_of(world).expires_at - world.clock.monotonic() == pytest.approx(60, abs=1)
    await asyncio.sleep(1)
    assert not world.store.rows
    world.clock.advance(61)
    assert world.cache.entry(NAME) is None


@pytest.mark.parametrize(("ttl", "seconds"), [(0, 60), (30, 60), (600, 600), (86_400, 3600)])
@virtual
async def test_rfc2308_5_no_policy_is_cached_by_the_negative_ttl(world: World, ttl: int, seconds: int) -> None:
    world.resolver.deny("TXT", f"_mta-sts.{NAME}", ttl=ttl)
    await world.start()
    known = await world.cache.state(NAME, 10)
    assert known.state.status is StsStatus.ABSENT
    assert known.until - world.clock.monotonic() == pytest.approx(seconds, abs=0.1)
    await asyncio.sleep(seconds - 1)
    await status(world)
    assert world.resolver.count("TXT") == 1
    await asyncio.sleep(2)
    await status(world)
    assert world.resolver.count("TXT") == 2


@virtual
async def test_rfc8461_3_3_a_failed_fetch_is_not_repeated_for_five_minutes_then_backs_off(world: World) -> None:
    world.publish(NAME)
    world.fetcher.policies[NAME] = FetchReason.HTTP_STATUS
    await world.start()
    at: list[float] = []
    for _ in range(6 * 60):
        before = len(world.fetcher.fetched)
        assert await status(world) is StsStatus.UNAVAILABLE
        at += [world.clock.monotonic()] * (len(world.fetcher.fetched) - before)
        await world.let_pass(60, 60)
    pauses = [later - earlier for earlier, later in pairwise(at)]
    assert pauses[0] >= 300
    assert pauses[1] >= 600
    assert pauses[2] >= 1200
    assert all(300 <= pause <= 3700 for pause in pauses)  # without a cached policy there is a new chance hourly
    assert len(pauses) >= 6


@virtual
async def test_a_policy_host_that_recovers_is_used_after_the_pause(world: World) -> None:
    world.publish(NAME)
    good = world.fetcher.policies[NAME]
    world.fetcher.policies[NAME] = FetchReason.TLS_FAILED
    await world.start()
    await status(world)
    world.fetcher.policies[NAME] = good
    await asyncio.sleep(360)
    assert await status(world) is StsStatus.IN_FORCE


# --- the store can't be read ---------------------------------------------------------------------
@virtual
async def test_store_unreadable_hides_a_policy_that_cannot_be_fetched(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    world.store.broken = True
    world.fetcher.policies[NAME] = FetchReason.CONNECT_FAILED
    await world.restart()
    assert await status(world) is StsStatus.STORE_UNREADABLE
    assert world.tender.store_problem is not None


@virtual
async def test_store_unreadable_a_policy_that_can_be_fetched_is_used(world: World) -> None:
    world.publish(NAME)
    world.store.broken = True
    await world.start()
    assert await status(world) is StsStatus.IN_FORCE


@virtual
async def test_store_unreadable_a_domain_without_a_record_has_no_policy(world: World) -> None:
    world.publish(NAME, "")
    world.store.broken = True
    await world.start()
    assert await status(world) is StsStatus.ABSENT


@virtual
async def test_store_unreadable_a_failed_record_lookup_tells_nothing(world: World) -> None:
    world.resolver.fail("TXT", f"_mta-sts.{NAME}")
    world.store.broken = True
    await world.start()
    assert await status(world) is StsStatus.STORE_UNREADABLE


@virtual
async def test_store_unreadable_and_a_fetch_that_is_delayed_is_not_pending(world: World) -> None:
    """Whoever delays the answer of the policy host must not gain plaintext: a policy may lie in the store."""
    world.publish(NAME)
    world.store.broken = True
    await world.start()
    world.fetcher.held = asyncio.Event()
    assert await status(world) is StsStatus.STORE_UNREADABLE


@virtual
async def test_store_not_read_in_time_is_not_pending(world: World) -> None:
    world.store.shared = True
    world.publish(NAME)
    await world.start()
    world.store.hangs = True
    assert await status(world, wait_seconds=1.0) is StsStatus.STORE_UNREADABLE


@virtual
async def test_a_hanging_store_bounds_the_lookup(world: World) -> None:
    world.publish(NAME)
    world.publish("other.example", "")
    world.store.hangs = True
    await world.start()
    begun = world.clock.monotonic()
    found = await asyncio.gather(status(world), status(world, "other.example"))
    assert list(found) == [StsStatus.IN_FORCE, StsStatus.ABSENT]
    assert world.clock.monotonic() - begun < 6  # five seconds to read, and no more to write what was fetched


@virtual
async def test_the_store_recovers_and_what_was_hidden_comes_into_force(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    world.store.broken = True
    world.fetcher.policies[NAME] = FetchReason.CONNECT_FAILED
    await world.restart()
    assert await status(world) is StsStatus.STORE_UNREADABLE
    world.store.broken = False
    await world.until(lambda: world.tender.loaded, 20)
    assert await status(world) is StsStatus.IN_FORCE
    assert world.tender.store_problem is None


@virtual
async def test_the_store_fails_after_the_start_and_recovers_long_before_the_fetch_is_tried_again(world: World) -> None:
    world.store.shared = True  # else all that is in it would be known
    world.publish(NAME)
    await world.start()
    await status(world)
    row = world.store.rows.pop(NAME)
    world.fetcher.policies[NAME] = FetchReason.CONNECT_FAILED
    await world.restart()
    world.store.rows[NAME] = row
    world.store.broken = True
    fetched = len(world.fetcher.fetched)
    for _ in range(4):
        assert await status(world) is StsStatus.STORE_UNREADABLE
        await asyncio.sleep(31)
    assert len(world.fetcher.fetched) == fetched + 1  # RFC 8461 §3.3: the pause is kept
    world.store.broken = False
    assert await status(world) is StsStatus.IN_FORCE


@virtual
async def test_the_store_recovers_without_a_policy_and_the_fetch_still_waits(world: World) -> None:
    world.store.shared = True  # else all that is in it would be known
    world.publish(NAME)
    world.fetcher.policies[NAME] = FetchReason.CONNECT_FAILED
    await world.start()
    world.store.broken = True
    assert await status(world) is StsStatus.STORE_UNREADABLE
    world.store.broken = False
    await asyncio.sleep(31)
    assert await status(world) is StsStatus.UNAVAILABLE
    assert len(world.fetcher.fetched) == 1


@virtual
async def test_a_policy_is_used_though_it_cannot_be_written_and_written_later(world: World) -> None:
    world.publish(NAME)
    await world.start()
    world.store.broken = True
    begun = world.clock.monotonic()
    assert await status(world) is StsStatus.IN_FORCE
    assert world.clock.monotonic() - begun < 11
    assert world.cache.saver.unsaved == 1
    assert world.cache.saver.failing_since is not None
    world.store.broken = False
    await world.until(lambda: NAME in world.store.rows, 60)
    assert world.cache.saver.failing_since is None
