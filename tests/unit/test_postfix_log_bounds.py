"""The mail log: recipients, hostile text, lines of others, time stamps, bounds, and any input at all."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core import postfix_log
from stsguard.core.errors import ResultType
from stsguard.core.postfix_log import MAX_PROCESSES
from stsguard.core.postfix_log_lines import LineParser
from stsguard.core.postfix_log_state import MAX_ATTEMPTS
from stsguard.core.session import Seen, Session, Source
from stsguard.names import Domain
from tests.unit.postfix_lines import (
    FRAGMENTS,
    MX,
    MX2,
    NOW,
    PLAIN,
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
)


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
