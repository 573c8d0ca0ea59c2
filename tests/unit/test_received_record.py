"""By what a received report is known, and in which form its parts are stored."""

import json

import pytest

from stsguard.core.received_record import (
    Standing,
    intake_key,
    mx_hostname_of,
    policy_text,
    result_type_of,
    warnings_text,
)
from stsguard.core.received_report import ReceivedWarning, WarningCode
from tests.received import document, policy, report_json


def test_rfc8460_4_4_report_is_known_by_reporter_id_range_and_domains() -> None:
    one = document()
    assert document(report_json(policy(successes=9))).domain_keys == one.domain_keys
    others = [
        document(report_json(report_id="r2")),
        document(report_json(day="2026-03-02")),
        document(report_json(policy("b.example"))),
        document(reporter="other.example"),
        document(standing=Standing.UNSIGNED),
    ]
    assert len({each.domain_keys for each in [one, *others]}) == 6


def test_what_a_report_says_of_each_domain_is_known_by_itself() -> None:
    one, both = document(), document(report_json(policy(), policy("b.example"), policy()))
    assert set(one.domain_keys) < set(both.domain_keys)
    assert len(both.domain_keys) == 2
    unnamed = report_json().replace(b"a.example", b"")
    assert set(document(unnamed).domain_keys).isdisjoint(both.domain_keys)


def test_signatures_of_one_organisation_make_one_reporter() -> None:
    one = document(reporter="mail.sender.example", organization="sender.example")
    assert one.domain_keys == document(reporter="sender.example", organization="sender.example").domain_keys
    assert one.identity == document(reporter="sender.example").identity


def test_same_content_is_known_by_its_hash() -> None:
    assert document().identity == document().identity
    assert document(report_json(policy(successes=9))).identity != document().identity


def test_unsigned_copy_does_not_take_the_place_of_the_signed() -> None:
    assert document(standing=Standing.UNVOUCHED).identity != document().identity


def test_posted_octets_do_not_take_the_place_of_a_file() -> None:
    assert intake_key(b"x", kind="https") != intake_key(b"x", kind="file")
    assert intake_key(b"x", kind="https") == intake_key(b"x", kind="https")


@pytest.mark.parametrize(
    ("text", "known", "counted"),
    [
        ("Certificate_Expired", "certificate-expired", "certificate-expired"),
        ("x", None, "unknown"),
        ("", None, ""),
    ],
)
def test_result_type_that_is_counted(text: str, known: str | None, counted: str) -> None:
    assert result_type_of(text, known) == counted


def test_mx_host_that_is_counted_is_lower_case_and_bounded() -> None:
    assert mx_hostname_of(" MX1.A.example. ") == "mx1.a.example"
    assert len(mx_hostname_of("a" * 1000)) == 253


def test_all_warnings_are_of_mail_and_file_then_of_the_report() -> None:
    content = report_json().replace(b"tls@sender.example", b"")
    assert [each.code for each in document(content).all_warnings()] == [WarningCode.EMPTY_VALUE]


def test_stored_form_is_json() -> None:
    warning = ReceivedWarning(WarningCode.BASE64, "é", 3)
    assert json.loads(warnings_text((warning,))) == [["base64", "é", 3]]
    assert policy_text(document().report.policies[0]) == ('["version: STSv1"]', '["*"]')
