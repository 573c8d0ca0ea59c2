"""When a certificate is renewed and a failed order tried again."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stsguard.core.certificate_schedule import LONGEST_WAIT, failure_pause, read_times, seconds_to_wait
from stsguard.core.errors import CertificateInvalid

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = ec.generate_private_key(ec.SECP256R1())
KEY_PEM = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def pem(days: float, serial: int = 1) -> bytes:
    """A key and a certificate of that lifetime from NOW on."""
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), serial, NOW, NOW + days * DAY)
    return KEY_PEM + builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_renewed_at_two_thirds_of_the_lifetime_each_in_its_turn() -> None:
    times = [read_times(pem(90, serial)) for serial in range(1, 40)]
    assert all((each.not_before, each.not_after) == (NOW, NOW + 90 * DAY) for each in times)
    assert all(NOW + 60 * DAY <= each.renew_at <= NOW + 63 * DAY for each in times)
    assert len({each.renew_at.date() for each in times}) >= 3
    assert read_times(pem(90)) == read_times(pem(90))
    assert NOW + 4 * DAY <= read_times(pem(6)).renew_at <= NOW + 4.2 * DAY


@pytest.mark.parametrize("octets", [b"", KEY_PEM, b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate(octets: bytes) -> None:
    with pytest.raises(CertificateInvalid):
        read_times(octets)


def test_each_pause_is_twice_as_long_up_to_the_longest() -> None:
    assert [failure_pause(failures, 0.0) for failures in (0, 1, 2, 3)] == [300, 300, 600, 1200]
    assert failure_pause(1, 1.0) == 375
    assert failure_pause(10**6, 0.0) == 4 * 3600
    assert failure_pause(5, 0.0, first_seconds=60, longest_seconds=900) == 900


def test_a_wait_is_over_and_one_by_a_wrong_clock_never_was() -> None:
    assert seconds_to_wait(None, NOW) == 0
    assert seconds_to_wait(NOW, NOW) == 0
    assert seconds_to_wait(NOW + timedelta(seconds=5), NOW) == 5
    assert seconds_to_wait(NOW + LONGEST_WAIT, NOW) == LONGEST_WAIT.total_seconds()
    assert seconds_to_wait(NOW + LONGEST_WAIT + timedelta(seconds=1), NOW) == 0
