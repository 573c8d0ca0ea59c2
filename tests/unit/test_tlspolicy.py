"""The decision table, a test for each row and each sentence below it."""

from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.dane import MxEvidence, MxHost, MxLookupFailure, TlsaStatus
from stsguard.core.errors import LookupReason
from stsguard.core.mtasts import Mode, MxPattern, Policy, parse_policy
from stsguard.core.mxcheck import CertificateFacts, MxVerdict
from stsguard.core.overrides import Override, OverrideKind
from stsguard.core.tlspolicy import NO_PERMITTED_HOST, Decision, Reply, Row, StsState, StsStatus, decide
from stsguard.names import Domain

AT = datetime(2026, 11, 1, tzinfo=UTC)
U, N, A, F, X = TlsaStatus.USABLE, TlsaStatus.UNUSABLE, TlsaStatus.ABSENT, TlsaStatus.FAILED, TlsaStatus.UNREACHABLE


def evidence(*hosts: tuple[str, int, TlsaStatus], secure: bool = True) -> MxEvidence:
    made = (MxHost(Domain(name), preference, status) for name, preference, status in hosts)
    return MxEvidence(tuple(made), secure, 300)


def policy(mode: Mode, *patterns: str) -> Policy:
    lines = [f"mx: {pattern}" for pattern in patterns or ("*.example.com",)]
    return parse_policy("\n".join(["version: STSv1", f"mode: {mode}", *lines, "max_age: 86400"]).encode())


def in_force(mode: Mode, *patterns: str) -> StsState:
    return StsState(StsStatus.IN_FORCE, policy(mode, *patterns))


ENFORCE = in_force(Mode.ENFORCE)
NOT_ENFORCE = [
    in_force(Mode.TESTING),
    in_force(Mode.NONE),
    StsState(StsStatus.ABSENT),
    StsState(StsStatus.UNAVAILABLE),
    StsState(StsStatus.PENDING),
]
ONE, TWO, THREE = "mx1.example.com", "mx2.example.com", "mx3.example.com"


def outcome(decision: Decision) -> tuple[Reply, Row]:
    return decision.reply, decision.row


TABLE = [
    # RFC 7672 §2.2, RFC 8461 §2: DANE first where it holds for every host
    ([(ONE, 10, U)], True, Reply.DANE_ONLY, Row.ALL_USABLE_ENFORCE, Reply.DANE, Row.USABLE_NOT_ENFORCE),
    ([(ONE, 10, U), (TWO, 20, U)], True, Reply.DANE_ONLY, Row.ALL_USABLE_ENFORCE, Reply.DANE, Row.USABLE_NOT_ENFORCE),
    # §2.2.1: some, among them the best preference
    ([(ONE, 10, U), (TWO, 20, A)], True, Reply.DANE_ONLY, Row.BEST_USABLE_ENFORCE, Reply.DANE, Row.USABLE_NOT_ENFORCE),
    ([(ONE, 10, A), (TWO, 10, U)], True, Reply.DANE_ONLY, Row.BEST_USABLE_ENFORCE, Reply.DANE, Row.USABLE_NOT_ENFORCE),
    # some, the best preference not
    ([(ONE, 10, A), (TWO, 20, U)], True, Reply.SECURE, Row.BEST_NOT_USABLE_ENFORCE, Reply.DANE, Row.USABLE_NOT_ENFORCE),
    ([(ONE, 10, N), (TWO, 20, U)], True, Reply.SECURE, Row.BEST_NOT_USABLE_ENFORCE, Reply.DANE, Row.USABLE_NOT_ENFORCE),
    # §2.2: secure TLSA, none usable
    ([(ONE, 10, N)], True, Reply.SECURE, Row.UNUSABLE_ENFORCE, Reply.DANE, Row.UNUSABLE_NOT_ENFORCE),
    ([(ONE, 10, A), (TWO, 20, N)], True, Reply.SECURE, Row.UNUSABLE_ENFORCE, Reply.DANE, Row.UNUSABLE_NOT_ENFORCE),
    # §2.2.1: MX RRset insecure
    ([(ONE, 10, U)], False, Reply.SECURE, Row.MX_INSECURE_ENFORCE, Reply.DANE, Row.MX_INSECURE_NOT_ENFORCE),
    ([(ONE, 10, N)], False, Reply.SECURE, Row.MX_INSECURE_ENFORCE, Reply.DANE, Row.MX_INSECURE_NOT_ENFORCE),
    # RFC 8461 §5: no TLSA anywhere
    ([(ONE, 10, A)], True, Reply.SECURE, Row.NO_TLSA_ENFORCE, Reply.NOTFOUND, Row.NO_TLSA_NOT_ENFORCE),
    ([(ONE, 10, A)], False, Reply.SECURE, Row.NO_TLSA_ENFORCE, Reply.NOTFOUND, Row.NO_TLSA_NOT_ENFORCE),
]


