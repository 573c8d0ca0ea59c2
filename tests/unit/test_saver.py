"""Writing policies in groups: nothing is lost, nothing comes back, nobody waits for a store that hangs."""

import asyncio
from dataclasses import replace

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.core.policycache import StoredPolicy
from stsguard.discovery.saver import BATCH, WAIT_SECONDS, PolicySaver
from stsguard.names import Domain
from tests.unit.fakes import START, Clock, FakeStore, VirtualLoop, World, policy, virtual


def row(name: str, record_id: str = "1") -> StoredPolicy:
    return StoredPolicy(Domain(name), policy(name=name), record_id, START, START)


def saver_of(store: FakeStore) -> PolicySaver:
    return PolicySaver(store)


@virtual
async def test_what_comes_in_while_one_transaction_runs_goes_into_the_next(world: World) -> None:
    saver = saver_of(world.store)
    for number in range(3 * BATCH):
        saver.save_later(row(f"d{number}.example"))
    await saver.flush()
    assert world.store.calls["save_policies"] == 3
    assert len(world.store.rows) == 3 * BATCH
    assert saver.unsaved == 0


@virtual
async def test_the_newest_of_a_domain_is_written_also_if_it_comes_during_a_transaction(world: World) -> None:
    saver = saver_of(world.store)
    running = asyncio.create_task(saver.run())
    first = asyncio.create_task(saver.save(row("a.example", "1")))
    await asyncio.sleep(0)
    await saver.save(row("a.example", "2"))
    await first
    assert world.store.rows["a.example"].record_id == "2"
    running.cancel()


@pytest.mark.parametrize("steps", ["sf", "fs", "sfs", "fsf", "sfsfs"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_last_word_on_a_domain_holds(steps: str, turns: int) -> None:
    """Saving and forgetting one domain, with so many turns of the loop between: the last one wins."""

    async def main() -> None:
        store = FakeStore(rows={"a.example": row("a.example", "0")})
        saver = saver_of(store)
        running = asyncio.create_task(saver.run())
        for number, step in enumerate(steps, 1):
            if step == "s":
                saver.save_later(row("a.example", str(number)))
            else:
                saver.forget(Domain("a.example"))
            for _ in range(turns):
                await asyncio.sleep(0)
        await asyncio.sleep(5)
        kept = store.rows.get("a.example")
        assert (kept.record_id if kept else "") == (str(len(steps)) if steps[-1] == "s" else "")
        assert not saver.is_waiting(Domain("a.example"))
        running.cancel()

    clock = Clock()
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(main())


@virtual
async def test_a_hanging_store_holds_nobody_up_for_longer_than_the_wait(world: World) -> None:
    saver = saver_of(world.store)
    world.store.hangs = True
    running = asyncio.create_task(saver.run())
    begun = world.clock.monotonic()
    await saver.save(row("a.example"))
    assert world.clock.monotonic() - begun == pytest.approx(WAIT_SECONDS)
    assert saver.waiting(Domain("a.example")) is not None
    running.cancel()


@virtual
async def test_a_failing_store_holds_nobody_up_and_is_tried_again(world: World) -> None:
    saver = saver_of(world.store)
    world.store.broken = True
    running = asyncio.create_task(saver.run())
    begun = world.clock.monotonic()
    for number in range(5):
        await saver.save(row(f"d{number}.example"))
    saver.forget(Domain("d0.example"))
    assert world.clock.monotonic() == begun
    assert saver.unsaved == 5
    with pytest.raises(StoreUnavailable):
        await saver.flush()
    world.store.broken = False
    await asyncio.sleep(60)
    assert sorted(world.store.rows) == [f"d{number}.example" for number in range(1, 5)]
    assert saver.failing_since is None
    running.cancel()


@virtual
async def test_what_waits_is_known(world: World) -> None:
    saver = saver_of(world.store)
    one = replace(row("a.example"), record_id="9")
    assert not saver.is_waiting(one.policy_domain)
    saver.save_later(one)
    assert saver.waiting(one.policy_domain) is one
    saver.forget(one.policy_domain)
    assert saver.is_waiting(one.policy_domain)
    assert saver.waiting(one.policy_domain) is None
