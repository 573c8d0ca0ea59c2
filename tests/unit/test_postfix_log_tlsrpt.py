"""The mail log: TLSRPT lines of Postfix 3.10, those of tlsproxy(8), and MX hosts without a TLS policy."""

import pytest

from stsguard.core.postfix_log import MAX_PROXIED
from stsguard.core.postfix_log_state import MAX_ATTEMPTS
from stsguard.core.session import Seen
from tests.unit.postfix_lines import (
    HANDSHAKE,
    MX,
    NO_STARTTLS,
    NOW,
    SUCCESS,
    TLSPROXY,
    UNVERIFIED,
    delivery,
    established,
    failure,
    feed,
    line,
    outcomes,
    reader,
    report,
    skipped,
    verification,
)


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
