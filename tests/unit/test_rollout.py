"""What an operator may ask of a hosted domain, and what is refused (RFC 8461 §3.2, §3.3, §8.2, §8.3)."""

from dataclasses import replace

import pytest

from stsguard.core.errors import TransitionRefused
from stsguard.core.hosted import HostedDomain, Stage
from stsguard.core.mtasts import MAX_MAX_AGE, Mode
from stsguard.core.readiness import ItemState, Readiness, ReadinessItem
from stsguard.core.rollout import LivePolicy, adopt, back_to_testing, edit_mx, enforce, is_served, leave_target, retire
from stsguard.core.rollout_evidence import record_gone, served
from stsguard.core.rollout_plan import DnsMx
from stsguard.names import Domain
from tests.unit.lives import DAY, DOMAIN, HOUR, MX, NOW, SECOND, added, live, patterns

READY = Readiness(())
NOT_READY = Readiness((ReadinessItem("record", ItemState.FAILED, "the record is missing"),))
WEEK = 604_800
ALIAS = Domain("example.org")


def enforcing(domain: HostedDomain | None = None) -> HostedDomain:
    return enforce(domain or added(), READY, NOW + 20 * DAY, first_max_age=WEEK)[0]


# --- add


def test_a_new_domain_starts_in_testing_with_max_age_of_a_day() -> None:
    domain, event = adopt(DOMAIN, LivePolicy(), NOW, mx_patterns=MX)
    version = domain.current
    assert (domain.stage, domain.stage_since, domain.added_at, domain.revision) == (Stage.TESTING, NOW, NOW, 0)
    assert (version.number, version.mode, version.max_age, version.mx_patterns) == (1, Mode.TESTING, 86_400, MX)
    assert version.record_id == "20260301T120001Z"
    assert (event.what, event.detail) == ("added", "no policy is in force, so it starts testing")


@pytest.mark.parametrize("mode", ["enforce", "testing"])
def test_taking_over_weakens_nothing(mode: str) -> None:
    domain, event = adopt(DOMAIN, live(mode, MAX_MAX_AGE, record_id="4711", record_ttl=600), NOW)
    assert domain.stage.value == mode
    (version,) = domain.versions
    assert (version.number, version.mode, version.max_age, version.record_id) == (0, mode, MAX_MAX_AGE, "4711")
    assert (version.mx_patterns, version.published_at, version.record_ttl) == (patterns("mx1.example.com"), NOW, 600)
    assert event.detail == f"took over mode {mode}, id 4711"


def test_a_live_policy_without_a_record_gets_an_id_of_ours_that_is_not_published() -> None:
    domain = added(found=live("enforce"))
    assert domain.stage is Stage.ENFORCE
    assert (domain.current.record_id, domain.current.published_at) == ("20260301T120001Z", None)


def test_rfc8461_8_3_a_live_none_is_no_policy_in_force_but_is_remembered() -> None:
    found = live("none", mx=(), record_id="20300101T000000Z")
    domain = adopt(DOMAIN, found, NOW, mx_patterns=MX)[0]
    assert [(version.number, version.mode) for version in domain.versions] == [(0, Mode.NONE), (1, Mode.TESTING)]
    assert domain.stage is Stage.TESTING
    assert domain.current.record_id == "20300101T000001Z"


def test_a_record_without_a_policy_gives_a_greater_id() -> None:
    domain = adopt(DOMAIN, LivePolicy(record_id="x"), NOW, mx_patterns=MX)[0]
    assert domain.current.record_id == "x20260301T120001Z"


def test_the_same_mx_may_be_named_when_a_policy_is_taken_over() -> None:
    mx = patterns("mx1.example.com")
    assert adopt(DOMAIN, live("enforce"), NOW, mx_patterns=mx)[0].current.mx_patterns == mx
    with pytest.raises(TransitionRefused, match="add it without --mx"):
        adopt(DOMAIN, live("enforce"), NOW, mx_patterns=MX)


def test_rfc8461_3_2_a_policy_needs_an_mx() -> None:
    with pytest.raises(TransitionRefused, match="at least one mx"):
        adopt(DOMAIN, LivePolicy(), NOW)
    with pytest.raises(TransitionRefused, match="at least one mx"):
        edit_mx(added(), (), DnsMx(), NOW)


