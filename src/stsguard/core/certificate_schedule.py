"""When a certificate is renewed, and how long to wait after a failure.

At two thirds of the lifetime, as Let's Encrypt and certbot advise, unless the CA's renewal information says otherwise
(RFC 9773). What is decided depends on the certificate itself and on the clock given, on nothing that was stored when
the clock may have been wrong.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from stsguard.core.errors import CertificateInvalid

FIRST_PAUSE_SECONDS = 300.0  # Let's Encrypt permits five failed validations a host and hour
# After an attempt that came to no end, or whose name does not lead here yet: nothing but our own time was spent.
SHORT_PAUSE_SECONDS = 60.0
LONGEST_SHORT_PAUSE_SECONDS = 900.0
LONGEST_PAUSE_SECONDS = 4 * 3600.0
LONGEST_WAIT = timedelta(
    days=8
)  # no CA's Retry-After is taken for longer; Let's Encrypt's longest window is seven days
SPREAD = 1 / 30  # of the lifetime: three days of ninety, so that what was ordered together is renewed apart


@dataclass(frozen=True, slots=True)
class CertificateTimes:
    """The lifetime of a certificate, and where in the days of renewal its turn is, 0 … 1, the same for ever."""

    not_before: datetime
    not_after: datetime
    turn: float

    @property
    def renew_at(self) -> datetime:
        """Two thirds of the lifetime, and up to a thirtieth more."""
        return self.not_before + (self.not_after - self.not_before) * (2 / 3 + self.turn * SPREAD)


def read_times(pem: bytes) -> CertificateTimes:
    """The times of the first certificate in `pem`, what else there may be.

    Raises:
        CertificateInvalid: there is none, or it can't be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        digest = hashlib.sha256(certificate.serial_number.to_bytes(32, "big", signed=True)).digest()
    except (ValueError, OverflowError) as exc:
        raise CertificateInvalid("the file holds no certificate that can be read") from exc
    return CertificateTimes(not_before, not_after, int.from_bytes(digest[:4], "big") / 2**32)


def failure_pause(
    failures: int,
    fraction: float,
    *,
    first_seconds: float = FIRST_PAUSE_SECONDS,
    longest_seconds: float = LONGEST_PAUSE_SECONDS,
) -> float:
    """Seconds until the next attempt after `failures` in a row: each time twice as long, up to the longest, and up to
    a quarter more by `fraction` (0 … 1) so that hosts that failed together don't come back together."""
    pause = min(first_seconds * 2.0 ** min(max(failures, 1) - 1, 20), longest_seconds)
    return pause * (1 + fraction / 4)


def seconds_to_wait(next_attempt_at: datetime | None, now: datetime) -> float:
    """Seconds until the next attempt may be made. An instant further ahead than we ever wait was written by a clock
    that was wrong, and counts for nothing."""
    if next_attempt_at is None or not now < next_attempt_at <= now + LONGEST_WAIT:
        return 0.0
    return (next_attempt_at - now).total_seconds()
