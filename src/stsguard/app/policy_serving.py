"""Serving policies: the part of `stsguard inbound` that runs in each process that answers requests."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from socket import socket

from stsguard.adapters.acme_challenge import challenge_context
from stsguard.adapters.asgi_server import AsgiServer
from stsguard.adapters.clock import SystemClock
from stsguard.adapters.tls_certificates import CertificateFiles
from stsguard.app.serving import end
from stsguard.config.model import Config
from stsguard.core.client_hello import ClientHello
from stsguard.core.errors import StoreUnavailable
from stsguard.core.hosted import AcmeChallenge
from stsguard.core.unpack import Limits
from stsguard.discovery.supervisor import kept_up, supervised
from stsguard.inbound.fetches import FetchCounts
from stsguard.inbound.hosting import Hosting
from stsguard.inbound.policy_host import TLS_HOST, Application, PolicyHost
from stsguard.inbound.report_post import ReportPost
from stsguard.inbound.spool import Spool
from stsguard.names import Domain
from stsguard.store.stores import Stores

# What a ClientHello that offers exactly one of these asks for: the kind of the challenge (RFC 8737 §3, and our own).
CHALLENGE_PROTOCOLS: dict[tuple[bytes, ...], str] = {
    (b"acme-tls/1",): "tls-alpn-01",
    (b"stsguard-reach/1",): "reach-tls",
}
CHALLENGES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Listeners:
    """The sockets to answer at: with TLS, and without."""

    https: Sequence[socket]
    http: Sequence[socket]

    def close(self) -> None:
        """Close them in this process."""
        for listener in (*self.https, *self.http):
            listener.close()


def _report_posts(config: Config, clock: SystemClock) -> dict[str, Application]:
    """What takes reports by POST, at its path; nothing where no path is configured."""
    intake = config.intake
    if intake.http_path is None:
        return {}
    limits = Limits(max_compressed=intake.max_compressed_bytes, max_decompressed=intake.max_decompressed_bytes)
    return {intake.http_path: ReportPost(Spool(intake.spool), clock, limits)}


class PolicyServing:
    """The policies in memory, the counters of their fetches, and the server that answers from them."""

    def __init__(self, config: Config, stores: Stores) -> None:
        self._clock = SystemClock()
        self._stores = stores
        directory = config.policy_host.certificate_dir
        self._certificates = CertificateFiles(directory) if directory is not None else None
        self._challenges = asyncio.Semaphore(CHALLENGES_AT_ONCE)
        self.hosting = Hosting(stores.domains, stores.policies.open)
        self.fetches = FetchCounts(stores.policy_fetches, self._clock)
        application = PolicyHost(
            self.hosting.pages,
            stores.certificates,
            self.fetches.count,
            self._clock,
            loaded=self.hosting.loaded.is_set,
            elsewhere=_report_posts(config, self._clock),
        )
        self.server = AsgiServer(application, select=self._select, tls_name=TLS_HOST)

    async def follow(self) -> None:
        """Keep the policies up with the database and have the counters stored, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(kept_up("hosting", self.hosting.run))
            group.create_task(kept_up("policy fetches", self.fetches.run))

    async def answer(self, listeners: Listeners) -> None:
        """Answer at these sockets until cancelled; then the requests under way are answered first."""
        accepting = asyncio.create_task(self._accept(listeners))
        try:
            await asyncio.wait([accepting])
            accepting.result()
        finally:
            await end(accepting)
            listeners.close()
            await self.server.close()

    async def _accept(self, listeners: Listeners) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.server.tend())
            for listener in listeners.https:
                group.create_task(self.server.serve(listener, tls=True))
            for listener in listeners.http:
                group.create_task(self.server.serve(listener, tls=False))

    async def close(self) -> None:
        """Store the last second's counters."""
        await supervised("counting at the end", self.fetches.flush())

    async def _select(self, hello: ClientHello) -> ssl.SSLContext | None:
        if hello.server_name is None:
            return None
        kind = CHALLENGE_PROTOCOLS.get(hello.alpn)
        if kind is not None:
            found = await self._challenge(kind, hello.server_name)
            return None if found is None else challenge_context(found)
        return None if self._certificates is None else self._certificates.context(hello.server_name)

    async def _challenge(self, kind: str, host: Domain) -> AcmeChallenge | None:
        if self._challenges.locked():
            return None
        async with self._challenges:
            try:
                under_way = await self._stores.certificates.load_challenges(self._clock.now())
            except StoreUnavailable:
                return None
        return next((each for each in under_way if (each.kind, each.host) == (kind, host)), None)
