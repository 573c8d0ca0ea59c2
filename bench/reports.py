"""A day of sessions counted in flushes, and read back report by report: cost and memory from a tenth of it to all.

Domains are drawn as mail goes, the k-th most frequent in proportion to 1/k; 1 session in 50 fails, each domain in a few
ways. A flush is what `BURST` sessions leave after equal ones are counted, the store is SQLite, and each flush is on
disk before the next begins. Flat means that the last tenth costs per session what the first one did; that is measured
in processor time, which other work on the machine shifts less than the clock on the wall.
"""

import asyncio
import itertools
import random
import resource
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from bench.results import ratio
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail, PolicyType
from stsguard.names import Domain
from stsguard.store.sessions import SessionStoreSql
from stsguard.store.stores import open_stores

DAY = date(2026, 3, 1)
BURST = 2000
FAILURE_IN = 50
WAYS_TO_FAIL = 8
TENTHS = 10


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is counted."""

    sessions: int
    domains: int


def _policies(scale: Scale) -> list[tuple[Domain, AppliedPolicy]]:
    lines = ("version: STSv1", "mode: enforce", "mx: mx1.example.net", "mx: *.example.net", "max_age: 604800")
    kinds = (
        lambda name: AppliedPolicy(PolicyType.STS, name, lines, ("mx1.example.net", "*.example.net")),
        lambda name: AppliedPolicy(PolicyType.NO_POLICY_FOUND, name),
        lambda name: AppliedPolicy(PolicyType.TLSA, name, ("3 1 1 " + "AB" * 32, "3 1 1 " + "CD" * 32)),
    )
    names = (Domain(f"d{number:05}.example") for number in range(scale.domains))
    return [(name, kinds[number % 3](name)) for number, name in enumerate(names)]


def _flushes(scale: Scale, draw: random.Random) -> Iterator[list[CounterRow]]:
    """What `BURST` sessions each leave."""
    policies = _policies(scale)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(scale.domains)))
    for _ in range(scale.sessions // BURST):
        drawn = Counter(draw.choices(range(scale.domains), cum_weights=weights, k=BURST))
        yield [_row(*policies[domain], sessions, draw) for domain, sessions in drawn.items()]


def _row(name: Domain, policy: AppliedPolicy, sessions: int, draw: random.Random) -> CounterRow:
    ways = Counter(draw.randrange(WAYS_TO_FAIL) for _ in range(sessions) if not draw.randrange(FAILURE_IN))
    details = {
        FailureDetail(
            "certificate-expired", "192.0.2.1", f"mx{way}.{name}", f"mx{way}.{name}", f"198.51.100.{way}"
        ): number
        for way, number in ways.items()
    }
    failed = ways.total()
    return CounterRow(
        day=DAY,
        report_domain=name,
        recipient_domain=name,
        for_mx_host=False,
        policy=policy,
        successes=sessions - failed,
        failures=failed,
        unverified=0,
        details=details,
    )


async def _count(store: SessionStoreSql, scale: Scale) -> tuple[float, list[float]]:
    """The seconds that the sessions took in the store, and the processor time of each tenth of them."""
    flushes, number = _flushes(scale, random.Random(8460)), scale.sessions // BURST
    seconds, took = 0.0, [0.0] * TENTHS
    for index, rows in enumerate(flushes):
        started, busy = time.perf_counter(), time.process_time()
        await store.add_counters(rows, {"postfix": str(index)})
        seconds += time.perf_counter() - started
        took[index * TENTHS // number] += time.process_time() - busy
    return seconds, took


async def _read_back(store: SessionStoreSql) -> tuple[int, int, int]:
    """Sessions, reports and the largest number of rows of one report, read as the reporter does."""
    sessions = reports = largest = 0
    async for name in store.report_domains(DAY):
        rows = [row async for row in store.load_counters(DAY, name)]
        sessions += sum(row.successes + row.failures for row in rows)
        reports, largest = reports + 1, max(largest, len(rows))
    return sessions, reports, largest


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _plain_upserts(directory: Path, rows: int) -> float:
    """The seconds per row of the least that SQLite can do: the same upserts by bare sqlite3, key by number."""
    draw = random.Random(8460)
    with closing(sqlite3.connect(directory / "reference.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE c (k INTEGER PRIMARY KEY, good INTEGER, bad INTEGER)")
        add = "INSERT INTO c VALUES (?, 1, 0) ON CONFLICT (k) DO UPDATE SET good = good + 1"
        started = time.perf_counter()
        for _ in range(10):
            keys = [(draw.randrange(50_000),) for _ in range(rows // 10)]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(add, keys)
            connection.execute("COMMIT")
        return (time.perf_counter() - started) / rows


async def _run(scale: Scale, directory: Path) -> None:
    stores = open_stores(f"sqlite:///{directory}/stsguard.db")
    await stores.sessions.open()
    before = _peak_mebibytes()
    seconds, took = await _count(stores.sessions, scale)
    counted = _peak_mebibytes()
    started = time.perf_counter()
    sessions, reports, largest = await _read_back(stores.sessions)
    read = time.perf_counter() - started
    await stores.sessions.close()
    assert sessions == scale.sessions // BURST * BURST
    of_session, reference = seconds / sessions, _plain_upserts(directory, 10_000)
    print(f"a day of {sessions:,} sessions over {scale.domains:,} domains (python -m bench reports)")
    print(
        f"counted in flushes of {BURST}: {of_session * 1e6:.1f} us a session, "
        f"{of_session / reference:.1f} times a bare SQLite upsert"
    )
    print(f"cost per session, last tenth to first: {ratio([(took[-1], took[0])]):.2f} (flat is 1.00)")
    print(
        "each tenth, us of processor a session: " + " ".join(f"{each * TENTHS / sessions * 1e6:.1f}" for each in took)
    )
    print(f"read back as {reports:,} reports, at most {largest} rows each: {read / reports * 1e6:.0f} us a report")
    print(
        f"peak memory: {counted - before:.0f} MiB more while counted, {_peak_mebibytes() - counted:.0f} while read, "
        f"{_peak_mebibytes():.0f} in all, {scale.domains:,} policies of the bench itself included"
    )
    size = sum(file.stat().st_size for file in directory.glob("stsguard.db*")) / 2**20
    print(f"on disk: {size:.0f} MiB")


def main(*, smoke: bool) -> None:
    """Print the table."""
    scale = Scale(sessions=40_000, domains=500) if smoke else Scale(sessions=10_000_000, domains=50_000)
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_run(scale, Path(name)))
