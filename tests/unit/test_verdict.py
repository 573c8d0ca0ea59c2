"""What a session counts as: every rule of the verdict with its section, and none that claims what nobody saw."""

import pytest

from stsguard.core.dane import TlsaStatus
from stsguard.core.errors import FetchReason, ResultType
from stsguard.core.overrides import OverrideKind
from stsguard.core.session import AppliedPolicy, Count, FailureDetail, PolicyType, Seen, Session
from stsguard.core.verdict import MAX_REASON_LENGTH, FetchFailure, Known, judge
from tests.unit.verdicts import (
    DOMAIN,
    ENFORCE,
    EXPIRED,
    EXPIRED_DETAIL,
    NO_POLICY,
    NONE,
    PLAIN_DETAIL,
    PLAINTEXT,
    SKIPPED,
    STRANGER,
    STRINGS,
    STS,
    STS_TESTING,
    STS_UNKNOWN,
    SUCCESS,
    TESTING,
    TLSA,
    aside,
    detail,
    failure,
    host,
    override,
    session,
    success,
)


# RFC 8460 §4.4: the applied policy as served and in the served order; RFC 8461 §5 for the modes.
@pytest.mark.parametrize(
    ("heard", "known", "expected"),
    [
        (SUCCESS, Known(), success(NO_POLICY)),
        (SUCCESS, Known(policy=ENFORCE), success(STS)),
        (EXPIRED, Known(), failure(NO_POLICY, EXPIRED_DETAIL)),
        (EXPIRED, Known(policy=ENFORCE), failure(STS, EXPIRED_DETAIL)),
        (EXPIRED, Known(policy=TESTING), failure(STS_TESTING, EXPIRED_DETAIL)),  # a handshake that Postfix saw fail
        # 3.10 with the `policy` map is told no policy-type and says none, though it enforces
        (SUCCESS._replace(policy_type=PolicyType.NO_POLICY_FOUND), Known(policy=ENFORCE), success(STS)),
        (SUCCESS._replace(policy_type=PolicyType.STS, policy_strings=("x",)), Known(policy=ENFORCE), success(STS)),
    ],
)
def test_rfc8460_4_4_the_session_counts_under_the_policy_in_force(
    heard: Session, known: Known, expected: Count
) -> None:
    assert judge(heard, known) == (expected,)


def test_rfc8461_5_mode_none_is_no_policy() -> None:
    assert judge(SUCCESS, Known(policy=NONE)) == (success(NO_POLICY),)
    assert judge(EXPIRED, Known(policy=NONE)) == (failure(NO_POLICY, EXPIRED_DETAIL),)


def test_a_policy_gone_since_is_reported_as_postfix_was_sent_it() -> None:
    heard = EXPIRED._replace(policy_type=PolicyType.STS, policy_domain=DOMAIN, policy_strings=STRINGS)
    assert judge(heard, Known()) == (failure(AppliedPolicy(PolicyType.STS, DOMAIN, STRINGS), EXPIRED_DETAIL),)


def test_rfc8460_4_3_a_failure_of_which_the_source_says_no_more_has_no_detail() -> None:
    assert judge(session(Seen.FAILURE), Known(policy=ENFORCE)) == (failure(STS),)


def test_further_details_of_a_session_are_details_and_no_sessions() -> None:
    first = detail(ResultType.CERTIFICATE_NOT_TRUSTED, receiving_ip="192.0.2.7")
    assert judge(SUCCESS._replace(further_details=(first,)), Known()) == (
        success(NO_POLICY)._replace(details=(first,)),
    )
    assert judge(EXPIRED._replace(further_details=(first,)), Known()) == (failure(NO_POLICY, EXPIRED_DETAIL, first),)
    told = SUCCESS._replace(further_details=(first,), receiving_mx_hostname=STRANGER)
    (count,) = judge(told, Known(policy=TESTING))
    assert count.details[1:] == (first,)


def test_what_strangers_wrote_is_bounded_and_in_one_line() -> None:
    (count,) = judge(EXPIRED._replace(failure_reason_code="x\r\n" + "y" * 1000), Known())
    reason = count.details[0].failure_reason_code
    assert len(reason) == MAX_REASON_LENGTH
    assert reason.startswith("x\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}yyy")


# Policy announced but not to be had.


