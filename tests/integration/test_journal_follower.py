"""The follower of the journal over a child process: nothing is counted twice, nothing lost."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from stsguard.adapters.log_follower import JournalFollower, LogBatch
from stsguard.adapters.log_follower import journal as journal_module
from stsguard.adapters.log_follower.journal import journal_line

LIMIT_SECONDS = 30

# The journal. journald wants to be the system's own, so journalctl is a fake here: a script that writes what the real
# one writes for the options that it is called with.
FAKE = """
import json, sys, time
from pathlib import Path
state = Path(sys.argv[1])
calls = state / "calls"
with calls.open("a") as file:
    file.write(json.dumps(sys.argv[2:]) + "\\n")
entries = [json.loads(line) for line in (state / "entries").read_text().splitlines()]
after = next((a.split("=", 1)[1] for a in sys.argv if a.startswith("--after-cursor=")), None)
start = 0 if after is None else 1 + [e["__CURSOR"] for e in entries].index(after)
batch = entries[start:start + 2]
for entry in batch:
    print(json.dumps(entry), flush=True)
if not batch:
    time.sleep(600)
"""


def entry(number: int, message: object = None, **fields: object) -> dict[str, object]:
    return {
        "__CURSOR": f"s=abc;i={number}",
        "__REALTIME_TIMESTAMP": f"{1_777_888_999_000_000 + number}",
        "_HOSTNAME": "relay1",
        "SYSLOG_IDENTIFIER": "postfix/smtp",
        "SYSLOG_PID": "100",
        "MESSAGE": message if message is not None else f"message {number}",
    } | fields


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., list[str]]:
    """The command of the fake, for these entries."""

    def make(*entries: dict[str, object]) -> list[str]:
        (tmp_path / "entries").write_text("".join(json.dumps(one) + "\n" for one in entries))
        (tmp_path / "fake.py").write_text(FAKE)
        return [sys.executable, str(tmp_path / "fake.py"), str(tmp_path)]

    return make


async def take(batches: AsyncGenerator[LogBatch, None], count: int) -> list[LogBatch]:
    """Batches until they have `count` lines."""
    found: list[LogBatch] = []
    while sum(len(batch.lines) for batch in found) < count:
        found.append(await asyncio.wait_for(anext(batches), LIMIT_SECONDS))
    return found


async def test_journal_is_followed_over_the_end_of_journalctl(tmp_path: Path, fake: Callable[..., list[str]]) -> None:
    command = fake(*(entry(number) for number in range(5)))
    follower = JournalFollower(command=command, first_back_off_seconds=0.01)
    async with aclosing(follower.batches()) as batches:
        found = await take(batches, 5)
    lines = [line for batch in found for line in batch.lines]
    assert [line.rpartition(": ")[2] for line in lines] == [f"message {number}" for number in range(5)]
    assert lines[0] == "2026-05-04T10:03:19+00:00 relay1 postfix/smtp[100]: message 0"
    assert found[-1].position == "journal:s=abc;i=4"
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert "--lines=0" in calls[0]
    assert "--after-cursor=s=abc;i=1" in calls[1]
    assert {"--follow", "--output=json", "SYSLOG_FACILITY=2"} <= set(calls[0])


async def test_journal_is_resumed_after_the_stored_position(fake: Callable[..., list[str]]) -> None:
    command = fake(*(entry(number) for number in range(4)))
    async with aclosing(JournalFollower("journal:s=abc;i=1", command=command).batches()) as batches:
        found = await take(batches, 2)
    assert [line[-1] for batch in found for line in batch.lines] == ["2", "3"]


async def test_journal_entries_that_can_not_be_read_are_passed_over(tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    good = json.dumps(entry(1))
    bad = ["", "[]", "{", "null", json.dumps(entry(0, MESSAGE=None)), json.dumps({"__CURSOR": "x"}), "[" * 100_000]
    bad += [json.dumps(entry(0, __CURSOR=1)), json.dumps(entry(0, __REALTIME_TIMESTAMP="9" * 40)), "x" * 3_000_000]
    text = "\n".join([*bad, good, ""])
    (tmp_path / "out").write_text(text)
    script.write_text("import sys, time; print(open(sys.argv[1]).read(), end='', flush=True); time.sleep(600)")
    follower = JournalFollower(command=[sys.executable, str(script), str(tmp_path / "out")])
    before = journal_module.unreadable.value()
    async with aclosing(follower.batches()) as batches:
        [batch] = await take(batches, 1)
    assert batch.position == "journal:s=abc;i=1"
    assert journal_module.unreadable.value() == before + len(bad)


async def test_journalctl_that_can_not_be_run(tmp_path: Path) -> None:
    follower = JournalFollower(command=[str(tmp_path / "none")], first_back_off_seconds=600)
    async with aclosing(follower.batches()) as batches:
        pending = asyncio.ensure_future(anext(batches))
        for _ in range(1000):
            await asyncio.sleep(0)
            if follower.problem:
                break
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
    assert follower.problem == f"{tmp_path / 'none'} can't be run: No such file or directory"


async def test_journalctl_that_does_not_end_is_killed(
    tmp_path: Path,
) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"print({json.dumps(entry(1))!r}, flush=True); time.sleep(600)"
    )
    async with aclosing(JournalFollower(command=[sys.executable, str(script)], end_seconds=0.05).batches()) as batches:
        await take(batches, 1)


STAMP = "2026-05-04T10:03:19.000001+00:00"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, f"{STAMP} relay1 postfix/smtp[100]: message 1"),
        ({"MESSAGE": [97, 255, 98]}, f"{STAMP} relay1 postfix/smtp[100]: a\ufffdb"),
        ({"MESSAGE": "a\nb"}, f"{STAMP} relay1 postfix/smtp[100]: a b"),
        ({"MESSAGE": ["a", "b"]}, f"{STAMP} relay1 postfix/smtp[100]: a"),
        ({"MESSAGE": []}, f"{STAMP} relay1 postfix/smtp[100]: "),
        ({"SYSLOG_PID": "", "_PID": "7"}, f"{STAMP} relay1 postfix/smtp[7]: message 1"),
        (
            {"SYSLOG_IDENTIFIER": "a postfix/smtp"},
            f"{STAMP} relay1 a_postfix/smtp[100]: message 1",
        ),
        ({"_SOURCE_REALTIME_TIMESTAMP": "0"}, "1970-01-01T00:00:00+00:00 relay1 postfix/smtp[100]: message 1"),
        ({"_HOSTNAME": " "}, f"{STAMP} - postfix/smtp[100]: message 1"),
    ],
)
def test_journal_entry_as_a_line(fields: dict[str, object], expected: str) -> None:
    assert journal_line(entry(1, **fields)) == expected