@pytest.mark.parametrize(
    ("hosts", "secure", "enforced", "otherwise"), [(row[0], row[1], row[2:4], row[4:]) for row in TABLE]
)
def test_rows_of_the_table(
    hosts: list[tuple[str, int, TlsaStatus]], secure: bool, enforced: tuple[Reply, Row], otherwise: tuple[Reply, Row]
) -> None:
    mx = evidence(*hosts, secure=secure)
    assert outcome(decide(mx, ENFORCE)) == enforced
    for state in NOT_ENFORCE:
        assert outcome(decide(mx, state)) == otherwise


@pytest.mark.parametrize("state", [ENFORCE, *NOT_ENFORCE])
def test_rfc7672_2_1_2_failed_mx_lookup_waits_whatever_the_policy(state: StsState) -> None:
    decision = decide(MxLookupFailure(LookupReason.BOGUS, "example.com MX: bogus"), state)
    assert outcome(decision) == (Reply.TEMP, Row.MX_LOOKUP_FAILED)
    assert decision.delivers_nothing


@pytest.mark.parametrize(
    ("mx", "reason"),
    [
        (evidence((ONE, 10, F), (TWO, 20, F)), "look-ups of all MX hosts failed"),
        (evidence((ONE, 10, X)), "no MX host has an address"),
        (evidence((ONE, 10, X), (TWO, 10, F)), "look-ups of all MX hosts failed"),
        (MxEvidence((), secure=True, ttl=60, null_mx=True), "RFC 7505"),
    ],
)
@pytest.mark.parametrize("state", [ENFORCE, *NOT_ENFORCE])
def test_no_mx_left_waits(mx: MxEvidence, reason: str, state: StsState) -> None:
    decision = decide(mx, state)
    assert outcome(decision) == (Reply.TEMP, Row.NO_MX_LEFT)
    assert reason in decision.reason


def test_rfc7672_2_1_2_a_failed_host_is_taken_out_alone() -> None:
    """Left to Postfix under dane*, left out of match= under secure."""
    assert decide(evidence((ONE, 10, U), (TWO, 20, F)), ENFORCE).reply is Reply.DANE_ONLY
    assert decide(evidence((ONE, 10, U), (TWO, 20, F)), NOT_ENFORCE[0]).reply is Reply.DANE
    assert decide(evidence((ONE, 10, A), (TWO, 20, F)), ENFORCE).match_names == (ONE,)
    assert decide(evidence((ONE, 10, A), (TWO, 20, F)), NOT_ENFORCE[2]).reply is Reply.NOTFOUND
    # the best preference is the best of those that are left
    assert decide(evidence((ONE, 10, F), (TWO, 20, U), (THREE, 30, A)), ENFORCE).reply is Reply.DANE_ONLY


def test_rfc8461_3_3_a_store_that_cant_be_read_never_hides_a_policy() -> None:
    state = StsState(StsStatus.STORE_UNREADABLE)
    for status in (U, N, A):
        assert outcome(decide(evidence((ONE, 10, status)), state)) == (Reply.TEMP, Row.STORE_UNREADABLE)


def test_rfc8461_4_1_secure_names_exactly_the_permitted_mx_hosts() -> None:
    mx = evidence((ONE, 10, A), ("a.b.example.com", 10, A), ("mx.foreign.test", 20, A), (TWO, 30, A))
    decision = decide(mx, ENFORCE)
    assert decision.match_names == decision.mx_host_patterns == (ONE, TWO)
    assert decision.policy == ENFORCE.policy
    assert decision.left_out == ()


def test_none_permitted_delivers_nothing() -> None:
    decision = decide(evidence(("mx.foreign.test", 10, A)), ENFORCE)
    assert decision.match_names == decision.mx_host_patterns == (NO_PERMITTED_HOST,)
    assert decision.delivers_nothing
    assert decision.reason == "no MX host is permitted by the policy"


def test_secure_beside_dane_is_limited_to_hosts_without_usable_tlsa() -> None:
    mx = evidence((ONE, 10, A), (TWO, 20, U), (THREE, 30, N))
    assert decide(mx, ENFORCE).match_names == (ONE, THREE)
    mx = evidence(("mx.foreign.test", 10, A), (TWO, 20, U))
    assert decide(mx, ENFORCE).match_names == (NO_PERMITTED_HOST,)


