"""Cached look-ups: the daemon beside the least that any asyncio server can do, in turns, in the same minute.

The reference answers every read with the same bytes, from a uvloop Protocol without any look-up: what the daemon spends
above it is its own. Client and server share the machine, so read the ratios.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.daemon import connect, cpu_seconds, running, stsguard, write_config
from stsguard.core import netstring

DOMAINS = 1000
CONNECTIONS = (1, 8, 64)
REFERENCE = """
import asyncio, sys, uvloop
REPLY = b"%d:%b," % (60, b"OK secure match=mx.d1.example servername=hostname".ljust(60))
class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(REPLY)
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Echo, sys.argv[1])
    await server.serve_forever()
uvloop.run(main())
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: look-ups a second, CPU of the server per 100,000 look-ups, p50 and p99 in microseconds."""

    rate: float
    cpu: float
    p50: float
    p99: float


class Client(asyncio.Protocol):
    """Asks one domain after the other, depth 1, and notes how long each answer took."""

    def __init__(self, requests: list[bytes], until: float, times: list[float], done: "asyncio.Future[None]") -> None:
        self._requests = requests
        self._until = until
        self._times = times
        self._done = done
        self._next = 0
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask the first."""
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._next = (self._next + 1) % len(self._requests)
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._next])  # type: ignore[attr-defined]

    def data_received(self, _data: bytes) -> None:
        """Note the time, ask the next."""
        now = time.perf_counter()
        self._times.append(now - self._sent)
        if now < self._until:
            self._ask()
        elif not self._done.done():
            self._done.set_result(None)


async def _load(path: Path, connections: int, seconds: float) -> list[float]:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    until = time.perf_counter() + seconds
    waits = []
    for number in range(connections):
        asked = [netstring.encode(b"policy d%d.example" % ((number * 37 + k) % DOMAINS)) for k in range(DOMAINS)]
        done: asyncio.Future[None] = loop.create_future()
        await loop.create_unix_connection(lambda a=asked, d=done: Client(a, until, times, d), str(path))
        waits.append(done)
    await asyncio.wait(waits)
    return times


def _warm(path: Path) -> None:
    client = connect(path, time.monotonic() + 5)
    with client:
        for number in range(DOMAINS):
            client.sendall(netstring.encode(b"policy d%d.example" % number))
            assert client.recv(4096).endswith(b",")


def _measure(command: list[str], path: Path, connections: int, seconds: float) -> Figures:
    import uvloop

    with running(command, path) as process:
        _warm(path)
        before = cpu_seconds(process)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            times = sorted(runner.run(_load(path, connections, seconds)))
        spent = cpu_seconds(process) - before
    count = len(times)
    return Figures(count / seconds, spent / count * 100_000, times[count // 2] * 1e6, times[count * 99 // 100] * 1e6)


def main(*, smoke: bool) -> None:
    """Print the table."""
    seconds, repeats = (0.3, 1) if smoke else (3.0, 5)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ours = stsguard(write_config(directory, DOMAINS)), directory / "lookup.sock"
        reference = [sys.executable, "-c", REFERENCE, str(directory / "reference.sock")], directory / "reference.sock"
        print(
            f"cached look-ups, {DOMAINS} domains, unix socket, depth 1, median of {repeats} (python -m bench socketmap)"
        )
        print("connections   look-ups/s   of reference   CPU of reference   p99 of reference   p99 µs")
        for connections in CONNECTIONS:
            pairs = [
                (_measure(*ours, connections, seconds), _measure(*reference, connections, seconds))
                for _ in range(repeats)
            ]
            rate, cpu, p99 = (
                statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in pairs)
                for figure in ("rate", "cpu", "p99")
            )
            shown = statistics.median(a.rate for a, _ in pairs), statistics.median(a.p99 for a, _ in pairs)
            print(f"{connections:11}   {shown[0]:10.0f}   {rate:12.2f}   {cpu:16.2f}   {p99:16.2f}   {shown[1]:6.0f}")
