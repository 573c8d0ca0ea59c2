"""The tables of the reports that others sent us.

As in `schema`, of whose metadata they are a part: instants are microseconds since 1970, days YYYY-MM-DD. What is text
of strangers is bounded by whoever parses it. Rows are joined by the numbers `intake` and `report`; nothing is
multiplied by a join that keeps to one of the tables below a report at a time.

    received_intakes ─< received_reports ─< received_policies ─< received_details      until [intake] keep_raw is over
    received_keys, received_daily ─< received_daily_failures                          for ever

What counts is `standing = 'counted' AND NOT conflict` of the report and `NOT foreign_domain` of the policy: exactly
that is added up in received_daily and received_daily_failures.
"""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, String, Table, Text, text

from stsguard.store.schema import by_octet, day_type, metadata, name_type

_number = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in an INTEGER
_hash = LargeBinary(32)
_type = by_octet(64)

# The reports that do not count, few among many: an index of their own finds them.
APART = "received_reports.standing <> 'counted' OR received_reports.conflict OR received_reports.foreign_report"
_APART_OF_INDEX = text(APART.replace("received_reports.", ""))

# What came in at once: a mail, a posted body, a file. received_at: when, as far as anybody knows; stored_at: when it
# was written here, from which it is kept. raw is zlib's form. refusals is a JSON list of reasons; refused:
# there are any.
received_intakes = Table(
    "received_intakes",
    metadata,
    Column("intake", _number, primary_key=True),
    Column("intake_key", _hash, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    Column("via", String(16), nullable=False),
    Column("recipient", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("from_address", Text, nullable=False),
    Column("submitter", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("sent_at", BigInteger, nullable=True),
    Column("dkim_status", String(16), nullable=False),
    Column("dkim_domain", name_type, nullable=False),
    Column("dkim_selector", Text, nullable=False),
    Column("dkim_reason", Text, nullable=False),
    Column("aligned", Boolean, nullable=False),
    Column("reports", Integer, nullable=False),
    Column("refused", Boolean, nullable=False),
    Column("refusals", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("raw_length", BigInteger, nullable=False),
    Column("parsed_by", String(32), nullable=False),
    Index("received_intakes_by_key", "intake_key", unique=True),
    Index("received_intakes_by_time", "received_at"),
    Index("received_intakes_by_age", "stored_at"),
    Index("received_intakes_refused", "refused", "intake"),
)
# One row a report, sums over its policies beside it. conflict: another content of the same report was there first.
# foreign_report: none of its policies is of a domain of ours. warnings: JSON, [code, text, times] each.
received_reports = Table(
    "received_reports",
    metadata,
    Column("report", _number, primary_key=True),
    Column("intake", BigInteger, nullable=False),
    Column("identity", _hash, nullable=False),
    Column("report_key", _hash, nullable=False),
    Column("reporter", name_type, nullable=False),
    Column("standing", String(16), nullable=False),
    Column("conflict", Boolean, nullable=False),
    Column("foreign_report", Boolean, nullable=False),
    Column("duplicates", Integer, nullable=False),
    Column("last_duplicate_at", BigInteger, nullable=True),
    Column("received_at", BigInteger, nullable=False),
    Column("organization_name", Text, nullable=False),
    Column("contact_info", Text, nullable=False),
    Column("report_id", by_octet(255), nullable=False),
    Column("start_at", BigInteger, nullable=False),
    Column("end_at", BigInteger, nullable=False),
    Column("day", day_type, nullable=False),
    Column("packing", String(16), nullable=False),
    Column("policies", Integer, nullable=False),
    Column("successes", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("warnings", Text, nullable=False),
    Column("warning_count", Integer, nullable=False),
    Index("received_reports_by_identity", "identity", unique=True),
    Index("received_reports_by_key", "report_key"),
    Index("received_reports_by_intake", "intake"),
    Index("received_reports_by_day", "day", "report"),
    Index("received_reports_by_reporter", "reporter", "day", "report"),
    Index("received_reports_apart", "day", "report", sqlite_where=_APART_OF_INDEX, postgresql_where=_APART_OF_INDEX),
    Index("received_reports_by_id", "report_id"),
)
# policy_domain is the one that it is counted under, policy_domain_text what the report says; policy_type is empty where
# RFC 8460 has none like it. policy_strings and mx_hosts: JSON lists. day repeats that of the report.
received_policies = Table(
    "received_policies",
    metadata,
    Column("report", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("day", day_type, nullable=False),
    Column("policy_domain", name_type, nullable=False),
    Column("policy_domain_text", Text, nullable=False),
    Column("policy_type", _type, nullable=False),
    Column("policy_type_text", Text, nullable=False),
    Column("foreign_domain", Boolean, nullable=False),
    Column("policy_strings", Text, nullable=False),
    Column("mx_hosts", Text, nullable=False),
    Column("successes", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("warnings", Text, nullable=False),
    Index("received_policies_by_domain", "policy_domain", "day", "report"),
)
# failure-details. result_type and mx_hostname are what is counted and sought by, the texts what the report says.
received_details = Table(
    "received_details",
    metadata,
    Column("report", BigInteger, primary_key=True, autoincrement=False),
    Column("policy", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("result_type", _type, nullable=False),
    Column("result_type_text", Text, nullable=False),
    Column("mx_hostname", name_type, nullable=False),
    Column("receiving_mx_hostname", Text, nullable=False),
    Column("receiving_mx_helo", Text, nullable=False),
    Column("receiving_ip", Text, nullable=False),
    Column("sending_mta_ip", Text, nullable=False),
    Column("additional_information", Text, nullable=False),
    Column("failure_reason_code", Text, nullable=False),
    Column("sessions", BigInteger, nullable=False),
    Index("received_details_by_result", "result_type", "report"),
    Index("received_details_by_mx", "mx_hostname", "report"),
    sqlite_with_rowid=False,
)
# What was ever stored of a report and one of its policy domains, by which one that comes again is known even when its
# rows are gone. identity is that of the content that was first.
received_keys = Table(
    "received_keys",
    metadata,
    Column("domain_key", _hash, primary_key=True),
    Column("identity", _hash, nullable=False),
    Index("received_keys_by_identity", "identity"),
    sqlite_with_rowid=False,
)
# What counts, added up. reports is in how many reports it was.
received_daily = Table(
    "received_daily",
    metadata,
    Column("day", day_type, primary_key=True),
    Column("policy_domain", name_type, primary_key=True),
    Column("reporter", name_type, primary_key=True),
    Column("policy_type", _type, primary_key=True),
    Column("reports", BigInteger, nullable=False),
    Column("successes", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Index("received_daily_by_domain", "policy_domain", "day"),
    Index("received_daily_by_reporter", "reporter", "day"),
    sqlite_with_rowid=False,
)
received_daily_failures = Table(
    "received_daily_failures",
    metadata,
    Column("day", day_type, primary_key=True),
    Column("policy_domain", name_type, primary_key=True),
    Column("reporter", name_type, primary_key=True),
    Column("policy_type", _type, primary_key=True),
    Column("result_type", _type, primary_key=True),
    Column("mx_hostname", name_type, primary_key=True),
    Column("sessions", BigInteger, nullable=False),
    Index("received_daily_failures_by_domain", "policy_domain", "day"),
    Index("received_daily_failures_by_result", "result_type", "day"),
    Index("received_daily_failures_by_mx", "mx_hostname", "day"),
    sqlite_with_rowid=False,
)
