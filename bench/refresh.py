"""What it takes to keep 100,000 domains in use fresh, and what look-ups wait meanwhile.

In use means asked for at least every ten minutes. Then, with TTLs of a quarter of an hour or more, as most MX records
have, each reply is renewed every 12 minutes (139 a second in all: MX, A and AAAA), each record's id is looked at every
five minutes (333 a second: TXT), and each policy is fetched about every 21 hours (1.3 a second). Nobody can wait for
that, so fewer domains live faster in the small Internet of `world`: TTLs of 45 s, ids looked at every minute. Two
daemons keep the same domains fresh, of which one looks at no ids; a third is asked as often, for a hundred domains, so
that what look-ups cost is known and taken off. The CPU of a renewal is what the second takes more than the third, by
its renewals, that of a look at an id what the first takes more than both, by its looks. The share of a core is computed
from both and from the CPU of a cold domain, which is that of a fetch, as `discovery` finds it. The p99 is that of
cached look-ups at full speed by four connections, of the first daemon and of the third, in turns; there are more
renewals and looks a second than there would be with 100,000 domains. Probes of MX hosts are off.
"""

import asyncio
import http.client
import itertools
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.daemon import ask_all, connect, cpu_seconds, running, stsguard, write_world_config
from bench.results import Result, note, ratio
from bench.socketmap import Client, Server, ask, compile_load, write_requests
from bench.world import World, enter, missing
from stsguard.core import netstring

DOMAINS = 10_000
TTL = 45
# As often each id is looked at, all within a few seconds as they were learnt: in a stretch of another length there may
# be hardly a look, and what one takes would be found from how renewals differ.
PERIOD_SECONDS = 60.0
IN_USE = 100_000
RENEWALS, LOOKS, FETCHES = IN_USE / 720, IN_USE / 300, IN_USE / (86_400 * 0.875)  # a second, for so many
FETCH_MILLISECONDS = 1.3  # more than a cold domain with a policy takes (bench discovery)
HOT = 100
CONNECTIONS = 4
ASKED_WITHIN = 20.0  # each domain is asked for once in so many seconds
COUNTERS = {"renewals": "stsguard_renewals_total", "looks": "stsguard_record_checks_total"}


@dataclass(frozen=True, slots=True)
class Span:
    """What a daemon did in a stretch of time: CPU seconds, renewals, looks at ids."""

    cpu: float
    renewals: float
    looks: float


class _Admin(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class _Daemon:
    """A daemon of its own directory."""

    def __init__(self, directory: Path, name: str, world: World, stack: ExitStack, id_check: str) -> None:
        self.directory = directory / name
        self.directory.mkdir()
        config = write_world_config(self.directory, world.ca_file, f'id_check = "{id_check}"')
        with config.open("a", encoding="utf-8") as file:
            file.write("[verification]\nenabled = false\n")
        path = self.directory / "lookup.sock"
        self.server = Server(stack.enter_context(running(stsguard(config), path)), path)

    def seen(self) -> Span:
        """All it has done so far."""
        admin = _Admin(self.directory / "admin.sock")
        admin.request("GET", "/metrics")
        text = admin.getresponse().read().decode()
        admin.close()
        counts = {
            what: sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))
            for what, name in COUNTERS.items()
        }
        return Span(cpu_seconds(self.server.process), counts["renewals"], counts["looks"])


def _less(after: Span, before: Span) -> Span:
    return Span(after.cpu - before.cpu, after.renewals - before.renewals, after.looks - before.looks)


