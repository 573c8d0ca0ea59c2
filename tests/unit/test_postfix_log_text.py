"""A reader's memory over a restart: wherever it falls, the sessions are the same as without one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import ResultType
from stsguard.core.postfix_log import LogReader
from stsguard.core.postfix_log_lines import Endpoint, MxSkipped, PolicyFailed
from stsguard.core.postfix_log_state import Attempt, LogMemory, Process, Proxied
from stsguard.core.postfix_log_text import LogMemoryInvalid, log_memory_text, parse_log_memory
from stsguard.core.session import Session
from stsguard.names import Domain
from tests.unit.postfix_lines import (
    FRAGMENTS,
    HANDSHAKE,
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
    outcome,
    report,
    skipped,
    verification,
)

FAILURE = (ResultType.CERTIFICATE_EXPIRED, "certificate_has_expired")
ENDPOINT = Endpoint("mx1.example.net", "192.0.2.1", 25)
WHOLE = LogMemory(complete_since=NOW)
WHOLE.tls_services["postfix/smtp"] = None
WHOLE.processes[7] = Process(
    NOW,
    [Attempt(ENDPOINT, "Trusted", True, FAILURE, True, True, FAILURE, True), Attempt(ENDPOINT._replace(host="ü\0"))],
    {MxSkipped("mx.example", ""): None, PolicyFailed("example.com", "mx.example"): None},
    ("4D858216933", ENDPOINT, "0.01/0/0.1"),
)
WHOLE.processes[8] = Process(NOW, finished=("4D858216933", None, "0.01/0/0.1"))
WHOLE.processes[9] = Process(NOW)
WHOLE.proxied["", "192.0.2.1"] = Proxied(NOW, FAILURE, True, True, {None: 1, Domain("example.com"): 2})
WHOLE.proxied["mx1.example.net", "192.0.2.1"] = Proxied(NOW)


@pytest.mark.parametrize("memory", [WHOLE, LogMemory()])
def test_what_is_written_is_read_back(memory: LogMemory) -> None:
    text = log_memory_text(memory)
    assert text.isascii()
    assert "\0" not in text  # which PostgreSQL does not take
    assert parse_log_memory(text) == memory


GOOD = json.loads(log_memory_text(WHOLE))
PROCESS = GOOD["processes"][0][1]


def with_process(**changes: object) -> str:
    return json.dumps({**GOOD, "processes": [[7, {**PROCESS, **changes}]]})


@pytest.mark.parametrize(
    "text",
    [
        "",  # no JSON
        "[" * 100_000,
        "[]",  # no object
        "{}",  # nothing in it
        json.dumps({**GOOD, "complete_since": 7}),
        json.dumps({**GOOD, "complete_since": "2026-05-04T12:00:00"}),  # of which time zone?
        json.dumps({**GOOD, "processes": [7]}),
        json.dumps({**GOOD, "processes": [["x", PROCESS]]}),
        json.dumps({**GOOD, "proxied": [["mx1.example.net", "192.0.2.1", "x"]]}),
        with_process(at="yesterday"),
        with_process(attempts=[{}]),
        with_process(attempts=[{**PROCESS["attempts"][0], "endpoint": ["mx1.example.net", "192.0.2.1"]}]),
        with_process(attempts=[{**PROCESS["attempts"][0], "failure": ["no such type", ""]}]),
        with_process(skipped=[["Nothing", "a", "b"]]),
        with_process(skipped=[["MxSkipped", "a"]]),
        with_process(finished=["4D858216933"]),
        json.dumps({**GOOD, "proxied": [["", "192.0.2.1", {**GOOD["proxied"][0][2], "reported": [["a..b", 1]]}]]}),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(LogMemoryInvalid):
        parse_log_memory(text)


def restarted(before: list[str], after: list[str], **options: Any) -> tuple[list[Session], list[Session]]:
    """The sessions that a reader and the one after it find, with the first one's memory in between as text."""
    first = LogReader("mta", **({"from_start": True, "logs_tls": True} | options))
    found = feed(before, first)
    memory = parse_log_memory(log_memory_text(first.memory()))
    return found, feed(after, LogReader("mta", memory=memory, logs_tls=options.get("logs_tls", True)))


def later(before: list[str], after: list[str], **options: Any) -> list[str]:
    found, more = restarted(before, after, **options)
    assert [outcome(session) for session in found] == []
    return [outcome(session) for session in more]


def test_a_session_whose_delivery_ends_after_the_restart_counts() -> None:
    assert later([line(established())], [line(delivery())]) == [SUCCESS]
    outside = "mx-not-permitted example.com mx.attacker.example"
    assert later([line(skipped())], [line(delivery(relay="none"))]) == [outside]
    both = [line(verification("certificate has expired")), line(established(word="Untrusted"))]
    assert later(both, [line(delivery(status=UNVERIFIED))]) == [failure("certificate-expired")]


def test_what_tlsproxy_said_before_the_restart_is_known_after_it() -> None:
    broken = line(f"SSL_connect error to {MX}:25: -1", pid=7, tag=TLSPROXY)
    assert later([broken], [line(delivery(status=HANDSHAKE))]) == [failure("validation-failure tls-handshake-failure")]
    reported = line(report("certificate_expired"), pid=7, tag=TLSPROXY)
    found, more = restarted([reported, line(established(word="Untrusted"))], [line(delivery(status=UNVERIFIED))])
    assert (len(found), more) == (1, [])


def test_a_further_recipient_after_the_restart_is_no_further_session() -> None:
    sent = line(delivery(tls="encrypt"))
    found, more = restarted([sent], [line(delivery(to="other@example.com", tls="encrypt"))])
    assert (len(found), more) == (1, [])


def test_plaintext_across_the_restart_is_told_as_without_one() -> None:
    before = [line(established(), at="May  4 10:00:00"), line("x", tag="postfix/qmgr")]
    assert later(before, [line(delivery(), pid=101)], logs_tls=False, from_start=False) == [PLAIN]


def test_only_what_may_be_needed_is_remembered() -> None:
    reader = LogReader("mta")
    at = "May  4 10:50:00"
    feed([line(established(), pid=1, at="May  4 08:59:59"), line(established(), pid=2, at=at)], reader)
    feed([line(established(), pid=3, at=at), line(delivery(), pid=3, at=at)], reader)
    feed([line(f"SSL_connect error to {MX}:25: -1", tag=TLSPROXY, at=at)], reader)
    feed([line(established(), pid=4), line(delivery(), pid=4)], reader)
    feed([line(f"SSL_connect error to {MX2}:25: -1", tag=TLSPROXY)], reader)
    memory = reader.memory()
    assert (list(memory.processes), list(memory.proxied)) == ([2, 4], [("mx2.example.net", "192.0.2.2")])


@given(
    st.lists(st.tuples(FRAGMENTS, st.integers(1, 2), st.sampled_from(["postfix/smtp", TLSPROXY])), max_size=20),
    st.integers(0, 20),
)
def test_wherever_the_restart_falls_the_sessions_are_the_same(events: list[tuple[str, int, str]], cut: int) -> None:
    lines = [line(text, pid=pid, tag=tag) for text, pid, tag in events]
    found, more = restarted(lines[:cut], lines[cut:])
    assert found + more == feed(lines)
