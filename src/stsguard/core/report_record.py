"""A report of ours and its way to each endpoint, as the store keeps them (RFC 8460 §5). Values only."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from stsguard.names import Domain


class ReportState(StrEnum):
    """How far the report of one day and domain has come."""

    BUILDING = "building"  # a node has claimed it
    NOT_WANTED = "not-wanted"  # no TLSRPT record asks for it: a mark, without a report
    PENDING = "pending"  # built; at least one delivery is not over
    SENT = "sent"  # every delivery is over, none failed
    FAILED = "failed"  # every delivery is over, at least one was given up
    SKIPPED = "skipped"  # built, and by configuration sent nowhere


class DeliveryState(StrEnum):
    """How far a report has come on its way to one endpoint."""

    PENDING = "pending"
    SENDING = "sending"  # a node has claimed it; where its lease has run out, that node is gone
    SENT = "sent"
    FAILED = "failed"  # given up
    SKIPPED = "skipped"  # by configuration


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """A report. `report_id`, `message_id`, `json` and the counts are empty or 0 before it is built.

    `json` is the report's gzip, as sent every time; empty in lists. `message_id` is that of every mail that carries
    it. `sessions` is the sum of its summaries, `failures` the part that failed.
    """

    report_id: str
    day: date
    report_domain: Domain
    message_id: str
    created_at: datetime
    json: bytes
    sessions: int
    failures: int
    state: ReportState = ReportState.PENDING


@dataclass(frozen=True, slots=True)
class Delivery:
    """A report's way to one endpoint, the rua URI. `attempts` counts those begun, `first_attempt_at` is when the
    first one was. `claimed_by` is the node that sends, or last sent, and `claimed_until` the end of its lease."""

    report_id: str
    endpoint: str
    state: DeliveryState
    next_attempt_at: datetime
    attempts: int = 0
    last_error: str = ""
    claimed_by: str = ""
    claimed_until: datetime | None = None
    first_attempt_at: datetime | None = None
