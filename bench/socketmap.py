"""Cached look-ups: the daemon beside postfix-mta-sts-resolver and beside the least that any server can do, in turns.

That least is a responder in C around epoll that finds the requests and answers all of them with the same bytes. Client
(in C as well, one thread) and servers share the machine, so read the ratios. At depth 16 the client sends sixteen
requests in one write, as a proxy in front would; Postfix itself asks one at a time. Both daemons have found out their
domains' policies by themselves, by DNS and HTTPS in the small Internet of `world`.
"""

import asyncio
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.daemon import ask_all, cpu_seconds, running, settle, stsguard, write_world_config
from bench.peers import mta_sts_resolver, resolver_command
from bench.results import Result, note, ratio
from bench.world import World, enter, missing
from stsguard.core import netstring

SOURCE = Path(__file__).with_name("lookup_load.c")
DOMAINS = 1000
LOADS = ((8, 1), (64, 1), (8, 16), (64, 16))  # connections, requests under way on each
OURS, PEER, BARE = "stsguard", "resolver", "C"


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: look-ups a second, CPU of the server in microseconds a look-up, p50 and p99 in microseconds."""

    rate: float
    cpu: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, and where it answers."""

    process: "subprocess.Popen[bytes]"
    path: Path


@dataclass(frozen=True, slots=True)
class Client:
    """The client's program, its requests, and how long it asks."""

    program: Path
    requests: Path
    seconds: float


Runs = dict[tuple[int, int], list[dict[str, Figures]]]


def compile_load(directory: Path) -> Path | None:
    """The client and the bare server; None where nothing compiles."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program = directory / "lookup_load"
    subprocess.run([compiler, "-O2", "-o", str(program), str(SOURCE)], check=True)
    return program


def write_requests(directory: Path, domains: Sequence[str]) -> Path:
    """The file of requests that the client draws from."""
    file = directory / "requests"
    file.write_bytes(b"".join(netstring.encode(b"policy " + name.encode()) + b"\n" for name in domains))
    return file


def ask(client: Client, server: Server, connections: int, depth: int) -> Figures:
    """One run of the client."""
    before = cpu_seconds(server.process)
    how = (str(connections), str(depth), str(client.seconds))
    command = [str(client.program), "ask", str(server.path), *how, str(client.requests)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    spent = cpu_seconds(server.process) - before
    count, took, p50, p99, _ = map(float, done.stdout.split())
    return Figures(count / took, spent / count * 1e6, p50 / 1e3, p99 / 1e3)


def main(*, smoke: bool) -> None:
    """Print the table."""
    if lacking := missing():
        print(f"socketmap: not measured: {lacking}")
        return
    program = mta_sts_resolver(install=not smoke)  # there is no way out of the network that is entered
    if not enter("socketmap", smoke=smoke):
        return
    domains, seconds, repeats = (20, 0.2, 1) if smoke else (DOMAINS, 3.0, 7)
    if program is None:
        print("socketmap: without postfix-mta-sts-resolver, which is not installed")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        load = compile_load(directory)
        if load is None:
            print("socketmap: not measured: there is no C compiler, and nothing else can ask fast enough")
            return
        world = World(directory, domains)
        stack.enter_context(world.running())
        names = [f"d{number}.test" for number in range(domains)]
        commands = {
            OURS: (stsguard(write_world_config(directory, world.ca_file)), directory / "lookup.sock"),
            BARE: ([str(load), "respond", str(directory / "bare.sock")], directory / "bare.sock"),
            **({PEER: resolver_command(program, directory)} if program else {}),
        }
        servers = {}
        environment = {"SSL_CERT_FILE": str(world.ca_file)}
        for who, (command, path) in commands.items():
            servers[who] = Server(stack.enter_context(running(command, path, environment)), path)
            asyncio.run(ask_all(path, names, min(16, domains), b"OK secure"))
        for server in servers.values():
            settle(server.process)
        client = Client(load, write_requests(directory, names), seconds)
        runs: Runs = {
            (connections, depth): [
                {who: ask(client, server, connections, depth) for who, server in servers.items()}
                for _ in range(repeats)
            ]
            for connections, depth in LOADS
        }
        _tell(runs, repeats)


def _tell(runs: Runs, repeats: int) -> None:
    print(f"cached look-ups, {DOMAINS} domains, unix socket, median of {repeats} (python -m bench socketmap)")
    print("connections   depth   server       look-ups/s   CPU µs   p50 µs   p99 µs")
    for (connections, depth), each in runs.items():
        for who in each[0]:
            rate, cpu, p50, p99 = (_median(each, who, figure) for figure in ("rate", "cpu", "p50", "p99"))
            print(f"{connections:11}   {depth:5}   {who:10}   {rate:10.0f}   {cpu:6.2f}   {p50:6.0f}   {p99:6.0f}")
    for (connections, depth), each in runs.items():
        where = f"cached look-ups, {connections} connections, depth {depth}"
        bounds = (0.60, 0.80) if depth == 1 else (0.20, 0.30)
        _note(each, f"{where}: rate / C responder", ("rate", BARE), bounds)
        if depth == 1 and PEER in each[0]:
            _note(each, f"{where}: rate / resolver", ("rate", PEER), (4.0, 5.0))
    at64 = runs[64, 1]
    _note(at64, "CPU per cached look-up, 64 connections, depth 1: / C responder", ("cpu", BARE), (1.8, 1.25))
    _note(at64, "p99 of cached look-ups, 64 connections, depth 1: / C responder", ("p99", BARE), (2.0, 1.3))


def _median(runs: list[dict[str, Figures]], who: str, figure: str) -> float:
    return statistics.median(getattr(run[who], figure) for run in runs)


def _note(runs: list[dict[str, Figures]], what: str, of: tuple[str, str], bounds: tuple[float, float]) -> None:
    figure, other = of
    value = ratio((getattr(run[OURS], figure), getattr(run[other], figure)) for run in runs)
    ours, theirs = _median(runs, OURS, figure), _median(runs, other, figure)
    figures = f"{ours:,.0f} to {theirs:,.0f}/s" if figure == "rate" else f"{ours:.1f} to {theirs:.1f} µs"
    note(Result("socketmap", what, value, *bounds, figure == "rate", figures))
