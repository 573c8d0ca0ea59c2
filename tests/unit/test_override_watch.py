"""The overrides in force: read at start, when the file changes, when an entry expires; a bad file changes nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date

import pytest

from stsguard.core.errors import OverrideInvalid
from stsguard.core.overrides import Overrides, parse_overrides
from stsguard.discovery.health import PartState
from stsguard.outbound.override_watch import POLL_SECONDS, OverrideWatch
from tests.unit.fakes import DAY, Clock, VirtualLoop


@dataclass
class File:
    tables: dict[str, object] = field(default_factory=dict)
    bad: bool = False
    version: int = 1
    reads: int = 0

    def read(self) -> Overrides:
        self.reads += 1
        if self.bad:
            raise OverrideInvalid("overrides.toml: no TOML")
        return parse_overrides(self.tables)

    def write(self, tables: dict[str, object], *, bad: bool = False) -> None:
        self.tables, self.bad = tables, bad
        self.version += 1


@dataclass
class Setting:
    clock: Clock
    file: File
    applied: list[int]
    watch: OverrideWatch


def watching(test: Callable[[Setting], Awaitable[None]]) -> None:
    clock, file = Clock(), File({"a.example": {"exempt": True}})
    applied: list[int] = []
    watch = OverrideWatch(file.read, lambda: file.version, clock, lambda found: applied.append(len(found)))

    async def main() -> None:
        watch.load()
        task = asyncio.create_task(watch.run())
        await test(Setting(clock, file, applied, watch))
        assert not task.done()
        task.cancel()

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(main())


def test_a_change_is_read_and_nothing_else() -> None:
    async def steps(at: Setting) -> None:
        await asyncio.sleep(10 * POLL_SECONDS)
        assert at.file.reads == 1
        at.file.write({"a.example": {"exempt": True}, "b.example": {"exempt": True}})
        await asyncio.sleep(2 * POLL_SECONDS)
        assert at.applied == [1, 2]
        assert at.watch.health().detail == "2 entries"
        at.file.write({"a.example": {"exempt": True, "expires": date(2020, 1, 1)}, "b.example": {"exempt": True}})
        await asyncio.sleep(2 * POLL_SECONDS)
        assert at.watch.health().detail == "2 entries, 1 expired, ignored"

    watching(steps)


def test_a_bad_file_keeps_the_old_overrides_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    async def steps(at: Setting) -> None:
        at.file.write({}, bad=True)
        await asyncio.sleep(20 * POLL_SECONDS)
        assert at.applied == [1]
        assert at.watch.health().state is PartState.FAILED
        assert caplog.messages.count("override file refused, the old overrides stay in force") == 1
        at.file.write({})
        await asyncio.sleep(2 * POLL_SECONDS)
        assert at.applied == [1, 0]
        assert at.watch.health().state is PartState.OK

    watching(steps)


def test_sighup_reads_at_once() -> None:
    async def steps(at: Setting) -> None:
        at.watch.reload()
        assert at.applied == [1, 1]
        at.file.bad = True
        at.watch.reload()
        assert at.applied == [1, 1]

    watching(steps)


def test_a_bad_file_stops_the_start() -> None:
    watch = OverrideWatch(File(bad=True).read, lambda: 1, Clock(), lambda _found: None)
    with pytest.raises(OverrideInvalid):
        watch.load()
    assert watch.health().state is PartState.FAILED


def test_midnight_is_no_change_unless_an_entry_expires(caplog: pytest.LogCaptureFixture) -> None:
    async def steps(at: Setting) -> None:
        await asyncio.sleep(2 * DAY)
        assert at.file.reads == 1  # or every decision would be made anew for nothing
        at.file.write({"a.example": {"exempt": True, "expires": date(2026, 3, 5)}})
        await asyncio.sleep(2 * POLL_SECONDS)
        assert at.file.reads == 2
        await asyncio.sleep(3 * DAY)
        assert at.file.reads == 3
        assert "override expired, ignored" in caplog.messages

    watching(steps)
