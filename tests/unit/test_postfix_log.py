"""The mail log: sets of lines and the sessions that they are, as Postfix 3.7, 3.10 and 3.11 write them."""

import pytest

from stsguard.core.postfix_log import LogReader
from tests.unit.postfix_lines import (
    HANDSHAKE,
    MX,
    MX2,
    NO_STARTTLS,
    NOW,
    PLAIN,
    SENT,
    SUCCESS,
    UNVERIFIED,
    delivery,
    established,
    failure,
    feed,
    line,
    outcome,
    outcomes,
    reader,
    report,
    verification,
)

REFUSED = f"bounced (host {MX} said: 550 5.1.1 no such user (in reply to RCPT TO command))"


@pytest.mark.parametrize("word", ["Anonymous", "Untrusted", "Trusted", "Verified"])
def test_established_and_sent_is_a_success(word: str) -> None:
    assert outcomes([line(established(word=word)), line(delivery())]) == [SUCCESS]


@pytest.mark.parametrize("word", ["Anonymous", "Untrusted", "Trusted", "Verified"])
def test_a_session_that_postfix_did_not_verify_is_known_by_its_word(word: str) -> None:
    [heard] = LogReader("postfix").feed_all([line(established(word=word)), line(delivery())], NOW)
    assert heard.accepted_unverified is (word != "Verified")
    [failed] = LogReader("postfix").feed_all([line(established(word=word)), line(delivery(status=UNVERIFIED))], NOW)
    assert not failed.accepted_unverified


@pytest.mark.parametrize(
    ("why", "word", "expected"),
    [
        ("num=62:hostname mismatch", "Untrusted", "certificate-host-mismatch"),  # 3.7 calls a good chain untrusted
        ("certificate has expired", "Untrusted", "certificate-expired"),
        ("certificate not yet valid", "Untrusted", "validation-failure certificate_is_not_yet_valid"),
        ("self-signed certificate", "Untrusted", "validation-failure self-signed_certificate"),
        (
            "untrusted issuer /CN=Server certificate not verified",  # the issuer's name is the other side's to choose
            "Untrusted",
            "validation-failure unable_to_get_local_issuer_certificate",
        ),
        ("not trusted by local or TLSA policy", "Untrusted", "certificate-not-trusted"),
        ("num=65:no matching DANE TLSA records", "Untrusted", "certificate-not-trusted"),
        (
            "not designated for use as a server certificate",
            "Untrusted",
            "validation-failure unsuitable_certificate_purpose",
        ),
        ("certificate chain longer than limit(9)", "Untrusted", "validation-failure certificate_chain_too_long"),
        ("num=7:certificate signature failure", "Untrusted", "validation-failure certificate_signature_failure"),
        ("external policy failure (sts-policy-fetch-error)", "Untrusted", "sts-policy-fetch-error"),
        ("external policy failure (of-another-kind)", "Untrusted", "validation-failure"),
        ("a text of the future", "Untrusted", "validation-failure"),
    ],
)
def test_certificate_failure_of_3_7(why: str, word: str, expected: str) -> None:
    for who in ("", "server ", "CA "):
        lines = [line(verification(why, who)), line(established(word=word)), line(delivery(status=UNVERIFIED))]
        assert outcomes(lines) == [failure(expected)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("Trusted", "certificate-host-mismatch"),  # resumed TLS sessions lose the detail
        ("Untrusted", "certificate-not-trusted"),
        ("Anonymous", "certificate-not-trusted"),
    ],
)
def test_certificate_failure_without_its_reason(word: str, expected: str) -> None:
    assert outcomes([line(established(word=word)), line(delivery(status=UNVERIFIED))]) == [failure(expected)]


def test_certificate_failure_without_any_tls_line() -> None:
    assert outcomes([line(delivery(status=UNVERIFIED))]) == [failure("validation-failure")]


def test_the_first_reason_of_a_connection_counts() -> None:
    lines = [line(verification("certificate has expired")), line(verification("self-signed certificate"))]
    lines += [line(established(word="Untrusted")), line(delivery(status=UNVERIFIED))]
    assert outcomes(lines) == [failure("certificate-expired")]


def test_a_certificate_that_the_level_does_not_mind_is_no_failure() -> None:
    lines = [line(verification("certificate has expired")), line(established(word="Untrusted")), line(delivery())]
    assert outcomes(lines) == [SUCCESS]


@pytest.mark.parametrize("why", ["lost connection", "-1", "Connection reset by peer"])
def test_handshake_failure(why: str) -> None:
    lines = [line(f"SSL_connect error to {MX}:25: {why}"), line("warning: TLS library problem: error:0A000410:x:y:1:")]
    assert outcomes([*lines, line(delivery(status=HANDSHAKE))]) == [failure("validation-failure tls-handshake-failure")]


