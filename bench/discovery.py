"""Cold look-ups: domains never asked for, with a policy and without, beside postfix-mta-sts-resolver; and what cached
look-ups wait meanwhile.

Everything is real and in a network of its own (`world`): DNS, HTTPS with a certificate for each domain. Both daemons
ask the same resolver and fetch from the same server; on the same two cores run client, daemon, unbound and nginx. For a
domain without a policy we ask four questions (TXT, MX, A, AAAA) where the other asks one.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.daemon import cpu_seconds, running, settle, stsguard
from bench.peers import mta_sts_resolver, resolver_command
from bench.world import World, enter, missing
from stsguard.core import netstring

IN_FLIGHT = 64
COLD_BESIDE = 32
HOT_CONNECTIONS = 4
HOT_DOMAINS = 100


@dataclass(frozen=True, slots=True)
class Figures:
    """Domains a second, milliseconds of the daemon's CPU a domain."""

    rate: float
    cpu: float


class Asker:
    """One connection, depth 1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, path: Path) -> "Asker":
        """A connection to the daemon at `path`."""
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def ask(self, domain: str) -> bytes:
        """The reply."""
        self._writer.write(netstring.encode(b"policy " + domain.encode()))
        length = await self._reader.readuntil(b":")
        return (await self._reader.readexactly(int(length[:-1]) + 1))[:-1]

    def close(self) -> None:
        """End the connection."""
        self._writer.close()


async def _ask_all(path: Path, domains: Sequence[str], in_flight: int, expected: bytes) -> None:
    left = list(domains)

    async def work() -> None:
        asker = await Asker.connect(path)
        while left:
            domain = left.pop()
            reply = await asker.ask(domain)
            assert reply.startswith(expected), f"{domain}: {reply!r}"
        asker.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())


def _cold(
    command: list[str], path: Path, domains: Sequence[str], expected: bytes, environment: dict[str, str]
) -> Figures:
    with running(command, path, environment) as process:
        asyncio.run(_ask_all(path, [f"{domains[0][0]}0.test"], 1, expected))
        settle(process)
        before, started = cpu_seconds(process), time.perf_counter()
        asyncio.run(_ask_all(path, domains, IN_FLIGHT, expected))
        seconds = time.perf_counter() - started
        return Figures(len(domains) / seconds, (cpu_seconds(process) - before) * 1000 / len(domains))


def _hot_beside_cold(
    command: list[str], path: Path, hot: Sequence[str], cold: Sequence[str], environment: dict[str, str]
) -> float:
    times: list[float] = []

    async def hammer(stop: asyncio.Event) -> None:
        asker = await Asker.connect(path)
        number = 0
        while not stop.is_set():
            number += 1
            started = time.perf_counter()
            await asker.ask(hot[number % len(hot)])
            times.append(time.perf_counter() - started)
        asker.close()

    async def load() -> None:
        await _ask_all(path, hot, 8, b"OK secure")
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(HOT_CONNECTIONS):
                group.create_task(hammer(stop))
            await _ask_all(path, cold, COLD_BESIDE, b"OK secure")
            stop.set()

    with running(command, path, environment):
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(load())
    times.sort()
    return times[len(times) * 99 // 100] * 1e3


def _our_config(directory: Path, world: World) -> Path:
    for file in directory.glob("stsguard.db*"):
        file.unlink()
    config = directory / "stsguard.toml"
    config.write_text(
        f"""
[store]
url = "sqlite:///{directory}/stsguard.db"
[dns]
nameservers = ["127.0.0.1:53"]
dnssec = "no"
signed_name = "test"
[network]
ca_file = "{world.ca_file}"
allow_private_addresses = true
[lookup]
listen = ["unix:{directory}/lookup.sock"]
postfix_dane = "no"
[admin]
listen = "unix:{directory}/admin.sock"
[log]
level = "error"
""",
        encoding="utf-8",
    )
    return config


def main(*, smoke: bool) -> None:
    """Print the table."""
    if lacking := missing():
        print(f"discovery: not measured: {lacking}")
        return
    if not enter("discovery", smoke=smoke):
        return
    count, repeats = (50, 1) if smoke else (2000, 5)
    program = mta_sts_resolver(install=not smoke)
    if program is None:
        print("discovery: without postfix-mta-sts-resolver, which is not installed")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        world = World(directory, count)
        directory.chmod(0o755)
        with world.running():
            _measure(world, directory, program, repeats)


def _measure(world: World, directory: Path, program: Path | None, repeats: int) -> None:
    environment = {"SSL_CERT_FILE": str(world.ca_file)}
    peer = resolver_command(program, directory) if program else None

    def ours() -> tuple[list[str], Path]:
        return stsguard(_our_config(directory, world)), directory / "lookup.sock"

    print(f"{world.count} cold domains, {IN_FLIGHT} in flight, median of {repeats} (python -m bench discovery)")
    print("domains          ours/s   CPU ms   peer/s   CPU ms   rate/peer   CPU/peer")
    for kind, text, expected in (("d", "with a policy", b"OK secure"), ("n", "without", b"NOTFOUND")):
        domains = [f"{kind}{number}.test" for number in range(1, world.count)]
        pairs = []
        for _ in range(repeats):
            mine = _cold(*ours(), domains, expected, environment)
            theirs = _cold(*peer, domains, expected, environment) if peer else Figures(0, 0)
            pairs.append((mine, theirs))
        shown = [
            statistics.median(getattr(pair[i], what) for pair in pairs) for i in (0, 1) for what in ("rate", "cpu")
        ]
        line = f"{text:13}   {shown[0]:8.0f}   {shown[1]:6.3f}"
        if peer:
            rate = statistics.median(a.rate / b.rate for a, b in pairs)
            cpu = statistics.median(a.cpu / b.cpu for a, b in pairs)
            line += f"   {shown[2]:6.0f}   {shown[3]:6.3f}   {rate:9.2f}   {cpu:8.2f}"
        print(line, flush=True)
    names = [f"d{number}.test" for number in range(world.count)]
    split = min(HOT_DOMAINS, world.count // 2)
    waits = []
    for _ in range(repeats):
        mine_p99 = _hot_beside_cold(*ours(), names[:split], names[split:], environment)
        theirs_p99 = _hot_beside_cold(*peer, names[:split], names[split:], environment) if peer else 0.0
        waits.append((mine_p99, theirs_p99))
    print(
        f"p99 of cached look-ups while {COLD_BESIDE} cold ones run: {statistics.median(a for a, _ in waits):.2f} ms",
        end="",
    )
    if peer:
        print(f", {statistics.median(a / b for a, b in waits):.2f} of the peer's", end="")
    print()
