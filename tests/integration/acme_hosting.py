"""A policy host that answers challenges, beside a real CA that asks for them and a nameserver that leads it here."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from stsguard.adapters.acme_challenge import challenge_context
from stsguard.adapters.acme_client.authority import AcmeAuthority
from stsguard.adapters.asgi_server import AsgiServer
from stsguard.adapters.clock import SystemClock
from stsguard.adapters.listening import listen_inet
from stsguard.adapters.reach import PublicPath
from stsguard.adapters.resolver import DnsResolver
from stsguard.adapters.tls_certificates import AcmeCertificates, CertificateFiles
from stsguard.core.addresses import AddressGuard
from stsguard.core.client_hello import ClientHello
from stsguard.core.hosted import REACH_PROTOCOL, TLS_ALPN_PROTOCOL
from stsguard.inbound.certificates import CertificateKeeper, CertificateSettings
from stsguard.inbound.order_pace import OrderPace
from stsguard.inbound.policy_host import TLS_HOST, PolicyHost
from stsguard.names import Domain
from tests.lab.nameserver import Nameserver, zone
from tests.lab.pebble import Pebble, set_up_pebble
from tests.unit.certificate_store import CertificateValues

HOST = Domain("mta-sts.example.test")
KINDS = {TLS_ALPN_PROTOCOL: "tls-alpn-01", REACH_PROTOCOL: "reach-tls"}


class ShiftedClock(SystemClock):
    """The machine's clocks, of which the wall clock may be set anew and the monotonic one let run ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = timedelta()
        self.ahead = 0.0
        machine = self.monotonic
        self.monotonic = lambda: machine() + self.ahead

    def now(self) -> datetime:
        return super().now() + self.shift

    def pass_time(self, seconds: float) -> None:
        self.shift += timedelta(seconds=seconds)
        self.ahead += seconds


@dataclass
class AcmeSite:
    """One node with its directory, and the CA. `hosts` are served."""

    store: CertificateValues
    clock: ShiftedClock
    pebble: Pebble
    directory: Path
    resolver: DnsResolver
    http_port: int
    tls_port: int
    hosts: set[Domain]

    def authority(self) -> AcmeAuthority:
        return AcmeAuthority(self.pebble.directory_url, self.directory, now=self.clock.now, ca_file=self.pebble.ca_file)

    def reach(self) -> PublicPath:
        return PublicPath(self.resolver, AddressGuard(True), http_port=self.http_port, tls_port=self.tls_port)

    def keeper(self, challenge: str = "http-01") -> CertificateKeeper:
        return CertificateKeeper(
            CertificateSettings(challenge=challenge, node="node", round_seconds=0.05),
            policy_hosts=lambda: self.hosts,
            store=self.store,
            authority=self.authority(),
            files=AcmeCertificates(self.directory),
            reach=self.reach(),
            clock=self.clock,
            pace=OrderPace(self.clock.monotonic, random.random),
            random=random.random,
        )

    @asynccontextmanager
    async def keeping(self, challenge: str = "http-01") -> AsyncIterator[CertificateKeeper]:
        """A keeper at work."""
        keeper = self.keeper(challenge)
        task = asyncio.create_task(keeper.run())
        try:
            yield keeper
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 (what is waited for has no event)
                await asyncio.sleep(0.02)

    async def certificate(self, context: ssl.SSLContext, host: str = HOST) -> dict[str, object]:
        """What a sender is shown and takes, after a whole handshake over TCP."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.tls_port, ssl=context, server_hostname=host)
        found: dict[str, object] = writer.get_extra_info("peercert")
        writer.transport.abort()
        return found


@asynccontextmanager
async def acme_site(directory: Path, *records: str) -> AsyncIterator[AcmeSite]:
    """A site whose pebble is set up and not running yet; `records` beside the one of HOST."""
    store, clock = CertificateValues(), ShiftedClock()
    certificates = CertificateFiles(directory / "certificates")

    async def select(hello: ClientHello) -> ssl.SSLContext | None:
        if hello.server_name is None:
            return None
        if len(hello.alpn) == 1 and hello.alpn[0] in KINDS:
            for challenge in await store.load_challenges(clock.now()):
                if (challenge.kind, challenge.host) == (KINDS[hello.alpn[0]], hello.server_name):
                    return challenge_context(challenge)
            return None
        return certificates.context(hello.server_name)

    application = PolicyHost({}, store, lambda *_: None, clock, loaded=lambda: True)
    server = AsgiServer(application, select=select, tls_name=TLS_HOST)
    http, tls = listen_inet("127.0.0.1", 0), listen_inet("127.0.0.1", 0)
    http_port, tls_port = http.getsockname()[1], tls.getsockname()[1]
    async with Nameserver(zone(f"{HOST}. 60 IN A 127.0.0.1", *records)) as nameserver:
        (directory / "pebble").mkdir()
        pebble = set_up_pebble(directory / "pebble", nameserver.address, http_port=http_port, tls_port=tls_port)
        serving: list[Awaitable[None]] = [server.tend(), server.serve(http, tls=False), server.serve(tls, tls=True)]
        tasks = [asyncio.ensure_future(work) for work in serving]
        try:
            resolver = DnsResolver([nameserver.address], trust_ad=False)
            yield AcmeSite(store, clock, pebble, directory / "certificates", resolver, http_port, tls_port, {HOST})
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.close()
            http.close()
            tls.close()
