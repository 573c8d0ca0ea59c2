"""What is packed comes back as it was, whatever it is, and takes a tenth of the memory."""

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.dane import MxEvidence, MxHost, MxLookupFailure, TlsaRecord, TlsaStatus
from stsguard.core.errors import LookupReason
from stsguard.core.packed import mx_hostnames, pack, reply_of, same_but_for_ttl, unpack
from stsguard.core.tlspolicy import Decision, Reply, Row, StsState, StsStatus, decide
from stsguard.names import Domain
from tests.unit.fakes import policy

names = st.sampled_from([f"{label}.example" for label in ("mx", "mx1", "x" * 63)]).map(Domain)
texts = st.text(max_size=20)
tuples_of_names = st.lists(names, max_size=3).map(tuple)
records = st.builds(TlsaRecord, st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=64))
addresses = st.integers(0, 2**32 - 1).map(ip_address) | st.ip_addresses()
hosts = st.builds(
    MxHost,
    names,
    st.integers(0, 65535),
    st.sampled_from(TlsaStatus),
    st.lists(addresses, max_size=3).map(tuple),
    st.lists(records, max_size=2).map(tuple),
    st.none() | names,
    texts,
    st.none() | st.sampled_from(LookupReason),
)
evidence = st.builds(
    MxEvidence,
    st.lists(hosts, max_size=3).map(tuple),
    st.booleans(),
    st.integers(0, 2**31 - 1),
    st.booleans(),
    st.booleans(),
) | st.builds(MxLookupFailure, st.sampled_from(LookupReason), texts)
states = st.builds(StsState, st.sampled_from(StsStatus), st.none(), texts, st.booleans())
decisions = st.builds(
    Decision,
    st.sampled_from(Reply),
    st.sampled_from(Row),
    st.sampled_from(["MTA-STS", "neither DANE nor a policy to enforce", "operator override ü"]) | texts,
    tuples_of_names,
    tuples_of_names,
    st.none(),
    texts,
    tuples_of_names,
)


@given(evidence, states, decisions)
def test_everything_comes_back_as_it_was(mx: MxEvidence | MxLookupFailure, sts: StsState, decision: Decision) -> None:
    packed = pack(mx, sts, decision)
    found = unpack(packed)
    assert found == (mx, sts, decision)
    if isinstance(found[0], MxEvidence):
        assert all(isinstance(host.mx_hostname, Domain) for host in found[0].hosts)
        assert mx_hostnames(packed) == [host.mx_hostname for host in found[0].hosts]
    else:
        assert mx_hostnames(packed) == []
    assert reply_of(packed) is decision.reply is found[2].reply
    assert found[2].row is decision.row
    assert all(isinstance(name, Domain) for name in found[2].match_names + found[2].mx_host_patterns)


@given(evidence, states, decisions, st.integers(0, 2**31))
def test_the_same_but_for_the_ttl_is_told_from_any_other(
    mx: MxEvidence | MxLookupFailure, sts: StsState, decision: Decision, ttl: int
) -> None:
    packed = pack(mx, sts, decision)
    assert same_but_for_ttl(packed, packed)
    assert not same_but_for_ttl(packed, b"")
    other = replace(decision, reason=decision.reason + "!")
    assert not same_but_for_ttl(packed, pack(mx, sts, other))
    if isinstance(mx, MxEvidence):
        assert same_but_for_ttl(packed, pack(replace(mx, ttl=ttl), sts, decision))
        assert not same_but_for_ttl(packed, pack(replace(mx, secure=not mx.secure), sts, decision))


@given(evidence, decisions, st.booleans())
def test_names_of_all_hosts_come_back_as_they_were(
    mx: MxEvidence | MxLookupFailure, decision: Decision, same: bool
) -> None:
    hosts = tuple(host.mx_hostname for host in mx.hosts) if isinstance(mx, MxEvidence) else ()
    decision = replace(decision, match_names=hosts, mx_host_patterns=hosts if same else decision.mx_host_patterns)
    assert unpack(pack(mx, StsState(StsStatus.IN_FORCE), decision))[2] == decision


def test_policies_are_left_out() -> None:
    mx = MxEvidence((MxHost(Domain("mx.example.com"), 10, TlsaStatus.ABSENT),), secure=False, ttl=300)
    sts = StsState(StsStatus.IN_FORCE, policy("enforce", name="example.com"))
    decision = decide(mx, sts)
    assert decision.policy is not None
    packed = pack(mx, sts, decision)
    assert unpack(packed) == (mx, replace(sts, policy=None), replace(decision, policy=None))
    assert b"STSv1" not in packed


def test_the_evidence_of_a_domain_with_one_mx_host_takes_few_octets() -> None:
    name = Domain("mx.example.com")
    mx = MxEvidence((MxHost(name, 10, TlsaStatus.ABSENT, (ip_address("192.0.2.1"),)),), secure=False, ttl=300)
    packed = pack(
        mx, StsState(StsStatus.IN_FORCE), decide(mx, StsState(StsStatus.IN_FORCE, policy(name="example.com")))
    )
    assert len(packed) <= 60
