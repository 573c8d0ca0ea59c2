"""An MX host outside the policy, or one that our own reply left out: the verdict by RFC 8461 §4.1."""

import pytest

from stsguard.core.errors import FetchReason, ResultType
from stsguard.core.mtasts import Policy
from stsguard.core.overrides import OverrideKind
from stsguard.core.session import AppliedPolicy, FailureDetail, PolicyType, Seen, Session
from stsguard.core.verdict import FetchFailure, Known, judge
from tests.unit.verdicts import (
    ENFORCE,
    EXPIRED,
    EXPIRED_DETAIL,
    MISMATCH,
    MX,
    NONE,
    SKIPPED,
    STRANGER,
    STS,
    STS_TESTING,
    TESTING,
    detail,
    failure,
    override,
    probe,
    session,
)


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
