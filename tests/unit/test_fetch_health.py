"""In which minutes failed fetches are likely to be our own fault."""

from collections.abc import Sequence

import pytest

from stsguard.core.errors import FetchReason
from stsguard.names import Domain
from stsguard.outbound import fetch_health
from stsguard.outbound.fetch_health import LEAST_FAILURES, FetchHealth

# Whether failed fetches are likely to be our own fault.

SITES = [Domain(f"d{number}.test") for number in range(20)]


def fail(health: FetchHealth, sites: Sequence[Domain], at: float) -> None:
    for site in sites:
        health.note(site, FetchReason.CONNECTION_REFUSED, at)


def test_a_minute_is_bad_where_most_of_several_fetches_fail() -> None:
    health = FetchHealth()
    fail(health, SITES[: LEAST_FAILURES - 1], 600.0)
    assert not health.outage(601.0)
    fail(health, SITES[LEAST_FAILURES - 1 : LEAST_FAILURES], 610.0)
    assert health.outage(601.0)
    for site in SITES[10 : 10 + LEAST_FAILURES]:
        health.note(site, None, 620.0)
    assert not health.outage(601.0)


def test_a_bad_minute_stays_one_and_others_do_not_become_it() -> None:
    health = FetchHealth()
    fail(health, SITES, 600.0)
    health.note(SITES[0], None, 700.0)
    assert health.outage(659.9)
    assert not health.outage(599.9)
    assert not health.outage(700.0)


def test_an_outage_goes_on_until_anything_is_reached() -> None:
    health = FetchHealth()
    fail(health, SITES, 600.0)
    fail(health, SITES, 900.0)  # the same ones again, five minutes later
    assert health.outage(900.0)
    health.note(SITES[0], FetchReason.HTTP_STATUS, 930.0)  # an answer over verified TLS, if a bad one
    assert not health.outage(900.0)
    fail(health, SITES[1:], 960.0)
    assert not health.outage(960.0)


def test_domains_that_fail_all_the_time_make_no_outage() -> None:
    health = FetchHealth()
    for number in range(10):
        fail(health, SITES[: LEAST_FAILURES - 2 + number], 600.0 * number)  # with a new one each time
        assert not health.outage(600.0 * number)


def test_what_is_remembered_of_fetches_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_health, "MAX_DOMAINS", 6)
    monkeypatch.setattr(fetch_health, "MAX_MINUTES", 1)
    health = FetchHealth()
    for minute in (0.0, 60.0, 120.0):
        fail(health, SITES, minute)
    for site in SITES:
        health.note(site, None, 180.0)
    assert [health.outage(minute) for minute in (0.0, 60.0, 120.0, 180.0)] == [False, False, True, False]
