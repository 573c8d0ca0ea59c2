"""The tables as the newest migration leaves them; a test holds the two against each other.

Instants are as `instants` makes them. Days are UTC days as YYYY-MM-DD. Names are compared by octet, so
that both databases page through them in the same order as Python sorts them.
"""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text
from sqlalchemy.types import TypeEngine

from stsguard.core.counter_text import KEY_OCTETS
from stsguard.names import MAX_NAME_OCTETS

metadata = MetaData()


def by_octet(length: int) -> TypeEngine[str]:
    """Text of up to `length` characters, compared by octet."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


name_type = by_octet(MAX_NAME_OCTETS)
day_type = by_octet(10)
_KEY = LargeBinary(KEY_OCTETS)

# One row a policy domain: the policy as served, whose lines are parsed again when it is loaded. mode and max_age
# repeat what they say, for people and queries.
policies = Table(
    "policies",
    metadata,
    Column("policy_domain", name_type, primary_key=True),
    Column("record_id", String(32), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("max_age", Integer, nullable=False),
    Column("policy_text", Text, nullable=False),
    Column("fetched_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger, nullable=False),
)

# The policies that sessions were counted under, as canonical JSON by its hash: mostly the same day after day.
# last_day is the last one with counters, so that what nobody counts any more is found without a search.
report_policies = Table(
    "report_policies",
    metadata,
    Column("policy_key", _KEY, primary_key=True),
    Column("policy", Text, nullable=False),
    Column("last_day", day_type, nullable=False),
    sqlite_with_rowid=False,
)


def _counter_key() -> tuple[Column[str], Column[str], Column[bytes], Column[str], Column[bool]]:
    return (
        Column("day", day_type, primary_key=True),
        Column("report_domain", name_type, primary_key=True),
        Column("policy_key", _KEY, primary_key=True),
        Column("recipient_domain", name_type, primary_key=True),
        Column("for_mx_host", Boolean, primary_key=True),
    )


# Sums to which every node adds. Without a rowid the rows of a day and domain lie together, in the order in which they
# are read.
session_counters = Table(
    "session_counters",
    metadata,
    *_counter_key(),
    Column("successes", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("unverified", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
session_details = Table(
    "session_details",
    metadata,
    *_counter_key(),
    Column("detail_key", _KEY, primary_key=True),
    Column("detail", Text, nullable=False),
    Column("sessions", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# One row a process that counts: its last flush that was written, so that none is ever added twice.
counter_flushes = Table(
    "counter_flushes",
    metadata,
    Column("writer", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("last_day", day_type, nullable=False),
)
log_positions = Table(
    "log_positions",
    metadata,
    Column("log", Text, primary_key=True),
    Column("position", Text, nullable=False),
)

# One row a day and domain, from its claim on; report_id to json are NULL until it is built.
reports = Table(
    "reports",
    metadata,
    Column("day", day_type, primary_key=True),
    Column("report_domain", name_type, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("report_id", by_octet(255), nullable=True),
    Column("message_id", Text, nullable=True),
    Column("created_at", BigInteger, nullable=False),
    Column("json", LargeBinary, nullable=True),
    Column("sessions", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("claimed_by", Text, nullable=False),
    Column("claimed_until", BigInteger, nullable=False),
    Index("reports_by_id", "report_id", unique=True),
)
report_deliveries = Table(
    "report_deliveries",
    metadata,
    Column("report_id", by_octet(255), primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_attempt_at", BigInteger, nullable=True),
    Column("next_attempt_at", BigInteger, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("claimed_by", Text, nullable=False),
    Column("claimed_until", BigInteger, nullable=True),
    Index("report_deliveries_due", "state", "next_attempt_at"),
)
