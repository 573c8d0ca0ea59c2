"""Our reports: what counters become in JSON, by RFC 8460 §4, and the names that they get (§5.1)."""

import gzip
import json
import random
from datetime import UTC, date, datetime
from importlib import resources
from itertools import permutations
from typing import Any

import jsonschema
import pytest
from hypothesis import given

from stsguard.core.errors import ReportInvalid, ResultType
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail, PolicyType
from stsguard.core.tlsrpt_report import (
    MAX_DETAILS,
    MAX_REPORT_BYTES,
    build_report,
    compress,
    decompress,
    filename,
    parse_report,
    read_report,
    report_id,
    to_json,
)
from stsguard.core.tlsrpt_report_merge import MAX_FULL_POLICIES, canonical_detail
from stsguard.names import Domain, NameInvalid
from tests.reports import DAY, DOMAIN, EXPIRED, NONE_FOUND, STRINGS, STS, TLSA, report, reports, row, row_lists
from tests.strategies import relaxed

SCHEMA = json.loads(resources.files("stsguard.core").joinpath("tlsrpt_report.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


def as_object(*rows: CounterRow) -> Any:
    return json.loads(to_json(report(*rows)))


# The form


def test_rfc8460_4_4_every_key_of_the_schema() -> None:
    refused = FailureDetail(
        "validation-failure",
        "2001:DB8:0:0::1",
        "MX2.Mail.Example.Net.",
        "250-mx2.mail.example.net at your service\r\n250-PIPELINING\r\n250 STARTTLS",
        "2001:db8:0:1:1:1:1:1",
        "https://report.example.com/why#StarttlsNotSupported",
        "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
    )
    assert as_object(row(STS, 5326, 303, {EXPIRED: 300, refused: 3})) == {
        "organization-name": "Example Inc.",
        "date-range": {"start-datetime": "2026-11-21T00:00:00Z", "end-datetime": "2026-11-21T23:59:59Z"},
        "contact-info": "tlsrpt@mail.example.com",
        "report-id": report_id(DAY, DOMAIN, "node"),
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": list(STRINGS),
                    "policy-domain": "example.net",
                    "mx-host": ["*.mail.example.net"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "192.0.2.1",
                        "receiving-mx-hostname": "mx1.mail.example.net",
                        "receiving-mx-helo": "mx1 at your service",
                        "receiving-ip": "192.0.2.7",
                        "failed-session-count": 300,
                    },
                    {
                        "result-type": "validation-failure",
                        "sending-mta-ip": "2001:db8::1",
                        "receiving-mx-hostname": "mx2.mail.example.net",
                        "receiving-mx-helo": "mx2.mail.example.net at your service",
                        "receiving-ip": "2001:db8:0:1:1:1:1:1",
                        "failed-session-count": 3,
                        "additional-information": "https://report.example.com/why#StarttlsNotSupported",
                        "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                    },
                ],
            }
        ],
    }


def test_optional_keys_without_a_value_are_left_out() -> None:
    bare = FailureDetail("sts-policy-fetch-error")
    [policy] = as_object(row(NONE_FOUND, 0, 1, {bare: 1}))["policies"]
    assert policy["policy"] == {"policy-type": "no-policy-found", "policy-domain": "example.net"}
    assert policy["failure-details"] == [{"result-type": "sts-policy-fetch-error", "failed-session-count": 1}]
    assert "failure-details" not in as_object(row(STS, 1))["policies"][0]


def test_json_is_compact_utf8() -> None:
    text = to_json(report(row(STS, 1), organization="Käse & Söhne")).decode()
    assert text.startswith('{"organization-name":"Käse & Söhne","date-range":{"start-datetime":"2026-11-21T00:00:00Z",')
    assert "\n" not in text


def test_rfc8460_4_1_the_range_is_a_full_utc_day() -> None:
    built = report(row(STS, 1))
    assert built.start_at == datetime(2026, 11, 21, tzinfo=UTC)
    assert built.end_at == datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC)