@pytest.mark.parametrize("port", [587, 2525])
def test_at_another_port_never_dane_only(port: int) -> None:
    assert decide(evidence((ONE, 10, U)), ENFORCE, port=port).reply is Reply.DANE
    partly = decide(evidence((ONE, 10, U), (TWO, 20, A)), ENFORCE, port=port)
    assert (partly.reply, partly.match_names) == (Reply.SECURE, (TWO,))


def test_where_postfix_cant_do_dane_no_host_has_tlsa() -> None:
    mx = evidence((ONE, 10, U), (TWO, 20, N))
    assert outcome(decide(mx, ENFORCE, postfix_can_dane=False)) == (Reply.SECURE, Row.NO_TLSA_ENFORCE)
    assert decide(mx, NOT_ENFORCE[0], postfix_can_dane=False).reply is Reply.NOTFOUND
    # a host whose addresses can't be had stays out all the same, one whose TLSA records can't does not
    assert decide(evidence((ONE, 10, F)), ENFORCE, postfix_can_dane=False).reply is Reply.TEMP
    assert decide(evidence((ONE, 10, X)), ENFORCE, postfix_can_dane=False).reply is Reply.TEMP
    host = MxHost(Domain(ONE), 10, F, tlsa_failure=LookupReason.BOGUS)
    no_tlsa = MxEvidence((host,), secure=True, ttl=60)
    assert decide(no_tlsa, ENFORCE, postfix_can_dane=False).match_names == (ONE,)
    assert decide(no_tlsa, ENFORCE).reply is Reply.TEMP


def verdict(name: str, *dns_names: str, common_name: str | None = None, confirmed: bool = True) -> MxVerdict:
    facts = CertificateFacts("", "", common_name, dns_names, AT, AT, "00")
    good = name in dns_names
    shown = (facts,) if good or confirmed else ()
    return MxVerdict(Domain(name), good, trusted=True, confirmed=good or confirmed, at=AT, certificates=shown)


def test_rfc8461_4_2_an_mx_with_a_cn_and_no_san_is_left_out() -> None:
    """Postfix falls back to the CN (facts-lab 1.9)."""
    verdicts = {Domain(ONE): verdict(ONE, common_name=ONE), Domain(TWO): verdict(TWO, TWO)}
    decision = decide(evidence((ONE, 10, A), (TWO, 20, A)), ENFORCE, verdicts=verdicts)
    assert decision.match_names == decision.mx_host_patterns == (TWO,)
    assert decision.left_out == (ONE,)


def test_an_mx_with_a_certificate_for_another_permitted_host_is_left_out() -> None:
    """Before 3.10.5 it would pass by the other's name, so that name is not offered either (facts-lab 1.18)."""
    verdicts = {Domain(ONE): verdict(ONE, TWO), Domain(TWO): verdict(TWO, TWO)}
    decision = decide(evidence((ONE, 10, A), (TWO, 20, A)), ENFORCE, verdicts=verdicts)
    assert decision.match_names == (NO_PERMITTED_HOST,)
    assert decision.mx_host_patterns == (TWO,)
    assert decision.left_out == (ONE, TWO)


def test_an_mx_not_permitted_but_with_a_permitted_hosts_certificate_gets_nothing() -> None:
    stranger = "mx.foreign.test"
    verdicts = {Domain(stranger): verdict(stranger, ONE)}
    decision = decide(evidence((ONE, 10, A), (stranger, 5, A)), ENFORCE, verdicts=verdicts)
    assert decision.match_names == (NO_PERMITTED_HOST,)
    assert decision.mx_host_patterns == (ONE,)


def test_an_unconfirmed_finding_leaves_nothing_out() -> None:
    verdicts = {Domain(ONE): verdict(ONE, common_name=ONE, confirmed=False)}
    assert decide(evidence((ONE, 10, A)), ENFORCE, verdicts=verdicts).match_names == (ONE,)


def test_verdicts_never_touch_dane() -> None:
    verdicts = {Domain(ONE): verdict(ONE, common_name=ONE)}
    assert decide(evidence((ONE, 10, U)), ENFORCE, verdicts=verdicts).reply is Reply.DANE_ONLY


def override(kind: OverrideKind, *mx: str, text: str = "") -> Override:
    return Override("example.com", kind, text, tuple(MxPattern.parse(name) for name in mx))


def test_override_policy_and_exempt_hold_whatever_is_found() -> None:
    verbatim = override(OverrideKind.POLICY, text="may")
    for mx in (MxLookupFailure(LookupReason.TIMEOUT, ""), evidence((ONE, 10, U))):
        assert decide(mx, ENFORCE, override=verbatim).verbatim == "may"
        assert decide(mx, ENFORCE, override=override(OverrideKind.EXEMPT)).reply is Reply.NOTFOUND


