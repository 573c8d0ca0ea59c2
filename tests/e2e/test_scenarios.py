"""The whole table of scenarios, through stsguard and both real Postfix versions."""

import pytest

from tests.e2e.conftest import VERSIONS, Runs
from tests.lab.runner import Version
from tests.lab.scenario_model import Deliver, Demand, Retry, Scenario
from tests.lab.scenarios import SCENARIOS

# What the last delivery may end in where the RFC demands this.
FULFILS = {
    Demand.DELIVER_VERIFIED: ("sent Verified", "sent TLS"),
    Demand.DELIVER: ("sent",),
    Demand.WITHHOLD: ("deferred",),
    Demand.BOUNCE: ("bounced",),
}


@pytest.mark.e2e
@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.postfix)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(runs: Runs, scenario: Scenario, version: Version) -> None:
    result = runs.result(scenario, version)
    assert result.agrees, str(result)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_table_expects_what_the_rfc_demands(scenario: Scenario) -> None:
    deliveries = [step for step in scenario.all_steps() if isinstance(step, Deliver | Retry)]
    for outcome in filter(None, (deliveries[-1].outcome, deliveries[-1].on_37)):
        assert outcome.startswith(FULFILS[scenario.demand]), scenario.demand