def test_our_own_tls_failing_is_no_failure_of_theirs() -> None:
    assert outcomes([line(delivery(status=HANDSHAKE))]) == []
    assert outcomes([line(delivery(status="deferred (TLS is required, but our TLS engine is unavailable)"))]) == []
    assert outcomes([line("4D858216933: Cannot start TLS: handshake failure"), line(delivery(relay="none"))]) == []


@pytest.mark.parametrize(
    "text",
    [
        f"TLS is required, but was not offered by host {MX}",
        f"TLS is required, but host {MX} refused to start TLS: 454 4.7.0 was not offered by host x[192.0.2.9]",
    ],
)
def test_starttls_missing_or_refused(text: str) -> None:
    assert outcomes([line(delivery(status=f"deferred ({text})"))]) == [NO_STARTTLS]
    assert outcomes([line(f"4D858216933: {text}"), line(established(MX2)), line(delivery(relay=f"{MX2}:25"))]) == [
        NO_STARTTLS,
        "success example.com mx2.example.net",
    ]


def test_a_host_named_without_what_it_did_is_no_failure() -> None:
    assert outcomes([line(delivery(status=f"deferred (TLS is required, but host {MX} is odd)"))]) == []


def test_an_mx_host_that_failed_before_another_was_tried() -> None:
    lines = [
        line(verification("certificate has expired", "server ")),
        line(established(word="Untrusted")),
        line("4D858216933: Server certificate not verified"),
        line(established(MX2)),
        line(delivery(relay=f"{MX2}:25")),
    ]
    assert outcomes(lines) == [failure("certificate-expired"), "success example.com mx2.example.net"]


def test_a_host_that_refused_the_mail_had_its_session_too() -> None:
    lines = [
        line(established()),
        line(f"4D858216933: host {MX} said: 451 4.7.1 try later (in reply to RCPT TO command)"),
        line(established(MX2)),
        line(delivery(relay=f"{MX2}:25")),
    ]
    assert outcomes(lines) == [SUCCESS, "success example.com mx2.example.net"]


def test_a_recipient_refused_by_the_first_of_two_hosts() -> None:
    lines = [line(established()), line(established(MX2)), line(delivery(status=REFUSED))]
    assert outcomes(lines) == [SUCCESS, "success example.com mx2.example.net"]


def test_remark_before_anything_is_known() -> None:
    assert outcomes([line("4D858216933: Server certificate not verified"), line(delivery(relay="none"))]) == []


def test_several_recipients_of_one_connection_are_one_session() -> None:
    lines = [
        line(established()),
        line(delivery()),
        line(delivery(to="other@example.com")),
        line(delivery(status=REFUSED)),
    ]
    assert outcomes(lines) == [SUCCESS]
    assert outcomes(lines[1:]) == [PLAIN]
    assert outcomes([line(delivery(status=UNVERIFIED))] * 2) == [failure("validation-failure")]


def test_the_same_message_tried_again_is_another_session() -> None:
    missing = f"deferred (TLS is required, but was not offered by host {MX})"
    lines = [line(delivery(status=missing)), line(delivery(status=missing, delays="300/0/0.1/0"))]
    assert outcomes(lines) == [NO_STARTTLS, NO_STARTTLS]


def test_processes_are_kept_apart() -> None:
    lines = [
        line(established(), pid=1),
        line(established(MX2), pid=2),
        line(delivery("example.org", relay=f"{MX2}:25"), pid=2),
        line(delivery(), pid=1),
    ]
    assert outcomes(lines) == ["success example.org mx2.example.net", SUCCESS]


def test_reused_connection_is_no_session() -> None:
    reused = [line(established(how="reused")), line(delivery(use=2))]
    assert outcomes(reused) == []
    assert outcomes([line(established()), line(delivery()), *reused]) == [SUCCESS]
    assert outcomes([line(delivery(use=3))]) == [f"{PLAIN} reused"]
    assert outcomes([line(delivery(use=3, tls="may"))]) == []


def test_plaintext_at_may() -> None:
    assert outcomes([line(delivery())]) == [PLAIN]
    assert outcomes([line(delivery(status=REFUSED, dsn="5.1.1"))]) == [PLAIN]  # EHLO was over
    assert outcomes([line(delivery(status=f"deferred (lost connection with {MX} while receiving x)"))]) == []
    assert outcomes([line(delivery(relay="none", status="deferred (connect to x: Connection refused)"))]) == []
    assert outcomes([line(delivery(relay="/var/run/lmtp"))]) == []
    [session] = feed([line(delivery(relay="mx1.example.net[192.0.2.1]:587"))])
    assert session.port == 587


