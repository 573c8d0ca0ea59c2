"""One lab for the session, with both Postfix versions; where it can't be made, the tests skip, but never in CI.

All runs of scenarios that are selected begin when the first of them is asked for, side by side; each test waits for
its own. Under pytest-xdist a worker can't know which it will get: there only those begin that spend their time waiting.
"""

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.lab.chroots import BOOKWORM, RELEASES, TRIXIE
from tests.lab.lab import Lab, PostfixPlan, what_is_missing
from tests.lab.runner import SETTINGS, Campaign, RunResult, Version
from tests.lab.scenario_model import MAIN_DAEMON, Scenario
from tests.lab.scenarios import SCENARIOS

SIDE_BY_SIDE = 12
RUN_LIMIT_SECONDS = 220.0  # the longest waits for a policy's expiry; see also the marker in test_scenarios.py
VERSIONS = (Version("pf37", "37", "policy"), Version("pf310", "310", "policy-tlsrpt"))


def _plan(version: Version) -> PostfixPlan:
    new = version.map_name == "policy-tlsrpt"
    transports = {
        name: f"socketmap:unix:stsguard/{name}.sock:{version.map_name}"
        for name in ("static", *SETTINGS)
        if name != MAIN_DAEMON
    }
    return PostfixPlan(
        version.postfix,
        (TRIXIE if new else BOOKWORM).path,
        # One of them asks over TCP, the other over a unix socket that its chroot can see.
        policy_map=f"socketmap:unix:stsguard/main.sock:{version.map_name}"
        if new
        else "socketmap:inet:127.0.0.1:8461:policy",
        security_level="dane" if new else "may",
        settings={"smtp_tls_dane_insecure_mx_policy": "dane"},
        transports=transports,
        tlsrpt=new,
    )


class Runs:
    """The runs of the selected scenarios in one lab."""

    def __init__(self, lab: Lab, campaign: Campaign, selected: list[tuple[Scenario, Version]]) -> None:
        self._lab = lab
        self._campaign = campaign
        self._slots = asyncio.Semaphore(SIDE_BY_SIDE)
        self._futures: dict[tuple[str, str], Future[RunResult]] = {}
        for scenario, version in selected:
            if scenario.waits or "PYTEST_XDIST_WORKER" not in os.environ:
                self._begin(scenario, version)

    def result(self, scenario: Scenario, version: Version) -> RunResult:
        """What came of this run, waiting for its end."""
        key = (scenario.name, version.postfix)
        if key not in self._futures:
            self._begin(scenario, version)
        return self._futures[key].result(RUN_LIMIT_SECONDS)

    def _begin(self, scenario: Scenario, version: Version) -> None:
        async def run() -> RunResult:
            if scenario.waits:  # it takes time, but no work
                return await self._campaign.run(scenario, version)
            async with self._slots:
                return await self._campaign.run(scenario, version)

        self._futures[scenario.name, version.postfix] = self._lab.start_call(run())


def skip_without_lab(*programs: str) -> None:
    """Skip where no lab with both Postfix versions, and with `programs`, can be made; in CI fail."""
    missing = what_is_missing(*programs)
    if not missing and not all(release.ready for release in RELEASES):
        missing = "the lab needs its chroots (python -m tests.lab.chroots prepare)"
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The running lab."""
    skip_without_lab()
    with Lab([_plan(version) for version in VERSIONS]) as running:
        yield running


@pytest.fixture(scope="session")
def campaign(lab: Lab) -> Iterator[Campaign]:
    """The worlds of all scenarios, published, and the daemons."""
    whole = Campaign(lab, SCENARIOS, VERSIONS)
    lab.call(whole.prepare())
    yield whole
    lab.call(whole.stop())


@pytest.fixture(scope="session")
def runs(lab: Lab, campaign: Campaign, request: pytest.FixtureRequest) -> Runs:
    """The runs of all selected scenarios, begun."""
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    selected = [
        (found["scenario"], found["version"]) for found in parameters if {"scenario", "version"} <= found.keys()
    ]
    return Runs(lab, campaign, selected)
