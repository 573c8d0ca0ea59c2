"""The processes that read for `stsguard ingest`, from its side."""

import asyncio
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from stsguard.app.ingest_items import Item, arrival_of
from stsguard.app.ingest_reading import ReadItem
from stsguard.app.ingest_worker import frame
from stsguard.config.model import Config
from stsguard.core.arrival import SpoolEntry
from stsguard.core.errors import OurFault
from stsguard.core.taking_in import IntakeRules, refused

COMMAND = (sys.executable, "-m", "stsguard.app.ingest_worker")
STOP_SECONDS = 5.0

FoundQueue = asyncio.Queue[list[tuple[Item, ReadItem]]]


class ReaderDied(OurFault):
    """The process ended while it read; the kernel may have done that for want of memory."""


async def read_chunks(config: Config, rules: IntakeRules, chunks: Iterator[list[Item]], found: FoundQueue) -> None:
    """Have a process read one chunk after the other until there are none, and put what it read into `found`.

    Raises:
        PathUnusable: by `chunks`.
    """
    reader = ReaderProcess(config, rules)
    try:
        for chunk in chunks:
            rest: Sequence[Item] = chunk
            while rest:
                some = await _read_some(reader, rest)
                await found.put(list(zip(rest, some, strict=False)))
                rest = rest[len(some) :]
    finally:
        await reader.close()


async def _read_some(reader: "ReaderProcess", items: Sequence[Item]) -> list[ReadItem]:
    """What was read of the first of `items`, one at least. Where the process dies on them they are read one by one, and
    the one on which it dies is refused."""
    try:
        return await reader.read_some(items)
    except ReaderDied:
        await reader.close()
    try:
        return await reader.read_some(items[:1])
    except ReaderDied:
        await reader.close()
        return [_fatal(items[0])]


def _fatal(item: Item) -> ReadItem:
    try:
        octets = item.octets if item.octets is not None else item.path.read_bytes()
    except OSError as exc:
        return ReadItem(None, exc.strerror or str(exc))
    entry = SpoolEntry(arrival_of(item, octets, datetime.now(UTC)), octets)
    return ReadItem(refused(entry, "the process that read it died"))


class ReaderProcess:
    """One process; started when it is first asked, and anew when it was closed."""

    def __init__(self, config: Config, rules: IntakeRules) -> None:
        self._first = frame((config, rules))
        self._process: asyncio.subprocess.Process | None = None

    async def read_some(self, items: Sequence[Item]) -> list[ReadItem]:
        """What it read of the first of `items`.

        Raises:
            ReaderDied: it ended.
        """
        octets = frame(list(items))
        if self._process is None:
            # A process each, whose threads would only take the processors from the others.
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment
            )
            octets = self._first + octets
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 (they are pipes)
        assert stdout is not None  # noqa: S101
        try:
            stdin.write(octets)
            await stdin.drain()
            head = await stdout.readexactly(4)
            answer = await stdout.readexactly(int.from_bytes(head, "big"))
        except (ConnectionError, asyncio.IncompleteReadError) as exc:
            raise ReaderDied("a process that reads reports has ended") from exc
        found: list[ReadItem] = pickle.loads(answer)  # noqa: S301 (from the process that we started)
        return found

    async def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None  # noqa: S101 (it is a pipe)
        process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
                return
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
