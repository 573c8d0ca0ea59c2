"""A policy host on ports of 127.0.0.1, over stores that are values, with certificates of a throw-away CA."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from stsguard.adapters.asgi_server import AsgiServer
from stsguard.adapters.clock import SystemClock
from stsguard.adapters.listening import listen_inet, listen_unix
from stsguard.adapters.tls_certificates import CertificateFiles
from stsguard.core.client_hello import ClientHello
from stsguard.inbound.fetches import FetchCounts
from stsguard.inbound.hosting import Hosting
from stsguard.inbound.policy_host import TLS_HOST, Application, PolicyHost
from tests.lab.ca import ThrowAwayCA
from tests.unit.hosting import HostingStore

PATH = "/.well-known/mta-sts.txt"


@dataclass
class PolicyHostAt:
    """A running policy host: `port` with TLS, `http_port` without, `unix` without as well."""

    store: HostingStore
    hosting: Hosting
    fetches: FetchCounts
    server: AsgiServer
    ca: ThrowAwayCA
    port: int
    http_port: int
    unix: Path

    def context(self) -> ssl.SSLContext:
        return self.ca.client_context()

    async def talk(
        self, octets: bytes, *, sni: str | None = "mta-sts.a.example", context: ssl.SSLContext | None = None
    ) -> bytes:
        """Everything that comes back for these bytes over TLS."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context or self.context(), server_hostname=sni
        )
        writer.write(octets)
        return await _all(reader, writer)

    async def talk_plainly(self, octets: bytes, *, unix: bool = False) -> bytes:
        """The same without TLS."""
        if unix:
            reader, writer = await asyncio.open_unix_connection(str(self.unix))
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.http_port)
        writer.write(octets)
        return await _all(reader, writer)


async def _all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


def request(
    path: str = PATH, host: bytes | str = "mta-sts.a.example", *fields: str, method: str = "GET", version: str = "1.1"
) -> bytes:
    """A request that closes the connection."""
    shown = host.encode() if isinstance(host, str) else host
    lines = [f"{method} {path} HTTP/{version}".encode(), b"Host: " + shown, b"Connection: close"]
    return b"\r\n".join([*lines, *(field.encode() for field in fields), b"", b""])


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields and body of one response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), fields, body


def put_certificate(ca: ThrowAwayCA, directory: Path, *hosts: str) -> None:
    """Certificates where the policy host seeks them."""
    directory.mkdir(exist_ok=True)
    for host in hosts:
        issued = ca.issue([host])
        (directory / f"{host}.pem").write_bytes(issued.chain_file.read_bytes())
        (directory / f"{host}.key").write_bytes(issued.key_file.read_bytes())


@asynccontextmanager
async def policy_host(
    directory: Path,
    store: HostingStore,
    *,
    names: Sequence[str] = ("mta-sts.a.example",),
    max_connections: int = 100,
    request_seconds: float = 10.0,
    elsewhere: Mapping[str, Application] | None = None,
) -> AsyncIterator[PolicyHostAt]:
    """The policy host over `store`, with certificates for `names`."""
    ca = ThrowAwayCA(directory / "ca")
    put_certificate(ca, directory / "certificates", *names)
    certificates = CertificateFiles(directory / "certificates")
    hosting = Hosting(store, store.open)
    fetches = FetchCounts(store, SystemClock())
    application = PolicyHost(
        hosting.pages, store, fetches.count, SystemClock(), loaded=hosting.loaded.is_set, elsewhere=elsewhere
    )

    async def select(hello: ClientHello) -> ssl.SSLContext | None:
        return None if hello.server_name is None else certificates.context(hello.server_name)

    server = AsgiServer(
        application,
        select=select,
        tls_name=TLS_HOST,
        max_connections=max_connections,
        request_seconds=request_seconds,
    )
    listeners = [listen_inet("127.0.0.1", 0), listen_inet("127.0.0.1", 0), listen_unix(directory / "http.sock", 0o666)]
    await hosting.refresh()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(server.tend()),
            group.create_task(hosting.run()),
            *(group.create_task(server.serve(sock, tls=number == 0)) for number, sock in enumerate(listeners)),
        ]
        ports = [_port(sock) for sock in listeners[:2]]
        try:
            yield PolicyHostAt(store, hosting, fetches, server, ca, *ports, directory / "http.sock")
        finally:
            for task in tasks:
                task.cancel()
            await server.close()
            for sock in listeners:
                sock.close()


def _port(sock: socket.socket) -> int:
    port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port
