"""Background verification of MX hosts: when it probes, what it believes, and what it never does too often."""

import logging
from dataclasses import replace

import pytest

from stsguard.core.dane import MxHost, TlsaRecord, TlsaStatus
from stsguard.core.errors import ResultType
from stsguard.discovery.verification import FINDING_INTERVALS
from stsguard.names import Domain
from tests.unit.probing import (
    ADDRESS,
    ADDRESS2,
    GOOD,
    HOUR,
    MISMATCH,
    MX,
    MX2,
    SILENT,
    Bench,
    Shown,
    facts,
    mx,
)

EXPIRED = Shown(ResultType.CERTIFICATE_EXPIRED, facts(MX), trusted=False)


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