def test_override_enforce_enforces_a_testing_policy() -> None:
    enforce = override(OverrideKind.ENFORCE)
    decision = decide(evidence((ONE, 10, A)), in_force(Mode.TESTING), override=enforce)
    assert (decision.reply, decision.match_names) == (Reply.SECURE, (ONE,))
    assert decide(evidence((ONE, 10, U)), in_force(Mode.TESTING), override=enforce).reply is Reply.DANE_ONLY


def test_override_with_pinned_mx_replaces_the_patterns() -> None:
    pinned = override(OverrideKind.ENFORCE, "mx.partner.test")
    mx = evidence(("mx.partner.test", 10, A), (ONE, 20, A))
    for state in (ENFORCE, *NOT_ENFORCE, StsState(StsStatus.STORE_UNREADABLE)):
        decision = decide(mx, state, override=pinned)
        assert decision.match_names == ("mx.partner.test",)
        assert decision.policy is not None
        assert decision.policy.policy_text


@pytest.mark.parametrize("state", [in_force(Mode.NONE, ONE), StsState(StsStatus.ABSENT), StsState(StsStatus.PENDING)])
def test_override_enforce_without_a_policy_takes_dane_or_waits(state: StsState) -> None:
    enforce = override(OverrideKind.ENFORCE)
    if state.policy is None:
        waits = decide(evidence((ONE, 10, A)), state, override=enforce)
        assert outcome(waits) == (Reply.TEMP, Row.OVERRIDE_NOTHING_TO_ENFORCE)
        assert decide(evidence((ONE, 10, U), (TWO, 10, A)), state, override=enforce).reply is Reply.TEMP
        assert decide(evidence((ONE, 10, U), secure=False), state, override=enforce).reply is Reply.TEMP
        assert decide(evidence((ONE, 10, U)), state, override=enforce).reply is Reply.DANE_ONLY
    else:
        assert decide(evidence((ONE, 10, A)), state, override=enforce).reply is Reply.SECURE


def test_override_enforce_with_a_policy_that_names_no_mx_waits() -> None:
    empty = StsState(StsStatus.IN_FORCE, parse_policy(b"version: STSv1\nmode: none\nmax_age: 60\n"))
    assert decide(evidence((ONE, 10, A)), empty, override=override(OverrideKind.ENFORCE)).reply is Reply.TEMP


STATUSES = st.sampled_from(TlsaStatus)
HOSTS = st.lists(st.tuples(st.sampled_from([ONE, TWO, "mx.foreign.test"]), st.integers(0, 2), STATUSES), max_size=4)


@given(HOSTS, st.booleans(), st.booleans(), st.sampled_from([25, 587]))
def test_an_enforce_policy_is_never_answered_with_less(
    hosts: list[tuple[str, int, TlsaStatus]], secure: bool, can_dane: bool, port: int
) -> None:
    """Whatever the DNS says, a domain with an enforce policy gets TEMP, dane-only, secure, or dane where every host
    that is left has usable TLSA (RFC 8461 §5, RFC 7672 §2.2)."""
    decision = decide(evidence(*hosts, secure=secure), ENFORCE, port=port, postfix_can_dane=can_dane)
    assert decision.reply in (Reply.TEMP, Reply.DANE_ONLY, Reply.SECURE, Reply.DANE)
    left = [status for _, _, status in hosts if status not in (F, X)]
    if decision.reply is Reply.DANE:
        assert port != 25
        assert left
        assert all(status is U for status in left)
    if decision.reply is Reply.SECURE:
        assert decision.match_names
        assert decision.mx_host_patterns
        assert "mx.foreign.test" not in decision.match_names
        if secure and can_dane:
            with_dane = {name for name, _, status in hosts if status is U}
            without = {name for name, _, status in hosts if status in (N, A)}
            assert not set(decision.match_names) & (with_dane - without)


@given(HOSTS, st.booleans())
def test_secure_tlsa_is_never_answered_with_notfound(hosts: list[tuple[str, int, TlsaStatus]], secure: bool) -> None:
    decision = decide(evidence(*hosts, secure=secure), StsState(StsStatus.ABSENT))
    if any(status in (U, N) for _, _, status in hosts):
        assert decision.reply in (Reply.DANE, Reply.DANE_ONLY)


def test_hosts_keep_what_else_is_known_of_them() -> None:
    host = MxHost(Domain(ONE), 10, A, (IPv4Address("192.0.2.1"),))
    assert decide(MxEvidence((host, host), secure=False, ttl=1), ENFORCE).match_names == (ONE,)
