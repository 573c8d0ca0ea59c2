"""The mail log: sets of lines and the sessions that they are, as Postfix 3.7, 3.10 and 3.11 write them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core import postfix_log
from stsguard.core.errors import ResultType
from stsguard.core.postfix_log import MAX_PROCESSES, MAX_PROXIED, LogReader
from stsguard.core.postfix_log_lines import LineParser
from stsguard.core.postfix_log_state import MAX_ATTEMPTS
from stsguard.core.session import Seen, Session, Source
from stsguard.names import Domain

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MX = "mx1.example.net[192.0.2.1]"
MX2 = "mx2.example.net[192.0.2.2]"
CIPHER = "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"
UNVERIFIED = "deferred (Server certificate not verified)"
HANDSHAKE = "deferred (Cannot start TLS: handshake failure)"
SENT = "sent (250 2.0.0 Ok: queued as 4cbdb56t4M)"
REFUSED = f"bounced (host {MX} said: 550 5.1.1 no such user (in reply to RCPT TO command))"


def line(text: str, *, pid: int = 100, at: str = "May  4 11:00:00", tag: str = "postfix/smtp") -> str:
    """One line of the log."""
    return f"{at} relay1 {tag}[{pid}]: {text}"


def established(mx: str = MX, word: str = "Verified", how: str = "established") -> str:
    return f"{word} TLS connection {how} to {mx}:25: {CIPHER}"


def delivery(
    domain: str = "example.com",
    status: str = SENT,
    *,
    relay: str = f"{MX}:25",
    queue_id: str = "4D858216933",
    use: int = 1,
    delays: str = "0.01/0/0.1/0.05",
    tls: str = "",
    to: str = "",
    dsn: str = "2.0.0",
) -> str:
    reused = f", conn_use={use}" if use > 1 else ""
    level = f", tls={tls}" if tls else ""
    recipient = to or f"user@{domain}"
    before = f"{queue_id}: to=<{recipient}>, relay={relay}{reused}, delay=0.2, delays={delays}{level}"
    return f"{before}, dsn={dsn}, status={status}"


def report(result: str = "success", domain: str = "example.com", mx: str = MX) -> str:
    """A TLSRPT line: `success`, or the failure_type and perhaps a failure_reason."""
    if result == "success":
        return f"TLSRPT: status=success, domain={domain}, receiving_mx={mx}"
    kind, _, reason = result.partition(" ")
    why = f", failure_reason={reason}" if reason else ""
    return f"TLSRPT: status=failure, domain={domain}, receiving_mx={mx}, failure_type={kind}{why}"


def reader(**options: Any) -> LogReader:
    return LogReader("mta", **({"from_start": True, "logs_tls": True} | options))


def feed(lines: list[str], log: LogReader | None = None) -> list[Session]:
    log = log or reader()
    return [session for one in lines for session in log.feed(one, NOW)]


def outcome(session: Session) -> str:
    """A session in short: what was seen, the domain, the MX host, result-type and reason."""
    parts = [session.seen.value, session.recipient_domain, session.receiving_mx_hostname or "-"]
    if session.result_type is not None:
        parts.append(session.result_type.value)
    if session.failure_reason_code:
        parts.append(session.failure_reason_code)
    parts += ["tls-tried"] * session.tls_tried + ["reused"] * (not session.new_connection)
    return " ".join(parts)


def outcomes(lines: list[str], log: LogReader | None = None) -> list[str]:
    return [outcome(session) for session in feed(lines, log)]


def failure(text: str, domain: str = "example.com", mx: str = "mx1.example.net") -> str:
    return f"failure {domain} {mx} {text}"


SUCCESS = "success example.com mx1.example.net"
PLAIN = "plaintext example.com mx1.example.net"
NO_STARTTLS = failure("starttls-not-supported")


def verification(why: str, who: str = "") -> str:
    return f"{who}certificate verification failed for {MX}:25: {why}"


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


def test_tlsrpt_line_without_failure_type() -> None:
    cut = f"TLSRPT: status=failure, domain=example.com, receiving_mx={MX}"
    assert outcomes([line(cut)]) == [failure("validation-failure")]


def test_tlsrpt_line_names_the_next_hop() -> None:
    lines = [line(established()), line(report(domain="Relay.Example")), line(delivery())]
    assert outcomes(lines) == ["success relay.example mx1.example.net"]
    assert outcomes([line(established()), line(report(domain="192.0.2.1")), line(delivery())]) == []


def test_tlsrpt_line_takes_the_port_of_its_connection() -> None:
    other = established().replace(":25:", ":2525:")
    [session] = feed([line(other), line(report()), line(delivery(relay=f"{MX}:2525"))])
    assert session.port == 2525


def test_each_connection_of_a_delivery_has_its_tlsrpt_line() -> None:
    lines = [
        line(report("certificate_expired")),
        line(established(word="Untrusted")),
        line("4D858216933: Server certificate not verified"),
        line(established()),
        line(report()),
        line(delivery()),
    ]
    assert outcomes(lines) == [failure("certificate-expired"), SUCCESS]
    assert outcomes([line(report("starttls_not_supported")), line(report()), line(delivery())]) == [
        NO_STARTTLS,
        SUCCESS,
    ]


def test_resumed_tls_session_of_3_10_has_no_tlsrpt_line_and_counts() -> None:
    first = [line(established()), line(report()), line(delivery())]
    second = [line(established()), line(delivery(queue_id="4D858216934"))]
    assert outcomes(first + second) == [SUCCESS, SUCCESS]


TLSPROXY = "postfix/tlsproxy"


def test_tlsproxy_of_3_7() -> None:
    log = reader()
    lines = [
        line(verification("certificate has expired"), pid=7, tag=TLSPROXY),
        line(established(word="Untrusted")),
        line(delivery(status=UNVERIFIED)),
    ]
    assert outcomes(lines, log) == [failure("certificate-expired")]
    again = [line(established(word="Untrusted")), line(delivery(status=UNVERIFIED, delays="9/0/0/0"))]
    assert outcomes(again, log) == [failure("certificate-not-trusted")]  # the reason belonged to the first


def test_tlsproxy_of_3_7_handshake_and_tlsa() -> None:
    broken = line(f"SSL_connect error to {MX}:25: -1", pid=7, tag=TLSPROXY)
    assert outcomes([broken, line(delivery(status=HANDSHAKE))]) == [failure("validation-failure tls-handshake-failure")]
    # As 3.7.11 says it where the server hangs up; a server's part in a handshake of ours is another service.
    nameless = "TLS handshake failed for service=smtp peer=[192.0.2.1]:25"
    broken = line(nameless, pid=7, tag=TLSPROXY)
    assert outcomes([broken, line(delivery(status=HANDSHAKE))]) == [failure("validation-failure tls-handshake-failure")]
    ours = line(nameless.replace("=smtp ", "=smtpd "), pid=7, tag=TLSPROXY)
    assert outcomes([ours, line(delivery(status=HANDSHAKE))]) == []
    unusable = line(f"warning: {MX}:25: all TLSA records unusable", pid=7, tag=TLSPROXY)
    lines = [unusable, line(established(word="Untrusted")), line(delivery())]
    assert outcomes(lines) == [failure("tlsa-invalid all-TLSA-records-unusable")]
    assert outcomes([unusable, line(established(how="reused")), line(delivery(use=2))]) == []


def test_tlsproxy_of_3_10() -> None:
    failed = [
        line(verification("certificate has expired"), pid=7, tag=TLSPROXY),
        line(report("certificate_expired"), pid=7, tag=TLSPROXY),
        line(established(word="Untrusted")),
        line(delivery(status=UNVERIFIED)),
    ]
    assert outcomes(failed) == [failure("certificate-expired")]
    unusable = [
        line(report("tlsa_invalid"), pid=7, tag=TLSPROXY),
        line(established(word="Untrusted")),
        line(delivery()),
        line(established(word="Untrusted")),  # another connection, resumed
        line(delivery(queue_id="4D858216934")),
    ]
    assert outcomes(unusable) == [failure("tlsa-invalid"), SUCCESS]


def test_tlsproxy_of_3_10_with_another_next_hop_counts_once() -> None:
    reported = line(report("certificate_expired", domain="relay.example"), pid=7, tag=TLSPROXY)
    lines = [reported, line(established(word="Untrusted")), line(delivery(status=UNVERIFIED))]
    assert outcomes(lines) == [failure("certificate-expired", domain="relay.example")]
    assert outcomes([reported, line(established()), line(delivery())])[1:] == [SUCCESS]


def test_tlsproxy_lines_that_say_nothing() -> None:
    assert outcomes([line(established(), tag=TLSPROXY), line("CONNECT from x", tag=TLSPROXY)]) == []
    assert outcomes([line(report(domain="-"), tag=TLSPROXY)]) == []


def test_tlsproxy_lines_run_out() -> None:
    old = line(f"SSL_connect error to {MX}:25: -1", pid=7, tag=TLSPROXY)
    late = line(delivery(status=HANDSHAKE), at="May  4 11:05:01")
    assert outcomes([old, late]) == []
    fresh = line(report("certificate_expired"), pid=7, tag=TLSPROXY, at="May  4 11:05:01")
    assert len(outcomes([old, fresh])) == 1


def test_tlsproxy_lines_are_bounded() -> None:
    log = reader()
    for number in range(MAX_PROXIED + 5):
        log.feed(line(f"SSL_connect error to mx{number}.example.net[192.0.2.1]:25: -1", tag=TLSPROXY), NOW)
    for number in range(MAX_ATTEMPTS + 5):
        log.feed(line(report(domain=f"d{number}.example"), tag=TLSPROXY), NOW)
    assert len(log.memory().proxied) == MAX_PROXIED
    assert max(len(proxied.reported) for proxied in log.memory().proxied.values()) == MAX_ATTEMPTS


def skipped(mx: str = "mx.attacker.example", domain: str = "example.com") -> str:
    return f"warning: MX name '{mx}' does not match STS MX pattern for '{domain}'"


def test_mx_outside_the_policy_counts_once_per_delivery_attempt() -> None:
    gone = line(delivery(relay="none", status="deferred (server unavailable or unable to receive mail)"))
    [session] = feed([line(skipped()), line(skipped()), gone, gone])
    assert session.seen is Seen.MX_NOT_PERMITTED
    assert (session.receiving_mx_hostname, session.receiving_ip) == ("mx.attacker.example", "")
    assert session.policy_domain == "example.com"
    lines = [line(skipped()), line(established()), line(report()), line(delivery())]
    assert outcomes(lines) == [SUCCESS, "mx-not-permitted example.com mx.attacker.example"]
    [session] = feed([line(skipped(domain="")), gone])
    assert (session.recipient_domain, session.policy_domain) == ("example.com", None)
    [session] = feed([line(skipped(domain="Policy.Example")), gone])
    assert session.recipient_domain == "policy.example"
    assert feed([line(skipped(mx="-")), gone]) == []
    assert len(feed([*(line(skipped(mx=f"mx{n}.example")) for n in range(MAX_ATTEMPTS + 5)), gone])) == MAX_ATTEMPTS


def no_policy(mx: str = "mx.example.net", domain: str = "example.com", why: str = "TLSA lookup error for X:25") -> str:
    return f"warning: TLS policy lookup for {domain}/{mx}: {why}"


@pytest.mark.parametrize("why", ["client TLS configuration problem", "TLSA lookup error for mx.example.net:25"])
def test_a_host_without_a_tls_policy_counts_once_per_delivery_attempt(why: str) -> None:
    gone = line(delivery(relay="none", status=f"deferred ({why})"))
    # Once for each of its addresses, and once for each recipient.
    [session] = feed([line(no_policy(why=why)), line(no_policy(why=why)), gone, gone])
    assert session.seen is Seen.NO_TLS_POLICY
    assert (session.recipient_domain, session.receiving_mx_hostname) == ("example.com", "mx.example.net")
    assert (session.receiving_ip, session.policy_domain) == ("", None)
    lines = [line(no_policy(why=why)), line(established()), line(report()), line(delivery())]
    assert outcomes(lines) == [SUCCESS, "no-tls-policy example.com mx.example.net"]
    attempt = [line(no_policy(why=why)), line(no_policy(mx="mx2.example.net", why=why)), gone]
    assert len(feed(attempt * 2)) == 4


def test_a_host_without_a_tls_policy_names_the_next_hop() -> None:
    gone = line(delivery(relay="none", status="deferred (client TLS configuration problem)"))
    [session] = feed([line(no_policy(domain="Relay.Example")), gone])
    assert session.recipient_domain == "relay.example"
    [session] = feed([line(no_policy(domain="[192.0.2.1]")), gone])
    assert session.recipient_domain == "example.com"
    assert feed([line(no_policy(mx="-")), gone]) == []


@pytest.mark.parametrize(
    ("recipient", "domain"),
    [
        ("user@Example.COM", "example.com"),
        ("user@bücher.example", "xn--bcher-kva.example"),
        ("a@b@example.com", "example.com"),  # the last @ counts
        ('"a@b"@example.com', "example.com"),
        ('"a>, relay=x[192.0.2.9]:25, \\" x"@example.com', "example.com"),
        ("user+tag=1,2@example.com", "example.com"),
        ("user@example.com>, orig_to=<alias@example.org", "example.com"),
        ('user@example.com>, orig_to=<"a b"', "example.com"),
        ("user", None),
        ('"a b"', None),
        ("user@[192.0.2.1]", None),
        ("a b@example.com", None),  # nothing that could be told from a forged line
    ],
)
def test_recipient_domain(recipient: str, domain: str | None) -> None:
    found = feed([line(established()), line(delivery(to=recipient))])
    assert [session.recipient_domain for session in found] == ([domain] if domain else [])


def test_null_recipient_is_ignored() -> None:
    assert outcomes([line(delivery().replace("<user@example.com>", "<>"))]) == []


@pytest.mark.parametrize(
    "to",
    [
        f"x>, relay={MX2}:25, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (x@example.com",
        f"x@victim.example>, relay={MX2}:25, delay=0, delays=0/0/0/0, dsn=4.7.5, status=deferred (x@example.com",
        f"x@victim.example>, relay={MX2}:25, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (x@example.com",
        f"x@victim.example>, relay={MX2}:25, delay=0, delays=0/0/0/0, dsn=4.7.5, status={UNVERIFIED} x@example.com",
        f'"x"@victim.example>, relay={MX2}:25, delay=0, delays=0/0/0/0, dsn=4.7.5, status=deferred (x@example.com',
    ],
)
def test_unquoted_local_part_of_before_3_5_can_not_forge_a_relay(to: str) -> None:
    assert outcomes([line(delivery(to=to))]) == []


def test_failure_texts_count_as_a_whole() -> None:
    assert outcomes([line(delivery(status="deferred (Server certificate not verified by us)"))]) == []


@pytest.mark.parametrize(
    "text",
    [
        f"4D858216933: replace: header Subject: {report('certificate_expired')}: x",
        f"4D858216933: host {MX} said: 450 {established()} (in reply to RCPT TO command)",
        f"4D858216933: host {MX} said: 450 Server certificate not verified",
        f"warning: {MX} said {skipped()}",
        f" {established()}",
        f"x {report('certificate_expired')}",
        f"connect to {MX}:25: SSL_connect error to {MX}:25: -1",
        "SSL_connect error",
        "TLSRPT: status=maybe",
        "",
    ],
)
def test_hostile_text_within_a_line_is_no_event(text: str) -> None:
    log = reader()
    assert outcomes([line(text)], log) == []
    assert all(not process.attempts and not process.skipped for process in log.memory().processes.values())


def test_hostile_reply_does_not_choose_the_outcome() -> None:
    text = f"sent (250 Server certificate not verified TLS is required, but was not offered by host {MX})"
    assert outcomes([line(established()), line(delivery(status=text))]) == [SUCCESS]


@pytest.mark.parametrize(
    "forged",
    [
        "May  4 11:00:00 relay1 myapp[9]: May  4 11:00:00 relay1 postfix/smtp[100]: {}",
        "May  4 11:00:00 relay1 postfix/smtpd[9]: postfix/smtp[100]: {}",
        "May  4 11:00:00 relay1 postfix/lmtp[9]: {} /smtp[",
        "May  4 11:00:00 relay1 postfix-2/smtp[100]: {}",
        "May  4 11:00:00 relay1 xpostfix/smtp[100]: {}",
        "May  4 11:00:00 relay1 postfix/smtp[x]: {}",
        "postfix/smtp[100]: {}",
        "May  4 11:00:00 postfix/smtp[100]: {}",
    ],
)
def test_lines_of_others(forged: str) -> None:
    assert outcomes([forged.format(report())]) == []


@pytest.mark.parametrize(
    ("syslog_name", "tag"),
    [
        ("postfix", "postfix/smtp"),
        ("postfix", "postfix/relay/smtp"),
        ("postfix", "postfix/a/b/smtp"),
        ("postfix-out", "postfix-out/smtp"),
        ("post.fix", "post.fix/smtp"),
    ],
)
def test_syslog_name(syslog_name: str, tag: str) -> None:
    assert outcomes([line(report(), tag=tag)], reader(syslog_name=syslog_name)) == [SUCCESS]
    assert outcomes([line(report(), tag=tag.replace("post", "fost"))], reader(syslog_name=syslog_name)) == []


def test_overlong_line_is_dropped() -> None:
    long = line(delivery(status="sent (" + "x" * 8000 + ")"))
    assert outcomes([long]) == [PLAIN]
    assert outcomes([long + "x" * 400]) == []


def test_cut_line_is_understood_as_far_as_it_goes() -> None:
    whole = line(delivery(status=UNVERIFIED))
    assert outcomes([whole.removesuffix(")") + "\n"]) == [failure("validation-failure")]
    assert outcomes([line(established()), whole[: whole.index(" (")]]) == [SUCCESS]


def test_addresses_and_literals() -> None:
    six = "mx1.example.net[2001:db8::1]"
    [session] = feed([line(established(six)), line(delivery(relay=f"{six}:25"))])
    assert session.receiving_ip == "2001:db8::1"
    [session] = feed([line(established("bücher.example[192.0.2.1]")), line(delivery(relay="none"))])
    assert session.receiving_mx_hostname == "xn--bcher-kva.example"
    literal = "192.0.2.1[192.0.2.1]"
    assert outcomes([line(established(literal)), line(delivery(relay=f"{literal}:25"))]) == []
    assert outcomes([line(delivery(relay=f"{literal}:25"))]) == []
    with_name = established().replace(":25:", ":25 to mx1.example.net:")
    assert outcomes([line(with_name), line(delivery())]) == [SUCCESS]


def test_what_a_session_says() -> None:
    [session] = feed([line(established(), at="2026-05-04T11:00:00.5+02:00"), line(delivery())])
    assert session == Session(
        at=datetime(2026, 5, 4, 11, 0, tzinfo=UTC),
        source=Source.LOG,
        instance="mta",
        seen=Seen.SUCCESS,
        recipient_domain=Domain("example.com"),
        receiving_mx_hostname=Domain("mx1.example.net"),
        receiving_ip="192.0.2.1",
    )


# Without TLS


def test_plaintext_needs_tls_lines_to_be_known() -> None:
    """smtp_tls_loglevel = 0, the default, logs no TLS session: all deliveries would look as if without TLS."""
    log = reader(logs_tls=False)
    assert outcomes([line(delivery())], log) == []
    assert outcomes([line(established()), line(delivery(queue_id="4D858216934"))], log) == [SUCCESS]
    assert outcomes([line(delivery(queue_id="4D858216935"))], log) == [PLAIN]
    assert outcomes([line(delivery(), tag="postfix/quiet/smtp", pid=2)], log) == []


def test_plaintext_is_not_told_of_deliveries_that_began_before_the_reader() -> None:
    log = reader(from_start=False)
    began = "May  4 10:59:50 relay1 other[1]: hello"
    assert outcomes([began, line(delivery(delays="0/0/5/4"))], log) == []  # within the margin
    assert outcomes([line(delivery(delays="1/0/5/3"))], log) == [PLAIN]
    assert outcomes([line(delivery(delays="2/0/0/9e999"))], log) == []
    assert outcomes([line(delivery(delays="3/0/0/1e.e"))], log) == []
    assert outcomes([line(delivery())], reader(from_start=False)) == []  # its line is the first
    assert outcomes(["no stamp", line(delivery())], reader(from_start=False)) == []


@pytest.mark.parametrize(
    "lost",
    [
        "rsyslogd: imuxsock[pid 100]: begin to drop messages due to rate-limiting",
        "systemd-journald[1]: Suppressed 13 messages from postfix.service",
    ],
)
def test_plaintext_is_not_told_after_lines_were_lost(lost: str) -> None:
    log = reader()
    assert outcomes([f"May  4 10:59:59 relay1 {lost}", line(delivery())], log) == []
    assert outcomes([line(delivery(queue_id="4D858216934"), at="May  4 11:00:09")], log) == [PLAIN]
    assert outcomes([f"May  4 11:00:09 relay1 app: {lost}", line(delivery(), at="May  4 11:00:09")], log) == [PLAIN]
    many = [
        "May  4 11:00:09 relay1 app: 3 messages seen",
        line(delivery("d.example", queue_id="4D858216939"), at="May  4 11:00:09"),
    ]
    assert [session.recipient_domain for session in log.feed_all(many, NOW)] == ["d.example"]
    assert outcomes([f"x relay1 {lost}", line(delivery(delays="1/0/0/0"), at="May  4 11:00:09")], log) == [PLAIN]


# Bounds


def test_processes_are_bounded_and_what_is_forgotten_counts_as_not_seen() -> None:
    log = reader()
    for pid in range(MAX_PROCESSES + 1):
        log.feed(line(established(), pid=pid), NOW)
    assert len(log.memory().processes) == MAX_PROCESSES
    assert outcomes([line(delivery(), pid=0)], log) == []  # its TLS line is forgotten: no plaintext
    assert outcomes([line(delivery(), pid=2)], log) == [SUCCESS]


def test_attempts_of_one_delivery_are_bounded() -> None:
    lines = [line(established(f"mx{n}.example.net[192.0.2.1]")) for n in range(MAX_ATTEMPTS + 5)]
    assert len(outcomes([*lines, line(delivery(relay="none"))])) == MAX_ATTEMPTS


def test_services_are_bounded() -> None:
    log = reader()
    for number in range(200):
        log.feed(line(established(), tag=f"postfix/s{number}/smtp"), NOW)
    assert len(log.memory().tls_services) == postfix_log.MAX_SERVICES


def test_process_id_is_another_process_after_hours() -> None:
    assert outcomes([line(established()), line(delivery(), at="May  4 11:59:59")]) == [SUCCESS]
    assert outcomes([line(established(), at="May  4 08:00:00"), line(delivery())]) == [PLAIN]


# Any input at all

FRAGMENTS = st.sampled_from(
    [
        established(),
        established(how="reused"),
        report(),
        report("certificate_expired"),
        delivery(),
        delivery(status=UNVERIFIED),
        delivery(status=HANDSHAKE),
        delivery(relay="none"),
        delivery(tls="may:none"),
        skipped(),
        verification("certificate has expired"),
        f"SSL_connect error to {MX}:25: -1",
        f"warning: {MX}:25: all TLSA records unusable",
        "4D858216933: Server certificate not verified",
        "4D858216933: Cannot start TLS: handshake failure",
        f"4D858216933: TLS is required, but was not offered by host {MX}",
    ]
)


@given(st.lists(st.tuples(FRAGMENTS, st.integers(1, 2), st.sampled_from(["postfix/smtp", TLSPROXY])), max_size=20))
def test_in_any_order_no_session_is_counted_twice(events: list[tuple[str, int, str]]) -> None:
    found = feed([line(text, pid=pid, tag=tag) for text, pid, tag in events])
    reports = sum(text.startswith("TLSRPT") for text, _, _ in events)
    connections = sum(
        text.startswith(("Verified TLS connection established", "4D858216933: to=", "4D858216933: TLS", "SSL_"))
        for text, _, _ in events
    )
    skips = sum("STS MX" in text for text, _, _ in events)
    assert len(found) <= reports + connections + skips
    assert all((session.seen is Seen.FAILURE) == (session.result_type is not None) for session in found)


@given(st.lists(st.tuples(FRAGMENTS, st.sampled_from(["postfix/smtp", TLSPROXY, "other"])), max_size=20))
def test_a_batch_is_its_lines(events: list[tuple[str, str]]) -> None:
    lines = [line(text, tag=tag) for text, tag in events]
    assert reader(from_start=False).feed_all(lines, NOW) == feed(lines, reader(from_start=False))


@given(st.text(max_size=200), st.integers(0, 150))
def test_any_text_yields_nothing_or_sessions(text: str, cut: int) -> None:
    log = reader()
    for one in (text, line(text), line(established()[:cut] + text), line(delivery()[:cut] + text)):
        for session in log.feed(one, NOW):
            assert session.recipient_domain == Domain.parse(session.recipient_domain)


def test_result_types_are_those_of_the_rfc() -> None:
    for result_type in ResultType:
        expected = failure(result_type.value)
        assert outcomes([line(report(result_type.value.replace("-", "_")))]) == [expected]


@pytest.mark.parametrize(
    ("stamp", "now", "zone", "expected"),
    [
        ("Dec 31 23:59:59", "2027-01-01T00:00:01", "UTC", "2026-12-31T23:59:59"),  # read a moment later
        ("Jan  1 00:00:01", "2026-12-31T23:59:59", "UTC", "2027-01-01T00:00:01"),  # our clock is behind
        ("Jan  1 00:00:01", "2027-01-01T00:00:02", "UTC", "2027-01-01T00:00:01"),
        ("May  6 12:00:00", "2026-05-04T12:00:00", "UTC", "2025-05-06T12:00:00"),  # never the future
        ("Feb 29 12:00:00", "2029-01-04T12:00:00", "UTC", "2028-02-29T12:00:00"),
        ("Feb 29 12:00:00", "2027-03-04T12:00:00", "UTC", None),  # in none of the years that it can be
        ("Nov 21 23:11:44", "2026-11-22T05:00:00", "America/New_York", "2026-11-22T04:11:44"),
        ("Jan  1 00:30:00", "2026-12-31T23:45:00", "Europe/Berlin", "2026-12-31T23:30:00"),
        ("May  4 11:00:60", "2026-05-04T12:00:00", "UTC", "2026-05-04T11:01:00"),  # a leap second
        ("May  4 11:00:61", "2026-05-04T12:00:00", "UTC", None),
        ("Oct 25 02:30:00", "2026-10-25T00:30:01", "Europe/Berlin", "2026-10-25T00:30:00"),  # the hour that is there
        ("Oct 25 02:30:00", "2026-10-25T01:30:01", "Europe/Berlin", "2026-10-25T01:30:00"),  # twice
        ("2026-05-04T11:00:00.123456+02:00", "2026-05-04T12:00:00", "UTC", "2026-05-04T09:00:00.123456"),
        ("2026-05-04T11:00:00+0200", "2026-05-04T12:00:00", "UTC", "2026-05-04T09:00:00"),  # journalctl -o short-iso
        ("2026-05-04T11:00:00Z", "2026-05-04T12:00:00", "UTC", "2026-05-04T11:00:00"),
        ("2026-05-04T11:00:00", "2026-05-04T12:00:00", "Europe/Berlin", "2026-05-04T09:00:00"),
        ("0001-01-01T00:00:00+02:00", "2026-05-04T12:00:00", "UTC", None),
        ("2026-05-04 11:00:00", "2026-05-04T12:00:00", "UTC", None),
    ],
)
def test_time_stamps(stamp: str, now: str, zone: str, expected: str | None) -> None:
    log = reader(time_zone=ZoneInfo(zone))
    found = log.feed(line(report(), at=stamp), datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert [session.at.replace(tzinfo=None).isoformat() for session in found] == ([expected] if expected else [])
    assert all(session.at.tzinfo is UTC for session in found)


def test_time_moves_on_whatever_the_stamps_say() -> None:
    log = reader()
    stamps = (
        "May  4 11:00:00",
        "May  4 10:00:00",
        "Foo 99 99:99:99",
        "Foo  4 11:00:00",
        "May  4 11-00-00",
        "May 32 11:00:00",
        "2026-13-04T11:00:00Z",
    )
    found = [log.feed(line(report(), at=at), NOW) for at in stamps]
    assert [len(sessions) for sessions in found] == [1, 1, 0, 0, 0, 0, 0]
    assert found[0][0].at - found[1][0].at == timedelta(hours=1)


def test_remembered_names_are_bounded() -> None:
    log = reader()
    for number in range(postfix_log.MAX_HOSTS + 5):
        log.feed(line(report(domain=f"d{number}.example")), NOW)
    assert len(log._hosts) <= postfix_log.MAX_HOSTS


# Minutes from a moment on; summer time ended in Berlin at the first.
STARTS = (datetime(2025, 10, 25, 23, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 12, 31, tzinfo=UTC))
STAMPS = st.builds(
    lambda start, minutes, seconds: f"{start + timedelta(minutes=minutes):%b %e %H:%M}:{seconds:02}",
    st.sampled_from(STARTS),
    st.integers(0, 240) | st.integers(0, 500_000),
    st.integers(0, 60),
)


@given(st.lists(STAMPS, min_size=2, max_size=6), st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]))
def test_time_stamp_is_read_alike_whatever_came_before(stamps: list[str], zone: str) -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    parser = LineParser("postfix", ZoneInfo(zone))
    for stamp in [*stamps, *stamps]:  # the second time its minute may be known
        text = f"{stamp} relay1 x: y"
        assert parser.parse_time(text, now) == LineParser("postfix", ZoneInfo(zone)).parse_time(text, now)
