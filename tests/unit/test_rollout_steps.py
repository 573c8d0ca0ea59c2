"""The next step of a hosted domain, through its whole life (RFC 8461 §8.2, §8.3)."""

from dataclasses import replace
from datetime import datetime

from stsguard.core.hosted import HostedDomain, Stage
from stsguard.core.readiness import Readiness
from stsguard.core.rollout import LivePolicy, adopt, enforce, retire
from stsguard.core.rollout_evidence import published, record_gone, served
from stsguard.core.rollout_steps import Action, Step, next_step
from stsguard.names import Domain
from tests.unit.lives import DAY, DOMAIN, MINUTE, NOW, added, live

CAP = 30 * 86_400


def step(domain: HostedDomain, now: datetime) -> Step:
    return next_step(domain, now, max_age_cap=CAP)


def out(domain: HostedDomain) -> HostedDomain:
    number, now = domain.current.number, domain.current.created_at
    return published(served(domain, number, now)[0], number, 300, now)[0]


def enforcing() -> HostedDomain:
    return out(enforce(out(added()), Readiness(()), NOW, first_max_age=604_800)[0])


def test_rfc8461_8_2_text_first_then_its_id() -> None:
    domain = added()
    assert step(domain, NOW).action is Action.FETCH_BACK
    domain = served(domain, 1, NOW)[0]
    assert step(domain, NOW).action is Action.PUBLISH_ID
    assert step(domain, NOW).version == domain.current
    domain = published(domain, 1, 300, NOW)[0]
    assert step(domain, NOW + 1000 * DAY).action is Action.NOTHING


def test_max_age_grows_after_30_days_without_a_finding_and_30_of_that_max_age() -> None:
    domain = enforcing()
    assert (step(domain, NOW).action, step(domain, NOW).until) == (Action.NOTHING, None)
    quiet = replace(domain, quiet_since=NOW + DAY)
    waiting = step(quiet, NOW + 2 * DAY)
    assert (waiting.action, waiting.until) == (Action.WAIT_UNTIL, NOW + 31 * DAY)
    assert step(quiet, NOW + 31 * DAY).action is Action.GROW_MAX_AGE
    long_quiet = replace(domain, quiet_since=NOW - 300 * DAY)
    assert step(long_quiet, NOW + 29 * DAY).until == NOW + 30 * DAY
    assert next_step(long_quiet, NOW + 90 * DAY, max_age_cap=604_800).action is Action.NOTHING


def test_an_alias_grows_with_its_target() -> None:
    found = live("enforce", record_id="1")
    alias = served(adopt(Domain("example.org"), found, NOW, target=enforcing())[0], 0, NOW)[0]
    assert step(replace(alias, quiet_since=NOW), NOW + 60 * DAY).why == "it follows example.com"


def test_rfc8461_8_3_the_way_out() -> None:
    domain = retire(enforcing(), NOW + 20 * DAY)[0]
    now = NOW + 20 * DAY
    assert step(domain, now).action is Action.FETCH_BACK
    domain = served(domain, 3, now)[0]
    assert (step(domain, now).action, step(domain, now).until) == (Action.PUBLISH_ID, now + 7 * DAY)
    assert step(domain, now + 7 * DAY).action is Action.REMOVE_RECORD  # nobody holds a policy, published or not
    domain = published(domain, 3, 300, now)[0]
    assert (step(domain, now).action, step(domain, now).until) == (Action.WAIT_UNTIL, now + 7 * DAY)
    assert step(domain, now + 7 * DAY).action is Action.REMOVE_RECORD
    gone = record_gone(domain, now + 8 * DAY)[0]
    waiting = step(gone, now + 8 * DAY)
    assert (waiting.action, waiting.until) == (Action.WAIT_UNTIL, now + 8 * DAY + 5 * MINUTE)
    assert step(gone, now + 8 * DAY + 5 * MINUTE).action is Action.STOP_SERVING
    assert step(replace(gone, stage=Stage.RETIRED), now).action is Action.NOTHING


def test_rfc8461_8_3_what_was_never_reached_goes_without_being_fetched_back() -> None:
    domain = retire(adopt(DOMAIN, LivePolicy(), NOW, mx_patterns=added().current.mx_patterns)[0], NOW)[0]
    assert step(domain, NOW).action is Action.REMOVE_RECORD
    gone = record_gone(domain, NOW)[0]
    assert step(gone, NOW).until == NOW + DAY
    assert step(gone, NOW + DAY).action is Action.STOP_SERVING
