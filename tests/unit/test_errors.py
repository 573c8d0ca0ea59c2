"""The closed set of fetch failures, each with its result-type (RFC 8460 §4.3.2.1)."""

import pytest

from stsguard.core.errors import (
    CertificateFailed,
    DeliveryFailed,
    FetchReason,
    LookupFailed,
    LookupReason,
    PolicyFetchFailed,
    ResultType,
    UpdateFailed,
)

WEBPKI = {
    "certificate-not-trusted",
    "certificate-expired",
    "certificate-not-yet-valid",
    "certificate-host-mismatch",
}
INVALID = {"media-type", "too-large", "policy-syntax"}


@pytest.mark.parametrize("reason", FetchReason)
def test_rfc8460_4_3_2_1_every_reason_has_its_result_type(reason: FetchReason) -> None:
    failed = PolicyFetchFailed(reason, "a detail")
    expected = (
        ResultType.STS_WEBPKI_INVALID
        if reason.code in WEBPKI
        else ResultType.STS_POLICY_INVALID
        if reason.code in INVALID
        else ResultType.STS_POLICY_FETCH_ERROR
    )
    assert failed.result_type is expected
    assert failed.temporary
    assert str(failed) == f"{reason.code}: a detail"


def test_codes_are_unique() -> None:
    assert len({reason.code for reason in FetchReason}) == len(FetchReason)


def test_a_failed_lookup_names_its_question() -> None:
    assert str(LookupFailed(LookupReason.BOGUS, "example.com MX")) == "example.com MX: bogus"
    assert str(LookupFailed(LookupReason.SERVFAIL, "example.com MX", "of 127.0.0.1")) == (
        "example.com MX: servfail (of 127.0.0.1)"
    )


def test_a_failed_delivery_says_whether_to_try_again() -> None:
    failed = DeliveryFailed(True, "450 try later")
    assert (failed.temporary, failed.text, str(failed)) == (True, "450 try later", "450 try later")
    assert not DeliveryFailed(False, "550 no").temporary


def test_a_failed_dns_update_says_whether_to_try_again() -> None:
    failed = UpdateFailed(False, "127.0.0.1: example.com: REFUSED")
    assert (failed.temporary, str(failed)) == (False, "127.0.0.1: example.com: REFUSED")


def test_a_failed_certificate_says_when_the_ca_wants_to_be_asked_again() -> None:
    assert CertificateFailed("rateLimited", 60.0).retry_after_seconds == 60.0
    failed = CertificateFailed("the CA can't be reached")
    assert (failed.temporary, failed.retry_after_seconds, str(failed)) == (True, None, "the CA can't be reached")
