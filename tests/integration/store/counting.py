"""Counters to store, and their sums to compare with."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date

from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail, PolicyType
from stsguard.names import Domain
from stsguard.store.sessions import SessionStoreSql

DAY = date(2026, 3, 1)
EXPIRED = FailureDetail("certificate-expired", "192.0.2.1", "mx.a.example", "mx", "198.51.100.1")
UNTRUSTED = FailureDetail("certificate-not-trusted", receiving_ip="2001:db8::1")


def policy(name: str = "a.example", version: str = "enforce") -> AppliedPolicy:
    """A policy whose text says `version`."""
    return AppliedPolicy(PolicyType.STS, name, ("version: STSv1", f"mode: {version}"), ("*.a.example",))


def row(
    name: str = "a.example",
    good: int = 1,
    bad: int = 0,
    *,
    day: date = DAY,
    applied: AppliedPolicy | None = None,
    details: Mapping[FailureDetail, int] | None = None,
    recipient: str | None = None,
    unverified: int = 0,
) -> CounterRow:
    """A row of counters; `recipient` makes it one for the MX host's domain."""
    return CounterRow(
        day=day,
        report_domain=Domain.parse(name),
        recipient_domain=Domain.parse(recipient or name),
        for_mx_host=recipient is not None,
        policy=applied or policy(name),
        successes=good,
        failures=bad,
        unverified=unverified,
        details=details or {},
    )


def summed(rows: Iterable[CounterRow]) -> list[CounterRow]:
    """What these rows add up to, in the order of report domains, without what adds up to nothing."""
    total: dict[tuple[object, ...], CounterRow] = {}
    for each in rows:
        key = (each.day, each.report_domain, each.recipient_domain, each.for_mx_host, each.policy)
        before = total.get(key)
        if before is None:
            total[key] = each
            continue
        details = Counter(before.details)
        details.update(each.details)
        total[key] = each._replace(
            successes=before.successes + each.successes,
            failures=before.failures + each.failures,
            unverified=before.unverified + each.unverified,
            details={detail: sessions for detail, sessions in details.items() if sessions},
        )
    return ordered(each for each in total.values() if each.successes or each.failures or each.unverified)


def ordered(rows: Iterable[CounterRow]) -> list[CounterRow]:
    """Rows in an order of ours within each report domain."""
    return sorted(rows, key=lambda each: (each.report_domain, each.policy, each.recipient_domain, each.for_mx_host))


async def all_counters(store: SessionStoreSql, day: date = DAY, name: str | None = None) -> list[CounterRow]:
    """All that is stored for a day, checked to come by report domain."""
    found = [each async for each in store.load_counters(day, Domain.parse(name) if name else None)]
    names = [each.report_domain for each in found]
    assert names == sorted(names)
    return ordered(found)
