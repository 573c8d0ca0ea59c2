"""When reports are made, sent and tried again."""

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.report_schedule import SETTLE, day_end, given_up, may_build, retry_after, send_at

DAY = date(2026, 11, 21)
MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
SPREAD = timedelta(hours=4)


def test_rfc8460_4_1_a_report_covers_a_full_utc_day() -> None:
    assert day_end(DAY) == MIDNIGHT
    assert not may_build(DAY, MIDNIGHT + SETTLE - timedelta(seconds=1))
    assert may_build(DAY, MIDNIGHT + SETTLE)


@given(st.text(min_size=1, max_size=20), st.text(max_size=10))
def test_rfc8460_4_1_sending_is_spread(domain: str, node: str) -> None:
    at = send_at(DAY, domain, node, SPREAD)
    assert MIDNIGHT + SETTLE <= at < MIDNIGHT + SETTLE + SPREAD
    assert at == send_at(DAY, domain, node, SPREAD)


def test_domains_do_not_fall_together() -> None:
    instants = {send_at(DAY, f"d{number}.example", "node", SPREAD) for number in range(1000)}
    assert len(instants) == 1000
    early = sum(at < MIDNIGHT + SETTLE + SPREAD / 2 for at in instants)
    assert 400 < early < 600


def test_rfc8460_5_5_retries_back_off_exponentially() -> None:
    pauses = [retry_after(attempts, 0.0) for attempts in range(1, 12)]
    assert pauses[:3] == [timedelta(minutes=5), timedelta(minutes=10), timedelta(minutes=20)]
    assert max(pauses) == timedelta(hours=4)
    assert retry_after(1, 1.0) == timedelta(minutes=6, seconds=15)


def test_rfc8460_5_5_redelivery_is_tried_for_a_day() -> None:
    assert not given_up(MIDNIGHT, MIDNIGHT + timedelta(hours=23), timedelta(hours=24))
    assert given_up(MIDNIGHT, MIDNIGHT + timedelta(hours=24), timedelta(hours=24))
