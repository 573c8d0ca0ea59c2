"""Sessions of logs as text: what is written is read back, and anything else is refused."""

import json

import pytest

from stsguard.core.errors import ResultType
from stsguard.core.session import Seen, Session
from stsguard.core.session_text import SessionTextInvalid, parse_session_text, session_text
from stsguard.names import Domain
from tests.unit.desk import FAILED_IN_LOG, logged

WHOLE = FAILED_IN_LOG._replace(
    policy_domain=Domain("a.test"),
    port=2525,
    new_connection=False,
    tls_level="secure",
    tls_tried=True,
    accepted_unverified=True,
)
GOOD = json.loads(session_text(WHOLE))


@pytest.mark.parametrize(
    "session",
    [
        WHOLE,
        FAILED_IN_LOG,
        logged(),
        logged(Seen.PLAINTEXT, receiving_mx_hostname=None, receiving_ip=""),
        logged(Seen.FAILURE, ResultType.TLSA_INVALID, failure_reason_code='"ü\n'),
    ],
)
def test_what_is_written_is_read_back(session: Session) -> None:
    text = session_text(session)
    assert text.isascii()
    assert parse_session_text(text) == session


@pytest.mark.parametrize(
    "text",
    [
        "",  # no JSON
        "[]",  # no object
        "{}",  # nothing in it
        json.dumps({**GOOD, "at": "yesterday"}),
        json.dumps({**GOOD, "at": "2026-11-22T12:00:00"}),  # of which time zone?
        json.dumps({**GOOD, "seen": "nothing"}),
        json.dumps({**GOOD, "recipient_domain": "a..test"}),
        json.dumps({**GOOD, "result_type": 7}),
        json.dumps({name: value for name, value in GOOD.items() if name != "recipient_domain"}),
        json.dumps({name: value for name, value in GOOD.items() if name != "port"}),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SessionTextInvalid):
        parse_session_text(text)
