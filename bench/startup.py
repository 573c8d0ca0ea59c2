"""From the start of the process to the first answer, beside postfix-mta-sts-resolver, in turns.

The first question comes as soon as somebody listens. With nothing stored it is for a domain without a policy, in the
small Internet of `world`: the daemon has no database yet, and has to ask DNS; so has the other. With 100,000 policies
stored, in SQLite both, it is for one of these.
"""

import asyncio
import os
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.daemon import connect, cpu_seconds, stsguard, write_world_config
from bench.peers import mta_sts_resolver, resolver_command
from bench.results import Result, note, ratio
from bench.world import World, enter, missing
from stsguard.core import netstring
from stsguard.core.mtasts import parse_policy
from stsguard.core.policycache import StoredPolicy
from stsguard.names import Domain
from stsguard.store.policies import PolicyStoreSql

STORED = 100_000
BATCH = 5000
POLICY = "version: STSv1\r\nmode: enforce\r\nmx: mx.{0}\r\nmax_age: 604800\r\n"


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds to the first answer, and CPU seconds of the daemon until then."""

    seconds: float
    cpu: float


def _first_answer(command: list[str], path: Path, domain: str, expected: bytes, environment: dict[str, str]) -> Start:
    path.unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        with connect(path, time.monotonic() + 60) as client:
            client.sendall(netstring.encode(b"policy " + domain.encode()))
            reply = client.recv(4096)
            start = Start(time.perf_counter() - started, cpu_seconds(process))
            assert expected in reply, f"{domain}: {reply!r}"
        return start
    finally:
        process.terminate()
        process.wait(timeout=20)


def _names(count: int) -> list[str]:
    return ["d0.test", *(f"s{number}.test" for number in range(1, count))]


def _store_ours(file: Path, count: int) -> None:
    now = datetime.now(UTC)
    policies = [
        StoredPolicy(Domain(name), parse_policy(POLICY.format(name).encode()), "1", now, now) for name in _names(count)
    ]

    async def save() -> None:
        store = PolicyStoreSql(f"sqlite:///{file}")
        await store.open()
        for start in range(0, count, BATCH):
            await store.save_policies(policies[start : start + BATCH])
        await store.close()

    asyncio.run(save())


def _store_theirs(file: Path, count: int) -> None:
    body = '{{"version": "STSv1", "mode": "enforce", "mx": ["mx.{0}"], "max_age": 604800}}'
    rows = [(name, int(time.time()), "1", body.format(name)) for name in _names(count)]
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("create table sts_policy_cache (domain text, ts integer, pol_id text, pol_body text)")
        connection.execute("create unique index sts_policy_domain on sts_policy_cache (domain)")
        connection.execute("create index sts_policy_domain_ts on sts_policy_cache (domain, ts)")
        connection.executemany("insert into sts_policy_cache values (?, ?, ?, ?)", rows)
    connection.close()


def main(*, smoke: bool) -> None:
    """Print both."""
    if lacking := missing():
        print(f"startup: not measured: {lacking}")
        return
    program = mta_sts_resolver(install=not smoke)  # there is no way out of the network that is entered
    if not enter("startup", smoke=smoke):
        return
    stored, repeats = (100, 1) if smoke else (STORED, 9)
    if program is None:
        print("startup: without postfix-mta-sts-resolver, which is not installed")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        world = World(directory, 1)
        with world.running():
            bench = _Bench(directory, world, program)
            print(f"start to first answer, median of {repeats} (python -m bench startup)")
            bench.compare("nothing stored", 0, repeats, (1.0, 0.6))
            bench.compare(f"{stored:,} policies stored", stored, repeats, (3.0, 1.5))


class _Bench:
    def __init__(self, directory: Path, world: World, program: Path | None) -> None:
        self._directory = directory
        self._world = world
        self._program = program
        # Installed packages have their bytecode beside them, as the other one has.
        self._environment = {"PYTHONPYCACHEPREFIX": str(directory / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}

    def compare(self, what: str, stored: int, repeats: int, bounds: tuple[float, float]) -> None:
        """Start each in turns, and tell."""
        saved = self._directory / "stored"
        shutil.rmtree(saved, ignore_errors=True)
        saved.mkdir()
        if stored:
            _store_ours(saved / "stsguard.db", stored)
            _store_theirs(saved / "resolver.db", stored)
        domain, expected = ("d0.test", b"OK secure") if stored else ("n0.test", b"NOTFOUND")

        def ours() -> Start:
            command = stsguard(write_world_config(self._directory, self._world.ca_file))
            self._restore(saved / "stsguard.db")
            return _first_answer(command, self._directory / "lookup.sock", domain, expected, self._environment)

        def theirs() -> Start:
            assert self._program is not None
            file = self._directory / "resolver.db" if stored else None
            self._restore(saved / "resolver.db")
            command, path = resolver_command(self._program, self._directory, file)
            return _first_answer(command, path, domain, expected, {})

        self._tell(what, ours, theirs if self._program else None, repeats, bounds)

    def _restore(self, file: Path) -> None:
        for old in self._directory.glob(f"{file.name}*"):
            old.unlink()
        if file.exists():
            shutil.copy(file, self._directory / file.name)

    def _tell(
        self,
        what: str,
        ours: Callable[[], Start],
        theirs: Callable[[], Start] | None,
        repeats: int,
        bounds: tuple[float, float],
    ) -> None:
        ours()  # makes the bytecode
        mine, other = [], []
        for _ in range(repeats):
            mine.append(ours())
            if theirs is not None:
                other.append(theirs())
        milliseconds, cpu = (statistics.median(getattr(each, of) * 1000 for each in mine) for of in ("seconds", "cpu"))
        figures = f"{milliseconds:.0f} ms ({cpu:.0f} ms of CPU)"
        if theirs is None:
            print(f"{what}: {figures}")
            return
        figures += " to {:.0f} ms ({:.0f})".format(
            *(statistics.median(getattr(each, of) * 1000 for each in other) for of in ("seconds", "cpu"))
        )
        value = ratio((a.seconds, b.seconds) for a, b in zip(mine, other, strict=True))
        note(Result("startup", f"start to first answer, {what}: / resolver", value, *bounds, False, figures))
