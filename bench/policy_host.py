"""The policy host beside the least that any ASGI application can do on the same server, in turns, in the same minute.

The reference is uvicorn as it comes, with h11, uvloop and TLS, and an application that answers everything with the same
words: what the policy host spends above it is its own. Asked over one connection again and again, and with a connection
for each request, as senders do. Client and server share the machine, so read the ratios; the ratio of the server's CPU
time is the one that no slow client touches. Then what ten thousand domains cost, and how soon a change is served.
"""

import asyncio
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen

from tests.lab.ca import ThrowAwayCA

from bench.daemon import cpu_seconds, running
from bench.results import ratio
from stsguard.core.hosted import HostedDomain, PolicyVersion, Stage, serialize_policy
from stsguard.core.mtasts import Mode, MxPattern
from stsguard.names import Domain
from stsguard.store.stores import Stores, open_stores

HOST = "mta-sts.d0.example"
FEW, MANY = 10, 10_000
CHANGES = 20
MX = (MxPattern.parse("mx1.example.net"), MxPattern.parse("mx2.example.net"))
REQUEST = f"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\n\r\n".encode()
REFERENCE = """
import socket, sys, uvicorn
START = {"type": "http.response.start", "status": 200,
         "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")]}
BODY = {"type": "http.response.body", "body": b"Hello, world!"}
async def application(scope, receive, send):
    await send(START)
    await send(BODY)
uvicorn.run(application, host="127.0.0.1", port=int(sys.argv[1]), http="h11", loop="uvloop", lifespan="off",
            access_log=False, log_level="error", ssl_certfile=sys.argv[2], ssl_keyfile=sys.argv[3])
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: its process and where it listens."""

    process: "Popen[bytes]"
    port: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: requests a second, and CPU of the server per request in microseconds."""

    rate: float
    cpu: float


def _domain(number: int, max_age: int = 86_400) -> HostedDomain:
    now = datetime.now(UTC)
    version = PolicyVersion(1, "20260301T000000Z", Mode.TESTING, max_age, MX, now, "bench")
    return HostedDomain(Domain(f"d{number}.example"), Stage.TESTING, now, now, (version,))


async def _fill(directory: Path, domains: int) -> None:
    stores = open_stores(f"sqlite:///{directory}/stsguard.db")
    await stores.policies.open()
    for number in range(domains):
        assert await stores.domains.save_domain(_domain(number), ()) is not None
    await stores.policies.close()


def _unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert isinstance(port, int)
        return port


def _wait(port: int) -> None:
    limit = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            assert time.monotonic() < limit, "the server does not listen"
            time.sleep(0.02)
        else:
            return


@contextmanager
def _ours(directory: Path, ca: ThrowAwayCA, domains: int) -> Iterator[Server]:
    """`stsguard inbound` with so many domains, and a certificate for the one that is asked for."""
    port = _unused_port()
    issued = ca.issue([HOST])
    (directory / "certificates").mkdir(parents=True)
    (directory / "certificates" / f"{HOST}.pem").write_bytes(issued.chain_file.read_bytes())
    (directory / "certificates" / f"{HOST}.key").write_bytes(issued.key_file.read_bytes())
    config = directory / "stsguard.toml"
    config.write_text(
        f'[policy_host]\nlisten = ["inet:127.0.0.1:{port}"]\nhttp_listen = []\nacme_directory = ""\n'
        '[log]\nlevel = "error"\n',
        encoding="utf-8",
    )
    asyncio.run(_fill(directory, domains))
    command = [sys.executable, "-m", "stsguard", "inbound", "--config", str(config), "--state-dir", str(directory)]
    # None of its domains is in the DNS, of which it has findings.
    with running(command, directory / "inbound.sock", log=directory / "inbound.log") as process:
        _wait(port)
        yield Server(process, port)


@contextmanager
def _reference(ca: ThrowAwayCA) -> Iterator[Server]:
    port = _unused_port()
    issued = ca.issue([HOST])
    process = Popen([sys.executable, "-c", REFERENCE, str(port), str(issued.chain_file), str(issued.key_file)])
    try:
        _wait(port)
        yield Server(process, port)
    finally:
        process.terminate()
        process.wait(timeout=20)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return await reader.readexactly(length)


async def _connect(port: int, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=HOST)


async def _kept(port: int, context: ssl.SSLContext, until: float) -> int:
    """Requests over one connection, one after the other; one at least."""
    reader, writer = await _connect(port, context)
    count = 0
    while not count or time.perf_counter() < until:
        await _ask(reader, writer)
        count += 1
    writer.close()
    return count


async def _anew(port: int, context: ssl.SSLContext, until: float) -> int:
    """Requests with a connection each; one at least."""
    count = 0
    while not count or time.perf_counter() < until:
        reader, writer = await _connect(port, context)
        await _ask(reader, writer)
        writer.transport.abort()
        count += 1
    return count


def _measure(server: Server, context: ssl.SSLContext, *, kept: bool, connections: int, seconds: float) -> Figures:
    import uvloop

    async def load() -> int:
        until = time.perf_counter() + seconds
        client = _kept if kept else _anew
        return sum(await asyncio.gather(*(client(server.port, context, until) for _ in range(connections))))

    before = cpu_seconds(server.process)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        count = runner.run(load())
    return Figures(count / seconds, (cpu_seconds(server.process) - before) / count * 1e6)


def _ratio(ours: Sequence[Figures], reference: Sequence[Figures], figure: str) -> float:
    return ratio((getattr(a, figure), getattr(b, figure)) for a, b in zip(ours, reference, strict=True))


async def _change_times(directory: Path, server: Server, context: ssl.SSLContext, changes: int) -> list[float]:
    """Seconds from the end of the transaction that changes a policy to the first response with it."""
    stores: Stores = open_stores(f"sqlite:///{directory}/stsguard.db")
    await stores.policies.open()
    times = []
    reader, writer = await _connect(server.port, context)
    for number in range(changes):
        domain = await stores.domains.load_domain(Domain("d0.example"))
        assert domain is not None
        version = replace(domain.current, number=domain.current.number + 1, max_age=90_000 + number)
        wanted = serialize_policy(version.mode, version.max_age, version.mx_patterns)
        assert await stores.domains.save_domain(replace(domain, versions=(*domain.versions, version)), ())
        began = time.perf_counter()
        while await _ask(reader, writer) != wanted:
            assert time.perf_counter() < began + 10
            await asyncio.sleep(0.002)
        times.append(time.perf_counter() - began)
    writer.close()
    await stores.policies.close()
    return times


def main(*, smoke: bool) -> None:
    """Print the tables."""
    seconds, repeats, many, changes = (0.3, 1, 200, 2) if smoke else (3.0, 5, MANY, CHANGES)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ca = ThrowAwayCA(directory / "ca")
        context = ca.client_context()
        with (
            _ours(directory / "few", ca, FEW) as few,
            _ours(directory / "many", ca, many) as lots,
            _reference(ca) as reference,
        ):
            print(f"policies over TLS, one process, median of {repeats} in turns (python -m bench policy_host)")
            print("connections   domains   requests/s   of hello world   CPU of hello world   CPU µs")
            for kept, connections in ((True, 1), (True, 32), (False, 8)):
                runs: dict[int, list[Figures]] = {}
                for _ in range(repeats):
                    for server in (few, lots, reference):
                        figures = _measure(server, context, kept=kept, connections=connections, seconds=seconds)
                        runs.setdefault(server.port, []).append(figures)
                for server, domains in ((few, FEW), (lots, many)):
                    ours, other = runs[server.port], runs[reference.port]
                    print(
                        f"{connections:4} {'kept' if kept else 'anew':6}   {domains:7}"
                        f"   {statistics.median(each.rate for each in ours):10.0f}"
                        f"   {_ratio(ours, other, 'rate'):14.2f}   {_ratio(ours, other, 'cpu'):18.2f}"
                        f"   {statistics.median(each.cpu for each in ours):6.0f}"
                    )
            times = sorted(asyncio.run(_change_times(directory / "many", lots, context, changes)))
            print(
                f"a change is served after {statistics.median(times) * 1000:.0f} ms (median of {changes}), "
                f"{times[-1] * 1000:.0f} ms at most, with {many} domains"
            )
