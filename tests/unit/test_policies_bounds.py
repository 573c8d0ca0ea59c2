"""The policy cache: forgetting, bounds, downgrades and the wall clock (RFC 8461 §5.1, §8.3, §10.2)."""

import asyncio
import logging
from datetime import timedelta

import pytest

from stsguard.core.policycache import Downgrade
from stsguard.core.tlspolicy import StsStatus
from stsguard.discovery import policies, supervisor
from stsguard.names import Domain
from tests.unit.fakes import DAY, TEN_YEARS, World, virtual
from tests.unit.policy_status import NAME, entry_of, status


# --- forgetting, flights and races ---------------------------------------------------------------
@virtual
async def test_a_forgotten_policy_does_not_come_back_from_the_store(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    world.resolver.deny("TXT", f"_mta-sts.{NAME}")
    assert world.cache.forget(NAME)
    assert await status(world) is StsStatus.ABSENT
    await asyncio.sleep(1)
    assert not world.store.rows


@virtual
async def test_what_waits_to_be_written_is_the_stored_policy(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    stored = entry_of(world).stored(world.clock.now())
    world.cache.forget(NAME)
    world.store.broken = True
    world.cache.saver.save_later(stored)
    world.resolver.deny("TXT", f"_mta-sts.{NAME}")
    assert await status(world) is StsStatus.IN_FORCE


@virtual
async def test_a_fault_of_ours_fails_one_domain_and_is_counted_once(world: World) -> None:
    world.publish(NAME)
    world.publish("other.example")
    world.fetcher.policies[NAME] = ZeroDivisionError("a bug")
    await world.start()
    before = supervisor.crashes.value("discovery")
    results = await asyncio.gather(status(world), status(world), status(world, "other.example"), return_exceptions=True)
    assert isinstance(results[0], ZeroDivisionError)
    assert results[2] is StsStatus.IN_FORCE
    assert supervisor.crashes.value("discovery") == before + 1


@virtual
async def test_a_fault_after_everybody_has_left_is_still_reported(world: World) -> None:
    world.publish(NAME)
    world.fetcher.policies[NAME] = ZeroDivisionError("a bug")
    await world.start()
    world.fetcher.held = asyncio.Event()
    before = supervisor.crashes.value("discovery")
    assert await status(world) is StsStatus.PENDING
    world.fetcher.held.set()
    await world.until(lambda: supervisor.crashes.value("discovery") == before + 1, 1)


@virtual
async def test_close_ends_the_flights(world: World) -> None:
    world.publish(NAME)
    await world.start()
    world.fetcher.held = asyncio.Event()
    waiter = asyncio.create_task(status(world))
    await asyncio.sleep(1)
    await world.cache.close()
    await asyncio.wait([waiter])
    assert waiter.cancelled()


# --- bounds --------------------------------------------------------------------------------------
@virtual
async def test_a_flood_of_other_domains_evicts_no_policy(world: World) -> None:
    for number in range(50):
        world.publish(f"d{number}.example")
    await world.start()
    for number in range(50):
        assert await status(world, f"d{number}.example") is StsStatus.IN_FORCE
    for number in range(0, 100_000, 100):
        await asyncio.gather(*(status(world, f"x{number + one}.test") for one in range(100)))
    assert len(world.cache) == 50
    assert world.cache.negatives + len(world.cache) <= world.size
    assert all(world.cache.entry(Domain(f"d{number}.example")) for number in range(50))


@virtual
async def test_policies_beyond_the_size_are_kept_and_leave_room_for_some_negatives(world: World) -> None:
    world.size = 40
    world.build()
    await world.start()
    for number in range(60):
        world.publish(f"d{number}.example")
        await status(world, f"d{number}.example")
        await status(world, f"x{number}.test")
    assert len(world.cache) == 60
    assert world.cache.negatives == 4


@virtual
async def test_policies_of_mode_none_make_room_but_stay_in_the_store(world: World) -> None:
    world.size = 20
    world.build()
    await world.start()
    for number in range(30):
        world.publish(f"n{number}.example", "none")
        await status(world, f"n{number}.example")
    world.publish(NAME)
    await status(world)
    assert len(world.cache) + world.cache.negatives <= 20
    assert world.cache.entry(NAME) is not None
    assert len(world.store.rows) == 31
    fetched = len(world.fetcher.fetched)
    assert await status(world, "n0.example") is StsStatus.IN_FORCE  # from the store
    assert len(world.fetcher.fetched) == fetched


# --- replacing -----------------------------------------------------------------------------------
@virtual
async def test_rfc8461_8_3_mode_none_replaces_at_once_and_counts_as_downgrade(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    before = policies.downgrades_seen.value(Downgrade.MODE_LOWERED.value)
    world.publish(NAME, "none", record_id="2")
    with caplog.at_level(logging.WARNING):
        await world.cache.fetch(NAME, "2")
    assert entry_of(world).policy.mode == "none"
    assert policies.downgrades_seen.value(Downgrade.MODE_LOWERED.value) == before + 1
    assert "policy downgrade" in caplog.messages


@pytest.mark.parametrize(("max_age", "counted"), [(60_480, 0), (60_479, 1), (604_800, 0)])
@virtual
async def test_max_age_cut_to_under_a_tenth_is_a_downgrade(world: World, max_age: int, counted: int) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    before = policies.downgrades_seen.value(Downgrade.MAX_AGE_CUT.value)
    world.publish(NAME, max_age=max_age, record_id="2")
    await world.cache.fetch(NAME, "2")
    assert policies.downgrades_seen.value(Downgrade.MAX_AGE_CUT.value) == before + counted


@virtual
async def test_an_id_that_flips_back_is_a_downgrade(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    before = policies.downgrades_seen.value(Downgrade.ID_FLIPS.value)
    await world.cache.fetch(NAME, "2")
    assert policies.downgrades_seen.value(Downgrade.ID_FLIPS.value) == before
    await world.cache.fetch(NAME, "1")
    assert policies.downgrades_seen.value(Downgrade.ID_FLIPS.value) == before + 1


@virtual
async def test_a_name_with_no_room_for_the_record_has_none(world: World) -> None:
    await world.start()
    assert await status(world, ".".join(["a" * 61] * 4)) is StsStatus.ABSENT


# --- the wall clock ------------------------------------------------------------------------------
@pytest.mark.parametrize("jump", [TEN_YEARS, -TEN_YEARS, 2 * 3600.0])
@pytest.mark.parametrize("newcomer", [False, True])
@virtual
async def test_a_jump_of_the_wall_clock_expires_no_policy_nor_after_a_restart(
    world: World, jump: float, newcomer: bool
) -> None:
    world.publish(NAME)
    world.publish("late.example")
    await world.start()
    await status(world)
    await world.let_pass(DAY / 4)
    world.clock.jump(jump)
    if newcomer:  # fetched under the new time, before the jump was noticed
        await status(world, "late.example")
    await asyncio.sleep(10)
    world.fetcher.policies.clear()
    world.resolver.fail("TXT", f"_mta-sts.{NAME}")
    world.resolver.fail("TXT", "_mta-sts.late.example")
    assert await status(world) is StsStatus.IN_FORCE
    expires = entry_of(world).expires_at
    await world.restart(down_seconds=60)
    assert await status(world) is StsStatus.IN_FORCE
    assert entry_of(world).expires_at == pytest.approx(expires, abs=2)
    if newcomer:
        assert await status(world, "late.example") is StsStatus.IN_FORCE
        assert world.store.rows[Domain("late.example")].fetched_at <= world.clock.now()


@virtual
async def test_a_fetch_in_the_future_counts_as_one_just_made(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await status(world)
    row = world.store.rows[NAME]
    await world.stop()
    world.clock.jump(-timedelta(days=400).total_seconds())
    world.build()
    await world.start()
    assert row.fetched_at > world.clock.now()
    assert entry_of(world).expires_at - world.clock.monotonic() <= 604_800
