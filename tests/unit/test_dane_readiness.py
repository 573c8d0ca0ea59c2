"""Whether DANE counts: what a conclusive check found holds until another one is conclusive."""

import asyncio
from itertools import pairwise

import pytest

from stsguard.discovery.dane_readiness import CHECK_SECONDS, UNSURE_CHECK_SECONDS, DaneReadiness, Finding
from tests.unit.fakes import Clock, VirtualLoop


def test_findings_one_after_another() -> None:
    answers = [
        # finding                                   ready afterwards, changes so far
        (Finding(True, False, "no answer"), True, 0),
        (Finding(False, False, "no answer"), False, 1),
        (Finding(True, True, "validates"), True, 2),
        (Finding(False, False, "no answer"), True, 2),  # whoever delays an answer does not switch DANE off
        (Finding(False, True, "bogus name answered"), False, 3),
        (Finding(True, False, "no answer"), False, 3),
        (Finding(True, True, "validates"), True, 4),
    ]
    changes: list[bool] = []
    left = [finding for finding, _, _ in answers]

    async def check() -> Finding:
        return left.pop(0)

    async def main() -> None:
        readiness = DaneReadiness("resolver", check, assume=True)
        readiness.on_change = changes.append
        for _, ready, count in answers:
            await readiness.look()
            assert readiness.ready is ready
            assert len(changes) == count

    asyncio.run(main())


def test_an_inconclusive_or_failed_check_is_soon_made_again() -> None:
    clock = Clock()
    at: list[float] = []
    found = [Finding(True, True, ""), Finding(False, False, ""), Finding(True, True, ""), Finding(True, True, "")]

    async def check() -> Finding:
        at.append(clock.elapsed)
        return found.pop(0) if found else Finding(True, True, "")

    async def main() -> None:
        readiness = DaneReadiness("resolver", check, assume=True)
        await readiness.look()
        task = asyncio.create_task(readiness.run())
        await asyncio.sleep(3 * CHECK_SECONDS)
        task.cancel()

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(main())
    pauses = [round(later - earlier) for earlier, later in pairwise(at)]
    assert pauses[:3] == [CHECK_SECONDS, UNSURE_CHECK_SECONDS, CHECK_SECONDS]


def test_what_was_not_found_out_is_told_once_and_never_as_a_finding(caplog: pytest.LogCaptureFixture) -> None:
    silent = Finding(True, False, "no answer")
    found = [silent, silent, Finding(True, True, "validates"), silent, silent, Finding(True, True, "validates")]

    async def check() -> Finding:
        return found.pop(0)

    async def main() -> None:
        readiness = DaneReadiness("resolver", check, assume=True)
        doubts = []
        while found:
            await readiness.look()
            doubts.append(readiness.doubt)
        assert doubts == [None, None, None, "no answer", "no answer", None]

    with caplog.at_level("INFO"):
        asyncio.run(main())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "DANE check inconclusive, taken for possible"),
        ("INFO", "DANE is possible"),
        ("WARNING", "DANE check inconclusive, the last one holds"),
    ]