def test_rfc8460_4_4_policy_string_keeps_the_served_order_and_its_errors() -> None:
    served = ("max_age: 86400", "mx: b.example.net", "mx: a.example.net", "mode: enforced", "version: STSv1 ")
    [policy] = as_object(row(AppliedPolicy(PolicyType.STS, "example.net", served), 1))["policies"]
    assert policy["policy"]["policy-string"] == list(served)


def test_rfc8460_erratum_6241_mx_host_is_an_array() -> None:
    assert as_object(row(STS, 1))["policies"][0]["policy"]["mx-host"] == ["*.mail.example.net"]


def test_rfc8460_4_4_names_are_a_labels() -> None:
    policy = AppliedPolicy(PolicyType.STS, "Bücher.example.", STRINGS, ("*.bücher.example", "MX.bücher.example", "a b"))
    detail = FailureDetail("certificate-expired", receiving_mx_hostname="mx.bücher.example")
    [found] = as_object(row(policy, 0, 1, {detail: 1}))["policies"]
    assert found["policy"]["policy-domain"] == "xn--bcher-kva.example"
    assert found["policy"]["mx-host"] == ["*.xn--bcher-kva.example", "mx.xn--bcher-kva.example"]
    assert found["failure-details"][0]["receiving-mx-hostname"] == "mx.xn--bcher-kva.example"
    assert report(row(STS, 1), contact="a@bücher.example").contact == "a@xn--bcher-kva.example"


def test_what_is_no_policy_domain_is_the_report_domain() -> None:
    assert as_object(row(AppliedPolicy(PolicyType.NO_POLICY_FOUND, "[192.0.2.1]"), 1))["policies"][0]["policy"] == {
        "policy-type": "no-policy-found",
        "policy-domain": "example.net",
    }


@pytest.mark.parametrize(
    ("given_text", "written"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),  # RFC 5952 §4.2, 4.3
        ("2001:0db8::0001", "2001:db8::1"),  # §4.1
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),  # §4.2.3
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),  # §4.2.2
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("192.0.2.01", ""),
        ("unknown", ""),
        ("", ""),
    ],
)
def test_rfc5952_addresses(given_text: str, written: str) -> None:
    detail = canonical_detail(FailureDetail("certificate-expired", given_text, receiving_ip=given_text))
    assert (detail.sending_mta_ip, detail.receiving_ip) == (written, written)


@pytest.mark.parametrize(
    ("reply", "helo"),
    [
        ("250-mx.example.net at your service\r\n250-PIPELINING\r\n250 STARTTLS", "mx.example.net at your service"),
        ("250 mx.example.net", "mx.example.net"),
        ("mx.example.net", "mx.example.net"),
        ("mx.example.net\nX-Second: line", "mx.example.net"),
        ("a\tb\x00c", "a b c"),
        ("x" * 5000, "x" * 255),
        ("\r\n250 mx", ""),
        ("", ""),
    ],
)
def test_rfc8460_4_4_helo_is_the_first_line(reply: str, helo: str) -> None:
    assert canonical_detail(FailureDetail("certificate-expired", receiving_mx_helo=reply)).receiving_mx_helo == helo


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://example.net/%7Ea?b#c", True),
        ("not a URI", False),
        ("https://example.net/a b", False),
        ("https://example.net/ä", False),
        ("x:" + "y" * 1998, True),
        ("x:" + "y" * 1999, False),
    ],
)
def test_rfc8460_4_4_additional_information_is_a_uri(text: str, kept: bool) -> None:
    found = canonical_detail(FailureDetail("certificate-expired", additional_information=text))
    assert found.additional_information == (text if kept else "")


def test_reason_code_is_one_short_line() -> None:
    found = canonical_detail(FailureDetail("validation-failure", failure_reason_code="a\r\nb\u2028c" + "x" * 5000))
    assert found.failure_reason_code == "a b c" + "x" * 995


