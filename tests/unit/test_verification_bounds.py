"""Background verification of MX hosts: its bounds, faults of ours, and the command that probes now."""

import asyncio
from ipaddress import ip_address

import pytest

from stsguard.core.dane import MxHost
from stsguard.discovery import verification
from stsguard.discovery.supervisor import crashes
from stsguard.discovery.verification import MAX_ADDRESSES, YIELD_SECONDS
from stsguard.names import Domain
from tests.unit.probing import (
    ADDRESS,
    ADDRESS2,
    HOUR,
    MISMATCH,
    MX,
    MX2,
    MX3,
    SILENT,
    Bench,
    Shown,
    facts,
    mx,
)


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


async def test_while_policies_are_fetched_probes_begin_one_at_a_time() -> None:
    bench = Bench()
    bench.verifier.has_to_yield = lambda: True
    addresses = [ip_address(f"192.0.2.{number}") for number in range(MAX_ADDRESSES)]
    async with bench.running():
        assert await bench.ask(mx(MX, addresses=addresses)) == 1
        assert await bench.after(YIELD_SECONDS / 2) == 0
        assert await bench.after(YIELD_SECONDS) == 1
        bench.verifier.has_to_yield = lambda: False
        assert await bench.after(0) == MAX_ADDRESSES - 2


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
        await bench.ask(mx(MX3, addresses=[ip_address("192.0.2.3")]))  # has the place of the one before
        bench.prober.gate.set()
        await bench.settled()
        assert bench.prober.calls == [(MX, ADDRESS), (MX3, ip_address("192.0.2.3"))]
        assert bench.verifier.verdict(MX) is None
        assert bench.verifier.verdict(MX2) is None


async def test_hosts_that_are_forgotten_keep_no_places_in_the_queue() -> None:
    bench = Bench(max_hosts=16)
    dropped = verification.probes_dropped.value()
    names = [Domain(f"mx{number}.example.net") for number in range(100)]
    for number, name in enumerate(names):
        bench.verifier.request(mx(name, addresses=[ip_address(f"198.51.100.{number}")]))
    assert bench.verifier.waiting <= 16
    async with bench.running():
        await bench.settled()
    probed = [name for name, _ in bench.prober.calls]
    assert set(probed) >= set(names[-14:])  # all but what an eighth of the places was void for
    assert verification.probes_dropped.value() - dropped <= 2 * 100 // 16 + 2


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
