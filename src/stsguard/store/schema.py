"""The tables as the newest migration leaves them; a test holds the two against each other.

Instants are whole microseconds since 1970 (UTC) in an integer: exact in both databases, ordered, and with no time zone
that a database, a driver or a session could shift. Names are compared by octet, so that both databases page through
them in the same order as Python sorts them.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text

from stsguard.names import MAX_NAME_OCTETS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

metadata = MetaData()

_NAME = String(MAX_NAME_OCTETS).with_variant(String(MAX_NAME_OCTETS, collation="C"), "postgresql")

# One row a policy domain: the policy as served, whose lines are parsed again when it is loaded. mode and max_age
# repeat what they say, for people and queries.
policies = Table(
    "policies",
    metadata,
    Column("policy_domain", _NAME, primary_key=True),
    Column("record_id", String(32), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("max_age", Integer, nullable=False),
    Column("policy_text", Text, nullable=False),
    Column("fetched_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger, nullable=False),
)


def to_micros(instant: datetime) -> int:
    """An aware instant as it is stored."""
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The instant that is stored as `micros`, in UTC.

    Raises:
        OverflowError: no calendar reaches that far.
    """
    return _EPOCH + timedelta(microseconds=micros)
