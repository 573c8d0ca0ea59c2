"""Lifetimes of policies, negatives and replies."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from stsguard.core.mtasts import Mode, Policy, parse_policy
from stsguard.core.policycache import (
    Downgrade,
    StoredPolicy,
    downgrades,
    fetch_pause_seconds,
    lifetime_seconds,
    negative_ttl_seconds,
    refresh_after_seconds,
    remaining_seconds,
    reply_ttl_seconds,
)
from stsguard.names import Domain

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def policy(max_age: int, mode: Mode = Mode.ENFORCE) -> Policy:
    return parse_policy(f"version: STSv1\nmode: {mode}\nmx: mx.example.com\nmax_age: {max_age}\n".encode())


def stored(max_age: int, age: timedelta) -> StoredPolicy:
    return StoredPolicy(Domain("example.com"), policy(max_age), "id1", NOW - age, NOW)


def test_rfc8461_3_2_max_age_counts_from_the_last_fetch() -> None:
    assert lifetime_seconds(policy(86400)) == 86400
    assert remaining_seconds(stored(86400, timedelta(hours=1)), NOW) == 86400 - 3600
    assert remaining_seconds(stored(86400, timedelta(days=1)), NOW) == 0
    assert remaining_seconds(stored(86400, timedelta(days=2)), NOW) < 0


def test_a_fetch_in_the_future_never_lives_longer_than_max_age() -> None:
    assert remaining_seconds(stored(86400, timedelta(days=-3650)), NOW) == 86400


def test_max_age_0_is_held_for_a_minute() -> None:
    assert lifetime_seconds(policy(0)) == 60


@pytest.mark.parametrize(
    ("max_age", "latest"),
    [(31557600, 86400), (604800, 86400), (86400, 43200), (600, 300)],
)
def test_rfc8461_10_2_refresh_daily_and_well_before_expiry(max_age: int, latest: float) -> None:
    assert refresh_after_seconds(policy(max_age), 0.0) == latest
    assert refresh_after_seconds(policy(max_age), 1.0) == latest * 0.75


def test_rfc8461_3_3_failed_fetch_waits_five_minutes_then_longer() -> None:
    pauses = [fetch_pause_seconds(failures, 0.0) for failures in range(1, 12)]
    assert pauses[:3] == [300, 600, 1200]
    assert max(pauses) == 6 * 3600
    assert pauses == sorted(pauses)
    assert fetch_pause_seconds(10_000, 1.0) == pytest.approx(6 * 3600 * 1.1)


@pytest.mark.parametrize(("ttl", "seconds"), [(0, 60), (59, 60), (300, 300), (3600, 3600), (86400, 3600)])
def test_rfc2308_5_negative_ttl_within_a_minute_and_an_hour(ttl: int, seconds: float) -> None:
    assert negative_ttl_seconds(ttl) == seconds


@pytest.mark.parametrize(("ttl", "seconds"), [(0, 30), (30, 30), (300, 300), (900, 900), (86400, 900)])
def test_a_reply_lives_30_seconds_to_15_minutes(ttl: int, seconds: float) -> None:
    assert reply_ttl_seconds(ttl) == seconds


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (policy(86400), policy(86400), []),
        (policy(86400), policy(86400, Mode.TESTING), [Downgrade.MODE_LOWERED]),
        (policy(86400), policy(60, Mode.NONE), [Downgrade.MODE_LOWERED]),  # RFC 8461 §8.3: short with none is right
        (policy(86400, Mode.TESTING), policy(86400), []),  # raised
        (policy(86400), policy(8640), []),  # a tenth exactly
        (policy(86400), policy(8639), [Downgrade.MAX_AGE_CUT]),
        (policy(86400), policy(0), [Downgrade.MAX_AGE_CUT]),
        (policy(604800), policy(60, Mode.TESTING), [Downgrade.MODE_LOWERED, Downgrade.MAX_AGE_CUT]),
    ],
)
def test_downgrades(old: Policy, new: Policy, found: list[Downgrade]) -> None:
    assert list(downgrades(old, new)) == found
    assert list(downgrades(old, replace(old))) == []
