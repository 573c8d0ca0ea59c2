"""Background verification of MX hosts: when it probes, what it believes, and what it never does too often."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from stsguard.core.dane import MxHost, TlsaRecord, TlsaStatus
from stsguard.core.errors import ResultType
from stsguard.core.mxcheck import CertificateFacts, MxProbe
from stsguard.discovery import verification
from stsguard.discovery.supervisor import crashes
from stsguard.discovery.verification import FINDING_INTERVALS, MAX_ADDRESSES, MxVerifier
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
EXPIRED = Shown(ResultType.CERTIFICATE_EXPIRED, facts(MX), trusted=False)
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
        return await self.ask([])


# When it probes


async def test_each_address_of_each_host_is_probed_with_its_evidence() -> None:
    bench = Bench()
    record = TlsaRecord(3, 1, 1, b"1" * 32)
    plain = MxHost(MX, 10, TlsaStatus.ABSENT, (ADDRESS, ADDRESS2))
    dane = MxHost(MX2, 20, TlsaStatus.USABLE, (ADDRESS,), (record,), Domain("base.example.org"))
    async with bench.running():
        await bench.ask([plain, dane])
        await bench.after(2)
    assert bench.prober.calls == [(MX, ADDRESS), (MX, ADDRESS2), (MX2, ADDRESS)]
    by_host = dict(zip((name for name, _ in bench.prober.calls), bench.prober.arguments, strict=True))
    assert by_host[MX] == ((), (MX,))
    assert by_host[MX2] == ((record,), (Domain("base.example.org"),))


async def test_a_request_never_waits() -> None:
    bench = Bench()
    bench.verifier.request(mx(MX))  # not even for run() to be started
    assert bench.prober.calls == []
    assert bench.verifier.waiting == 1
    async with bench.running():
        assert bench.prober.calls == [(MX, ADDRESS)]


@pytest.mark.parametrize("random", [0.0, 0.999])
async def test_an_address_of_a_host_is_probed_once_an_hour(random: float) -> None:
    bench = Bench(random=random)
    async with bench.running():
        assert await bench.ask(mx(MX)) == 1
        assert await bench.ask(mx(MX)) == 0
        bench.clock.seconds += HOUR - 1
        assert await bench.ask(mx(MX)) == 0
        bench.clock.seconds += 1 + HOUR / 10  # the jitter is a tenth at most
        assert await bench.ask(mx(MX)) == 1


async def test_the_hour_is_jittered() -> None:
    bench = Bench(random=0.5)
    async with bench.running():
        await bench.ask(mx(MX))
        bench.clock.seconds += HOUR * 1.049
        assert await bench.ask(mx(MX)) == 0
        bench.clock.seconds += HOUR * 0.002
        assert await bench.ask(mx(MX)) == 1


async def test_the_hour_also_holds_for_a_silent_host() -> None:
    bench = Bench()
    bench.prober.hosts[MX] = SILENT
    async with bench.running():
        assert await bench.ask(mx(MX)) == 1
        assert await bench.after(HOUR / 2) == 0
        assert await bench.ask(mx(MX)) == 0


async def test_nothing_is_probed_that_nobody_asks_for() -> None:
    bench = Bench()
    async with bench.running():
        await bench.ask(mx(MX))
        assert await bench.after(10 * HOUR) == 0


async def test_a_host_without_addresses_is_not_probed() -> None:
    bench = Bench()
    async with bench.running():
        assert await bench.ask(mx(MX, addresses=())) == 0
    assert bench.verifier.verdict(MX) is None


async def test_a_request_while_the_probe_runs_makes_no_second() -> None:
    bench = Bench()
    bench.prober.gate.clear()
    async with bench.running():
        assert await bench.ask(mx(MX)) == 1
        assert await bench.ask(mx(MX)) == 0
        bench.prober.gate.set()
        await bench.settled()
        assert await bench.after(10) == 0


async def test_it_is_off_with_one_key() -> None:
    bench = Bench(enabled=False)
    async with bench.running():
        assert await bench.ask(mx(MX)) == 0
        bench.verifier.after_failed_session(MX)
        await bench.settled()
    assert bench.prober.calls == []
    assert len(bench.verifier) == 0


async def test_a_failed_session_has_the_host_probed_at_once() -> None:
    bench = Bench()
    async with bench.running():
        await bench.ask(mx(MX, addresses=[ADDRESS, ADDRESS2]))
        bench.verifier.after_failed_session(MX)
        await bench.settled()
        assert len(bench.prober.calls) == 4


async def test_failed_sessions_have_a_host_probed_every_five_minutes_at_most() -> None:
    bench = Bench()

    async def fail_for(seconds: int) -> int:
        before = len(bench.prober.calls)
        for _second in range(0, seconds, 10):
            bench.clock.seconds += 10
            bench.verifier.after_failed_session(MX)
            await bench.settled()
        return len(bench.prober.calls) - before

    async with bench.running():
        await bench.ask(mx(MX))
        assert await fail_for(290) == 1
        assert await fail_for(290) == 1
        assert await fail_for(30) == 1


async def test_a_failed_session_with_an_unknown_host_is_nothing() -> None:
    bench = Bench()
    async with bench.running():
        bench.verifier.after_failed_session(MX)
        assert await bench.ask([]) == 0


# What it believes


async def test_a_good_host_is_believed_at_once() -> None:
    bench = Bench()
    async with bench.running():
        await bench.ask(mx(MX))
    verdict = bench.verifier.verdict(MX)
    assert verdict is not None
    assert (verdict.rfc_valid, verdict.trusted, verdict.confirmed) == (True, True, True)
    assert verdict.at == bench.clock.now()
    assert bench.told == [MX]


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 2.5), (0.5, 5), (0.999, 7.5)])
async def test_a_fault_is_confirmed_by_a_second_probe_seconds_later(random: float, seconds: float) -> None:
    bench = Bench(random=random)
    bench.prober.hosts[MX] = MISMATCH
    async with bench.running():
        assert await bench.ask(mx(MX)) == 1
        first = bench.verifier.verdict(MX)
        assert await bench.after(seconds - 1) == 0
        assert await bench.after(1) == 1
        second = bench.verifier.verdict(MX)
    assert first is not None
    assert (first.rfc_valid, first.confirmed, first.certificates) == (False, False, ())
    assert second is not None
    assert (second.rfc_valid, second.confirmed, second.certificates) == (False, True, (MISMATCH.certificate,))
    assert bench.told == [MX, MX]


async def test_a_fault_once_confirmed_is_probed_hourly_like_any_host() -> None:
    bench = Bench()
    bench.prober.hosts[MX] = EXPIRED
    async with bench.running():
        await bench.ask(mx(MX))
        await bench.after(60)
        assert await bench.after(600) == 0
        assert await bench.ask(mx(MX)) == 0
        bench.clock.seconds += HOUR
        assert await bench.ask(mx(MX)) == 1
        assert await bench.after(600) == 0
    assert bench.told == [MX, MX]


async def test_a_passing_fault_is_never_confirmed() -> None:
    bench = Bench()
    bench.prober.hosts[MX] = MISMATCH
    async with bench.running():
        await bench.ask(mx(MX))
        bench.prober.hosts[MX] = GOOD
        assert await bench.after(60) == 1
    verdict = bench.verifier.verdict(MX)
    assert verdict is not None
    assert (verdict.rfc_valid, verdict.certificates) == (True, (GOOD.certificate,))
    assert bench.told == [MX, MX]


async def test_faults_that_differ_do_not_confirm_each_other_nor_lead_to_more_probes() -> None:
    bench = Bench()
    bench.prober.hosts[MX] = MISMATCH
    async with bench.running():
        await bench.ask(mx(MX))
        bench.prober.hosts[MX] = EXPIRED
        assert await bench.after(60) == 1
        verdict = bench.verifier.verdict(MX)
        assert await bench.after(600) == 0
    assert verdict is not None
    assert (verdict.rfc_valid, verdict.confirmed) == (False, False)


async def test_the_next_hours_probe_confirms_as_well() -> None:
    bench = Bench()
    bench.prober.hosts[MX] = MISMATCH
    async with bench.running():
        await bench.ask(mx(MX))
        bench.prober.hosts[MX] = SILENT  # greylisted
        assert await bench.after(60) == 1
        bench.prober.hosts[MX] = MISMATCH
        bench.clock.seconds += 2 * HOUR
        assert await bench.ask(mx(MX)) == 1
    verdict = bench.verifier.verdict(MX)
    assert verdict is not None
    assert verdict.confirmed


async def test_an_inconclusive_probe_takes_nothing_back() -> None:
    bench = Bench()
    bench.prober.hosts[MX] = MISMATCH
    async with bench.running():
        await bench.ask(mx(MX))
        await bench.after(60)
        confirmed = bench.verifier.verdict(MX)
        bench.prober.hosts[MX] = SILENT
        bench.clock.seconds += 2 * HOUR
        assert await bench.ask(mx(MX)) == 1
    assert bench.verifier.verdict(MX) == confirmed
    assert len(bench.told) == 2


async def test_a_finding_that_cannot_be_renewed_is_forgotten_after_a_day() -> None:
    bench = Bench()
    bench.prober.hosts[MX] = MISMATCH
    async with bench.running():
        await bench.ask(mx(MX))
        await bench.after(60)
        bench.prober.hosts[MX] = SILENT
        bench.clock.seconds += HOUR * FINDING_INTERVALS - 1
        assert bench.verifier.results(MX)[0].result_type is MISMATCH.result_type
        bench.clock.seconds += 1
        assert bench.verifier.verdict(MX) is None
        assert bench.verifier.results(MX) == ()
        await bench.ask(mx(MX))
        verdict = bench.verifier.verdict(MX)
        assert verdict is not None
        assert (verdict.rfc_valid, verdict.confirmed) == (None, False)
        # What was found a day ago confirms nothing today.
        bench.prober.hosts[MX] = MISMATCH
        bench.clock.seconds += 2 * HOUR
        await bench.ask(mx(MX))
        verdict = bench.verifier.verdict(MX)
        assert verdict is not None
        assert not verdict.confirmed


async def test_only_a_change_is_told() -> None:
    bench = Bench()
    async with bench.running():
        await bench.ask(mx(MX))
        bench.prober.hosts[MX] = replace(GOOD, certificate=facts(MX, sha256="ff"))  # renewed
        bench.clock.seconds += 2 * HOUR
        assert await bench.ask(mx(MX)) == 1
        assert bench.told == [MX]
        bench.prober.hosts[MX] = replace(GOOD, certificate=facts(MX, MX2))
        bench.clock.seconds += 2 * HOUR
        assert await bench.ask(mx(MX)) == 1
        assert bench.told == [MX, MX]


async def test_one_bad_address_makes_a_bad_host() -> None:
    bench = Bench()
    bench.prober.hosts[ADDRESS2] = MISMATCH
    async with bench.running():
        await bench.ask(mx(MX, addresses=[ADDRESS, ADDRESS2]))
        assert await bench.after(60) == 1  # the good one needs no confirmation
    verdict = bench.verifier.verdict(MX)
    assert verdict is not None
    assert (verdict.rfc_valid, verdict.confirmed) == (False, True)
    assert [probe.address for probe in bench.verifier.results(MX)] == [ADDRESS, ADDRESS2]


async def test_a_confirmed_fault_leaves_a_line_and_a_good_host_none(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="stsguard")
    monkeypatch.setattr(logging.getLogger("stsguard"), "propagate", True)
    bench = Bench()
    bench.prober.hosts[MX] = MISMATCH
    async with bench.running():
        await bench.ask(mx(MX, MX2))
        await bench.after(60)
        bench.prober.hosts[MX] = GOOD
        bench.clock.seconds += 2 * HOUR
        await bench.ask(mx(MX))
    fields: list[dict[str, object]] = [record.__dict__["fields"] for record in caplog.records]
    assert [(line["mx_hostname"], line["valid"], line["confirmed"]) for line in fields] == [
        (MX, False, True),
        (MX, True, True),
    ]


async def test_verdicts_are_those_that_there_are() -> None:
    bench = Bench()
    async with bench.running():
        await bench.ask(mx(MX))
    assert set(bench.verifier.verdicts(mx(MX, MX2))) == {MX}
    assert bench.verifier.results(MX2) == ()


# Addresses


async def test_an_address_that_dns_no_longer_names_is_forgotten_after_an_hour() -> None:
    bench = Bench()
    bench.prober.hosts[ADDRESS] = MISMATCH
    async with bench.running():
        await bench.ask(mx(MX, addresses=[ADDRESS]))
        await bench.ask(mx(MX, addresses=[ADDRESS2]))
        assert len(bench.verifier.results(MX)) == 2
        bench.clock.seconds += HOUR
        await bench.ask(mx(MX, addresses=[ADDRESS2]))
    assert [probe.address for probe in bench.verifier.results(MX)] == [ADDRESS2]


async def test_a_host_of_ever_new_addresses_is_probed_at_a_few_an_hour() -> None:
    bench = Bench()
    async with bench.running():
        for number in range(50):
            await bench.ask(mx(MX, addresses=[ip_address(f"192.0.2.{number}")]))
    assert len(bench.prober.calls) == MAX_ADDRESSES


# What it never does too often, or at once


async def test_concurrency_is_bounded() -> None:
    bench = Bench(concurrency=3)
    bench.prober.gate.clear()
    addresses = [ip_address(f"192.0.2.{number}") for number in range(MAX_ADDRESSES)]
    async with bench.running():
        assert await bench.ask(mx(MX, addresses=addresses)) == 3
        bench.prober.gate.set()
        await bench.settled()
    assert len(bench.prober.calls) == MAX_ADDRESSES
    assert bench.prober.most == 3


async def test_one_address_has_one_connection_and_the_others_do_not_wait_for_it() -> None:
    bench = Bench(concurrency=2)
    bench.prober.gate.clear()
    async with bench.running():
        await bench.ask(mx(MX))
        assert await bench.ask(mx(MX2)) == 0  # another name of the same machine
        assert await bench.ask(mx(MX3, addresses=[ADDRESS2])) == 1
        bench.prober.gate.set()
        await bench.settled()
        assert await bench.after(1) == 1
    assert [name for name, _ in bench.prober.calls] == [MX, MX3, MX2]


async def test_memory_is_bounded_and_the_least_recently_asked_for_goes_first() -> None:
    bench = Bench(max_hosts=2)
    async with bench.running():
        await bench.ask(mx(MX))
        await bench.ask(mx(MX2, addresses=[ADDRESS2]))
        await bench.ask(mx(MX))
        await bench.ask(mx(MX3, addresses=[ip_address("192.0.2.3")]))
    assert len(bench.verifier) == 2
    assert set(bench.verifier.verdicts(mx(MX, MX2, MX3))) == {MX, MX3}


async def test_a_flood_of_hosts_does_not_drive_out_a_confirmed_fault() -> None:
    bench = Bench(max_hosts=3)
    bench.prober.hosts[MX] = MISMATCH
    async with bench.running():
        await bench.ask(mx(MX))
        await bench.after(60)
        for number in range(30):
            await bench.ask(mx(Domain(f"mx{number}.example.net"), addresses=[ip_address(f"198.51.100.{number}")]))
    verdict = bench.verifier.verdict(MX)
    assert verdict is not None
    assert verdict.confirmed
    assert len(bench.verifier) == 3


async def test_where_all_have_confirmed_faults_the_oldest_goes() -> None:
    bench = Bench(max_hosts=2)
    bench.prober.hosts.update({MX: MISMATCH, MX2: MISMATCH})
    async with bench.running():
        await bench.ask(mx(MX))
        await bench.ask(mx(MX2, addresses=[ADDRESS2]))
        await bench.after(60)
        await bench.ask(mx(MX3, addresses=[ip_address("192.0.2.3")]))
    assert set(bench.verifier.verdicts(mx(MX, MX2, MX3))) == {MX2, MX3}


async def test_a_host_forgotten_while_it_waits_or_is_probed_leaves_no_trace() -> None:
    bench = Bench(max_hosts=1, concurrency=1)
    bench.prober.gate.clear()
    async with bench.running():
        await bench.ask(mx(MX))  # being probed
        await bench.ask(mx(MX2, addresses=[ADDRESS2]))  # waiting
        await bench.ask(mx(MX3, addresses=[ip_address("192.0.2.3")]))  # no place in the queue
        bench.prober.gate.set()
        await bench.settled()
        assert bench.prober.calls == [(MX, ADDRESS)]
        assert bench.told == []
        assert bench.verifier.verdict(MX) is None
        assert await bench.ask(mx(MX3, addresses=[ip_address("192.0.2.3")])) == 1


async def test_what_does_not_fit_into_the_queue_is_dropped_and_counted() -> None:
    bench = Bench(max_hosts=3)
    dropped = verification.probes_dropped.value()
    bench.verifier.request(mx(MX, addresses=[ip_address(f"192.0.2.{number}") for number in range(5)]))
    assert bench.verifier.waiting == 3
    assert verification.probes_dropped.value() == dropped + 2


async def test_hosts_that_share_a_certificate_share_its_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "MAX_CERTIFICATES", 2)
    bench = Bench()

    def shown(name: Domain, sha256: str) -> list[MxHost]:
        bench.prober.hosts[name] = Shown(certificate=facts("shared.example", sha256=sha256))
        return mx(name, addresses=[ip_address(f"192.0.2.{len(bench.prober.hosts)}")])

    async with bench.running():
        for name, sha256 in ((MX, "aa"), (MX2, "aa"), (MX3, "bb")):
            await bench.ask(shown(name, sha256))
        certificates = [bench.verifier.results(name)[0].certificate for name in (MX, MX2, MX3)]
        assert certificates[0] is certificates[1]
        assert certificates[2] is not certificates[0]
        for number in range(3):
            await bench.ask(shown(Domain(f"mx.example{number}.net"), f"c{number}"))
        again = Domain("mx4.example.com")
        await bench.ask(shown(again, "aa"))
        assert bench.verifier.results(again)[0].certificate is not certificates[0]  # forgotten meanwhile


async def test_a_certificate_cut_short_where_untrusted_is_whole_where_trusted() -> None:
    bench = Bench()
    async with bench.running():
        for names in ((MX2,), (MX2, MX)):  # the same certificate, first with an incomplete chain
            bench.prober.hosts[MX] = Shown(certificate=facts(*names, sha256="aa"))
            bench.clock.seconds += 2 * HOUR
            await bench.ask(mx(MX))
    certificate = bench.verifier.results(MX)[0].certificate
    assert certificate is not None
    assert certificate.dns_names == (MX2, MX)


# Faults of ours


async def test_a_fault_in_one_probe_ends_no_other() -> None:
    bench = Bench()
    bench.prober.broken.add(MX)
    before = crashes.value("verification")
    async with bench.running():
        await bench.ask(mx(MX))
        assert await bench.ask(mx(MX2)) == 1
    assert crashes.value("verification") == before + 1
    assert bench.verifier.verdict(MX) is None
    assert bench.verifier.verdict(MX2) is not None


async def test_a_fault_in_the_callback_ends_nothing() -> None:
    bench = Bench()

    def broken(_mx_hostname: Domain) -> None:
        raise RuntimeError("a fault of ours")

    bench.verifier.on_change = broken
    async with bench.running():
        await bench.ask(mx(MX))
        assert await bench.ask(mx(MX2)) == 1
    assert bench.verifier.verdict(MX) is not None


async def test_ending_it_ends_its_probes() -> None:
    bench = Bench()
    bench.prober.gate.clear()
    async with bench.running():
        await bench.ask(mx(MX))
        assert bench.prober.running == [ADDRESS]
        bench.prober.gate.set()
    assert bench.prober.running == []


# The command


async def test_probe_now_probes_whatever_the_hour_and_without_run() -> None:
    bench = Bench(enabled=False)
    hosts = [*mx(MX, addresses=[ADDRESS, ADDRESS2]), *mx(MX2)]
    for _time in range(2):
        probes = await bench.verifier.probe_now(hosts, next_hops=[Domain("example.com")])
        assert [(probe.mx_hostname, probe.address) for probe in probes] == [
            (MX, ADDRESS),
            (MX, ADDRESS2),
            (MX2, ADDRESS),
        ]
    assert len(bench.prober.calls) == 6
    assert bench.prober.arguments[0] == ((), (MX, Domain("example.com")))
    assert bench.verifier.verdict(MX) is not None
    assert bench.verifier.waiting == 0


async def test_two_findings_of_probe_now_confirm_a_fault() -> None:
    bench = Bench(enabled=False)
    bench.prober.hosts[MX] = MISMATCH
    for _time in range(2):
        await bench.verifier.probe_now(mx(MX))
    verdict = bench.verifier.verdict(MX)
    assert verdict is not None
    assert verdict.confirmed


async def test_probe_now_is_bounded_as_well() -> None:
    bench = Bench(concurrency=2)
    bench.prober.gate.clear()
    addresses = [ip_address(f"192.0.2.{number}") for number in range(6)]
    task = asyncio.create_task(bench.verifier.probe_now(mx(MX, addresses=addresses)))
    await bench.settled()
    assert len(bench.prober.running) == 2
    bench.prober.gate.set()
    assert len(await task) == 6


async def test_probe_now_waits_for_the_probe_of_the_same_address() -> None:
    bench = Bench()
    bench.prober.gate.clear()
    async with bench.running():
        await bench.ask(mx(MX))
        task = asyncio.create_task(bench.verifier.probe_now(mx(MX2)))
        await bench.settled()
        assert bench.prober.calls == [(MX, ADDRESS)]
        bench.prober.gate.set()
        assert [probe.mx_hostname for probe in await task] == [MX2]


async def test_what_is_found_is_counted() -> None:
    def counts() -> tuple[int, ...]:
        made = verification.probes_made
        return tuple(map(made.value, ("valid", "inconclusive", "certificate-host-mismatch")))

    bench, before = Bench(), counts()
    bench.prober.hosts.update({MX2: SILENT, MX3: MISMATCH})
    await bench.verifier.probe_now(mx(MX, MX2, MX3))
    assert tuple(map(int.__sub__, counts(), before)) == (1, 1, 1)
