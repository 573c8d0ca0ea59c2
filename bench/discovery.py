"""Cold look-ups: domains never asked for, with a policy and without, beside postfix-mta-sts-resolver; and what cached
look-ups wait meanwhile.

Everything is real and in a network of its own (`world`): DNS, HTTPS with a certificate for each domain. Both daemons
ask the same resolver and fetch from the same server; on the same two cores run client, daemon, unbound and nginx. For a
domain without a policy we ask three questions (TXT, MX, A) where the other asks one, for one with a policy the MX
host's AAAA and the Policy Host's A and AAAA as well, of which the other needs the last two.

The other verifies no MX host, so our verification is off where both are compared. With it on, a row of its own tells
the CPU of a domain up to its last probe, which begins when nobody waits any longer; each is refused by an MX host where
nobody listens, and one that is not costs another TLS handshake.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import TypeVar

from bench.daemon import cpu_seconds, running, settle, stsguard, write_world_config
from bench.peers import mta_sts_resolver, resolver_command
from bench.results import Result, note, ratio
from bench.world import World, enter, missing
from stsguard.core import netstring
from stsguard.names import Domain

IN_FLIGHT = 64
COLD_BESIDE = 32
HOT_CONNECTIONS = 4
HOT_DOMAINS = 100
HOT_ROUNDS = 100_000  # more than there is time for
T = TypeVar("T")
POSITIVE = b"OK secure"
# Domains, how a reply to them begins, and what rate and processor time have to be, and hope to be, of the resolver's.
KINDS = (
    ("d", "with a policy", POSITIVE, ((1.4, 1.7), (0.67, 0.55))),
    ("n", "without a policy", b"NOTFOUND", ((1.5, 2.5), (0.6, 0.3))),
)
VERIFIED = "with a policy, MX hosts verified"
REST_SECONDS = 3.0  # after its start our daemon loads in a thread what the first answers do without
MEASURES = (("domains/s", "rate", ("domains/s", 0), True), ("CPU per domain", "cpu", ("ms", 3), False))


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
        time.sleep(REST_SECONDS)
        settle(process)
        before, started = cpu_seconds(process), time.perf_counter()
        _run(_ask_all(path, list(domains), IN_FLIGHT, expected))
        seconds = time.perf_counter() - started
        settle(process)  # what it has put off belongs to it
        return Figures(len(domains) / seconds, (cpu_seconds(process) - before) * 1000 / len(domains))


def _hot_beside_cold(
    command: list[str], path: Path, hot: Sequence[str], cold: Sequence[str], environment: dict[str, str]
) -> float:
    async def load() -> list[float]:
        await _ask_all(path, list(hot), 8, POSITIVE)
        again = list(hot) * HOT_ROUNDS
        hammer = asyncio.create_task(_ask_all(path, again, HOT_CONNECTIONS, POSITIVE))
        await _ask_all(path, list(cold), COLD_BESIDE, POSITIVE)
        again.clear()
        return await hammer

    with running(command, path, environment):
        times = sorted(_run(load()))
    return times[len(times) * 99 // 100] * 1e3


def main(*, smoke: bool) -> None:
    """Print the table."""
    if lacking := missing():
        print(f"discovery: not measured: {lacking}")
        return
    program = mta_sts_resolver(install=not smoke)  # before the network is gone
    if not enter("discovery", smoke=smoke):
        return
    count, repeats = (50, 1) if smoke else (2000, 5)
    _tell_parts(repeats)
    if program is None:
        print("discovery: without postfix-mta-sts-resolver, which is not installed")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        world = World(directory, count)
        directory.chmod(0o755)
        with world.running():
            _measure(world, directory, program, repeats)


def _tell_parts(repeats: int) -> None:
    """Where own code stands beside a library: what reading an answer, and a policy's response, costs either way."""
    import dns.message

    from stsguard.adapters.policy_fetch.response import FullResponse, PolicyResponse
    from stsguard.adapters.resolver.interpreted import parse_response
    from stsguard.adapters.resolver.plain import MX, make_question, make_wire_query, read_plain

    name = Domain("example.test")
    question = make_question(name, MX)
    assert question is not None
    reply = dns.message.make_response(dns.message.from_wire(make_wire_query(question, bytes(2))))
    reply.answer = [dns.rrset.from_text(name + ".", 300, "IN", "MX", f"10 mx.{name}.")]
    wire = reply.to_wire()
    body = f"version: STSv1\r\nmode: enforce\r\nmx: mx.{name}\r\nmax_age: 604800\r\n".encode()
    fields = "Server: nginx\r\nDate: Sat, 28 Nov 2026 10:00:00 GMT\r\nContent-Type: text/plain\r\nConnection: close"
    response = f"HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "DNS answer read here and by dnspython": (
            lambda: read_plain(wire, question),
            lambda: parse_response(wire, question),
        ),
        "HTTP response read here and by h11": (
            lambda: PolicyResponse(name, max_size_bytes=65_536).receive(response),
            lambda: FullResponse(max_size_bytes=65_536).receive(response),
        ),
    }
    for what, pair in ways.items():
        pairs = [[timeit(way, number=500) / 500 * 1e6 for way in pair] for _ in range(repeats)]
        own, library = (median(each) for each in zip(*pairs, strict=True))
        print(f"{what}: {own:.1f} and {library:.1f} µs")


