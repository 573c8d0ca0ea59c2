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
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench.daemon import cpu_seconds, running, settle, stsguard
from bench.peers import mta_sts_resolver, resolver_command
from bench.world import World, enter, missing
from stsguard.core import netstring

IN_FLIGHT = 64
COLD_BESIDE = 32
HOT_CONNECTIONS = 4
HOT_DOMAINS = 100
HOT_ROUNDS = 100_000  # more than there is time for
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figures:
    """Domains a second, milliseconds of the daemon's CPU a domain."""

    rate: float
    cpu: float


class Asker(asyncio.Protocol):
    """One connection, depth 1: asks for the domains of a list that it shares with others until none is left.

    A Protocol on uvloop, since client and daemon share the processors: what it costs holds the daemon up.
    """

    def __init__(self, left: list[str], expected: bytes, times: list[float], done: "asyncio.Future[None]") -> None:
        self._left = left
        self._expected = expected
        self._times = times
        self._done = done
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first."""
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        if not self._left:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
            return
        self._domain = self._left.pop()
        self._sent_at = time.perf_counter()
        self._transport.write(netstring.encode(b"policy " + self._domain.encode()))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Note the time, ask for the next."""
        replies, self._received = netstring.split(self._received + data)
        for reply in replies:
            self._times.append(time.perf_counter() - self._sent_at)
            if not netstring.payload(reply).startswith(self._expected):
                self._left.clear()
                self._done.set_exception(AssertionError(f"{self._domain}: {reply!r}"))
                return
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """The daemon must not close it."""
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the daemon has closed the connection"))


async def _ask_all(path: Path, left: list[str], connections: int, expected: bytes) -> list[float]:
    """How long each look-up took, in seconds; `left` is empty then."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    waits: list[asyncio.Future[None]] = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        waits.append(done)
        await loop.create_unix_connection(partial(Asker, left, expected, times, done), str(path))
    await asyncio.gather(*waits)
    return times


def _run(work: Coroutine[None, None, T]) -> T:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _cold(
    command: list[str], path: Path, domains: Sequence[str], expected: bytes, environment: dict[str, str]
) -> Figures:
    with running(command, path, environment) as process:
        _run(_ask_all(path, [f"{domains[0][0]}0.test"], 1, expected))
        settle(process)
        before, started = cpu_seconds(process), time.perf_counter()
        _run(_ask_all(path, list(domains), IN_FLIGHT, expected))
        seconds = time.perf_counter() - started
        return Figures(len(domains) / seconds, (cpu_seconds(process) - before) * 1000 / len(domains))


def _hot_beside_cold(
    command: list[str], path: Path, hot: Sequence[str], cold: Sequence[str], environment: dict[str, str]
) -> float:
    async def load() -> list[float]:
        await _ask_all(path, list(hot), 8, b"OK secure")
        again = list(hot) * HOT_ROUNDS
        hammer = asyncio.create_task(_ask_all(path, again, HOT_CONNECTIONS, b"OK secure"))
        await _ask_all(path, list(cold), COLD_BESIDE, b"OK secure")
        again.clear()
        return await hammer

    with running(command, path, environment):
        times = sorted(_run(load()))
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
    program = mta_sts_resolver(install=not smoke)  # before the network is gone
    if not enter("discovery", smoke=smoke):
        return
    count, repeats = (50, 1) if smoke else (2000, 5)
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
