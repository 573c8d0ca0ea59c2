"""MTA-STS: the TXT record, the policy file, MX matching (RFC 8461 §3.1, §3.2, §4.1)."""

from dataclasses import dataclass
from enum import StrEnum

from stsguard.names import Domain

MAX_MAX_AGE = 31_557_600  # RFC 8461 §3.2


class Mode(StrEnum):
    """The policy's mode (RFC 8461 §5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Record:
    """An `_mta-sts` TXT record. `warnings` never change the decision."""

    record_id: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MxPattern:
    """One `mx` value: `wildcard` with the name right of `*.`, or an exact name."""

    name: Domain
    wildcard: bool

    def __str__(self) -> str:
        return f"*.{self.name}" if self.wildcard else str(self.name)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy. `max_age` in seconds, 0 … 31557600; `policy_text` holds the served lines for policy-string."""

    mode: Mode
    max_age: int
    mx_patterns: tuple[MxPattern, ...]
    policy_text: tuple[str, ...]
    warnings: tuple[str, ...] = ()