def test_a_retired_domain_can_be_added_again() -> None:
    retired = replace(retire(added(), NOW)[0], stage=Stage.RETIRED, revision=7)
    domain = adopt(DOMAIN, LivePolicy(), NOW + DAY, mx_patterns=MX, retired=retired)[0]
    assert (domain.stage, domain.stage_since, domain.added_at, domain.revision) == (Stage.TESTING, NOW + DAY, NOW, 7)
    assert [version.number for version in domain.versions] == [1, 2, 3]
    taken = adopt(DOMAIN, live("enforce", record_id="1"), NOW + DAY, retired=retired)[0]
    assert (taken.stage, taken.current.number, taken.current.record_id) == (Stage.ENFORCE, 3, "1")
    with pytest.raises(TransitionRefused, match="it is hosted already"):
        adopt(DOMAIN, LivePolicy(), NOW, mx_patterns=MX, retired=domain)


def test_an_alias_starts_in_testing_with_the_mx_of_its_target() -> None:
    domain, event = adopt(ALIAS, LivePolicy(), NOW, target=enforcing())
    assert (domain.alias_of, domain.stage, domain.current.mx_patterns) == (DOMAIN, Stage.TESTING, MX)
    assert event.detail.endswith("; follows example.com")


def test_an_alias_is_not_weakened_by_its_target() -> None:
    found = live("enforce", record_id="1")
    with pytest.raises(TransitionRefused, match="following it would weaken it"):
        adopt(ALIAS, found, NOW, target=added())
    assert adopt(ALIAS, found, NOW, target=enforcing())[0].stage is Stage.ENFORCE


def test_the_target_of_an_alias_follows_nobody_and_stays() -> None:
    alias = adopt(ALIAS, LivePolicy(), NOW, target=added())[0]
    with pytest.raises(TransitionRefused, match=r"which follows example\.com"):
        adopt(Domain("example.net"), LivePolicy(), NOW, target=alias)
    with pytest.raises(TransitionRefused, match="which is retiring"):
        adopt(ALIAS, LivePolicy(), NOW, target=retire(added(), NOW)[0])


# --- mode


def test_enforce_wants_readiness() -> None:
    with pytest.raises(TransitionRefused, match=r"not ready to enforce: the record is missing\. It stays in testing"):
        enforce(added(), NOT_READY, NOW + DAY, first_max_age=WEEK)
    domain, event = enforce(added(), READY, NOW + DAY, first_max_age=WEEK)
    assert (domain.stage, domain.stage_since) == (Stage.ENFORCE, NOW + DAY)
    assert (domain.current.number, domain.current.mode, domain.current.max_age) == (2, Mode.ENFORCE, WEEK)
    assert (event.what, event.detail, domain.current.reason) == ("enforce", "enforce", "enforce")


def test_enforce_by_force_is_recorded_with_what_was_missing() -> None:
    domain, event = enforce(added(), NOT_READY, NOW, first_max_age=WEEK, forced="the board\n wants it")
    assert domain.current.reason == event.detail == "enforce without record (forced: the board wants it)"


def test_enforce_comes_after_testing_only() -> None:
    with pytest.raises(TransitionRefused, match="is enforce, so 'enforce' is not possible"):
        enforce(enforcing(), READY, NOW, first_max_age=WEEK)
    with pytest.raises(TransitionRefused, match="`domain mode testing` begins that"):
        enforce(retire(enforcing(), NOW)[0], READY, NOW, first_max_age=WEEK)


def test_rfc8461_3_2_max_age_is_bounded() -> None:
    assert enforce(added(), READY, NOW, first_max_age=10**9)[0].current.max_age == MAX_MAX_AGE


def test_back_to_testing_is_always_possible_from_enforce() -> None:
    for now in (NOW, NOW - 400 * DAY, NOW + 400 * DAY):
        domain, event = back_to_testing(enforcing(), now, dns_ids=["99990101T000000Z"])
        assert (domain.stage, domain.current.mode, domain.current.mx_patterns) == (Stage.TESTING, Mode.TESTING, MX)
        assert domain.current.record_id == "99990101T000001Z"
        assert domain.current.created_at >= NOW + 20 * DAY
        assert event.detail == "testing, from enforce"


def test_an_alias_back_to_testing_leaves_its_target() -> None:
    alias = adopt(ALIAS, live("enforce", record_id="1"), NOW, target=enforcing())[0]
    domain, event = back_to_testing(alias, NOW)
    assert domain.alias_of is None
    assert event.detail == "testing, from enforce; no longer follows example.com"


def test_an_alias_in_testing_leaves_its_target_and_serves_what_it_did() -> None:
    alias = adopt(ALIAS, LivePolicy(), NOW, target=added())[0]
    domain, event = leave_target(alias, NOW - DAY)
    assert domain == replace(alias, alias_of=None)
    assert (event.at, event.detail) == (NOW, "no longer follows example.com")
    with pytest.raises(TransitionRefused, match="no alias that tests"):
        leave_target(domain, NOW)


