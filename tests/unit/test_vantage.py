"""What an inspection shows of our own network and resolver, as tables of what answered and what did not."""

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from stsguard.core.errors import FetchReason, ResultType
from stsguard.core.inspection import Inspection, MxSeen, PolicyAt, RecordAt
from stsguard.core.mxcheck import MxProbe
from stsguard.core.vantage import dead_families, lookups_failed, sees_nothing, without_families
from stsguard.names import Domain

AT = datetime(2026, 3, 1, tzinfo=UTC)
MX = Domain("mx.example.test")


def record(address: str, problem: str = "") -> RecordAt:
    return RecordAt(f"ns.example.test [{address}]" if address else "ns.example.test", (), 60, problem)


def probe(address: str, *, answered: bool) -> MxProbe:
    result = ResultType.STARTTLS_NOT_SUPPORTED if answered else None
    return MxProbe(MX, ip_address(address), AT, False, False, result, "", not answered, None, None)


def policy(address: str, reason: FetchReason) -> PolicyAt:
    return PolicyAt(ip_address(address), None, b"", "failed", reason.code, None)


def inspection(
    records: tuple[RecordAt, ...] = (),
    probes: tuple[MxProbe, ...] = (),
    policies: tuple[PolicyAt, ...] = (),
    *,
    problems: tuple[str, str, str] = ("", "", ""),
) -> Inspection:
    return Inspection(
        policy_domain=Domain("example.test"),
        at=AT,
        sts_records=records,
        sts_records_problem=problems[0],
        tlsrpt_records=records,
        tlsrpt_records_problem=problems[0],
        policies=policies,
        policies_problem=problems[1],
        mx_hosts=(MxSeen(MX, 10, probes),) if probes else (),
        mx_problem=problems[2],
        null_mx=False,
    )


V4, V4_TOO, V6, V6_TOO = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"


@pytest.mark.parametrize(
    ("looked_at", "dead"),
    [
        ([inspection((record(V4), record(V6)))], set()),  # all answer
        ([inspection((record(V4, "down"), record(V6)))], set()),  # one that is silent may be down
        ([inspection((record(V4, "down"), record(V4, "down")))], set()),  # one address, asked twice
        ([inspection((record(V4, "down"), record(V4_TOO, "down")))], {4}),
        ([inspection((record(V4, "down"),)), inspection((record(V4_TOO, "down"),))], {4}),  # of two domains
        ([inspection((record(V4, "down"), record(V4_TOO, "down"))), inspection((record(V4),))], set()),
        ([inspection((record(V4, "down"),), (probe(V4_TOO, answered=True),))], set()),  # an MX host that is bad answers
        ([inspection((record(V4, "down"),), (probe(V4_TOO, answered=False),))], {4}),
        ([inspection((record(V4), record(V6, "down"), record(V6_TOO, "down")))], {6}),
        ([inspection((record("", "no address"), record("", "no address")))], set()),
        ([inspection(policies=(policy(V4, FetchReason.TIMEOUT), policy(V4_TOO, FetchReason.TIMEOUT)))], set()),
        ([], set()),
    ],
)
def test_families_over_which_nobody_answers(looked_at: list[Inspection], dead: set[int]) -> None:
    assert dead_families(looked_at) == dead


@pytest.mark.parametrize(
    ("problems", "failed"),
    [(("a", "b", "c"), True), (("", "b", "c"), False), (("a", "", "c"), False), (("a", "b", ""), False)],
)
def test_look_ups_that_all_fail(problems: tuple[str, str, str], failed: bool) -> None:
    assert lookups_failed(inspection(problems=problems)) is failed


def test_an_inspection_that_sees_nothing() -> None:
    seen = inspection((record(V6, "down"), record(V6_TOO, "down")))
    assert sees_nothing(seen, frozenset({6}))
    assert not sees_nothing(seen, frozenset({4}))
    assert not sees_nothing(seen, frozenset())
    assert not sees_nothing(inspection((record(V4), record(V6, "down"))), frozenset({6}))


def test_what_could_not_be_seen_is_left_out() -> None:
    unreached = policy(V6, FetchReason.TIMEOUT)
    refused = policy(V6, FetchReason.CONNECTION_REFUSED)
    over_4 = policy(V4, FetchReason.TIMEOUT)
    seen = inspection(
        (record(V4), record(V6, "down"), record(V6_TOO), record("", "no address")),
        (probe(V4, answered=True), probe(V6, answered=False)),
        (unreached, refused, over_4),
    )
    left = without_families(seen, frozenset({6}))
    assert left.sts_records == left.tlsrpt_records == (record(V4), record(V6_TOO), record("", "no address"))
    assert left.policies == (refused, over_4)
    assert left.mx_hosts == (MxSeen(MX, 10, (probe(V4, answered=True),)),)
    assert without_families(seen, frozenset()) == seen


def test_a_host_that_could_not_be_probed_at_all_stays_unproven() -> None:
    seen = inspection(probes=(probe(V6, answered=False),))
    assert without_families(seen, frozenset({6})) == seen
