"""When a day's report is made, sent and tried again (RFC 8460 §4.1, §5.5). Instants are aware UTC."""

import hashlib
from datetime import UTC, date, datetime, time, timedelta

# A session in testing mode may be judged by a probe up to an hour later; then the day's counters are final.
SETTLE = timedelta(minutes=65)
FIRST_RETRY = timedelta(minutes=5)
LONGEST_RETRY = timedelta(hours=4)


def day_end(day: date) -> datetime:
    """The first instant after a UTC day, whatever the local time zone."""
    return datetime.combine(day + timedelta(days=1), time(), UTC)


def may_build(day: date, now: datetime) -> bool:
    """Whether `day` is over and its counters are final."""
    return now >= day_end(day) + SETTLE


def send_at(day: date, report_domain: str, node: str, spread: timedelta) -> datetime:
    """When the report is first sent: some time within `spread` after it may be built, the same on every try.

    RFC 8460 §4.1: senders add a delay so that receivers do not get all reports at once. It is drawn from domain, day
    and node, so that a restart neither moves nor repeats it.
    """
    digest = hashlib.sha256(f"{node}|{day.isoformat()}|{report_domain}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return day_end(day) + SETTLE + spread * share


def retry_after(attempts: int, share: float) -> timedelta:
    """How long after the `attempts`-th failed attempt the next one comes (RFC 8460 §5.5: exponential back-off).
    `share` in 0 … 1 is random and lengthens it by up to a quarter."""
    pause = min(FIRST_RETRY * 2.0 ** min(attempts - 1, 20), LONGEST_RETRY)
    return pause * (1.0 + share / 4)


def given_up(first_attempt_at: datetime, now: datetime, retry_for: timedelta) -> bool:
    """Whether redelivery has been tried for long enough (RFC 8460 §5.5: up to 24 hours after the first attempt)."""
    return now - first_attempt_at >= retry_for
