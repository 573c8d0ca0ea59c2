"""What is wrong with a domain of our own, as a value that can be told from the one an hour ago."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Severity(StrEnum):
    """ERROR: mail may bounce, or the policy is not in force. WARNING: it will be, or is weaker than meant. NOTE: for
    information; it keeps nothing from going on."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class HostingFinding:
    """One thing that is wrong. `code` is a constant word, `subject` the host, server or address that it is about (or
    empty): a finding with the same code and subject is the same one. `text` says what it means for mail and what to
    do."""

    code: str
    subject: str
    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class SeenFinding:
    """A finding with its times; `gone_at` None while the last inspection still had it."""

    finding: HostingFinding
    first_seen_at: datetime
    last_seen_at: datetime
    gone_at: datetime | None = None