def test_rfc7493_2_1_no_surrogates_and_no_noncharacters() -> None:
    hostile = "a\ud800\ufffe\U0010ffff\ufdd0b"
    policy = AppliedPolicy(PolicyType.STS, "example.net", (hostile,))
    detail = FailureDetail("validation-failure", receiving_mx_helo=hostile, failure_reason_code=hostile)
    [found] = as_object(row(policy, 0, 1, {detail: 1}))["policies"]
    clean = "a\ufffd\ufffd\ufffd\ufffdb"
    assert found["policy"]["policy-string"] == [clean]
    assert found["failure-details"][0]["receiving-mx-helo"] == clean
    assert found["failure-details"][0]["failure-reason-code"] == clean


@pytest.mark.parametrize("contact", ["", "example.com", "@example.com", "a@", "a@[192.0.2.1]", "a@b c"])
def test_contact_has_to_be_an_address_with_a_domain(contact: str) -> None:
    with pytest.raises(NameInvalid):
        build_report(organization="x", contact=contact, day=DAY, report_id="1", counters=[])


# Merging


def test_equal_policies_and_details_are_merged() -> None:
    same = FailureDetail(
        "certificate-expired", "192.0.2.1", "MX1.mail.example.net", "250 mx1 at your service\r\nx", "192.0.2.7"
    )
    rows = [row(STS, 1, 2, {EXPIRED: 2}), row(TLSA, 7), row(STS, 10, 1, {same: 1})]
    [sts, tlsa] = report(*rows).policies
    assert (sts.policy, sts.successes, sts.failures, sts.details) == (STS, 11, 3, ((EXPIRED, 3),))
    assert (tlsa.policy, tlsa.successes, tlsa.failures) == (TLSA, 7, 0)
    assert (report(*rows).successes, report(*rows).failures) == (18, 3)


def test_tlsa_records_are_a_set() -> None:
    one, other = "3 1 1 " + "ab" * 32, "3 1 1 " + "CD" * 32
    first = AppliedPolicy(PolicyType.TLSA, "mx.example.net", (one, other))
    second = AppliedPolicy(PolicyType.TLSA, "mx.example.net", (other, one.upper()))
    [merged] = report(row(first, 1), row(second, 2)).policies
    assert merged.policy.policy_strings == (one.upper(), other)
    assert merged.successes == 3


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [row(STS, 1, 1, {EXPIRED: 1}), row(TLSA, 2), row(NONE_FOUND, 3), row(STS, 0, 1, {EXPIRED: 1})]
    assert len({to_json(report(*order)) for order in permutations(rows)}) == 1


def test_counters_that_were_taken_back_are_not_reported() -> None:
    rows = [
        row(STS, 1, 1, {EXPIRED: 1}),
        row(STS, 1, -1, {EXPIRED: -1}),
        row(TLSA, -1, 0, {EXPIRED: -1}),
        row(NONE_FOUND),
    ]
    [only] = report(*rows).policies
    assert (only.policy, only.successes, only.failures, only.details) == (STS, 2, 0, ())


def test_a_detail_without_a_session_of_its_own_is_reported() -> None:
    """A policy fetch that failed while a cached policy was in force."""
    fetch = FailureDetail("sts-policy-fetch-error", failure_reason_code="timeout")
    [only] = report(row(STS, 0, 0, {fetch: 4})).policies
    assert (only.successes, only.failures, only.details) == (0, 0, ((fetch, 4),))


# Bounds


def _details(number: int, sessions: int = 1) -> dict[FailureDetail, int]:
    return {FailureDetail("certificate-expired", failure_reason_code=f"{at:06}"): sessions for at in range(number)}


def test_at_most_10000_details_are_listed_and_all_of_them_fit() -> None:
    [only] = report(row(STS, 0, MAX_DETAILS, _details(MAX_DETAILS))).policies
    assert len(only.details) == 10_000
    assert sum(sessions for _, sessions in only.details) == 10_000


