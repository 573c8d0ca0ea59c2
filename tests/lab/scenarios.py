"""The table of scenarios: all rows, by topic in the modules beside this one."""

from tests.lab import scenarios_dane, scenarios_decision, scenarios_fetch, scenarios_hosts, scenarios_time
from tests.lab.scenario_model import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    *scenarios_decision.ROWS,
    *scenarios_dane.ROWS,
    *scenarios_hosts.ROWS,
    *scenarios_fetch.ROWS,
    *scenarios_time.ROWS,
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
