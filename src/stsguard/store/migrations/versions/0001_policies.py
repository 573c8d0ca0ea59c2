"""The policies of the sending side."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of policies."""
    name = sa.String(253).with_variant(sa.String(253, collation="C"), "postgresql")
    op.create_table(
        "policies",
        sa.Column("policy_domain", name, primary_key=True),
        sa.Column("record_id", sa.String(32), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("max_age", sa.Integer, nullable=False),
        sa.Column("policy_text", sa.Text, nullable=False),
        sa.Column("fetched_at", sa.BigInteger, nullable=False),
        sa.Column("last_used_at", sa.BigInteger, nullable=False),
    )
