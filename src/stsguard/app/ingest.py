"""`stsguard ingest`: reports from files, Maildirs and standard input.

Many are read by processes beside this one and stored by this one, in batches, each of which is one transaction. What
is taken at a time is bounded, by number and by octets, so that memory does not grow with the Maildir. Killed at any
moment, the command can be given the same once more: what is stored is known.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from stsguard.app.database_work import require_database
from stsguard.app.ingest_items import Item, finish, items_in
from stsguard.app.ingest_readers import FoundQueue, read_chunks
from stsguard.app.ingest_reading import ItemReader, ReadItem, build_item_reader
from stsguard.app.intake import build_rules
from stsguard.app.serving import end
from stsguard.config.model import Config
from stsguard.core.received_record import Fate, ReceivedIntake, SavedIntake, Standing
from stsguard.core.taking_in import IntakeRules
from stsguard.inbound.intake_reader import Batch, OurDomains, save_batch
from stsguard.store.received import ReceivedStoreSql
from stsguard.store.stores import Stores, open_stores

CHUNK_ITEMS = 50
CHUNK_BYTES = 4 * 1024 * 1024
FEW = 200  # items that are not worth other processes
MAX_WORKERS = 4  # one process stores as fast as a few can read
MAX_TOLD = 20
BATCH_ITEMS = 1000  # a transaction of half a second; the more at once, the less is written of each index


@dataclass(slots=True)
class Summary:
    """What became of everything that was given: items, and reports in them."""

    items: int = 0
    known: int = 0
    refused: int = 0
    reports: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    not_counted: int = 0
    waiting_for_key: int = 0
    unreadable: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, label: str, intake: ReceivedIntake, saved: SavedIntake) -> None:
        """Count one that was stored."""
        self.items += 1
        self.known += saved.known
        for document, fate in zip(intake.documents, saved.fates, strict=False):  # a known one has no fates
            self.reports[fate] += 1
            self.not_counted += fate is Fate.NEW and document.standing is not Standing.COUNTED
        if intake.refusals:
            self.refused += 1
            self._tell(label, "; ".join(intake.refusals))

    def add_problem(self, label: str, problem: str) -> None:
        """Count one that could not be read, and so is not stored."""
        self.items += 1
        self.unreadable += 1
        self._tell(label, problem)

    def add_unusable(self, path: str, problem: str) -> None:
        """Count a path that can't be read, so that nobody knows what is there."""
        self.unreadable += 1
        self._tell(path, problem)

    def _tell(self, label: str, text: str) -> None:
        if len(self.problems) < MAX_TOLD:
            self.problems.append(f"{label}: {text}")

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {
            "items": self.items,
            "new": self.reports[Fate.NEW],
            "duplicates": self.reports[Fate.DUPLICATE],
            "conflicts": self.reports[Fate.CONFLICT],
            "not_counted": self.not_counted,
            "known": self.known,
            "refused": self.refused,
            "waiting_for_key": self.waiting_for_key,
            "unreadable": self.unreadable,
            "problems": self.problems,
        }


def count_items(paths: Sequence[Path]) -> int:
    """How many items there are, for a progress bar."""
    return sum(1 for path in paths for _ in items_in(path, lambda _path, _problem: None))


def ingest_paths(
    config: Config, paths: Sequence[Path], *, trusted: bool, progress: Callable[[int], None], workers: int | None = None
) -> Summary:
    """Take in everything at `paths`; `progress` is told how many more are done.

    Raises:
        StoreUnavailable: the database can't be used; what is not stored is where it was.
    """
    return asyncio.run(_ingest(config, paths, trusted=trusted, progress=progress, workers=workers))


async def _ingest(
    config: Config, paths: Sequence[Path], *, trusted: bool, progress: Callable[[int], None], workers: int | None
) -> Summary:
    async with _opened(config) as stores:
        rules = await _rules(config, stores, trusted=trusted)
        saver = _Saver(stores.received, progress)
        chunks = _chunks(item for path in paths for item in items_in(path, saver.summary.add_unusable))
        try:
            await _read(config, rules, chunks, saver, workers)
            await saver.store_rest()
        finally:
            await saver.give_up()
    return saver.summary


def ingest_again(config: Config, *, trusted: bool, progress: Callable[[int], None]) -> Summary:
    """Read anew what was stored and could not be read, or not be verified.

    Raises:
        StoreUnavailable: the database can't be used.
    """

    require_database(config)

    async def run() -> Summary:
        summary = Summary()
        async with _opened(config) as stores:
            reader = build_item_reader(config, await _rules(config, stores, trusted=trusted))
            last = 0
            while entries := await stores.received.load_unread(last):
                for last, entry, signer in entries:
                    read = await reader.read_entry(entry, signer)
                    assert read.intake is not None  # noqa: S101 (an entry can always be read)
                    saved = await stores.received.save_again(last, read.intake)
                    summary.waiting_for_key += read.waits
                    summary.add(f"intake {last}", read.intake, saved)
                    progress(1)
        return summary

    return asyncio.run(run())


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[Stores]:
    stores = open_stores(config.store.url)
    await stores.received.open()
    try:
        yield stores
    finally:
        await stores.received.close()