def test_the_remainder_is_stated() -> None:
    frequent = FailureDetail("certificate-expired", failure_reason_code="zzz")
    rows = [row(STS, 0, 20_007, {**_details(10_000, 2), frequent: 7}), row(TLSA, 0, 3, {EXPIRED: 3})]
    built = report(*rows)
    # Room is kept for a remainder of each policy, and one of them needs none.
    assert sum(len(result.details) for result in built.policies) == MAX_DETAILS - 1
    [sts, tlsa] = built.policies
    assert tlsa.details == ((EXPIRED, 3),)
    assert (frequent, 7) in sts.details
    [remainder] = [item for item in sts.details if "not listed" in item[0].failure_reason_code]
    assert remainder[1] == 2 * (10_000 - (MAX_DETAILS - 2 - 2))
    assert remainder[0] == FailureDetail(
        "validation-failure", failure_reason_code=f"not listed: 4 more failure details with {remainder[1]} sessions"
    )
    assert sum(sessions for _, sessions in sts.details) == sts.failures
    VALIDATOR.validate(json.loads(to_json(built)))


def test_details_are_bounded_with_more_policies_than_details() -> None:
    rows = [
        row(AppliedPolicy(PolicyType.TLSA, f"mx{at}.example.net"), 0, 2, _details(2)) for at in range(MAX_DETAILS + 1)
    ]
    built = report(*rows)
    assert sum(len(result.details) for result in built.policies) == MAX_DETAILS
    assert built.failures == 2 * (MAX_DETAILS + 1)


def test_policy_texts_are_bounded() -> None:
    policies = [
        AppliedPolicy(PolicyType.STS, "example.net", ("version: STSv1", f"max_age: {at}"), ("mx.example.net",))
        for at in range(MAX_FULL_POLICIES + 50)
    ]
    rows = [row(policy, at + 1, 1, {EXPIRED: 1}) for at, policy in enumerate(policies)]
    random.shuffle(rows)
    built = report(*rows)
    assert len(built.policies) == MAX_FULL_POLICIES + 1
    without = [result for result in built.policies if not result.policy.policy_strings]
    assert [(result.policy, result.successes, result.failures) for result in without] == [
        (AppliedPolicy(PolicyType.STS, "example.net"), sum(range(1, 51)), 50)
    ]
    assert without[0].details == ((EXPIRED, 50),)
    assert (built.successes, built.failures) == (sum(range(1, 151)), 150)


# Every report


@given(reports)
@relaxed
def test_every_report_is_valid_by_the_schema_and_read_back_the_same(built: Any) -> None:
    data = to_json(built)
    VALIDATOR.validate(json.loads(data))
    assert parse_report(data) == built
    assert read_report(data).errors == ()


@given(row_lists)
@relaxed
def test_rfc8460_4_2_counts_add_up(drawn: list[CounterRow]) -> None:
    built = report(*drawn)
    listed: dict[FailureDetail, int] = {}
    for result in built.policies:
        assert result.successes >= 0
        assert result.failures >= 0
        assert len({detail for detail, _ in result.details}) == len(result.details)
        for detail, sessions in result.details:
            listed[detail] = listed.get(detail, 0) + sessions
    good = [
        taken
        for taken in drawn
        if all(number >= 0 for number in (taken.successes, taken.failures, *taken.details.values()))
    ]
    if good == drawn:
        assert built.successes == sum(taken.successes for taken in drawn)
        assert built.failures == sum(taken.failures for taken in drawn)
        assert sum(listed.values()) == sum(sum(taken.details.values()) for taken in drawn)


