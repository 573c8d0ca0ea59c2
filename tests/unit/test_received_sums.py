"""Gauges of what reports say of our own domains."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, cast

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.core.received_query import NamedSum
from stsguard.inbound.received_sums import ReceivedSums
from stsguard.metrics import Gauge, all_metrics
from stsguard.names import Domain
from stsguard.ports import DomainStore


class Hosted:
    """Domains hosted here."""

    async def load_domains(self) -> list[Any]:
        return [type("Hosted", (), {"policy_domain": Domain("a.example")})]


class Sums:
    """What a database would say, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[str], date]] = []
        self.failing = False

    async def sums_of_domains(
        self, names: Sequence[str], since: date
    ) -> tuple[Sequence[NamedSum], Sequence[tuple[str, str, int]]]:
        if self.failing:
            raise StoreUnavailable("disk on fire")
        self.asked.append((names, since))
        return [NamedSum("a.example", 5, 2)], [("a.example", "certificate-expired", 2)]


class Clock:
    """A clock that stands."""

    def now(self) -> datetime:
        return datetime(2026, 3, 9, 23, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


def gauge(name: str) -> dict[tuple[str, ...], float]:
    (found,) = [metric for metric in all_metrics() if metric.name == f"stsguard_{name}"]
    assert isinstance(found, Gauge)
    return found.read()


async def test_gauges_are_of_our_domains_alone_and_zero_where_nobody_reports() -> None:
    store = Sums()
    sums = ReceivedSums(store, cast("DomainStore", Hosted()), [Domain("b.example")], Clock())
    assert gauge("received_week_sessions") == {}
    await sums.read()
    assert store.asked == [(["a.example", "b.example"], date(2026, 3, 3))]
    assert gauge("received_week_sessions") == {
        ("a.example", "success"): 5.0,
        ("a.example", "failure"): 2.0,
        ("b.example", "success"): 0.0,
        ("b.example", "failure"): 0.0,
    }
    assert gauge("received_week_failures") == {("a.example", "certificate-expired"): 2.0}
    store.failing = True
    with pytest.raises(StoreUnavailable):
        await sums.read()
    assert gauge("received_week_failures") == {("a.example", "certificate-expired"): 2.0}
