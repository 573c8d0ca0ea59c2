"""Changes of MX hosts in their safe order, with dates (RFC 8461 §3.2, §8.2, §10.2)."""

from dataclasses import replace

import pytest

from stsguard.core.hosted import HostedDomain
from stsguard.core.mtasts import MxPattern
from stsguard.core.readiness import Readiness
from stsguard.core.rollout import edit_mx, enforce
from stsguard.core.rollout_evidence import published, served
from stsguard.core.rollout_plan import DnsMx, dns_mx_safe_at, held_wait, plan_mx_change
from stsguard.names import Domain
from tests.unit.lives import DAY, HOUR, MINUTE, MX, NOW, added, patterns

NEW = Domain("mx3.example.com")
MX1 = MX[0]


def out(domain: HostedDomain) -> HostedDomain:
    number, now = domain.current.number, domain.current.created_at
    return published(served(domain, number, now)[0], number, 300, now)[0]


def enforcing(max_age: int = 604_800) -> HostedDomain:
    return out(enforce(out(added()), Readiness(()), NOW, first_max_age=max_age)[0])


def test_a_host_is_added_to_the_policy_first() -> None:
    plan = plan_mx_change(enforcing(), (*MX, *patterns(NEW)), DnsMx(), NOW + 2 * DAY)
    assert (plan.added, plan.removed, plan.refusal) == (patterns(NEW), (), "")
    policy, dns = plan.steps
    assert policy.safe_now
    assert policy.from_at == NOW + 2 * DAY
    assert not dns.safe_now
    assert dns.from_at == NOW + 9 * DAY + 5 * MINUTE
    assert dns.text == (
        "add mx3.example.com to DNS MX 7 days 5 minutes after the new id is in DNS: not before 2026-03-10 12:05 UTC"
    )


@pytest.mark.parametrize(("max_age", "days"), [(86_400, 1), (604_800, 7), (31_557_600, 30)])
def test_rfc8461_10_2_the_wait_is_max_age_but_30_days_at_most(max_age: int, days: int) -> None:
    assert held_wait(enforcing(max_age), NOW) == days * DAY + 5 * MINUTE


def test_testing_keeps_no_mail_back_so_only_the_ttl_is_waited_for() -> None:
    assert held_wait(out(added()), NOW) == 5 * MINUTE


def test_what_has_run_out_is_not_waited_for() -> None:
    domain = out(edit_mx(enforcing(31_557_600), MX[:1], DnsMx(), NOW, forced="x")[0])
    short = replace(domain.current, max_age=3600)
    domain = replace(domain, versions=(*domain.versions[:-1], short))
    assert held_wait(domain, NOW + DAY) == 30 * DAY + 5 * MINUTE
    assert held_wait(domain, NOW + 400 * DAY) == HOUR + 5 * MINUTE


def test_when_dns_may_have_the_new_host() -> None:
    domain = enforcing()
    assert dns_mx_safe_at(domain, NEW) is None  # not permitted
    assert dns_mx_safe_at(domain, Domain("mx1.example.com")) == NOW + 5 * MINUTE  # permitted from the beginning
    changed = edit_mx(domain, (*MX, *patterns(NEW)), DnsMx(), NOW + DAY)[0]
    assert dns_mx_safe_at(changed, NEW) is None  # its id is not in DNS
    assert dns_mx_safe_at(out(changed), NEW) == NOW + 8 * DAY + 5 * MINUTE


def test_a_host_in_dns_may_not_leave_the_policy() -> None:
    dns_mx = DnsMx((Domain("mx1.example.com"), Domain("a.example.net")), 3600)
    plan = plan_mx_change(enforcing(), MX[1:], dns_mx, NOW)
    assert plan.refusal == (
        "example.com: mx1.example.com is in DNS MX and would no longer be permitted. Take it out of DNS first, which "
        "is safe today, and out of the policy 3600 seconds later, when no cache has it any more"
    )
    dns, policy = plan.steps
    assert (dns.safe_now, dns.from_at) == (True, NOW)
    assert (policy.safe_now, policy.from_at) == (False, None)


def test_a_removed_host_leaves_the_policy_when_the_ttl_of_its_mx_is_over() -> None:
    unused = {MX1: NOW}
    dns_mx = DnsMx((Domain("a.example.net"),), 3600, unused)
    early = plan_mx_change(enforcing(), MX[1:], dns_mx, NOW + 59 * MINUTE)
    assert early.refusal.endswith("until 2026-03-01 13:00 UTC; it can go then")
    assert [entry.from_at for entry in early.steps] == [None, NOW + HOUR]
    done = plan_mx_change(enforcing(), MX[1:], dns_mx, NOW + HOUR)
    assert (done.refusal, done.steps[1].safe_now) == ("", True)


def test_nobody_knows_since_when_a_host_is_gone() -> None:
    plan = plan_mx_change(enforcing(), MX[1:], DnsMx((Domain("a.example.net"),), 3600), NOW)
    assert "nobody knows since when mx1.example.com is unused" in plan.refusal
    assert "can't be looked up" in plan_mx_change(enforcing(), MX[1:], DnsMx(known=False), NOW).refusal


def test_rfc8461_5_a_policy_that_tests_keeps_no_mail_back_so_no_cache_is_waited_for() -> None:
    dns_mx = DnsMx((Domain("a.example.net"),), 3600)
    plan = plan_mx_change(added(), MX[1:], dns_mx, NOW)
    assert (plan.refusal, plan.steps[1].safe_now) == ("", True)
    used = DnsMx((Domain("mx1.example.com"),), 3600)
    assert "is in DNS MX" in plan_mx_change(added(), MX[1:], used, NOW).refusal


@pytest.mark.parametrize(
    ("old", "new", "hosts"),
    [
        (("mx1.example.com",), ("*.example.com",), ()),  # a wildcard takes its place
        (("*.example.com",), ("mx1.example.com",), ("mx1.example.com",)),  # narrowed to the host that there is
    ],
)
def test_a_pattern_may_be_replaced_by_one_that_permits_the_same(
    old: tuple[str, ...], new: tuple[str, ...], hosts: tuple[str, ...]
) -> None:
    version = replace(enforcing().current, mx_patterns=patterns(*old))
    domain = replace(enforcing(), versions=(version,))
    dns_mx = DnsMx(tuple(map(Domain, hosts)), 3600)
    assert plan_mx_change(domain, tuple(map(MxPattern.parse, new)), dns_mx, NOW).refusal == ""
