"""The counters of sessions, how far each log has been read, and the reports that the sending side makes of them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    _create_counters()
    _create_reports()


def _create_counters() -> None:
    counter = (
        ("day", _text(10)),
        ("report_domain", _text(253)),
        ("policy_key", sa.LargeBinary(16)),
        ("recipient_domain", _text(253)),
        ("for_mx_host", sa.Boolean),
    )
    op.create_table(
        "report_policies",
        sa.Column("policy_key", sa.LargeBinary(16), primary_key=True),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("last_day", _text(10), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "session_counters",
        *(sa.Column(name, kind, primary_key=True) for name, kind in counter),
        sa.Column("successes", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("unverified", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "session_details",
        *(sa.Column(name, kind, primary_key=True) for name, kind in counter),
        sa.Column("detail_key", sa.LargeBinary(16), primary_key=True),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("sessions", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "counter_flushes",
        sa.Column("writer", sa.String(32), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("last_day", _text(10), nullable=False),
    )
    op.create_table(
        "log_positions",
        sa.Column("log", sa.Text, primary_key=True),
        sa.Column("position", sa.Text, nullable=False),
    )


def _create_reports() -> None:
    op.create_table(
        "reports",
        sa.Column("day", _text(10), primary_key=True),
        sa.Column("report_domain", _text(253), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("report_id", _text(255), nullable=True),
        sa.Column("message_id", sa.Text, nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("json", sa.LargeBinary, nullable=True),
        sa.Column("sessions", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("claimed_by", sa.Text, nullable=False),
        sa.Column("claimed_until", sa.BigInteger, nullable=False),
    )
    op.create_index("reports_by_id", "reports", ["report_id"], unique=True)
    op.create_table(
        "report_deliveries",
        sa.Column("report_id", _text(255), primary_key=True),
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_attempt_at", sa.BigInteger, nullable=True),
        sa.Column("next_attempt_at", sa.BigInteger, nullable=False),
        sa.Column("last_error", sa.Text, nullable=False),
        sa.Column("claimed_by", sa.Text, nullable=False),
        sa.Column("claimed_until", sa.BigInteger, nullable=True),
    )
    op.create_index("report_deliveries_due", "report_deliveries", ["state", "next_attempt_at"])
