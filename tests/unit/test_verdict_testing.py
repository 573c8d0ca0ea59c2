"""Sessions that Postfix did not verify, judged by our own probe: testing mode, observe mode, plaintext at `may`."""

from ipaddress import ip_address

import pytest

from stsguard.core.dane import TlsaStatus
from stsguard.core.errors import ResultType
from stsguard.core.mxcheck import MxProbe
from stsguard.core.session import AppliedPolicy, Seen, Session
from stsguard.core.verdict import Known, judge
from tests.unit.verdicts import (
    ENFORCE,
    MISMATCH,
    NO_POLICY,
    PLAIN_DETAIL,
    PLAINTEXT,
    STRANGER,
    STS,
    STS_TESTING,
    SUCCESS,
    TESTING,
    TLSA,
    failure,
    host,
    probe,
    success,
    unverified,
    would_fail,
)


@pytest.mark.parametrize("minutes", [-60.0, -1.0, 0.0, 60.0])
@pytest.mark.parametrize(
    ("result_type", "reason"),
    [
        (ResultType.CERTIFICATE_EXPIRED, "certificate_has_expired"),
        (ResultType.CERTIFICATE_HOST_MISMATCH, ""),
        (ResultType.CERTIFICATE_NOT_TRUSTED, "self-signed_certificate"),
        (ResultType.STARTTLS_NOT_SUPPORTED, "454"),
    ],
)
def test_rfc8461_5_testing_is_judged_by_our_own_verification(
    result_type: ResultType, reason: str, minutes: float
) -> None:
    known = Known(policy=TESTING, probes=(probe(result_type, reason, minutes=minutes),))
    assert judge(SUCCESS, known) == (failure(STS_TESTING, would_fail(result_type, reason, minutes)),)


def test_rfc8461_5_testing_verified_is_a_success() -> None:
    assert judge(SUCCESS, Known(policy=TESTING, probes=(probe(),))) == (success(STS_TESTING),)


@pytest.mark.parametrize(
    ("heard", "known_probes"),
    [
        (SUCCESS, ()),
        (SUCCESS, (probe(ResultType.CERTIFICATE_EXPIRED, minutes=-60.1),)),
        (SUCCESS, (probe(ResultType.CERTIFICATE_EXPIRED, minutes=60.1),)),
        (SUCCESS, (probe(ResultType.CERTIFICATE_EXPIRED, address=ip_address("192.0.2.2")),)),
        (SUCCESS, (probe(ResultType.CERTIFICATE_EXPIRED, mx_hostname=STRANGER),)),
        (SUCCESS, (probe(inconclusive=True, tls=False),)),
        (SUCCESS._replace(receiving_ip=""), (probe(ResultType.CERTIFICATE_EXPIRED),)),
        (SUCCESS._replace(receiving_mx_hostname=None), (probe(ResultType.CERTIFICATE_EXPIRED),)),
        (SUCCESS._replace(receiving_ip="", receiving_mx_hostname=None), ()),
    ],
)
def test_testing_without_a_verification_is_as_postfix_said_and_marked(
    heard: Session, known_probes: tuple[MxProbe, ...]
) -> None:
    assert judge(heard, Known(policy=TESTING, probes=known_probes)) == (unverified(STS_TESTING),)


def test_testing_goes_by_the_verification_nearest_in_time() -> None:
    far, near = probe(ResultType.CERTIFICATE_EXPIRED, minutes=-50), probe(minutes=20)
    assert judge(SUCCESS, Known(policy=TESTING, probes=(far, near))) == (success(STS_TESTING),)
    assert judge(SUCCESS, Known(policy=TESTING, probes=(near, far))) == (success(STS_TESTING),)


def test_testing_knows_an_ipv6_address_in_any_spelling() -> None:
    heard = SUCCESS._replace(receiving_ip="2001:DB8:0::1")
    known = Known(policy=TESTING, probes=(probe(address=ip_address("2001:db8::1")),))
    assert judge(heard, known) == (success(STS_TESTING),)


