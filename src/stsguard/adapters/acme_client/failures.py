"""What the `acme` package and the network under it raise, as `CertificateFailed`."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests
from acme import errors, messages
from josepy import errors as jose_errors

from stsguard.core.errors import CertificateFailed, CertificateFault

MAX_TEXT_LENGTH = 300
TOO_MANY_REQUESTS = 429  # RFC 6585 §4
UNAVAILABLE = 503

# All that the package lets through: its own errors, those of josepy and requests, and what its unchecked reading of
# JSON raises where a server answers something else.
ACME_ERRORS = (
    errors.Error,
    jose_errors.Error,
    requests.RequestException,
    OSError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)

_PROBLEM = "urn:ietf:params:acme:error:"
# Problems (RFC 8555 §6.7) that have to do with the CA or with our account, and so with every host.
_OF_THE_CA = {
    *("serverInternal", "accountDoesNotExist", "externalAccountRequired", "userActionRequired", "badNonce"),
    *("badSignatureAlgorithm", "badPublicKey", "invalidContact", "unsupportedContact"),
}


def failure_of(exc: BaseException, status: int, retry_after_seconds: float | None) -> CertificateFailed:
    """What went wrong, by the exception, and the status (0: none came) and Retry-After of the CA's last answer."""
    if isinstance(exc, errors.ValidationError):
        return CertificateFailed(f"the CA did not get the answer to its challenge: {_one_line(exc)}")
    if isinstance(exc, errors.IssuanceError):
        exc = exc.error
    if isinstance(exc, messages.Error):
        code = (exc.typ or "").removeprefix(_PROBLEM)  # the package's own `code` knows but some of them
        text = f"the CA answers {_one_line(code)}: {_one_line(exc.detail)}"
        if code == "rateLimited" or status == TOO_MANY_REQUESTS:
            return CertificateFailed(text, retry_after_seconds, CertificateFault.RATE_LIMIT)
        everybody = code in _OF_THE_CA or status >= 500
        return CertificateFailed(text, retry_after_seconds, CertificateFault.CA if everybody else CertificateFault.HOST)
    if status in {TOO_MANY_REQUESTS, UNAVAILABLE}:
        return CertificateFailed(f"the CA answers {status}", retry_after_seconds, CertificateFault.CA)
    if isinstance(exc, requests.exceptions.SSLError):
        text = f"the certificate of the ACME server can't be verified, see acme_ca_file: {_one_line(exc)}"
        return CertificateFailed(text, None, CertificateFault.CA)
    if isinstance(exc, requests.RequestException) or not status:  # acme before 5 makes a ValueError of a refused one
        return CertificateFailed(f"the CA can't be reached: {_one_line(exc)}", None, CertificateFault.CA)
    if isinstance(exc, OSError):  # those of the network are RequestException
        return account_failure(exc)
    text = f"the CA does not answer as an ACME server: {type(exc).__name__} {_one_line(exc)}"
    return CertificateFailed(text, retry_after_seconds, CertificateFault.CA)


def account_failure(exc: BaseException) -> CertificateFailed:
    """What went wrong with the file of the account."""
    return CertificateFailed(f"the ACME account can't be kept: {_one_line(exc)}", None, CertificateFault.CA)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds by a Retry-After field (RFC 9110 §10.2.3); `now` in seconds since 1970. None where there is none."""
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip().isdecimal() else _http_date(value).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _http_date(text: str) -> datetime:
    """RFC 9110 §5.6.7: every form is in UTC, also the one of asctime(), which does not say so."""
    at = parsedate_to_datetime(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:MAX_TEXT_LENGTH]