def test_a_change_of_mind_brings_a_retiring_domain_back() -> None:
    retiring = retire(enforcing(), NOW + 21 * DAY)[0]
    gone = record_gone(retiring, NOW + 60 * DAY)[0]
    domain = back_to_testing(gone, NOW + 61 * DAY)[0]
    assert (domain.stage, domain.current.mx_patterns, domain.record_gone_at) == (Stage.TESTING, MX, None)


def test_testing_is_refused_where_it_is_or_nothing_is() -> None:
    with pytest.raises(TransitionRefused, match="is testing"):
        back_to_testing(added(), NOW)
    with pytest.raises(TransitionRefused, match="a retired domain is added anew"):
        back_to_testing(replace(enforcing(), stage=Stage.RETIRED), NOW)


# --- edit


def test_edit_makes_a_version_with_the_mode_and_max_age_that_are() -> None:
    domain, event = edit_mx(enforcing(), (*MX, *patterns("mx3.example.com")), DnsMx(), NOW + 30 * DAY)
    assert (domain.stage, domain.current.mode, domain.current.max_age) == (Stage.ENFORCE, Mode.ENFORCE, WEEK)
    assert domain.stage_since == NOW + 20 * DAY
    assert event.detail == "mx +mx3.example.com"


def test_edit_refuses_what_would_bounce_unless_forced() -> None:
    dns_mx = DnsMx(hosts=(Domain("mx1.example.com"),), ttl=3600)
    with pytest.raises(TransitionRefused, match="is in DNS MX and would no longer be permitted"):
        edit_mx(enforcing(), patterns("*.example.net"), dns_mx, NOW)
    domain = edit_mx(enforcing(), patterns("*.example.net"), dns_mx, NOW, forced="moved")[0]
    assert domain.current.reason == "mx -mx1.example.com (forced: moved)"


def test_edit_refuses_no_change_and_aliases_and_those_on_their_way_out() -> None:
    with pytest.raises(TransitionRefused, match="these are the mx that it has"):
        edit_mx(added(), MX[::-1], DnsMx(), NOW)
    with pytest.raises(TransitionRefused, match=r"follows example\.com: change that domain"):
        edit_mx(adopt(ALIAS, LivePolicy(), NOW, target=added())[0], MX[:1], DnsMx(), NOW)
    with pytest.raises(TransitionRefused, match="bring it back"):
        edit_mx(retire(added(), NOW)[0], MX[:1], DnsMx(), NOW)


# --- retire


def test_rfc8461_8_3_retire_serves_none_with_a_small_max_age() -> None:
    domain, event = retire(enforcing(), NOW + 30 * DAY)
    assert (domain.stage, domain.stage_since) == (Stage.RETIRING, NOW + 30 * DAY)
    assert (domain.current.mode, domain.current.max_age, domain.current.mx_patterns) == (Mode.NONE, 86_400, ())
    assert (event.what, event.detail) == ("retiring", "retire, from enforce")


def test_retire_is_refused_twice_and_while_others_follow() -> None:
    with pytest.raises(TransitionRefused, match="on its way out already"):
        retire(retire(added(), NOW)[0], NOW)
    with pytest.raises(TransitionRefused, match=r"example\.org follows it; .*domain mode example\.org testing"):
        retire(added(), NOW, aliases=[ALIAS])
    with pytest.raises(TransitionRefused, match=r"example\.org, example\.net follow it; .*mode DOMAIN testing"):
        retire(added(), NOW, aliases=[ALIAS, Domain("example.net")])


def test_an_alias_that_retires_no_longer_follows() -> None:
    domain, event = retire(adopt(ALIAS, LivePolicy(), NOW, target=added())[0], NOW)
    assert (domain.alias_of, event.detail) == (None, "retire, from testing; no longer follows example.com")


def test_rfc8461_8_3_served_in_every_stage_but_the_last() -> None:
    for domain in (added(), enforcing(), retire(added(), NOW)[0]):
        assert is_served(domain, NOW + 1000 * DAY)
    assert not is_served(replace(added(), stage=Stage.RETIRED), NOW)


def test_what_an_operator_does_is_never_noted_before_what_was_noted() -> None:
    domain = served(added(), 1, NOW + HOUR)[0]
    changed, event = retire(domain, NOW - DAY)
    assert changed.current.created_at == event.at == NOW + HOUR
    assert changed.current.record_id == "20260301T130001Z"
    assert (NOW + HOUR + SECOND).strftime("%Y%m%dT%H%M%SZ") == changed.current.record_id
