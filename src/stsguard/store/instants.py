"""Instants as they are stored: whole microseconds since 1970 (UTC) in an integer, exact in both databases, ordered, and
with no time zone that a database, a driver or a session could shift."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(instant: datetime) -> int:
    """An aware instant as it is stored."""
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The instant that is stored as `micros`, in UTC.

    Raises:
        OverflowError: no calendar reaches that far.
    """
    return _EPOCH + timedelta(microseconds=micros)
