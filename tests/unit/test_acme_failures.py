"""What ACME servers answer, and the network under them: whose fault it is, and how long to wait."""

import pytest
import requests
from acme import errors, messages

from stsguard.adapters.acme_client.failures import MAX_TEXT_LENGTH, failure_of, parse_retry_after
from stsguard.core.errors import CertificateFault

HOST, CA, LIMIT = CertificateFault.HOST, CertificateFault.CA, CertificateFault.RATE_LIMIT
NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110 §5.6.7


def problem(code: str) -> messages.Error:
    return messages.Error(typ=f"urn:ietf:params:acme:error:{code}", detail="as it says")


@pytest.mark.parametrize(
    ("exc", "status", "fault", "says"),
    [
        (problem("unauthorized"), 403, HOST, "the CA answers unauthorized: as it says"),
        (problem("dns"), 400, HOST, "the CA answers dns"),
        (problem("caa"), 403, HOST, "the CA answers caa"),
        (problem("rejectedIdentifier"), 400, HOST, "the CA answers rejectedIdentifier"),
        (problem("rateLimited"), 429, LIMIT, "the CA answers rateLimited"),
        (problem("rateLimited"), 403, LIMIT, "the CA answers rateLimited"),
        (problem("malformed"), 429, LIMIT, "the CA answers malformed"),
        (problem("serverInternal"), 500, CA, "the CA answers serverInternal"),
        (problem("malformed"), 502, CA, "the CA answers malformed"),
        (problem("badNonce"), 400, CA, "the CA answers badNonce"),
        (problem("userActionRequired"), 403, CA, "the CA answers userActionRequired"),
        (problem("externalAccountRequired"), 403, CA, "the CA answers externalAccountRequired"),
        (problem("accountDoesNotExist"), 400, CA, "the CA answers accountDoesNotExist"),
        (errors.IssuanceError(problem("orderNotReady")), 200, HOST, "the CA answers orderNotReady"),
        (errors.ValidationError([]), 200, HOST, "the CA did not get the answer to its challenge"),
        (errors.ClientError("no JSON"), 503, CA, "the CA answers 503"),
        (errors.ClientError("no JSON"), 429, CA, "the CA answers 429"),
        (requests.exceptions.SSLError("unknown CA"), 0, CA, "can't be verified, see acme_ca_file: unknown CA"),
        (requests.ConnectionError("refused"), 0, CA, "the CA can't be reached: refused"),
        (requests.Timeout("45 s"), 200, CA, "the CA can't be reached: 45 s"),
        (ValueError("no directory"), 0, CA, "the CA can't be reached: no directory"),
        (PermissionError("account.json"), 200, CA, "the ACME account can't be kept: account.json"),
        (KeyError("newOrder"), 200, CA, "the CA does not answer as an ACME server: KeyError 'newOrder'"),
        (errors.TimeoutError("the order"), 200, CA, "the CA does not answer as an ACME server: TimeoutError"),
    ],
)
def test_whose_fault_it_is(exc: BaseException, status: int, fault: CertificateFault, says: str) -> None:
    failure = failure_of(exc, status, None)
    assert failure.fault is fault
    assert says in str(failure)


def test_what_a_ca_writes_is_one_line_of_bounded_length() -> None:
    hostile = messages.Error(typ="urn:ietf:params:acme:error:dns", detail="a\r\nb\n" + "c" * 10_000)
    text = str(failure_of(hostile, 400, None))
    assert "\n" not in text
    assert "\r" not in text
    assert len(text) < MAX_TEXT_LENGTH + 100


@pytest.mark.parametrize("exc", [problem("rateLimited"), problem("unauthorized"), KeyError("x")])
def test_the_wait_that_the_ca_asks_for_is_kept(exc: BaseException) -> None:
    assert failure_of(exc, 200, 7200.0).retry_after_seconds == 7200.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 06 Nov 1994 08:51:37 GMT", 120.0),
        ("Sunday, 06-Nov-94 08:51:37 GMT", 120.0),
        ("Sun Nov  6 08:51:37 1994", 120.0),  # asctime() names no zone: it is UTC
        ("Sun, 06 Nov 1994 08:51:37 -0000", 120.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),  # over
        ("-5", None),
        ("soon", None),
        ("", None),
        ("Sun, 99 Nov 1994 08:51:37 GMT", None),
        ("9" * 400, None),
    ],
)
def test_rfc9110_10_2_3_retry_after(value: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert parse_retry_after(value, NOW) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()
