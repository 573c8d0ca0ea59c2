"""Our own domains: what is served, what is wrong with it, who fetched it, certificates."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    _create_domains()
    _create_findings_and_fetches()
    _create_certificates()


def _create_domains() -> None:
    op.create_table(
        "hosted_domains",
        sa.Column("policy_domain", _text(253), primary_key=True),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("stage_since", sa.BigInteger, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("alias_of", _text(253), nullable=True),
        sa.Column("quiet_since", sa.BigInteger, nullable=True),
        sa.Column("record_gone_at", sa.BigInteger, nullable=True),
        sa.Column("inspected_at", sa.BigInteger, nullable=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_hosted_domains_revision", "hosted_domains", ["revision"])
    op.create_table(
        "hosting_revision",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "policy_versions",
        sa.Column("policy_domain", _text(253), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("record_id", sa.String(32), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("max_age", sa.Integer, nullable=False),
        sa.Column("mx", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("served_at", sa.BigInteger, nullable=True),
        sa.Column("published_at", sa.BigInteger, nullable=True),
        sa.Column("record_ttl", sa.Integer, nullable=False),
    )
    op.create_table(
        "domain_history",
        sa.Column("policy_domain", _text(253), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )


def _create_findings_and_fetches() -> None:
    op.create_table(
        "domain_findings",
        sa.Column("policy_domain", _text(253), primary_key=True),
        sa.Column("code", _text(64), primary_key=True),
        sa.Column("subject", _text(300), primary_key=True),
        sa.Column("first_seen_at", sa.BigInteger, primary_key=True),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False),
        sa.Column("gone_at", sa.BigInteger, nullable=True),
    )
    op.create_table(
        "policy_fetches",
        sa.Column("day", _text(10), primary_key=True),
        sa.Column("policy_domain", _text(253), primary_key=True),
        sa.Column("user_agent", _text(200), primary_key=True),
        sa.Column("network", _text(64), primary_key=True),
        sa.Column("fetches", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _create_certificates() -> None:
    op.create_table(
        "certificates",
        sa.Column("policy_host", _text(253), primary_key=True),
        sa.Column("not_before", sa.BigInteger, nullable=True),
        sa.Column("not_after", sa.BigInteger, nullable=True),
        sa.Column("renew_at", sa.BigInteger, nullable=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger, nullable=True),
        sa.Column("last_error", sa.Text, nullable=False),
        sa.Column("claimed_by", sa.Text, nullable=False),
        sa.Column("claimed_until", sa.BigInteger, nullable=True),
    )
    op.create_table(
        "acme_challenges",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("token", _text(255), primary_key=True),
        sa.Column("host", _text(253), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
