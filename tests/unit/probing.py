"""A bench for the verifier of MX hosts: its clock, its prober, what hosts show."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from stsguard.core.dane import MxHost, TlsaRecord, TlsaStatus
from stsguard.core.errors import ResultType
from stsguard.core.mxcheck import CertificateFacts, MxProbe
from stsguard.discovery.verification import MxVerifier
from stsguard.names import Domain
from stsguard.ports import IPAddress

MX, MX2, MX3 = Domain("mx.example.com"), Domain("mx2.example.com"), Domain("mx3.example.com")
ADDRESS, ADDRESS2 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
START = datetime(2026, 5, 4, tzinfo=UTC)
HOUR = 3600.0


@dataclass
class HandClock:
    """Time stands still until it is moved."""

    seconds: float = 1000.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


def facts(*dns_names: str, sha256: str = "00") -> CertificateFacts:
    return CertificateFacts("CN=x", "CN=ca", None, dns_names, START, START, sha256)


@dataclass(frozen=True)
class Shown:
    """What a host shows of itself."""

    result_type: ResultType | None = None
    certificate: CertificateFacts | None = None
    trusted: bool = True
    inconclusive: bool = False


GOOD = Shown(certificate=facts(MX))
MISMATCH = Shown(ResultType.CERTIFICATE_HOST_MISMATCH, facts("wrong.example"))
SILENT = Shown(inconclusive=True)


@dataclass
class FakeProber:
    """Shows what `hosts` says, GOOD by default, and remembers who was probed at what time."""

    clock: HandClock
    hosts: dict[Domain | IPAddress, Shown] = field(default_factory=dict)
    calls: list[tuple[Domain, IPAddress]] = field(default_factory=list)
    arguments: list[tuple[tuple[TlsaRecord, ...], tuple[Domain, ...]]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    running: list[IPAddress] = field(default_factory=list)
    most: int = 0
    broken: set[Domain] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gate.set()

    async def probe(
        self,
        mx_hostname: Domain,
        address: IPAddress,
        tlsa: Sequence[TlsaRecord],
        *,
        reference_identifiers: Sequence[Domain] = (),
    ) -> MxProbe:
        assert address not in self.running, "two connections to one address at a time"
        self.calls.append((mx_hostname, address))
        self.arguments.append((tuple(tlsa), tuple(reference_identifiers)))
        self.running.append(address)
        self.most = max(self.most, len(self.running))
        try:
            await self.gate.wait()
            if mx_hostname in self.broken:
                raise RuntimeError("a fault of ours")
        finally:
            self.running.remove(address)
        shown = self.hosts.get(address) or self.hosts.get(mx_hostname, GOOD)
        return MxProbe(
            mx_hostname=mx_hostname,
            address=address,
            at=self.clock.now(),
            tls=not shown.inconclusive,
            trusted=shown.trusted and not shown.inconclusive,
            result_type=shown.result_type,
            failure_reason_code="",
            inconclusive=shown.inconclusive,
            dane_matched=None,
            certificate=shown.certificate,
        )


def mx(*names: Domain, addresses: Iterable[IPAddress] = (ADDRESS,)) -> list[MxHost]:
    return [MxHost(name, 10, TlsaStatus.ABSENT, tuple(addresses)) for name in names]


class Bench:
    """A verifier with everything it needs, and the list of what it told."""

    def __init__(
        self, *, random: float = 0.5, enabled: bool = True, concurrency: int = 8, max_hosts: int = 100
    ) -> None:
        self.clock = HandClock()
        self.prober = FakeProber(self.clock)
        self.verifier = MxVerifier(
            self.prober,
            self.clock,
            enabled=enabled,
            random=lambda: random,
            interval_seconds=HOUR,
            concurrency=concurrency,
            max_hosts=max_hosts,
        )
        self.told: list[Domain] = []
        self.verifier.on_change = self.told.append

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.verifier.run())
        try:
            await self.settled()
            yield
            assert not task.done()
        finally:
            self.prober.gate.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settled(self) -> None:
        """Let everything run that needs neither time nor a gate."""
        for _turn in range(50):
            await asyncio.sleep(0)

    async def ask(self, hosts: Sequence[MxHost]) -> int:
        """Request verification of `hosts`; how many probes that made."""
        before = len(self.prober.calls)
        self.verifier.request(hosts)
        await self.settled()
        return len(self.prober.calls) - before

    async def after(self, seconds: float) -> int:
        """Let time go by without anyone asking for a host; how many probes that made."""
        self.clock.seconds += seconds
        self.verifier._wake.set()  # as its timer would, by the true clock
        return await self.ask([])
