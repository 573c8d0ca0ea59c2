"""What is seen of a hosted domain, and what follows from time (RFC 8461 §3.2, §8.2, §8.3)."""

from dataclasses import replace

import pytest

from stsguard.core.errors import TransitionRefused
from stsguard.core.hosted import HostedDomain, Stage
from stsguard.core.mtasts import Mode
from stsguard.core.readiness import ItemState, Readiness, ReadinessItem
from stsguard.core.rollout import LivePolicy, adopt, back_to_testing, enforce, retire
from stsguard.core.rollout_evidence import (
    ahead_until,
    follow,
    grow,
    held_until,
    not_served,
    published,
    quiet,
    reachable,
    record_back,
    record_gone,
    record_ttl_seen,
    restamp,
    served,
    stop_at,
    stop_serving,
)
from stsguard.names import Domain
from tests.unit.lives import DAY, DOMAIN, HOUR, MINUTE, NOW, SECOND, added, live

READY = Readiness(())
NOT_READY = Readiness((ReadinessItem("mx-verified", ItemState.FAILED, "mx1 fails"),))
WEEK = 604_800
ALIAS = Domain("example.org")


def out(domain: HostedDomain, at: HostedDomain | None = None) -> HostedDomain:
    """`domain` with its current version served and published at its creation."""
    number, now = domain.current.number, domain.current.created_at
    return published(served(domain, number, now)[0], number, 300, now)[0]


def enforcing(max_age: int = WEEK) -> HostedDomain:
    return out(enforce(out(added()), READY, NOW + 20 * DAY, first_max_age=max_age)[0])


def retiring() -> HostedDomain:
    """Retired at day 30, its `none` served and published then."""
    return out(retire(enforcing(), NOW + 30 * DAY)[0])


def test_rfc8461_8_2_an_id_is_published_only_once_its_policy_is_served() -> None:
    with pytest.raises(TransitionRefused, match="is not served everywhere yet"):
        published(added(), 1, 300, NOW)
    domain, event = published(served(added(), 1, NOW + HOUR)[0], 1, 300, NOW + 2 * HOUR)
    assert (domain.current.served_at, domain.current.published_at) == (NOW + HOUR, NOW + 2 * HOUR)
    assert domain.current.record_ttl == 300
    assert (event.what, event.detail) == ("published", "version 1, id 20260301T120001Z")


def test_a_stage_begins_for_senders_when_its_first_version_is_published() -> None:
    domain = served(added(), 1, NOW + HOUR)[0]
    domain = published(domain, 1, 300, NOW + 3 * HOUR)[0]
    assert domain.stage_since == NOW + 3 * HOUR
    assert published(domain, 1, 600, NOW + 4 * HOUR)[0].current.published_at == NOW + 3 * HOUR
    later = out(grow(enforcing(), NOW + 60 * DAY, max_age_cap=10**7)[0])
    assert later.stage_since == NOW + 20 * DAY


def test_evidence_of_an_older_version_is_refused() -> None:
    domain = retire(added(), NOW)[0]
    for note in (
        lambda: served(domain, 1, NOW),
        lambda: published(domain, 1, 300, NOW),
        lambda: not_served(domain, 1, NOW),
        lambda: served(replace(domain, stage=Stage.RETIRED), 2, NOW),
    ):
        with pytest.raises(TransitionRefused, match="is not the one that is served"):
            note()


def test_rfc8461_8_3_another_policy_seen_takes_the_evidence_back() -> None:
    domain = retiring()
    assert held_until(domain) == NOW + 37 * DAY
    domain = not_served(domain, domain.current.number, NOW + 31 * DAY)[0]
    assert held_until(domain) is None
    assert domain.publishable == domain.current  # the id is in DNS already, and ids don't go back
    domain = served(domain, domain.current.number, NOW + 33 * DAY)[0]
    assert held_until(domain) == NOW + 40 * DAY