async def _rules(config: Config, stores: Stores, *, trusted: bool) -> IntakeRules:
    ours = await OurDomains(stores.domains, config.intake.domains).load()
    return build_rules(config, ours, trust_files=trusted)


class _Saver:
    """Stores what was read, in batches, and then has done with the items. While one batch is stored the next is
    gathered; there are never more than these two."""

    def __init__(self, store: ReceivedStoreSql, progress: Callable[[int], None]) -> None:
        self.summary = Summary()
        self._store = store
        self._progress = progress
        self._batch = Batch(BATCH_ITEMS)
        self._items: list[Item] = []
        self._storing: asyncio.Task[None] | None = None

    async def add(self, item: Item, read: ReadItem) -> None:
        """Take over one; a batch that is full begins to be stored.

        Raises:
            StoreUnavailable: the database can't be used.
        """
        if read.intake is None:
            self.summary.add_problem(item.label, read.problem)
            self._progress(1)
            return
        self.summary.waiting_for_key += read.waits
        self._batch.add(read.intake)
        self._items.append(item)
        if self._batch.is_full:
            await self._begin_to_store()

    async def _begin_to_store(self) -> None:
        await self._stored()
        self._storing = asyncio.create_task(self._store_batch(self._batch, self._items))
        self._batch, self._items = Batch(BATCH_ITEMS), []

    async def _stored(self) -> None:
        storing, self._storing = self._storing, None
        if storing is not None:
            await storing

    async def store_rest(self) -> None:
        """Store what there is; all is stored when this returns.

        Raises:
            StoreUnavailable: the database can't be used.
        """
        await self._begin_to_store()
        await self._stored()

    async def give_up(self) -> None:
        """Begin nothing any more."""
        if self._storing is not None:
            await end(self._storing)

    async def _store_batch(self, batch: Batch, items: Sequence[Item]) -> None:
        saved = await save_batch(self._store, batch.intakes)
        for item, (intake, done) in zip(items, saved, strict=True):
            self.summary.add(item.label, intake, done)
            try:
                finish(item)
            except OSError as exc:
                self.summary.problems.append(f"{item.label}: taken in, but not moved to cur: {exc.strerror}")
        self._progress(len(items))


async def _read(
    config: Config, rules: IntakeRules, chunks: Iterator[list[Item]], saver: _Saver, workers: int | None
) -> None:
    """Few in this process, many in others."""
    first = list(islice(chunks, FEW // CHUNK_ITEMS))
    if len(first) < FEW // CHUNK_ITEMS and workers is None:
        reader = build_item_reader(config, rules)
        for chunk in first:
            await _read_here(reader, chunk, saver)
        return
    number = workers or min(MAX_WORKERS, os.cpu_count() or 1)
    await _read_beside(config, rules, number, chain(first, chunks), saver)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in lists that a reader takes at once, bounded in number and octets."""
    chunk: list[Item] = []
    octets = 0
    for item in items:
        size = item.size
        if chunk and (len(chunk) >= CHUNK_ITEMS or octets + size > CHUNK_BYTES):
            yield chunk
            chunk, octets = [], 0
        chunk.append(item)
        octets += size
    if chunk:
        yield chunk


async def _read_here(reader: ItemReader, chunk: Sequence[Item], saver: _Saver) -> None:
    while chunk:
        found = await reader.read_some(chunk)
        for item, read in zip(chunk, found, strict=False):
            await saver.add(item, read)
        chunk = chunk[len(found) :]


async def _read_beside(
    config: Config, rules: IntakeRules, number: int, chunks: Iterator[list[Item]], saver: _Saver
) -> None:
    """Read in `number` processes. Each has one chunk at a time, and what they have read waits in a short queue."""
    found: FoundQueue = asyncio.Queue(maxsize=number)

    async def read_all() -> None:
        async with asyncio.TaskGroup() as readers:
            for _ in range(number):
                readers.create_task(read_chunks(config, rules, chunks, found))
        await found.put([])  # there is no more

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(read_all())
            group.create_task(_save_all(found, saver))
    except BaseExceptionGroup as group_of:
        raise _first(group_of) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first; everything else ended because of it."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def _save_all(found: FoundQueue, saver: _Saver) -> None:
    while some := await found.get():
        for item, read in some:
            await saver.add(item, read)
