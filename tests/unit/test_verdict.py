"""What a session counts as: every rule of the verdict with its section, and none that claims what nobody saw."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from stsguard.core.dane import MxHost, TlsaRecord, TlsaStatus
from stsguard.core.errors import FetchReason, LookupReason, ResultType
from stsguard.core.mtasts import MxPattern, Policy, parse_policy
from stsguard.core.mxcheck import MxProbe
from stsguard.core.overrides import Override, OverrideKind
from stsguard.core.session import AppliedPolicy, Count, FailureDetail, PolicyType, Seen, Session, Source
from stsguard.core.verdict import MAX_REASON_LENGTH, FetchFailure, Known, judge
from stsguard.names import Domain

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DOMAIN, MX, STRANGER = Domain("example.com"), Domain("mx.example.com"), Domain("mx.example.net")
BASE = Domain("mx.hoster.test")
ADDRESS = "192.0.2.1"
TLSA = (TlsaRecord(3, 1, 1, b"\xfe" * 32), TlsaRecord(2, 0, 1, b"\x01" * 32))
TLSA_STRINGS = (f"2 0 1 {'01' * 32}", f"3 1 1 {'FE' * 32}")


def policy(mode: str = "enforce") -> Policy:
    return parse_policy(f"version: STSv1\nmode: {mode}\nmx: mx.example.com\nmx: *.example.org\nmax_age: 86400".encode())


ENFORCE, TESTING, NONE = policy(), policy("testing"), policy("none")
STRINGS = ENFORCE.policy_text
PATTERNS = ("mx.example.com", "*.example.org")
STS = AppliedPolicy(PolicyType.STS, DOMAIN, STRINGS, PATTERNS)
STS_TESTING = STS._replace(policy_strings=TESTING.policy_text)
STS_UNKNOWN = AppliedPolicy(PolicyType.STS, DOMAIN)
NO_POLICY = AppliedPolicy(PolicyType.NO_POLICY_FOUND, DOMAIN)
DANE = AppliedPolicy(PolicyType.TLSA, BASE, TLSA_STRINGS)


def session(seen: Seen = Seen.SUCCESS, result_type: ResultType | None = None, **changes: object) -> Session:
    whole = Session(
        at=AT,
        source=Source.LOG,
        instance="postfix",
        seen=seen,
        recipient_domain=DOMAIN,
        result_type=result_type,
        sending_mta_ip="198.51.100.9",
        receiving_mx_hostname=MX,
        receiving_mx_helo="mx.example.com",
        receiving_ip=ADDRESS,
    )
    return whole._replace(**changes)  # type: ignore[arg-type]  # the names and types are the tests' own


SUCCESS = session()
EXPIRED = session(Seen.FAILURE, ResultType.CERTIFICATE_EXPIRED, failure_reason_code="certificate_has_expired")
PLAINTEXT = session(Seen.PLAINTEXT)
SKIPPED = session(Seen.MX_NOT_PERMITTED, receiving_ip="", receiving_mx_helo="", sending_mta_ip="")


def probe(
    result_type: ResultType | None = None, reason: str = "", *, minutes: float = -10.0, **changes: object
) -> MxProbe:
    whole = MxProbe(
        mx_hostname=MX,
        address=ip_address(ADDRESS),
        at=AT + timedelta(minutes=minutes),
        tls=True,
        trusted=True,
        result_type=result_type,
        failure_reason_code=reason,
        inconclusive=False,
        dane_matched=None,
        certificate=None,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]  # the names and types are the tests' own


def host(status: TlsaStatus, *records: TlsaRecord, base: Domain | None = BASE) -> MxHost:
    return MxHost(MX, 10, status, (ip_address(ADDRESS),), records, base)


def override(kind: OverrideKind, *mx: str) -> Override:
    return Override("example.com", kind, mx_patterns=tuple(MxPattern.parse(text) for text in mx))


def detail(result_type: ResultType, reason: str = "", **changes: str) -> FailureDetail:
    whole = FailureDetail(
        result_type=result_type,
        sending_mta_ip="198.51.100.9",
        receiving_mx_hostname=MX,
        receiving_mx_helo="mx.example.com",
        receiving_ip=ADDRESS,
        failure_reason_code=reason,
    )
    return whole._replace(**changes)


def success(applied: AppliedPolicy) -> Count:
    return Count(DOMAIN, DOMAIN, applied, 1, failed=False)


def failure(applied: AppliedPolicy, *details: FailureDetail) -> Count:
    return Count(DOMAIN, DOMAIN, applied, 1, failed=True, details=details)


def aside(applied: AppliedPolicy, *details: FailureDetail) -> Count:
    return Count(DOMAIN, DOMAIN, applied, 0, failed=False, details=details)


def unverified(applied: AppliedPolicy) -> Count:
    return success(applied)._replace(unverified=True)


def twice(count: Count, base: Domain = BASE) -> tuple[Count, Count]:
    return count, count._replace(report_domain=base, for_mx_host=True)


EXPIRED_DETAIL = detail(ResultType.CERTIFICATE_EXPIRED, "certificate_has_expired")
PLAIN_DETAIL = detail(ResultType.STARTTLS_NOT_SUPPORTED)
MISMATCH = detail(ResultType.VALIDATION_FAILURE, "mx-mismatch")
NONE_USABLE = detail(ResultType.TLSA_INVALID, "all-TLSA-records-unusable")


def would_fail(result_type: ResultType, reason: str, minutes: float = -10.0) -> FailureDetail:
    at = AT + timedelta(minutes=minutes)
    when = f"would fail in enforce mode, verified by probe at {at:%Y-%m-%dT%H:%M:00Z}"
    return detail(result_type, f"{reason} ({when})" if reason else when)


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


# Testing mode: judged by our own verification of that MX host and address within an hour before or after.


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


# An MX host outside the policy.


@pytest.mark.parametrize(("known_policy", "applied"), [(ENFORCE, STS), (TESTING, STS_TESTING)])
def test_rfc8461_4_1_a_skipped_mx_is_a_failure_without_receiving_ip(
    known_policy: Policy, applied: AppliedPolicy
) -> None:
    heard = session(Seen.MX_NOT_PERMITTED, receiving_mx_hostname=STRANGER)
    expected = MISMATCH._replace(receiving_mx_hostname=STRANGER, receiving_ip="", receiving_mx_helo="")
    assert judge(heard, Known(policy=known_policy)) == (failure(applied, expected),)


def test_rfc8461_4_1_a_permitted_mx_left_out_for_its_certificate_is_reported_for_that() -> None:
    older = probe(ResultType.CERTIFICATE_EXPIRED, minutes=-90)
    newer = probe(ResultType.CERTIFICATE_HOST_MISMATCH, "no-subjectAltName-dNSName", minutes=-70)
    when = "not delivered to, verified by probe at 2026-03-01T10:50:00Z"
    expected = FailureDetail(
        ResultType.CERTIFICATE_HOST_MISMATCH,
        receiving_mx_hostname=MX,
        failure_reason_code=f"no-subjectAltName-dNSName ({when})",
    )
    for probes in ((older, newer), (newer, older)):
        assert judge(SKIPPED, Known(policy=ENFORCE, probes=probes)) == (failure(STS, expected),)


@pytest.mark.parametrize(
    ("heard", "known"),
    [
        (SKIPPED, Known(policy=ENFORCE)),  # it has TLSA and another has not, or it is newer than our reply
        (SKIPPED, Known(policy=ENFORCE, probes=(probe(), probe(inconclusive=True)))),
        (SKIPPED, Known()),
        (SKIPPED, Known(policy=NONE)),
        (SKIPPED, Known(fetch_failure=FetchFailure(FetchReason.HTTP_STATUS))),
        (SKIPPED._replace(receiving_mx_hostname=None), Known(policy=ENFORCE)),
        (SKIPPED._replace(policy_type=PolicyType.STS), Known()),
    ],
)
def test_an_mx_that_our_own_reply_left_out_is_no_fault_of_theirs(heard: Session, known: Known) -> None:
    assert judge(heard, known) == ()


@pytest.mark.parametrize(
    "heard",
    [
        session(Seen.FAILURE, ResultType.CERTIFICATE_HOST_MISMATCH),  # only our match= made its certificate wrong
        session(Seen.FAILURE, ResultType.CERTIFICATE_EXPIRED),
        session(Seen.FAILURE),  # a source that does not say how
        session(),  # its certificate has a permitted host's name as well
    ],
)
def test_rfc8461_4_1_an_mx_outside_the_policy_that_an_older_postfix_contacts_is_a_mismatch(heard: Session) -> None:
    stranger = heard._replace(receiving_mx_hostname=STRANGER)
    expected = MISMATCH._replace(receiving_mx_hostname=STRANGER)
    assert judge(stranger, Known(policy=ENFORCE, not_offered=True)) == (failure(STS, expected),)


def test_a_permitted_mx_that_our_reply_left_out_has_no_wrong_certificate_by_that() -> None:
    heard = session(Seen.FAILURE, ResultType.CERTIFICATE_HOST_MISMATCH)
    assert judge(heard, Known(policy=ENFORCE)) == (failure(STS, detail(ResultType.CERTIFICATE_HOST_MISMATCH)),)
    left_out = Known(policy=ENFORCE, not_offered=True)
    assert judge(heard, left_out) == ()  # the certificate is its own, and another host has TLSA
    assert judge(heard, left_out._replace(probes=(probe(),))) == ()
    found = left_out._replace(probes=(probe(ResultType.CERTIFICATE_HOST_MISMATCH, "no-subjectAltName-dNSName"),))
    when = "(not delivered to, verified by probe at 2026-03-01T11:50:00Z)"
    why = detail(ResultType.CERTIFICATE_HOST_MISMATCH, f"no-subjectAltName-dNSName {when}")
    assert judge(heard, found) == (failure(STS, why),)
    assert judge(EXPIRED, left_out) == (failure(STS, EXPIRED_DETAIL),)  # that is its own fault


@pytest.mark.parametrize("own", [None, ENFORCE, TESTING])
def test_mx_hosts_that_the_operator_pinned_are_no_policy_to_mismatch(own: Policy | None) -> None:
    pinned = Known(policy=own, override=override(OverrideKind.ENFORCE, "mx2.example.com"), not_offered=True)
    for heard in (SKIPPED, session(Seen.FAILURE, ResultType.CERTIFICATE_HOST_MISMATCH)):
        assert judge(heard, pinned) == ()
    skipped = SKIPPED._replace(receiving_mx_hostname=STRANGER)
    expected = MISMATCH._replace(
        receiving_mx_hostname=STRANGER, receiving_ip="", receiving_mx_helo="", sending_mta_ip=""
    )
    found = judge(skipped, pinned)
    assert [count.details for count in found] == ([(expected,)] if own else [])  # theirs refuses it as well


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


# DANE.

USABLE = Known(mx_host=host(TlsaStatus.USABLE, *TLSA), dane_in_force=True)
UNUSABLE = Known(mx_host=host(TlsaStatus.UNUSABLE), dane_in_force=True)
DANE_UNUSABLE = AppliedPolicy(PolicyType.TLSA, BASE)
BY_POSTFIX = session(policy_type=PolicyType.TLSA, policy_domain=BASE, policy_strings=TLSA_STRINGS[::-1])


@pytest.mark.parametrize(
    ("heard", "known"),
    [
        (SUCCESS, USABLE),  # a log does not say what was applied
        (SUCCESS, USABLE._replace(policy=ENFORCE)),  # DANE before MTA-STS
        (BY_POSTFIX, Known()),
        (BY_POSTFIX, Known(policy=ENFORCE)),
        (BY_POSTFIX._replace(policy_strings=(*TLSA_STRINGS, *TLSA_STRINGS)), Known()),
        (BY_POSTFIX._replace(policy_strings=(), policy_domain=None), USABLE),
    ],
)
def test_rfc8460_1_1_dane_counts_for_the_recipient_and_the_tlsa_base_domain(heard: Session, known: Known) -> None:
    assert judge(heard, known) == twice(success(DANE))


def test_dane_failures_are_as_postfix_said() -> None:
    heard = session(Seen.FAILURE, ResultType.CERTIFICATE_NOT_TRUSTED)
    assert judge(heard, USABLE) == twice(failure(DANE, detail(ResultType.CERTIFICATE_NOT_TRUSTED)))


def test_sending_mta_ip_is_there_only_when_known() -> None:
    heard = EXPIRED._replace(sending_mta_ip="")
    assert {count.details[0].sending_mta_ip for count in judge(heard, USABLE)} == {""}


def test_a_domain_that_is_its_own_mx_host_gets_one_count() -> None:
    heard = SUCCESS._replace(receiving_mx_hostname=DOMAIN)
    known = USABLE._replace(mx_host=replace(host(TlsaStatus.USABLE, *TLSA, base=DOMAIN), mx_hostname=DOMAIN))
    assert judge(heard, known) == (success(DANE._replace(policy_domain=DOMAIN)),)


@pytest.mark.parametrize(
    ("heard", "base"),
    [
        (BY_POSTFIX._replace(policy_domain=None), MX),
        (BY_POSTFIX._replace(policy_domain=None, receiving_mx_hostname=None), DOMAIN),
    ],
)
def test_without_a_tlsa_base_domain_the_mx_host_stands_for_it(heard: Session, base: Domain) -> None:
    assert {count.policy.policy_domain for count in judge(heard, Known())} == {base}


@pytest.mark.parametrize(
    "known",
    [
        USABLE._replace(dane_in_force=False),  # `secure`, or observe mode
        USABLE._replace(mx_host=None),
        USABLE._replace(mx_host=host(TlsaStatus.ABSENT, base=None)),
        USABLE._replace(mx_host=host(TlsaStatus.FAILED, base=None)),
    ],
)
def test_without_usable_tlsa_under_dane_it_is_no_dane_session(known: Known) -> None:
    assert judge(SUCCESS, known) == (success(NO_POLICY),)


@pytest.mark.parametrize("said", [PolicyType.STS, PolicyType.NO_POLICY_FOUND])
def test_usable_tlsa_that_postfix_did_not_use_is_no_dane_session(said: PolicyType) -> None:
    assert judge(SUCCESS._replace(policy_type=said), USABLE._replace(policy=TESTING))[0].policy == STS_TESTING


@pytest.mark.parametrize(
    ("heard", "details"),
    [
        (SUCCESS, (NONE_USABLE,)),
        (SUCCESS._replace(policy_type=PolicyType.NO_POLICY_FOUND), (NONE_USABLE,)),  # usages 0 and 1
        (
            session(Seen.FAILURE, ResultType.TLSA_INVALID, failure_reason_code="all-TLSA-records-unusable"),
            (NONE_USABLE,),
        ),
        (EXPIRED, (EXPIRED_DETAIL, NONE_USABLE)),
        (SUCCESS._replace(further_details=(NONE_USABLE,)), (NONE_USABLE,)),
    ],
)
def test_rfc8460_4_3_2_1_tlsa_without_a_usable_record_is_tlsa_invalid(
    heard: Session, details: tuple[FailureDetail, ...]
) -> None:
    assert judge(heard, UNUSABLE) == twice(failure(DANE_UNUSABLE, *details))


def test_tlsa_invalid_from_postfix_needs_no_evidence_of_ours() -> None:
    heard = session(Seen.FAILURE, ResultType.TLSA_INVALID)
    expected = failure(AppliedPolicy(PolicyType.TLSA, MX), detail(ResultType.TLSA_INVALID))
    assert judge(heard, Known()) == twice(expected, MX)


def test_unusable_tlsa_beside_an_enforced_policy_is_told_without_a_session() -> None:
    known = Known(policy=ENFORCE, mx_host=host(TlsaStatus.UNUSABLE))
    assert judge(SUCCESS, known) == (success(STS), *twice(aside(DANE_UNUSABLE, NONE_USABLE)))


NO_TLS_POLICY = session(Seen.NO_TLS_POLICY, receiving_ip="", receiving_mx_helo="", sending_mta_ip="")
BOGUS = replace(host(TlsaStatus.FAILED), tlsa_failure=LookupReason.BOGUS)
DNSSEC_INVALID = FailureDetail(ResultType.DNSSEC_INVALID, receiving_mx_hostname=MX)


@pytest.mark.parametrize(
    ("heard", "known"),
    [
        (NO_TLS_POLICY, Known(mx_host=BOGUS)),  # our reply was TEMP, or Postfix's own look-up has failed
        (NO_TLS_POLICY, Known(policy=ENFORCE, mx_host=BOGUS)),
        (NO_TLS_POLICY, Known(policy=NONE, mx_host=BOGUS, dane_in_force=True)),
        (NO_TLS_POLICY._replace(source=Source.OURSELVES), Known(policy=TESTING, mx_host=BOGUS)),
        (SKIPPED, Known(policy=ENFORCE, mx_host=BOGUS, not_offered=True)),  # our reply named other hosts
    ],
)
def test_rfc8460_4_3_2_1_a_bogus_tlsa_lookup_that_kept_the_mail_back_is_dnssec_invalid(
    heard: Session, known: Known
) -> None:
    assert judge(heard, known) == twice(failure(DANE_UNUSABLE, DNSSEC_INVALID))


def test_an_older_postfix_contacts_the_host_whose_tlsa_lookup_is_bogus() -> None:
    heard = session(Seen.FAILURE, ResultType.CERTIFICATE_HOST_MISMATCH)
    known = Known(policy=ENFORCE, mx_host=BOGUS, not_offered=True)
    expected = detail(ResultType.DNSSEC_INVALID)
    assert judge(heard, known) == twice(failure(DANE_UNUSABLE, expected))
    assert judge(EXPIRED, known) == (failure(STS, EXPIRED_DETAIL),)


@pytest.mark.parametrize(
    "known",
    [
        Known(),  # a daemon that was down
        Known(policy=ENFORCE, mx_host=host(TlsaStatus.ABSENT)),
        Known(mx_host=replace(BOGUS, tlsa_failure=LookupReason.SERVFAIL)),
        Known(mx_host=replace(BOGUS, tlsa_failure=LookupReason.TIMEOUT)),
        Known(mx_host=BOGUS, our_reports_own_session=True),
        Known(mx_host=BOGUS, override=override(OverrideKind.EXEMPT)),
    ],
)
def test_a_host_without_a_tls_policy_for_another_reason_is_not_reported(known: Known) -> None:
    assert judge(NO_TLS_POLICY, known) == ()


def test_rfc8461_4_1_a_host_outside_the_policy_is_a_mismatch_whatever_its_tlsa() -> None:
    stranger = replace(BOGUS, mx_hostname=STRANGER)
    heard = SKIPPED._replace(receiving_mx_hostname=STRANGER)
    expected = MISMATCH._replace(receiving_mx_hostname=STRANGER, receiving_ip="", receiving_mx_helo="")
    found = judge(heard, Known(policy=ENFORCE, mx_host=stranger, not_offered=True))
    assert found == (failure(STS, expected._replace(sending_mta_ip="")),)
    assert judge(heard, Known(mx_host=stranger)) == ()