def test_rfc8461_8_3_the_policy_seen_may_be_one_from_long_before() -> None:
    short = out(back_to_testing(enforcing(), NOW + 25 * DAY)[0])
    domain = out(retire(short, NOW + 40 * DAY)[0])
    assert held_until(domain) == NOW + 41 * DAY
    domain = not_served(domain, domain.current.number, NOW + 40 * DAY)[0]
    domain = served(domain, domain.current.number, NOW + 40 * DAY)[0]
    assert held_until(domain) == NOW + 47 * DAY  # the week of the version before the last


def test_rfc8461_8_3_every_version_ever_served_counts() -> None:
    year = enforcing(31_557_600)
    short = out(back_to_testing(year, NOW + 25 * DAY)[0])
    domain = out(retire(short, NOW + 30 * DAY)[0])
    assert held_until(domain) == NOW + 25 * DAY + 31_557_600 * SECOND  # the year of the version before the last
    assert held_until(added()) is None
    assert held_until(out(added())) == NOW


def test_rfc8461_8_3_serving_stops_after_max_age_and_the_ttl_of_the_record() -> None:
    domain = retiring()
    assert stop_at(domain) is None
    with pytest.raises(TransitionRefused, match="for an unknown time"):
        stop_serving(domain, NOW + 1000 * DAY)
    gone, event = record_gone(domain, NOW + 40 * DAY)
    assert event.what == "record gone"
    assert stop_at(gone) == NOW + 40 * DAY + 5 * MINUTE
    with pytest.raises(TransitionRefused, match="until 2026-04-10 12:05 UTC"):
        stop_serving(gone, NOW + 40 * DAY + 4 * MINUTE)
    retired, event = stop_serving(gone, NOW + 40 * DAY + 5 * MINUTE)
    assert (retired.stage, retired.stage_since, event.what) == (Stage.RETIRED, NOW + 40 * DAY + 5 * MINUTE, "retired")


def test_a_record_removed_too_early_shortens_nothing() -> None:
    gone = record_gone(retiring(), NOW + 31 * DAY)[0]
    assert stop_at(gone) == NOW + 37 * DAY
    back, event = record_back(gone, NOW + 32 * DAY)
    assert (back.record_gone_at, stop_at(back), event.what) == (None, None, "record back")


def test_no_removal_without_retiring() -> None:
    with pytest.raises(TransitionRefused, match="begins the safe way out"):
        record_gone(enforcing(), NOW)
    with pytest.raises(TransitionRefused, match="begins the safe way out"):
        record_back(enforcing(), NOW)
    with pytest.raises(TransitionRefused, match="begins the safe way out"):
        stop_serving(enforcing(), NOW)


def test_a_policy_host_that_was_never_reached_need_not_be_fetched_back() -> None:
    domain = retire(enforce(added(), READY, NOW, first_max_age=WEEK)[0], NOW + DAY)[0]
    assert not reachable(domain)
    gone = record_gone(domain, NOW + 2 * DAY)[0]
    assert stop_at(gone) == NOW + 9 * DAY  # who found one of its addresses holds the policy that long


def test_a_longer_ttl_is_waited_for() -> None:
    domain, event = record_ttl_seen(retiring(), 86_400, NOW + 31 * DAY)
    assert event.detail == "86400 seconds"
    gone = record_gone(domain, NOW + 40 * DAY)[0]
    assert stop_at(gone) == NOW + 41 * DAY
    assert record_ttl_seen(domain, 60, NOW + 31 * DAY)[0].current.record_ttl == 86_400


