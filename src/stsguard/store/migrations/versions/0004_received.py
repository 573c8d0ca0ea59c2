"""The reports that others sent us: as they came, what was read from them, and the sums of each day."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    _create_intakes()
    _create_reports()
    _create_policies()
    _create_sums()


def _create_intakes() -> None:
    op.create_table(
        "received_intakes",
        sa.Column("intake", _number, primary_key=True),
        sa.Column("intake_key", sa.LargeBinary(32), nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sa.Column("via", sa.String(16), nullable=False),
        sa.Column("recipient", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("from_address", sa.Text, nullable=False),
        sa.Column("submitter", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("sent_at", sa.BigInteger, nullable=True),
        sa.Column("dkim_status", sa.String(16), nullable=False),
        sa.Column("dkim_domain", _text(253), nullable=False),
        sa.Column("dkim_selector", sa.Text, nullable=False),
        sa.Column("dkim_reason", sa.Text, nullable=False),
        sa.Column("aligned", sa.Boolean, nullable=False),
        sa.Column("reports", sa.Integer, nullable=False),
        sa.Column("refused", sa.Boolean, nullable=False),
        sa.Column("refusals", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("raw_length", sa.BigInteger, nullable=False),
        sa.Column("parsed_by", sa.String(32), nullable=False),
    )
    op.create_index("received_intakes_by_key", "received_intakes", ["intake_key"], unique=True)
    op.create_index("received_intakes_by_time", "received_intakes", ["received_at"])
    op.create_index("received_intakes_by_age", "received_intakes", ["stored_at"])
    op.create_index("received_intakes_refused", "received_intakes", ["refused", "intake"])


def _create_reports() -> None:
    op.create_table(
        "received_reports",
        sa.Column("report", _number, primary_key=True),
        sa.Column("intake", sa.BigInteger, nullable=False),
        sa.Column("identity", sa.LargeBinary(32), nullable=False),
        sa.Column("report_key", sa.LargeBinary(32), nullable=False),
        sa.Column("reporter", _text(253), nullable=False),
        sa.Column("standing", sa.String(16), nullable=False),
        sa.Column("conflict", sa.Boolean, nullable=False),
        sa.Column("foreign_report", sa.Boolean, nullable=False),
        sa.Column("duplicates", sa.Integer, nullable=False),
        sa.Column("last_duplicate_at", sa.BigInteger, nullable=True),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("organization_name", sa.Text, nullable=False),
        sa.Column("contact_info", sa.Text, nullable=False),
        sa.Column("report_id", _text(255), nullable=False),
        sa.Column("start_at", sa.BigInteger, nullable=False),
        sa.Column("end_at", sa.BigInteger, nullable=False),
        sa.Column("day", _text(10), nullable=False),
        sa.Column("packing", sa.String(16), nullable=False),
        sa.Column("policies", sa.Integer, nullable=False),
        sa.Column("successes", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("warnings", sa.Text, nullable=False),
        sa.Column("warning_count", sa.Integer, nullable=False),
    )
    op.create_index("received_reports_by_identity", "received_reports", ["identity"], unique=True)
    op.create_index("received_reports_by_key", "received_reports", ["report_key"])
    op.create_index("received_reports_by_intake", "received_reports", ["intake"])
    op.create_index("received_reports_by_day", "received_reports", ["day", "report"])
    op.create_index("received_reports_by_reporter", "received_reports", ["reporter", "day", "report"])
    apart = sa.text("standing <> 'counted' OR conflict OR foreign_report")
    op.create_index(
        "received_reports_apart", "received_reports", ["day", "report"], sqlite_where=apart, postgresql_where=apart
    )
    op.create_index("received_reports_by_id", "received_reports", ["report_id"])


def _create_policies() -> None:
    op.create_table(
        "received_policies",
        sa.Column("report", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("day", _text(10), nullable=False),
        sa.Column("policy_domain", _text(253), nullable=False),
        sa.Column("policy_domain_text", sa.Text, nullable=False),
        sa.Column("policy_type", _text(64), nullable=False),
        sa.Column("policy_type_text", sa.Text, nullable=False),
        sa.Column("foreign_domain", sa.Boolean, nullable=False),
        sa.Column("policy_strings", sa.Text, nullable=False),
        sa.Column("mx_hosts", sa.Text, nullable=False),
        sa.Column("successes", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("warnings", sa.Text, nullable=False),
    )
    op.create_index("received_policies_by_domain", "received_policies", ["policy_domain", "day", "report"])
    op.create_table(
        "received_details",
        sa.Column("report", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("policy", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("result_type", _text(64), nullable=False),
        sa.Column("result_type_text", sa.Text, nullable=False),
        sa.Column("mx_hostname", _text(253), nullable=False),
        sa.Column("receiving_mx_hostname", sa.Text, nullable=False),
        sa.Column("receiving_mx_helo", sa.Text, nullable=False),
        sa.Column("receiving_ip", sa.Text, nullable=False),
        sa.Column("sending_mta_ip", sa.Text, nullable=False),
        sa.Column("additional_information", sa.Text, nullable=False),
        sa.Column("failure_reason_code", sa.Text, nullable=False),
        sa.Column("sessions", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("received_details_by_result", "received_details", ["result_type", "report"])
    op.create_index("received_details_by_mx", "received_details", ["mx_hostname", "report"])


def _create_sums() -> None:
    op.create_table(
        "received_keys",
        sa.Column("domain_key", sa.LargeBinary(32), primary_key=True),
        sa.Column("identity", sa.LargeBinary(32), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("received_keys_by_identity", "received_keys", ["identity"])
    op.create_table(
        "received_daily",
        sa.Column("day", _text(10), primary_key=True),
        sa.Column("policy_domain", _text(253), primary_key=True),
        sa.Column("reporter", _text(253), primary_key=True),
        sa.Column("policy_type", _text(64), primary_key=True),
        sa.Column("reports", sa.BigInteger, nullable=False),
        sa.Column("successes", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("received_daily_by_domain", "received_daily", ["policy_domain", "day"])
    op.create_index("received_daily_by_reporter", "received_daily", ["reporter", "day"])
    op.create_table(
        "received_daily_failures",
        sa.Column("day", _text(10), primary_key=True),
        sa.Column("policy_domain", _text(253), primary_key=True),
        sa.Column("reporter", _text(253), primary_key=True),
        sa.Column("policy_type", _text(64), primary_key=True),
        sa.Column("result_type", _text(64), primary_key=True),
        sa.Column("mx_hostname", _text(253), primary_key=True),
        sa.Column("sessions", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("received_daily_failures_by_domain", "received_daily_failures", ["policy_domain", "day"])
    op.create_index("received_daily_failures_by_result", "received_daily_failures", ["result_type", "day"])
    op.create_index("received_daily_failures_by_mx", "received_daily_failures", ["mx_hostname", "day"])
