"""Whether a domain may enforce (RFC 8461 §3.1, §3.3, §4.1, §4.2)."""

from dataclasses import replace

import pytest

from stsguard.core.errors import ResultType
from stsguard.core.hosted import HostedDomain
from stsguard.core.inspection import Inspection, MxSeen
from stsguard.core.readiness import ItemState, Readiness, ReadinessItem, assess, assess_live
from stsguard.core.rollout import retire
from stsguard.core.rollout_evidence import published, served
from stsguard.names import Domain
from tests.unit.lives import DAY, HOST, HOUR, MINUTE, NOW, added, inspection, policy_at, probe, record_at

LATER = NOW + 14 * DAY


def in_testing() -> HostedDomain:
    return published(served(added(), 1, NOW)[0], 1, 300, NOW)[0]


def state(readiness: Readiness, code: str) -> tuple[ItemState, str]:
    (item,) = [item for item in readiness.items if item.code == code]
    return item.state, item.text


def live(**parts: object) -> Readiness:
    domain = in_testing()
    return assess_live(domain, replace(inspection(domain), **parts), NOW)  # type: ignore[arg-type]  # field names


def test_all_green_after_14_days() -> None:
    domain = in_testing()
    readiness = assess(domain, inspection(domain, LATER), LATER)
    assert readiness.ready
    codes = [item.code for item in readiness.items]
    assert codes == ["testing-time", "record", "policy", "mx-covered", "mx-verified"]


def test_13_days_are_not_enough() -> None:
    domain = in_testing()
    at = LATER - MINUTE
    (missing,) = assess(domain, inspection(domain, at), at).missing
    assert (missing.code, missing.from_at) == ("testing-time", LATER)
    assert missing.text == "13 of 14 days in testing, since 2026-03-01 12:00 UTC"


def test_testing_begins_with_the_id_in_dns() -> None:
    domain = added()
    assert state(assess(domain, inspection(domain, LATER), LATER), "testing-time")[0] is ItemState.FAILED


def test_only_testing_leads_to_enforce() -> None:
    domain = retire(in_testing(), NOW)[0]
    text = state(assess(domain, inspection(domain, LATER), LATER), "testing-time")[1]
    assert text == "the stage is retiring, not testing"


def test_evidence_from_elsewhere_joins() -> None:
    domain = in_testing()
    item = ReadinessItem("reports", ItemState.UNKNOWN, "no report came in")
    assert assess(domain, inspection(domain, LATER), LATER, evidence=[item]).missing == (item,)


@pytest.mark.parametrize("at", [NOW - 3 * HOUR, NOW + MINUTE])
def test_an_inspection_of_another_time_says_nothing(at: object) -> None:
    (item,) = live(at=at).items
    assert (item.code, item.state) == ("inspection", ItemState.UNKNOWN)


@pytest.mark.parametrize(
    ("parts", "code", "expected", "text"),
    [
        ({"sts_records_problem": "timeout"}, "record", ItemState.UNKNOWN, "timeout"),
        ({"sts_records": ()}, "record", ItemState.UNKNOWN, "no authoritative server was asked"),
        ({"sts_records": (record_at(),)}, "record", ItemState.FAILED, "at ns1.example.net"),
        ({"sts_records": (record_at("v=STSv1; id=1;"),)}, "record", ItemState.FAILED, "not id 20260301T120001Z"),
        ({"sts_records": (record_at(problem="no answer"),)}, "record", ItemState.UNKNOWN, "no answer from"),
        ({"policies_problem": "nxdomain"}, "policy", ItemState.UNKNOWN, "nxdomain"),
        ({"policies": ()}, "policy", ItemState.UNKNOWN, "mta-sts.example.com has no address"),
        ({"mx_problem": "timeout"}, "mx-covered", ItemState.UNKNOWN, "timeout"),
        ({"mx_hosts": ()}, "mx-covered", ItemState.UNKNOWN, "there is none"),
        ({"mx_hosts": ()}, "mx-verified", ItemState.UNKNOWN, "no MX host"),
        ({"mx_hosts": (MxSeen(Domain("mx.evil.example"), 1, ()),)}, "mx-covered", ItemState.FAILED, "mx.evil.example"),
        ({"mx_hosts": (MxSeen(HOST, 1, (), "no address"),)}, "mx-verified", ItemState.UNKNOWN, "mx1.example.com"),
        ({"mx_hosts": (), "null_mx": True}, "mx-covered", ItemState.OK, "takes no mail"),
        ({"mx_hosts": (), "null_mx": True}, "mx-verified", ItemState.OK, "no host to verify"),
    ],
)
def test_what_keeps_back(parts: dict[str, object], code: str, expected: ItemState, text: str) -> None:
    found, shown = state(live(**parts), code)
    assert found is expected
    assert text in shown


def test_rfc8461_3_3_every_address_has_to_serve_the_policy() -> None:
    domain = in_testing()
    good = policy_at(domain.current)
    other = policy_at(replace(domain.current, max_age=1))
    down = replace(good, policy=None, problem="connection refused")
    found, text = state(live(policies=(good, other, down)), "policy")
    assert found is ItemState.FAILED
    assert text.endswith("192.0.2.1: another policy; 192.0.2.1: connection refused")


@pytest.mark.parametrize(
    ("reason", "shown"), [("", "certificate-expired"), ("certificate_has_expired", "certificate_has_expired")]
)
def test_rfc8461_4_2_every_mx_host_has_to_pass(reason: str, shown: str) -> None:
    failing = MxSeen(HOST, 10, (probe(), probe(ResultType.CERTIFICATE_EXPIRED, reason=reason)))
    found, text = state(live(mx_hosts=(failing,)), "mx-verified")
    assert found is ItemState.FAILED
    assert text == f"senders would not deliver to mx1.example.com ({shown})"


def test_an_inconclusive_probe_proves_nothing() -> None:
    seen: Inspection = replace(inspection(added()), mx_hosts=(MxSeen(HOST, 10, (probe(inconclusive=True),)),))
    assert state(assess_live(added(), seen, NOW), "mx-verified")[0] is ItemState.UNKNOWN
