"""What `stsguard status` says of the intake: how many reports wait and why, which don't get in, and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stsguard.discovery.health import PartHealth, PartState

SHOWN = 3


@dataclass(slots=True)
class IntakeState:
    """The state of the spool in `directory` when it was last looked at.

    `spool_problem` and `store_problem` keep all of it from being used; `expected` is whether that needs somebody.
    `waiting` is the number of entries, `waiting_for_keys` of them those whose signature can't be verified yet; `passed`
    has those at which the database fails, each with the reason; `set_aside` names the damaged ones; `refused` is how
    many came in since the start that had something that is no report.
    """

    directory: Path
    expected: bool
    waiting: int = 0
    waiting_for_keys: int = 0
    passed: Mapping[str, str] = field(default_factory=dict)
    set_aside: Sequence[str] = ()
    refused: int = 0
    spool_problem: str | None = None
    store_problem: str | None = None

    def health(self) -> PartHealth:
        """LIMITED, and not FAILED, where single ones don't get in: anybody can send what stsguard stumbles over, and
        nobody shall have a monitor restart the daemon by that."""
        if self.spool_problem is not None:
            state = PartState.FAILED if self.expected else PartState.OK
            return PartHealth(state, f"no reports are taken in: {self.spool_problem}")
        if self.store_problem is not None:
            text = f"{self.waiting} or more received reports wait in the spool: {self.store_problem}"
            return PartHealth(PartState.FAILED, "; ".join([text, *self._troubles(), *self._no_reports()]))
        troubles = self._troubles()
        state = PartState.LIMITED if troubles else PartState.OK
        return PartHealth(state, "; ".join([*self._waiting(), *troubles, *self._no_reports()]))

    def _waiting(self) -> list[str]:
        wait = "wait" if self.waiting != 1 else "waits"
        told = [f"{_number(self.waiting, 'received report')} {wait} in the spool"]
        if self.waiting_for_keys:
            told.append(f"{self.waiting_for_keys} of them until the DKIM key can be looked up, for a day at most")
        return told

    def _troubles(self) -> list[str]:
        told = []
        if self.passed:
            reason = next(iter(self.passed.values()))
            told.append(
                f"the database fails at {self._shown(list(self.passed), 'report')}: {reason}; tried again every 5 "
                "minutes, and nothing is lost while the file is there"
            )
        if self.set_aside:
            damaged = self._shown(self.set_aside, "damaged entry", "damaged entries", below="set-aside/")
            advice = "what is left of the mail begins in the second line (tail -n +2 FILE | stsguard ingest -)"
            told.append(f"{damaged}: {advice}; then remove the file")
        return told

    def _no_reports(self) -> list[str]:
        if not self.refused:
            return []
        what = f"{self.refused} that came since the start had something that is no report, kept with the reason"
        return [f"{what}: stsguard received list --group refused"]

    def _shown(self, names: Sequence[str], one: str, many: str = "", *, below: str = "") -> str:
        files = ", ".join(f"{self.directory}/{below}{name}" for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"{_number(len(names), one, many)} ({files}{more})"


def _number(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
