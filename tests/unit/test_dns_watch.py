"""Whether DNS works at all: asked again and again, told once."""

import asyncio

import pytest

from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.discovery.health import PartState
from stsguard.outbound.dns_watch import CHECK_SECONDS, FAILING_CHECK_SECONDS, DnsWatch
from tests.unit.fakes import Clock, VirtualLoop


def test_a_silent_resolver_is_a_failed_part_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    start = clock.monotonic()
    asked: list[float] = []

    async def ask() -> None:
        asked.append(clock.monotonic() - start)
        if 2 <= len(asked) <= 4:
            raise LookupFailed(LookupReason.TIMEOUT, ". DNSKEY")

    async def main() -> None:
        watch = DnsWatch(ask)
        await watch.look()
        assert watch.health().state is PartState.OK
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(CHECK_SECONDS + 1)
        health = watch.health()
        assert health.state is PartState.FAILED
        assert "mail waits" in health.detail
        assert ". DNSKEY: timeout" in health.detail
        await asyncio.sleep(4 * FAILING_CHECK_SECONDS)
        assert watch.health().state is PartState.OK
        task.cancel()

    with caplog.at_level("INFO"), asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(main())
    assert [round(at) for at in asked] == [0, 60, 70, 80, 90]
    assert [record.getMessage() for record in caplog.records] == [
        "DNS does not work, mail waits until it does",
        "DNS works again",
    ]
