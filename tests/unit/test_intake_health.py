"""What the intake says of its health."""

from pathlib import Path

import pytest

from stsguard.discovery.health import PartState
from stsguard.inbound.intake_health import IntakeState

SPOOL = Path("/spool")


@pytest.mark.parametrize(
    ("state", "health", "words"),
    [
        (IntakeState(SPOOL, True), PartState.OK, ["0 received reports wait"]),
        (IntakeState(SPOOL, True, waiting=1), PartState.OK, ["1 received report waits"]),
        (IntakeState(SPOOL, True, spool_problem="gone"), PartState.FAILED, ["no reports are taken in: gone"]),
        (IntakeState(SPOOL, False, spool_problem="gone"), PartState.OK, ["no reports are taken in: gone"]),
        (
            IntakeState(SPOOL, True, 7, store_problem="locked", set_aside=["a"], refused=2),
            PartState.FAILED,
            [
                "7 or more received reports wait in the spool: locked; 1 damaged entry (/spool/set-aside/a)",
                "; 2 that came",
            ],
        ),
        (
            IntakeState(SPOOL, True, 5, passed={str(n): f"reason {n}" for n in range(5)}),
            PartState.LIMITED,
            ["the database fails at 5 reports (/spool/0, /spool/1, /spool/2 and 2 more): reason 0; tried again"],
        ),
        (
            IntakeState(SPOOL, True, set_aside=["a", "b"]),
            PartState.LIMITED,
            ["2 damaged entries (/spool/set-aside/a, /spool/set-aside/b): ", "tail -n +2 FILE | stsguard ingest -"],
        ),
        (IntakeState(SPOOL, True, refused=3), PartState.OK, ["; 3 that came since the start had something"]),
    ],
)
def test_health_says_how_many_which_and_what_to_do(state: IntakeState, health: PartState, words: list[str]) -> None:
    found = state.health()
    assert found.state is health
    for each in words:
        assert each in found.detail