def test_the_schema_knows_every_result_and_policy_type() -> None:
    assert set(SCHEMA["$defs"]["failure-detail"]["properties"]["result-type"]["enum"]) == {str(t) for t in ResultType}
    assert set(SCHEMA["$defs"]["policy"]["properties"]["policy-type"]["enum"]) == {str(t) for t in PolicyType}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("policies",), []),
        (("policies", 0, "policy", "mx-host"), "*.mail.example.net"),  # as appendix B has it, wrongly
        (("policies", 0, "policy", "policy-domain"), "Bücher.example"),
        (("policies", 0, "policy", "policy-type"), "STS"),
        (("policies", 0, "summary", "total-failure-session-count"), -1),
        (("policies", 0, "summary", "total-failure-session-count"), 2**53),
        (("policies", 0, "failure-details", 0, "failed-session-count"), 0),
        (("policies", 0, "failure-details", 0, "sending-mta-ip"), "2001:DB8::1"),
        (("policies", 0, "failure-details", 0, "sending-mta-ip"), ""),
        (("policies", 0, "failure-details", 0, "receiving-mx-helo"), "a\nb"),
        (("policies", 0, "failure-details", 0, "result-type"), "other"),
        (("policies", 0, "failure-details", 0, "additional-info-uri"), "https://example.net/"),
        (("date-range", "end-datetime"), "2026-11-21T23:59:59"),
        (("contact-info",), None),
    ],
)
def test_the_schema_refuses(path: tuple[str | int, ...], value: object) -> None:
    whole = as_object(row(STS, 1, 1, {EXPIRED: 1}))
    VALIDATOR.validate(whole)
    place = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not VALIDATOR.is_valid(whole)


# Names and octets


def test_report_id_is_the_same_for_the_same_and_another_for_others() -> None:
    same = {report_id(DAY, DOMAIN, "node"), report_id(DAY, DOMAIN, "node")}
    others = {
        report_id(date(2026, 11, 22), DOMAIN, "node"),
        report_id(DAY, Domain("example.com"), "node"),
        report_id(DAY, DOMAIN, "other"),
        report_id(DAY, Domain("example"), "net\0node"),
    }
    assert len(same) == 1
    assert len(same | others) == 5
    assert next(iter(same)).startswith("20261121.")


def test_rfc8460_5_1_filename() -> None:
    built = report(row(STS, 1))
    unique = built.report_id.replace(".", "")
    assert unique.isalnum()
    name = f"mail.example.com!example.net!1795219200!1795305599!{unique}"
    assert filename(built, DOMAIN) == f"{name}.json.gz"
    assert filename(built, DOMAIN, compressed=False) == f"{name}.json"


def test_rfc8460_5_1_filename_without_an_id_that_fits() -> None:
    built = build_report(organization="x", contact="a@example.com", day=DAY, report_id="-", counters=[row(STS, 1)])
    assert filename(built, DOMAIN) == "example.com!example.net!1795219200!1795305599.json.gz"


def test_gzip_holds_no_time_and_no_name() -> None:
    packed = compress(b"{}")
    assert gzip.decompress(packed) == b"{}"
    assert packed[3] == 0  # RFC 1952 §2.3: FLG, no FNAME
    assert packed[4:8] == bytes(4)  # MTIME


def test_gzip_is_read_back_to_a_bound() -> None:
    data = to_json(report(row(STS, 1)))
    assert decompress(compress(data)) == data
    assert len(decompress(gzip.compress(bytes(MAX_REPORT_BYTES)))) == MAX_REPORT_BYTES


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"", "cut off"),
        (b"{}", "not gzip"),
        (compress(b"{}")[:-1], "cut off"),
        (compress(b"{}")[:-8] + bytes(8), "not gzip"),
        (compress(b"{}") * 2, "something follows"),
        (gzip.compress(bytes(MAX_REPORT_BYTES + 1)), "more than"),
    ],
)
def test_what_is_not_one_gzip_file(packed: bytes, why: str) -> None:
    with pytest.raises(ReportInvalid, match=why):
        decompress(packed)