@pytest.mark.parametrize("reason", [reason for reason in FetchReason if not reason.maybe_ours])
def test_rfc8461_6_a_policy_that_cannot_be_had_is_a_failure(reason: FetchReason) -> None:
    expected = FailureDetail(reason.result_type, failure_reason_code=f"{reason.code}: 404")
    known = Known(fetch_failure=FetchFailure(reason, "404"))
    assert judge(SUCCESS, known) == (failure(STS_UNKNOWN, expected),)
    assert judge(EXPIRED, known) == (failure(STS_UNKNOWN, expected, EXPIRED_DETAIL),)
    assert judge(PLAINTEXT, known) == (failure(STS_UNKNOWN, expected, PLAIN_DETAIL),)
    assert judge(PLAINTEXT._replace(new_connection=False), known) == ()


@pytest.mark.parametrize("reason", [reason for reason in FetchReason if reason.maybe_ours])
def test_a_fetch_that_failed_by_our_fault_is_never_reported(reason: FetchReason) -> None:
    assert judge(SUCCESS, Known(fetch_failure=FetchFailure(reason))) == (success(NO_POLICY),)
    assert judge(SUCCESS, Known(policy=ENFORCE, refresh_failures=(FetchFailure(reason),))) == (success(STS),)


def test_fetches_that_failed_with_most_others_are_never_reported() -> None:
    outage = FetchFailure(FetchReason.HTTP_STATUS, outage=True)
    assert judge(SUCCESS, Known(fetch_failure=outage)) == (success(NO_POLICY),)
    assert judge(SUCCESS, Known(policy=ENFORCE, refresh_failures=(outage,))) == (success(STS),)


def test_rfc8461_6_refresh_failures_have_a_count_of_their_own() -> None:
    failures = (
        FetchFailure(FetchReason.TOO_LARGE),
        FetchFailure(FetchReason.LOCAL),
        FetchFailure(FetchReason.TLS_FAILED),
    )
    details = (
        FailureDetail(ResultType.STS_POLICY_INVALID, failure_reason_code="too-large"),
        FailureDetail(ResultType.STS_POLICY_FETCH_ERROR, failure_reason_code="tls-failed"),
    )
    known = Known(policy=ENFORCE, refresh_failures=failures)
    assert judge(SUCCESS, known) == (success(STS), aside(STS, *details))
    assert judge(EXPIRED, known) == (failure(STS, EXPIRED_DETAIL), aside(STS, *details))


def test_rfc8461_6_refresh_failures_of_mode_none_are_not_reported() -> None:
    known = Known(policy=NONE, refresh_failures=(FetchFailure(FetchReason.TOO_LARGE),))
    assert judge(SUCCESS, known) == (success(NO_POLICY),)


@pytest.mark.parametrize("heard", [SUCCESS, EXPIRED])
def test_fetch_failures_never_touch_a_tlsa_session(heard: Session) -> None:
    dane = Known(mx_host=host(TlsaStatus.USABLE, *TLSA), dane_in_force=True)
    fetch = FetchFailure(FetchReason.HTTP_STATUS)
    expected = judge(heard, dane)
    assert {count.policy.policy_type for count in expected} == {PolicyType.TLSA}
    assert judge(heard, dane._replace(fetch_failure=fetch)) == expected
    assert judge(heard, dane._replace(policy=ENFORCE, refresh_failures=(fetch,))) == expected


# Overrides.


@pytest.mark.parametrize("kind", [OverrideKind.EXEMPT, OverrideKind.POLICY])
@pytest.mark.parametrize("heard", [SUCCESS, EXPIRED, PLAINTEXT, SKIPPED, SUCCESS._replace(policy_type=PolicyType.TLSA)])
def test_exempt_and_verbatim_overrides_are_not_reported(kind: OverrideKind, heard: Session) -> None:
    assert judge(heard, Known(policy=ENFORCE, override=override(kind))) == ()


def test_an_enforce_override_is_judged_as_sts() -> None:
    known = Known(policy=TESTING, override=override(OverrideKind.ENFORCE))
    assert judge(SUCCESS, known) == (success(STS_TESTING),)  # the policy-string stays as served
    assert judge(EXPIRED, known) == (failure(STS_TESTING, EXPIRED_DETAIL),)


def test_an_enforce_override_with_pinned_mx_claims_no_policy_that_was_not_served() -> None:
    known = Known(override=override(OverrideKind.ENFORCE, "mx.example.com"))
    assert judge(SUCCESS, known) == (success(AppliedPolicy(PolicyType.STS, DOMAIN, (), ("mx.example.com",))),)


def test_rfc8460_3_sessions_with_our_own_reports_are_not_counted() -> None:
    for heard in (SUCCESS, EXPIRED, PLAINTEXT, SUCCESS._replace(policy_type=PolicyType.TLSA)):
        assert judge(heard, Known(policy=ENFORCE, our_reports_own_session=True)) == ()
