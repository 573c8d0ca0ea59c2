"""The tables of our own domains: what is served, what is wrong with it, who fetched it, certificates.

As in `schema`, of whose metadata they are a part: instants are microseconds since 1970, days YYYY-MM-DD.
"""

from sqlalchemy import BigInteger, Column, Integer, String, Table, Text

from stsguard.store.schema import by_octet, day_type, metadata, name_type

# One row a domain. revision is the number of its last change, taken from hosting_revision in the same transaction.
hosted_domains = Table(
    "hosted_domains",
    metadata,
    Column("policy_domain", name_type, primary_key=True),
    Column("stage", String(16), nullable=False),
    Column("stage_since", BigInteger, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    Column("alias_of", name_type, nullable=True),
    Column("quiet_since", BigInteger, nullable=True),
    Column("record_gone_at", BigInteger, nullable=True),
    Column("inspected_at", BigInteger, nullable=True),
    Column("revision", BigInteger, nullable=False, index=True),
)
hosting_revision = Table(
    "hosting_revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)
# Never deleted: what was served decides what a sender may still hold. mx has a pattern a line.
policy_versions = Table(
    "policy_versions",
    metadata,
    Column("policy_domain", name_type, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("record_id", String(32), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("max_age", Integer, nullable=False),
    Column("mx", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("served_at", BigInteger, nullable=True),
    Column("published_at", BigInteger, nullable=True),
    Column("record_ttl", Integer, nullable=False),
)
domain_history = Table(
    "domain_history",
    metadata,
    Column("policy_domain", name_type, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("what", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
domain_findings = Table(
    "domain_findings",
    metadata,
    Column("policy_domain", name_type, primary_key=True),
    Column("code", by_octet(64), primary_key=True),
    Column("subject", by_octet(300), primary_key=True),
    Column("first_seen_at", BigInteger, primary_key=True),
    Column("severity", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Column("gone_at", BigInteger, nullable=True),
)
policy_fetches = Table(
    "policy_fetches",
    metadata,
    Column("day", day_type, primary_key=True),
    Column("policy_domain", name_type, primary_key=True),
    Column("user_agent", by_octet(200), primary_key=True),
    Column("network", by_octet(64), primary_key=True),
    Column("fetches", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
certificates = Table(
    "certificates",
    metadata,
    Column("policy_host", name_type, primary_key=True),
    Column("not_before", BigInteger, nullable=True),
    Column("not_after", BigInteger, nullable=True),
    Column("renew_at", BigInteger, nullable=True),
    Column("failures", Integer, nullable=False),
    Column("next_attempt_at", BigInteger, nullable=True),
    Column("last_error", Text, nullable=False),
    Column("claimed_by", Text, nullable=False),
    Column("claimed_until", BigInteger, nullable=True),
)
acme_challenges = Table(
    "acme_challenges",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("token", by_octet(255), primary_key=True),
    Column("host", name_type, nullable=False),
    Column("content", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
