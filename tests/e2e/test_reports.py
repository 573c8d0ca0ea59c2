"""What real Postfix sessions are reported as, for each scenario of the look-up tests.

Each is heard by datagrams alone, by the mail log, by both, and by the log of Postfix 3.7. Those that show every
result-type and every way in which one comes about are carried out with connections and TLS sessions reused as well.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import pytest

from stsguard.core.errors import ResultType
from tests.e2e.conftest import skip_without_lab
from tests.lab.chroots import BOOKWORM, TRIXIE
from tests.lab.lab import Lab, PostfixPlan
from tests.lab.report_case import ReportCase
from tests.lab.report_cases import REPORT_CASES
from tests.lab.reports import NOTHING, Heard, built, built_as_expected, postfix_alone, today
from tests.lab.runner import ALONE, MAIN_PORT, SETTINGS, Campaign, RunResult, Version
from tests.lab.scenario_model import MAIN_DAEMON
from tests.lab.scenarios import BY_NAME, SCENARIOS

LIMIT_SECONDS = 280.0
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(LIMIT_SECONDS + 40)]

SIDE_BY_SIDE = 12
BUILT_LIMIT_SECONDS = 40.0
SESSION_CACHE = {"smtp_tls_session_cache_database": "btree:$data_directory/smtp_scache"}
# TLS by tlsproxy(8), which then logs the failures. Connections are kept for the next message.
PROXY = {"smtp_tls_connection_reuse": "yes", "smtp_connection_cache_destinations": "static:all"}
HEARD = (
    Heard(Version("by-datagrams", "datagrams", "policy-tlsrpt"), by_datagram=True, by_log=False),
    Heard(Version("by-log", "log", "policy-tlsrpt"), by_datagram=False, by_log=True),
    Heard(Version("by-both", "both", "policy-tlsrpt"), by_datagram=True, by_log=True),
    Heard(Version("by-log-37", "log37", "policy"), by_datagram=False, by_log=True),
)
VARIED = (
    Heard(Version("sessions", "sess", "policy-tlsrpt"), by_datagram=True, by_log=True, settings=SESSION_CACHE),
    Heard(Version("proxy", "proxy", "policy-tlsrpt"), by_datagram=True, by_log=False, settings=PROXY),
    Heard(Version("both", "reuse", "policy-tlsrpt"), by_datagram=True, by_log=True, settings=PROXY | SESSION_CACHE),
    Heard(Version("both-37", "reuse37", "policy"), by_datagram=False, by_log=True, settings=PROXY | SESSION_CACHE),
)
EVERYTHING = (*HEARD, *VARIED)
LOGGED = "logged-"
PAIRS = tuple((case, heard) for case in REPORT_CASES for heard in (*HEARD, *(VARIED if case.varied else ())))


@dataclass(frozen=True, slots=True)
class Reported:
    """What came of all: each run, the MX host that has a report of its own, what the reports say by domain, what
    Postfix alone would have reported."""

    runs: dict[tuple[str, str], RunResult]
    mx_hosts: dict[tuple[str, str], str]
    reports: dict[str, str]
    alone: dict[str, str]


def _plan(heard: Heard) -> PostfixPlan:
    version = heard.version
    others = [daemon for daemon in SETTINGS if daemon != MAIN_DAEMON]
    return PostfixPlan(
        version.postfix,
        (BOOKWORM if version.is_37 else TRIXIE).path,
        policy_map=f"socketmap:unix:stsguard/{MAIN_DAEMON}.sock:{version.map_name}",
        settings={"smtp_tls_dane_insecure_mx_policy": "dane", **heard.postfix_settings()},
        transports={name: f"socketmap:unix:stsguard/{name}.sock:{version.map_name}" for name in others},
        transport_settings={name: heard.transport_settings(name) for name in others},
        tlsrpt=not (version.is_37 or heard.by_datagram),
    )


def _first(pair: tuple[ReportCase, Heard]) -> tuple[bool, bool, bool, int]:
    """Those that wait go first. Whoever breaks a store loses what its daemon has counted: the others come after. A kill
    takes the last second of what was heard by datagram, so nothing may come before it there; by log nothing is lost
    once there is a position to go on from, so something has to. Otherwise they are mixed: one after the other, policies
    that can't be fetched would be most of a minute's, and such a minute is taken for a fault of our own."""
    case, heard = pair
    scenario = BY_NAME[case.scenario]
    mixed = crc32(f"{case.scenario} {heard.version.postfix}".encode())
    return (
        not scenario.waits,
        not scenario.name.startswith("store-"),
        (scenario.name == "killed") is heard.by_log,
        mixed,
    )


def _campaign(lab: Lab, label: str, port: int) -> Campaign:
    heard = [each for each in EVERYTHING if (label == LOGGED) is each.by_log]
    wanted = {_key(case, each) for case, each in PAIRS}
    return Campaign(
        lab,
        SCENARIOS,
        [each.version for each in heard],
        sessions={name: [each.section(name) for each in heard] for name in SETTINGS},
        only=lambda scenario, version: (scenario.name, version.postfix) in wanted,
        label=label,
        port=port,
    )


async def _carry_out(lab: Lab) -> Reported:
    # A daemon that reads a log takes no look-up for a sign of a delivery attempt: those without one are by themselves.
    by_log = {True: _campaign(lab, LOGGED, MAIN_PORT), False: _campaign(lab, "unlogged-", MAIN_PORT + 20)}
    slots = asyncio.Semaphore(SIDE_BY_SIDE)
    # What stops, kills or breaks a daemon goes one after the other, in the order of `_first`: on a busy machine they
    # would overtake each other on their way to it.
    turns = {(logged, name): asyncio.Lock() for logged in by_log for name in ALONE}

    async def one(case: ReportCase, heard: Heard) -> RunResult:
        scenario = BY_NAME[case.scenario]
        campaign = by_log[heard.by_log]
        if scenario.daemon in ALONE:
            async with turns[heard.by_log, scenario.daemon]:
                return await campaign.run(scenario, heard.version)
        if scenario.waits:
            return await campaign.run(scenario, heard.version)
        async with slots:
            return await campaign.run(scenario, heard.version)

    for campaign in by_log.values():
        await campaign.prepare()
        await campaign.start()
    pairs = sorted(PAIRS, key=_first)
    results = await asyncio.gather(*(one(case, heard) for case, heard in pairs))
    runs = {_key(case, heard): result for (case, heard), result in zip(pairs, results, strict=True)}
    mx_hosts = {_key(case, heard): _mx_host(by_log[heard.by_log], case, heard) for case, heard in pairs if case.mx_host}
    reports: dict[str, str] = {}
    first_day = today()
    for logged, campaign in by_log.items():
        for name in SETTINGS:
            agreeing: dict[str, Callable[[str], bool]] = {}
            for case, heard in pairs:
                if heard.by_log is logged and BY_NAME[case.scenario].daemon == name:
                    agreeing[runs[_key(case, heard)].domain] = partial(case.agrees, heard=heard)
                    if case.mx_host:
                        agreeing[mx_hosts[_key(case, heard)]] = partial(case.agrees_for_mx_host, heard=heard)
            await built_as_expected(campaign.daemon(name), lab.outside, agreeing, limit_seconds=BUILT_LIMIT_SECONDS)
        # Whatever they have heard twice is counted by now, or when they stop.
        await campaign.stop()
        for name in SETTINGS:
            reports |= await built(campaign.daemon(name), lab.outside, dict.fromkeys((first_day, today())))
    alone = {
        runs[_key(case, heard)].domain: postfix_alone(
            lab.tlsrpt[heard.version.postfix].of_domain(runs[_key(case, heard)].domain)
        )
        for case, heard in pairs
        if heard.version.postfix in lab.tlsrpt
    }
    return Reported(runs, mx_hosts, reports, alone)


def _key(case: ReportCase, heard: Heard) -> tuple[str, str]:
    return case.scenario, heard.version.postfix


def _mx_host(campaign: Campaign, case: ReportCase, heard: Heard) -> str:
    before, dot, name = case.mx_host.rpartition(".")
    return before + dot + campaign.world(*_key(case, heard)).mx_hostname(name)


@pytest.fixture(scope="module")
def reported() -> Iterator[Reported]:
    """All cases carried out, heard in all ways."""
    skip_without_lab()
    with Lab([_plan(heard) for heard in EVERYTHING]) as lab:
        yield lab.call(_carry_out(lab), limit_seconds=LIMIT_SECONDS)


@pytest.mark.parametrize(
    ("case", "heard"), PAIRS, ids=[f"{case.scenario}-{heard.version.postfix}" for case, heard in PAIRS]
)
def test_sessions_are_reported_as_what_they_were(reported: Reported, case: ReportCase, heard: Heard) -> None:
    run = reported.runs[_key(case, heard)]
    assert run.agrees, str(run)
    shown = "\n".join(run.outcome.lines if run.outcome else ())
    said = reported.reports.get(run.domain, NOTHING)
    assert case.agrees(said, heard), f"expected {case.expected(heard)}, got {said!r}\n{run}\n{shown}"
    if case.mx_host:
        mx_host = reported.mx_hosts[_key(case, heard)]
        said = reported.reports.get(mx_host, NOTHING)
        assert case.agrees_for_mx_host(said, heard), f"{mx_host}: {said!r}\n{run}\n{shown}"
    if run.domain in reported.alone:
        assert reported.alone[run.domain] == case.alone, shown


def test_every_scenario_has_a_report_or_the_reason_why_there_is_none() -> None:
    assert sorted(case.scenario for case in REPORT_CASES) == sorted(BY_NAME)
    for case in REPORT_CASES:
        assert case.reported != NOTHING or case.why, case.scenario


def test_what_is_varied_has_every_result_type_that_there_is() -> None:
    def result_types(cases: list[ReportCase]) -> set[ResultType]:
        return {each for each in ResultType for case in cases if each.value in case.reported}

    every = result_types(list(REPORT_CASES))
    # RFC 8460 §4.3.2.1 dane-required: stsguard demands DANE where there is usable TLSA, and nowhere else.
    assert every == set(ResultType) - {ResultType.DANE_REQUIRED}
    assert result_types([case for case in REPORT_CASES if case.varied]) == every