def test_plaintext_after_tls_was_tried() -> None:
    lines = [
        line(f"SSL_connect error to {MX}:25: lost connection"),
        line("4D858216933: Cannot start TLS: handshake failure"),
        line(delivery()),
    ]
    assert outcomes(lines) == [failure("validation-failure tls-handshake-failure"), f"{PLAIN} tls-tried"]
    lines.insert(1, line(report("validation_failure tls-handshake-failure")))
    assert outcomes(lines) == [failure("validation-failure tls-handshake-failure"), f"{PLAIN} tls-tried"]


def test_starttls_refused_at_may_and_reported_is_one_session() -> None:
    assert outcomes([line(report("starttls_not_supported")), line(delivery())]) == [NO_STARTTLS]


def test_tls_level_status_of_3_11() -> None:
    for field in ("may:none", "(disabled:may)", "none"):
        [session] = feed([line(delivery(tls=field))], reader(logs_tls=False, from_start=False))
        assert outcome(session) == PLAIN
        assert session.tls_level == ("none" if field == "none" else "may")
    for field in ("dane", "dane:encrypt", "may/!(requiretls)"):
        [session] = feed([line(delivery(tls=field))])
        assert outcome(session) == SUCCESS  # smtp_tls_loglevel = 0
        assert session.tls_level == field[:4].rstrip("/")
        assert outcomes([line(established()), line(delivery(tls=field))]) == [SUCCESS]
    [session] = feed([line(established()), line(delivery(tls="secure"))])
    assert session.tls_level == "secure"
    assert outcomes([line(delivery(tls="!secure", status="deferred (REQUIRETLS Failure: x)"))]) == []
    assert outcomes([line(delivery(tls="!secure")), line(delivery(tls="may?", delays="1/0/0/0"))]) == []
    assert outcomes([line(delivery(tls="requiretls")), line(delivery(tls="%", delays="1/0/0/0"))]) == [PLAIN, PLAIN]


def test_unusable_tlsa_records() -> None:
    unusable = line(f"warning: {MX}:25: all TLSA records unusable, fallback to unauthenticated TLS")
    one = line(f"warning: {MX}:25: unusable TLSA RR: 3 1 99 C052D927")
    lines = [one, unusable, line(established(word="Trusted")), line(delivery())]
    assert outcomes(lines) == [failure("tlsa-invalid all-TLSA-records-unusable")]
    lines.insert(1, line(report("tlsa_invalid all-TLSA-records-unusable")))
    assert outcomes(lines) == [failure("tlsa-invalid all-TLSA-records-unusable")]
    assert outcomes([one, line(established()), line(delivery())]) == [SUCCESS]
    only = line(delivery(relay="none", status="deferred (TLSA records unusable)"))
    assert outcomes([only]) == [failure("tlsa-invalid all-TLSA-records-unusable", mx="-")]
    assert outcomes([line(delivery(relay="none", status="deferred (non DNSSEC destination)"))]) == []


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("success", SUCCESS),
        ("certificate_host_mismatch", failure("certificate-host-mismatch")),
        ("certificate_not_trusted", failure("certificate-not-trusted")),
        ("certificate_expired", failure("certificate-expired")),
        ("starttls_not_supported", NO_STARTTLS),
        ("tlsa_invalid all-TLSA-records-unusable", failure("tlsa-invalid all-TLSA-records-unusable")),
        ("sts_policy_fetch_error", failure("sts-policy-fetch-error")),
        ("sts_policy_invalid", failure("sts-policy-invalid")),
        ("sts_webpki_invalid", failure("sts-webpki-invalid")),
        ("validation_failure self-signed_certificate", failure("validation-failure self-signed_certificate")),
        ("validation_failure two words\x07é", failure("validation-failure two_words__")),
        ("of_another_kind", failure("validation-failure")),
    ],
)
def test_tlsrpt_line_of_3_10_is_the_session(result: str, expected: str) -> None:
    status = SENT if result == "success" else UNVERIFIED
    for lines in (
        [line(established(word="Untrusted")), line(report(result)), line(delivery(status=status))],
        [line(report(result)), line(established(word="Untrusted")), line(delivery(status=status))],
        [line(verification("x")), line(report(result)), line(established()), line(delivery(status=status))],
        [line(report(result)), line(delivery(status=status))],
    ):
        assert outcomes(lines) == [expected]
