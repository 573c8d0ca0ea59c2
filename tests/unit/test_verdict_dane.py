"""DANE: what a session under TLSA records counts as, and a bogus TLSA look-up (RFC 8460 §4.3.2.1)."""

from dataclasses import replace

import pytest

from stsguard.core.dane import TlsaStatus
from stsguard.core.errors import LookupReason, ResultType
from stsguard.core.overrides import OverrideKind
from stsguard.core.session import AppliedPolicy, FailureDetail, PolicyType, Seen, Session, Source
from stsguard.core.verdict import Known, judge
from stsguard.names import Domain
from tests.unit.verdicts import (
    BASE,
    DANE,
    DOMAIN,
    ENFORCE,
    EXPIRED,
    EXPIRED_DETAIL,
    MISMATCH,
    MX,
    NO_POLICY,
    NONE,
    NONE_USABLE,
    SKIPPED,
    STRANGER,
    STS,
    STS_TESTING,
    SUCCESS,
    TESTING,
    TLSA,
    TLSA_STRINGS,
    aside,
    detail,
    failure,
    host,
    override,
    session,
    success,
    twice,
)

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