def main(*, smoke: bool) -> None:
    """Print both."""
    if lacking := missing():
        print(f"refresh: not measured: {lacking}")
        return
    if not enter("refresh", smoke=smoke):
        return
    domains, seconds, repeats = (20, 0.5, 1) if smoke else (DOMAINS, PERIOD_SECONDS, 5)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        load = compile_load(directory)
        if load is None:
            print("refresh: not measured: there is no C compiler, and nothing else can ask fast enough")
            return
        world = World(directory, domains, TTL)
        stack.enter_context(world.running())
        names = [f"d{number}.test" for number in range(domains)]
        both = _Daemon(directory, "both", world, stack, "1m")
        renewing, idle = (_Daemon(directory, name, world, stack, "24h") for name in ("renewing", "idle"))
        for daemon, asked in ((both, names), (renewing, names), (idle, names[:HOT])):
            asyncio.run(ask_all(daemon.server.path, asked, min(32, len(asked)), b"OK secure"))
        stack.enter_context(_in_use(both.server.path, names, ASKED_WITHIN))
        stack.enter_context(_in_use(idle.server.path, names[:HOT], ASKED_WITHIN * min(1.0, HOT / domains)))
        spans = []
        with _in_use(renewing.server.path, names, ASKED_WITHIN):
            time.sleep(seconds)
            for _ in range(repeats):
                before = both.seen(), renewing.seen(), idle.seen()
                time.sleep(seconds)
                asked = _less(idle.seen(), before[2])
                spans.append(
                    (_less(_less(both.seen(), before[0]), asked), _less(_less(renewing.seen(), before[1]), asked))
                )
        _tell_share(spans)
        # With nobody asking it renews each once more, at most, which is over when all its replies have run out.
        time.sleep(seconds)
        client = Client(load, write_requests(directory, names[:HOT]), 0.2 if smoke else 5.0)
        waits = [
            (ask(client, both.server, CONNECTIONS, 1).p99, ask(client, idle.server, CONNECTIONS, 1).p99)
            for _ in range(repeats)
        ]
        _tell_waits(waits)


def _tell_waits(waits: list[tuple[float, float]]) -> None:
    shown = [statistics.median(wait[i] for wait in waits) for i in (0, 1)]
    what = f"p99 of cached look-ups while {IN_USE:,} domains are kept fresh: / idle"
    note(Result("refresh", what, ratio(waits), 1.5, 1.2, False, f"{shown[0]:.0f} to {shown[1]:.0f} µs"))


def _tell_share(spans: list[tuple[Span, Span]]) -> None:
    renewal = ratio((alone.cpu * 1e3, alone.renewals) for _, alone in spans)
    look = ratio((max(0.0, full.cpu - full.renewals * renewal / 1e3) * 1e3, full.looks) for full, _ in spans)
    print(f"a renewal {renewal:.3f} ms, a look at a record's id {look:.3f} ms of CPU (python -m bench refresh)")
    share = (RENEWALS * renewal + LOOKS * look + FETCHES * FETCH_MILLISECONDS) / 10
    figures = (
        f"{RENEWALS:.0f} × {renewal:.3f} ms (renewals) + {LOOKS:.0f} × {look:.3f} ms (record ids) + "
        f"{FETCHES:.1f} × {FETCH_MILLISECONDS} ms (fetches) a second"
    )
    what = f"share of one core that keeps {IN_USE:,} domains in use fresh"
    note(Result("refresh", what, share, 5.0, 2.0, False, figures, " %"))


@contextmanager
def _in_use(path: Path, names: list[str], seconds: float) -> Iterator[None]:
    """Each of `names` is asked for once in so many seconds, by a process of its own."""
    command = [sys.executable, "-m", "bench.refresh", str(path), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write("\n".join(names))
    process.stdin.close()
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def _keep_asking(path: Path, seconds: float, names: list[str]) -> None:
    with connect(path, time.monotonic() + 30) as client:
        started = time.monotonic()
        for count, name in enumerate(itertools.cycle(names), 1):
            client.sendall(netstring.encode(b"policy " + name.encode()))
            client.recv(65_536)
            if count % 50 == 0:
                time.sleep(max(0.0, started + count * seconds / len(names) - time.monotonic()))


if __name__ == "__main__":
    _keep_asking(Path(sys.argv[1]), float(sys.argv[2]), sys.stdin.read().split())