def test_max_age_doubles_up_to_its_cap() -> None:
    domain = enforcing()
    ages = []
    for day in range(60, 150, 30):
        domain, event = grow(domain, NOW + day * DAY, max_age_cap=30 * 86_400)
        ages.append(domain.current.max_age // 86_400)
        assert domain.stage is Stage.ENFORCE
    assert ages == [14, 28, 30]
    assert event.detail == "max_age 2419200 to 2592000, no finding for 30 days"
    with pytest.raises(TransitionRefused, match="at its cap"):
        grow(domain, NOW + 200 * DAY, max_age_cap=30 * 86_400)
    with pytest.raises(TransitionRefused, match="only while it enforces"):
        grow(added(), NOW, max_age_cap=30 * 86_400)


def test_max_age_0_of_a_policy_taken_over_grows_too() -> None:
    domain = adopt(DOMAIN, live("enforce", 0, record_id="1"), NOW)[0]
    assert grow(domain, NOW + DAY, max_age_cap=86_400)[0].current.max_age == 2


def test_an_alias_follows_its_target_with_an_id_of_its_own() -> None:
    alias = adopt(ALIAS, LivePolicy(record_id="20270101T000000Z"), NOW, target=added())[0]
    assert follow(alias, added(), NOW, live=NOT_READY) is None
    followed = follow(alias, enforcing(), NOW + 21 * DAY, live=READY)
    assert followed is not None
    domain, event = followed
    assert (domain.stage, domain.current.mode, domain.current.max_age) == (Stage.ENFORCE, Mode.ENFORCE, WEEK)
    assert domain.current.record_id == "20270101T000002Z"
    assert (event.what, event.detail) == ("follows", "follows example.com version 2")


def test_an_alias_enforces_only_when_its_own_mx_hosts_pass() -> None:
    alias = adopt(ALIAS, LivePolicy(), NOW, target=added())[0]
    with pytest.raises(TransitionRefused, match=r"can't follow example\.com yet: mx1 fails"):
        follow(alias, enforcing(), NOW, live=NOT_READY)
    strong = adopt(ALIAS, live("enforce", record_id="1"), NOW, target=enforcing())[0]
    weaker = follow(strong, out(back_to_testing(enforcing(), NOW + 22 * DAY)[0]), NOW + 23 * DAY, live=NOT_READY)
    assert weaker is not None
    assert weaker[0].stage is Stage.TESTING


def test_an_alias_follows_no_other_and_no_target_that_goes() -> None:
    alias = adopt(ALIAS, LivePolicy(), NOW, target=added())[0]
    assert follow(alias, replace(enforcing(), policy_domain=Domain("example.net")), NOW, live=READY) is None
    assert follow(alias, retiring(), NOW, live=READY) is None
    with pytest.raises(TransitionRefused, match="follows no other domain any more"):
        follow(retire(alias, NOW)[0], enforcing(), NOW, live=READY)
    with pytest.raises(TransitionRefused, match=r"follows example\.com: change that domain"):
        grow(adopt(ALIAS, live("enforce"), NOW, target=enforcing())[0], NOW, max_age_cap=10**7)


def test_quiet_since_is_never_in_the_future() -> None:
    domain, event = quiet(added(), NOW + 9 * DAY, NOW + DAY)
    assert (domain.quiet_since, event.what) == (NOW + DAY, "no finding")
    domain, event = quiet(domain, None, NOW + 2 * DAY)
    assert (domain.quiet_since, event.what) == (None, "findings")


def test_a_clock_that_is_behind_is_no_evidence() -> None:
    domain = out(added(NOW))
    assert ahead_until(domain, NOW - 5 * MINUTE) is None
    assert served(domain, 1, NOW - 4 * MINUTE)[0].current.served_at == NOW  # as far as two machines differ
    assert ahead_until(domain, NOW - 6 * MINUTE) == NOW
    with pytest.raises(TransitionRefused, match="put the clock right"):
        served(domain, 1, NOW - 6 * MINUTE)


def test_instants_ahead_of_a_clock_that_is_right_become_now() -> None:
    gone = record_gone(replace(retiring(), quiet_since=NOW + 20 * DAY), NOW + 400 * DAY)[0]
    now = NOW + 35 * DAY
    domain, event = restamp(gone, now)
    assert (domain.record_gone_at, domain.stage_since) == (now, NOW + 30 * DAY)
    assert domain.versions == gone.versions
    assert event.detail == "an instant was noted as 2027-04-05"
    early = restamp(gone, NOW + 10 * DAY)[0]
    assert all(ahead_until(changed, NOW + 10 * DAY) is None for changed in (early,))
    assert restamp(added(), NOW)[0] == added()
