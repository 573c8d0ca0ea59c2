"""What real Postfix sessions are reported as: heard by datagrams, by the mail log, and by both."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.e2e.conftest import skip_without_lab
from tests.lab.chroots import BOOKWORM, TRIXIE
from tests.lab.lab import Lab, PostfixPlan
from tests.lab.report_cases import REPORT_CASES, ReportCase
from tests.lab.reports import NOTHING, Heard, built, built_as_expected, postfix_alone, today
from tests.lab.runner import Campaign, RunResult, Version
from tests.lab.scenario_model import MAIN_DAEMON
from tests.lab.scenarios import BY_NAME

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SIDE_BY_SIDE = 12
BUILT_LIMIT_SECONDS = 40.0
# TLS by tlsproxy(8), which then logs the failures. Connections and sessions are kept for the next message.
REUSE = {
    "smtp_tls_connection_reuse": "yes",
    "smtp_connection_cache_destinations": "static:all",
    "smtp_tls_session_cache_database": "btree:$data_directory/smtp_scache",
}
HEARD = (
    Heard(Version("by-datagrams", "datagrams", "policy-tlsrpt"), by_datagram=True, by_log=False),
    Heard(Version("by-log", "log", "policy-tlsrpt"), by_datagram=False, by_log=True),
    Heard(Version("by-both", "both", "policy-tlsrpt"), by_datagram=True, by_log=True),
    Heard(Version("by-log-37", "log37", "policy"), by_datagram=False, by_log=True),
    Heard(Version("reuse", "reuse", "policy-tlsrpt"), by_datagram=True, by_log=True, settings=REUSE),
    Heard(Version("reuse-37", "reuse37", "policy"), by_datagram=False, by_log=True, settings=REUSE),
)


@dataclass(frozen=True, slots=True)
class Reported:
    """What came of all cases: each run, what the reports say by domain, what Postfix alone would have reported."""

    runs: dict[tuple[str, str], RunResult]
    mx_hosts: dict[tuple[str, str], str]
    reports: dict[str, str]
    alone: dict[str, str]


def _plan(heard: Heard) -> PostfixPlan:
    version = heard.version
    return PostfixPlan(
        version.postfix,
        (BOOKWORM if version.is_37 else TRIXIE).path,
        policy_map=f"socketmap:unix:stsguard/{MAIN_DAEMON}.sock:{version.map_name}",
        settings={"smtp_tls_dane_insecure_mx_policy": "dane", **heard.postfix_settings()},
        tlsrpt=not (version.is_37 or heard.by_datagram),
    )


async def _carry_out(lab: Lab, campaign: Campaign) -> Reported:
    slots = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(case: ReportCase, heard: Heard) -> RunResult:
        async with slots:
            return await campaign.run(BY_NAME[case.scenario], heard.version)

    await campaign.prepare()
    await campaign.start()
    pairs = [(case, heard) for case in REPORT_CASES for heard in HEARD]
    results = await asyncio.gather(*(one(case, heard) for case, heard in pairs))
    runs = {_key(case, heard): result for (case, heard), result in zip(pairs, results, strict=True)}
    mx_hosts = {key: campaign.world(*key).mx_hostname("mx1") for key in runs}
    agreeing = {}
    for case, heard in pairs:
        agreeing[runs[_key(case, heard)].domain] = partial(case.agrees, heard=heard)
        if case.mx_host_too:
            agreeing[mx_hosts[_key(case, heard)]] = partial(case.agrees, heard=heard)
    first_day = today()
    await built_as_expected(campaign.daemon(), lab.outside, agreeing, limit_seconds=BUILT_LIMIT_SECONDS)
    # Whatever it has heard twice is counted by now, or when it stops.
    await campaign.stop()
    reports = await built(campaign.daemon(), lab.outside, dict.fromkeys((first_day, today())))
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


@pytest.fixture(scope="module")
def reported() -> Iterator[Reported]:
    """All cases carried out, heard in all ways."""
    skip_without_lab()
    with Lab([_plan(heard) for heard in HEARD]) as lab:
        campaign = Campaign(
            lab,
            [BY_NAME[case.scenario] for case in REPORT_CASES],
            [heard.version for heard in HEARD],
            settings={MAIN_DAEMON: {}},
            sessions=[heard.section() for heard in HEARD],
        )
        yield lab.call(_carry_out(lab, campaign), limit_seconds=200)


@pytest.mark.parametrize("heard", HEARD, ids=lambda heard: heard.version.postfix)
@pytest.mark.parametrize("case", REPORT_CASES, ids=lambda case: case.scenario)
def test_sessions_are_reported_as_what_they_were(reported: Reported, case: ReportCase, heard: Heard) -> None:
    run = reported.runs[_key(case, heard)]
    assert run.agrees, str(run)
    shown = "\n".join(run.outcome.lines if run.outcome else ())
    expected = case.expected(heard)
    domains = [run.domain, reported.mx_hosts[_key(case, heard)]] if case.mx_host_too else [run.domain]
    for domain in domains:
        said = reported.reports.get(domain, NOTHING)
        assert case.agrees(said, heard), f"{domain}: expected {expected!r}, got {said!r}\n{run}\n{shown}"
    if run.domain in reported.alone:
        assert reported.alone[run.domain] == case.alone, shown