def test_rfc8461_4_1_testing_with_an_mx_outside_the_policy_is_a_failure() -> None:
    heard = SUCCESS._replace(receiving_mx_hostname=STRANGER)
    known = Known(policy=TESTING, probes=(probe(mx_hostname=STRANGER),))
    expected = (failure(STS_TESTING, MISMATCH._replace(receiving_mx_hostname=STRANGER)),)
    assert judge(heard, known) == expected
    # RFC 8461 §4.1 comes first: whether a host has STARTTLS matters where it is permitted.
    assert judge(heard._replace(seen=Seen.PLAINTEXT), Known(policy=TESTING)) == expected


def test_in_observe_mode_enforce_is_verified_by_ourselves_as_well() -> None:
    observing = Known(policy=ENFORCE, enforcing=False)
    assert judge(SUCCESS, observing) == (unverified(STS),)
    found = observing._replace(probes=(probe(ResultType.CERTIFICATE_EXPIRED, "e"),))
    assert judge(SUCCESS, found) == (failure(STS, would_fail(ResultType.CERTIFICATE_EXPIRED, "e")),)
    assert judge(PLAINTEXT, observing) == (failure(STS, PLAIN_DETAIL),)


def test_what_postfix_accepted_unverified_is_judged_by_our_own_verification() -> None:
    """By a next hop in brackets, or a message that came before the policy."""
    heard = SUCCESS._replace(accepted_unverified=True)
    assert judge(heard, Known(policy=ENFORCE)) == (unverified(STS),)
    known = Known(policy=ENFORCE, probes=(probe(ResultType.CERTIFICATE_HOST_MISMATCH),))
    assert judge(heard, known) == (failure(STS, would_fail(ResultType.CERTIFICATE_HOST_MISMATCH, "")),)
    assert judge(heard, Known()) == (success(NO_POLICY),)


# Plaintext at `may`.


@pytest.mark.parametrize(("known", "applied"), [(Known(), NO_POLICY), (Known(policy=TESTING), STS_TESTING)])
def test_rfc8460_4_3_1_plaintext_is_starttls_not_supported(known: Known, applied: AppliedPolicy) -> None:
    assert judge(PLAINTEXT, known) == (failure(applied, PLAIN_DETAIL),)


@pytest.mark.parametrize("known", [Known(), Known(policy=TESTING), Known(policy=ENFORCE, enforcing=False)])
@pytest.mark.parametrize(
    "heard",
    [
        PLAINTEXT._replace(new_connection=False),
        PLAINTEXT._replace(port=465),
        PLAINTEXT._replace(tls_level="none"),
        PLAINTEXT._replace(tls_tried=True),  # and that attempt was counted
    ],
)
def test_plaintext_that_something_else_explains_is_not_counted(heard: Session, known: Known) -> None:
    assert judge(heard, known) == ()


@pytest.mark.parametrize("level", ["may", "encrypt"])
def test_a_level_that_verifies_nothing_is_judged_by_our_own_verification(level: str) -> None:
    heard = SUCCESS._replace(tls_level=level)
    assert judge(heard, Known(policy=ENFORCE)) == (unverified(STS),)
    known = Known(policy=ENFORCE, probes=(probe(ResultType.CERTIFICATE_EXPIRED, "e"),))
    assert judge(heard, known) == (failure(STS, would_fail(ResultType.CERTIFICATE_EXPIRED, "e")),)
    assert judge(SUCCESS._replace(tls_level="secure"), known) == (success(STS),)


def test_plaintext_at_a_host_that_our_probe_had_tls_with_is_not_claimed() -> None:
    """A log that lost the line of the TLS session looks just so."""
    for known in (Known(), Known(policy=TESTING)):
        assert judge(PLAINTEXT, known._replace(probes=(probe(),))) == ()
        assert judge(PLAINTEXT, known._replace(probes=(probe(ResultType.CERTIFICATE_EXPIRED),))) == ()
        without = probe(ResultType.STARTTLS_NOT_SUPPORTED, tls=False)
        assert judge(PLAINTEXT, known._replace(probes=(without,))) != ()
        assert judge(PLAINTEXT, known._replace(probes=(probe(minutes=-61),))) != ()


def test_rfc8461_5_plaintext_in_enforce_mode_was_asked_for() -> None:
    assert judge(PLAINTEXT, Known(policy=ENFORCE)) == ()


def test_rfc7672_2_2_plaintext_under_dane_was_asked_for() -> None:
    assert judge(PLAINTEXT, Known(mx_host=host(TlsaStatus.USABLE, *TLSA), dane_in_force=True)) == ()
