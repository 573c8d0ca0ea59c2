"""Hosted domains to store."""

from datetime import datetime, timedelta

from stsguard.core.hosted import HistoryEvent, HostedDomain, PolicyVersion, Stage
from stsguard.core.mtasts import Mode, MxPattern
from stsguard.names import Domain
from tests.integration.store.examples import NOW

MX = tuple(map(MxPattern.parse, ("mx1.a.example", "*.mx.a.example")))


def version(number: int = 1, **changes: object) -> PolicyVersion:
    """Version `number`, made an hour after the one before."""
    values: dict[str, object] = {
        "number": number,
        "record_id": f"2026030112{number:04}",
        "mode": Mode.TESTING,
        "max_age": 86400,
        "mx_patterns": MX,
        "created_at": NOW + timedelta(hours=number),
        "reason": "added",
    }
    return PolicyVersion(**{**values, **changes})  # type: ignore[arg-type] # the caller knows the fields


def hosted(name: str = "a.example", *versions: PolicyVersion, **changes: object) -> HostedDomain:
    """A domain in testing, not stored yet."""
    values: dict[str, object] = {
        "policy_domain": Domain.parse(name),
        "stage": Stage.TESTING,
        "stage_since": NOW,
        "added_at": NOW - timedelta(days=1),
        "versions": versions or (version(),),
    }
    return HostedDomain(**{**values, **changes})  # type: ignore[arg-type] # the caller knows the fields


def event(what: str = "added", at: datetime = NOW) -> HistoryEvent:
    """A line of its history."""
    return HistoryEvent(at, what, f"detail of {what}")
