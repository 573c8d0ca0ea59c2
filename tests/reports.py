"""Reports for tests: counters as strangers would have them, and a Hypothesis strategy of whole reports."""

from collections.abc import Mapping
from datetime import date

from hypothesis import strategies as st

from stsguard.core.errors import ResultType
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail, PolicyType
from stsguard.core.tlsrpt_report import Report, build_report, report_id
from stsguard.names import Domain
from tests.strategies import host_names, mx_texts

DAY = date(2026, 11, 21)
DOMAIN = Domain("example.net")
STRINGS = ("version: STSv1", "mode: testing", "mx: *.mail.example.net", "max_age: 86400")
STS = AppliedPolicy(PolicyType.STS, "example.net", STRINGS, ("*.mail.example.net",))
TLSA = AppliedPolicy(PolicyType.TLSA, "mx.example.net", ("3 1 1 " + "AB" * 32,))
NONE_FOUND = AppliedPolicy(PolicyType.NO_POLICY_FOUND, "example.net")
EXPIRED = FailureDetail("certificate-expired", "192.0.2.1", "mx1.mail.example.net", "mx1 at your service", "192.0.2.7")


def row(
    policy: AppliedPolicy = STS,
    successes: int = 0,
    failures: int = 0,
    details: Mapping[FailureDetail, int] | None = None,
    *,
    report_domain: Domain = DOMAIN,
) -> CounterRow:
    """A row of the day's counters."""
    return CounterRow(DAY, report_domain, report_domain, False, policy, successes, failures, 0, details or {})


def report(*rows: CounterRow, organization: str = "Example Inc.", contact: str = "tlsrpt@mail.example.com") -> Report:
    """The report that these rows make."""
    identifier = report_id(DAY, DOMAIN, "node")
    return build_report(organization=organization, contact=contact, day=DAY, report_id=identifier, counters=rows)


_texts = st.text(max_size=30)
_counts = st.integers(min_value=-5, max_value=10**9)
_addresses = st.one_of(st.ip_addresses().map(str), st.sampled_from(["", "fe80::1%eth0", "::FFFF:192.0.2.1", "unknown"]))
_names = st.one_of(host_names, st.sampled_from(["", "MX.Example.NET.", "bücher.example", "[192.0.2.1]", "a b"]))
_tlsa_records = st.builds(
    "{} {} {} {}".format,
    *[st.integers(0, 255)] * 3,
    st.binary(max_size=6).flatmap(lambda data: st.sampled_from([data.hex(), data.hex().upper()])),
)

details = st.builds(
    FailureDetail,
    result_type=st.sampled_from([result_type.value for result_type in ResultType]),
    sending_mta_ip=_addresses,
    receiving_mx_hostname=_names,
    receiving_mx_helo=st.one_of(_texts, host_names.map(lambda name: f"250-{name} hello\r\n250 STARTTLS")),
    receiving_ip=_addresses,
    additional_information=st.one_of(st.just("https://example.net/why?a=1"), _texts),
    failure_reason_code=st.one_of(st.just("mx-mismatch"), _texts),
)
policies = st.one_of(
    st.builds(
        AppliedPolicy, st.just(PolicyType.STS), _names, st.lists(_texts).map(tuple), st.lists(mx_texts).map(tuple)
    ),
    st.builds(AppliedPolicy, st.just(PolicyType.TLSA), _names, st.lists(_tlsa_records).map(tuple)),
    st.builds(AppliedPolicy, st.just(PolicyType.NO_POLICY_FOUND), _names, st.lists(_texts).map(tuple)),
)
rows = st.builds(
    row,
    policies,
    successes=_counts,
    failures=_counts,
    details=st.dictionaries(details, _counts, max_size=5),
    report_domain=host_names.map(Domain),
)
organizations = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
# A report without policies is not sent, so at least one row counts something.
row_lists = st.tuples(st.lists(rows, max_size=5), st.integers(1, 5).map(lambda good: row(STS, good))).map(
    lambda drawn: [*drawn[0], drawn[1]]
)
reports = st.builds(lambda drawn, organization: report(*drawn, organization=organization), row_lists, organizations)