def _measure(world: World, directory: Path, program: Path | None, repeats: int) -> None:
    environment = {"SSL_CERT_FILE": str(world.ca_file)}
    peer = resolver_command(program, directory) if program else None

    def ours(*, verifying: bool = False) -> tuple[list[str], Path]:
        config = write_world_config(directory, world.ca_file)
        with config.open("a", encoding="utf-8") as file:
            file.write(f"[verification]\nenabled = {str(verifying).lower()}\n")
        return stsguard(config), directory / "lookup.sock"

    print(f"{world.count} cold domains, {IN_FLIGHT} in flight, median of {repeats}")
    for kind, text, expected, bounds in KINDS:
        domains = [f"{kind}{number}.test" for number in range(1, world.count)]
        pairs, verified = [], []
        for _ in range(repeats):
            mine = _cold(*ours(), domains, expected, environment)
            theirs = _cold(*peer, domains, expected, environment) if peer else Figures(0, 0)
            pairs.append((mine, theirs))
            if expected == POSITIVE:
                verified.append((_cold(*ours(verifying=True), domains, expected, environment), theirs))
        _tell(text, pairs, bounds, MEASURES)
        if verified:
            _tell(VERIFIED, verified, bounds[1:], MEASURES[1:])
    names = [f"d{number}.test" for number in range(world.count)]
    split = min(HOT_DOMAINS, world.count // 2)
    waits = []
    for _ in range(repeats):
        mine_p99 = _hot_beside_cold(*ours(), names[:split], names[split:], environment)
        theirs_p99 = _hot_beside_cold(*peer, names[:split], names[split:], environment) if peer else 0.0
        waits.append((mine_p99, theirs_p99))
    what = f"p99 of cached look-ups while {COLD_BESIDE} cold ones run / resolver"
    figures = f"{median(mine for mine, _ in waits):.2f} to {median(theirs for _, theirs in waits):.2f} ms"
    note(Result("discovery", what, ratio(waits), 0.25, 0.05, least=False, figures=figures))


def _tell(
    text: str,
    pairs: Sequence[tuple[Figures, Figures]],
    bounds: Sequence[tuple[float, float]],
    measures: Sequence[tuple[str, str, tuple[str, int], bool]],
) -> None:
    for (what, field, unit, least), (must, aim) in zip(measures, bounds, strict=True):
        values = [(getattr(mine, field), getattr(theirs, field)) for mine, theirs in pairs]
        shown = [f"{median(each):.{unit[1]}f}" for each in zip(*values, strict=True)]
        figures = f"{shown[0]} to {shown[1]} {unit[0]}"
        result = Result(
            "discovery",
            f"cold domains {text}: {what} / resolver",
            ratio(values),
            must,
            aim,
            least=least,
            figures=figures,
        )
        note(result)
