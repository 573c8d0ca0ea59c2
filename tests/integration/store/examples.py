"""Policies to store, and a fixed instant to do it at."""

from datetime import UTC, datetime, timedelta

from stsguard.core.mtasts import parse_policy
from stsguard.core.policycache import StoredPolicy
from stsguard.names import Domain

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


def stored(
    name: str,
    *,
    record_id: str = "20260301",
    body: bytes = b"version: STSv1\r\nmode: enforce\r\nmx: *.example.net\r\nmax_age: 604800\r\n",
    age: timedelta = timedelta(0),
    used: timedelta = timedelta(0),
) -> StoredPolicy:
    """A policy fetched `age` before NOW and last used `used` before it."""
    return StoredPolicy(
        Domain.parse(name), parse_policy(body), record_id, fetched_at=NOW - age, last_used_at=NOW - used
    )
