"""The whole table of scenarios, through stsguard and both real Postfix versions."""

import pytest

from stsguard.core.errors import FetchReason
from stsguard.core.tlspolicy import Row
from tests.e2e.conftest import VERSIONS, Runs
from tests.lab.runner import Version
from tests.lab.scenario_model import Scenario
from tests.lab.scenarios import SCENARIOS


@pytest.mark.e2e
@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.postfix)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(runs: Runs, scenario: Scenario, version: Version) -> None:
    result = runs.result(scenario, version)
    assert result.agrees, str(result)
    assert result.fulfils_the_rfc, f"{scenario.section} demands: {scenario.demand}\n{result}"


def test_every_row_of_the_decision_table_has_a_scenario() -> None:
    assert {scenario.row for scenario in SCENARIOS} - {None} == set(Row)


def test_every_way_a_fetch_can_fail_has_a_scenario() -> None:
    # A fault of our own machine (no file descriptor, no memory) can't be had from outside.
    assert {scenario.fetch_reason for scenario in SCENARIOS} - {None} == set(FetchReason) - {FetchReason.LOCAL}
