"""What single parts of an inspection say (RFC 8461 §3.1, §3.3, §4.1, §4.2)."""

from dataclasses import replace

import pytest

from stsguard.core.errors import ResultType
from stsguard.core.hosted_checks import (
    AddressState,
    RecordState,
    address_state,
    failing_probes,
    parked_patterns,
    record_id_at,
    record_state,
    stage_versions,
    uncovered_hosts,
    unproven_hosts,
)
from stsguard.core.inspection import MxSeen, RecordAt
from stsguard.core.mtasts import Mode
from stsguard.names import Domain
from tests.unit.lives import DOMAIN, HOST, MX, added, inspection, patterns, policy_at, probe, record_at


@pytest.mark.parametrize(
    ("found", "state", "record_id"),
    [
        (record_at("v=STSv1; id=1;"), RecordState.IN_SYNC, "1"),
        (record_at("v=spf1 -all", "v=STSv1; id=1;"), RecordState.IN_SYNC, "1"),
        (record_at("v=STSv1; id=2;"), RecordState.OTHER_ID, "2"),
        (record_at(), RecordState.MISSING, None),
        (record_at("v=STSv1; id=1;", "v=STSv1; id=2;"), RecordState.INVALID, None),  # §3.1: two are none
        (record_at("v=STSv1; id=-;"), RecordState.INVALID, None),
        (record_at(problem="timeout"), RecordState.UNKNOWN, None),
    ],
)
def test_rfc8461_3_1_records(found: RecordAt, state: RecordState, record_id: str | None) -> None:
    assert record_state(found, "1") is state
    assert record_id_at(found) == record_id


def test_rfc8461_3_3_addresses() -> None:
    version = added().current
    found = policy_at(replace(version, mx_patterns=version.mx_patterns[::-1]))
    assert address_state(found, version) is AddressState.SERVED  # in any order
    for other in (
        replace(version, mode=Mode.ENFORCE),
        replace(version, max_age=1),
        replace(version, mx_patterns=MX[:1]),
    ):
        assert address_state(policy_at(other), version) is AddressState.OTHER
    assert address_state(replace(found, policy=None), version) is AddressState.UNREACHABLE


def test_rfc8461_4_1_mx_hosts_that_no_pattern_permits() -> None:
    seen = inspection(added())
    assert uncovered_hosts(MX, seen) == ()
    assert uncovered_hosts(patterns("*.example.net"), seen) == (HOST,)


def test_rfc8461_4_2_mx_hosts_that_fail_or_are_not_known() -> None:
    failing = probe(ResultType.CERTIFICATE_EXPIRED)
    assert failing_probes(MxSeen(HOST, 1, (probe(), failing, probe(inconclusive=True)))) == (failing,)
    hosts = (
        MxSeen(Domain("a.example"), 1, (probe(), probe())),
        MxSeen(Domain("b.example"), 1, (probe(), probe(inconclusive=True))),
        MxSeen(Domain("c.example"), 1, ()),
        MxSeen(Domain("d.example"), 1, (), "no address"),
    )
    assert unproven_hosts(replace(inspection(added()), mx_hosts=hosts)) == ("b.example", "c.example", "d.example")


def test_versions_of_the_present_stage() -> None:
    first = added().current
    second, third = replace(first, number=2, mode=Mode.ENFORCE), replace(first, number=3, mode=Mode.ENFORCE)
    assert stage_versions(replace(added(), versions=(first, second, third))) == (second, third)
    assert stage_versions(added()) == (first,)


def test_rfc7505_a_parked_domain_permits_itself_alone() -> None:
    assert parked_patterns(DOMAIN) == patterns("example.com")
