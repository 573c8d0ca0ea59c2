"""Health of a daemon, part by part: what works, what is limited, what an admin has to look at."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from stsguard.discovery.describe import Plain


class PartState(StrEnum):
    """How a part does. LIMITED is a lasting state that weakens nothing below what the RFCs demand, such as no DANE
    without a validating resolver; FAILED needs somebody."""

    OK = "ok"
    LIMITED = "limited"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PartHealth:
    """One part: its state, and in words what that means for mail."""

    state: PartState
    detail: str


class Health:
    """The parts, each asked when somebody wants to know."""

    def __init__(self) -> None:
        self._parts: dict[str, Callable[[], PartHealth]] = {}

    def add(self, name: str, ask: Callable[[], PartHealth]) -> None:
        """Add a part; `ask` gives its health now."""
        self._parts[name] = ask

    def report(self) -> tuple[bool, Plain]:
        """Whether no part has failed, and all parts as plain data."""
        parts = {name: ask() for name, ask in self._parts.items()}
        good = all(part.state is not PartState.FAILED for part in parts.values())
        described = {name: {"state": part.state.value, "detail": part.detail} for name, part in parts.items()}
        return good, {"status": "ok" if good else "failed", "parts": described}
