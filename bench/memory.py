"""What cached domains take of memory: beside postfix-mta-sts-resolver, and from ten thousand to a million.

Both daemons look 48,000 domains up in the small Internet of `world`, each with a policy, policy host and MX host of
its own; that takes minutes, and two filled processes differ by less than a hundredth, so it is done once. The growth is
measured with the daemon's parts in one process (`cached_domains`), where DNS and HTTPS answer at once.
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.daemon import ask_all, running, settle, stsguard, write_world_config
from bench.peers import mta_sts_resolver, resolver_command
from bench.results import Result, note, ratio
from bench.world import World, enter, missing

DOMAINS = 48_000
IN_FLIGHT = 32
COUNTS = (10_000, 100_000, 1_000_000)
SMOKE_COUNTS = (100, 200)


def main(*, smoke: bool) -> None:
    """Print both."""
    if lacking := missing():
        print(f"memory: not measured: {lacking}")
        return
    program = mta_sts_resolver(install=not smoke)  # there is no way out of the network that is entered
    if not enter("memory", smoke=smoke):
        return
    _tell_growth(SMOKE_COUNTS if smoke else COUNTS)
    if program is None:
        print("memory: without postfix-mta-sts-resolver, which is not installed")
    _tell_peer(20 if smoke else DOMAINS, program)


def _tell_growth(counts: tuple[int, ...]) -> None:
    command = [sys.executable, "-m", "bench.cached_domains", *map(str, counts)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    memory = {int(count): int(kib) for count, kib in map(str.split, done.stdout.splitlines())}
    costs = [(memory[count] - memory[0]) / count for count in counts]
    print("cached domains   KiB each (python -m bench memory)")
    for count, cost in zip(counts, costs, strict=True):
        print(f"{count:14}   {cost:8.2f}")
    what = f"memory of a cached domain, of {counts[-1]:,} / of {counts[0]:,}"
    figures = f"{costs[-1]:.2f} to {costs[0]:.2f} KiB"
    note(Result("memory", what, ratio([(costs[-1], costs[0])]), 1.1, 1.0, False, figures))


def _tell_peer(count: int, program: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        world = World(directory, count)
        with world.running():
            ours = stsguard(write_world_config(directory, world.ca_file)), directory / "lookup.sock"
            mine = _filled(*ours, world)
            print(f"{count} cached domains: {mine[1] / 1024:.0f} MiB, {mine[0] / 1024:.0f} MiB with none")
            if program is None:
                return
            theirs = _filled(*resolver_command(program, directory), world)
    figures = (
        f"{mine[1] / 1024:.0f} to {theirs[1] / 1024:.0f} MiB; with none {mine[0] / 1024:.0f} to {theirs[0] / 1024:.0f}"
    )
    what = f"memory with {count:,} cached domains: / resolver"
    note(Result("memory", what, ratio([(mine[1], theirs[1])]), 0.5, 0.3, False, figures))


def _filled(command: list[str], path: Path, world: World) -> tuple[int, int]:
    """KiB of the daemon with no domain and with all."""
    with running(command, path, {"SSL_CERT_FILE": str(world.ca_file)}) as process:
        settle(process)
        before = _resident(process.pid)
        names = [f"d{number}.test" for number in range(world.count)]
        asyncio.run(ask_all(path, names, min(IN_FLIGHT, world.count), b"OK secure"))
        settle(process)
        return before, _resident(process.pid)


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
