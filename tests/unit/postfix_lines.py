"""Lines of the mail log for tests, and the sessions that they are, in short."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from stsguard.core.postfix_log import LogReader
from stsguard.core.session import Session

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MX = "mx1.example.net[192.0.2.1]"
MX2 = "mx2.example.net[192.0.2.2]"
CIPHER = "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"
UNVERIFIED = "deferred (Server certificate not verified)"
HANDSHAKE = "deferred (Cannot start TLS: handshake failure)"
SENT = "sent (250 2.0.0 Ok: queued as 4cbdb56t4M)"


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


TLSPROXY = "postfix/tlsproxy"


def skipped(mx: str = "mx.attacker.example", domain: str = "example.com") -> str:
    return f"warning: MX name '{mx}' does not match STS MX pattern for '{domain}'"


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
