"""The MX hosts of a next hop and their TLSA records (RFC 7672 §2.1, §2.2; RFC 5321 §5.1; RFC 7505)."""

import asyncio
from ipaddress import ip_address

import pytest

from stsguard.core.dane import MxEvidence, MxHost, MxLookupFailure, MxRecord, TlsaRecord, TlsaStatus
from stsguard.core.errors import LookupReason
from stsguard.discovery.mx import MAX_MX_HOSTS, lookup_mx_evidence
from stsguard.names import Domain
from tests.unit.fakes import TLSA, FakeResolver

NAME = Domain("example.com")
MX = Domain("mx.example.com")
CDN = Domain("mx.cdn.test")
ADDRESS = ip_address("192.0.2.1")


def look(resolver: FakeResolver, port: int = 25) -> MxEvidence:
    found = asyncio.run(lookup_mx_evidence(resolver, NAME, port))
    assert isinstance(found, MxEvidence)
    return found


def host(resolver: FakeResolver, port: int = 25) -> MxHost:
    (found,) = look(resolver, port).hosts
    return found


def one_mx(*, secure: bool = True, addresses_secure: bool = True) -> FakeResolver:
    resolver = FakeResolver()
    resolver.give("MX", NAME, MxRecord(10, MX), secure=secure, ttl=1000)
    resolver.give("A", MX, ADDRESS, secure=addresses_secure, ttl=1000)
    resolver.deny("TLSA", f"_25._tcp.{MX}", ttl=1000)
    return resolver


def test_rfc7672_2_2_1_usable_tlsa() -> None:
    resolver = one_mx()
    resolver.give("TLSA", f"_25._tcp.{MX}", TLSA, ttl=60)
    evidence = look(resolver)
    assert evidence == MxEvidence(
        (MxHost(MX, 10, TlsaStatus.USABLE, (ADDRESS,), (TLSA,), MX),), secure=True, ttl=60, implicit=False
    )


@pytest.mark.parametrize("reason", list(LookupReason))
def test_rfc7672_2_1_2_a_failed_mx_lookup_is_a_failure_of_the_next_hop(reason: LookupReason) -> None:
    resolver = FakeResolver()
    resolver.fail("MX", NAME, reason)
    found = asyncio.run(lookup_mx_evidence(resolver, NAME, 25))
    assert isinstance(found, MxLookupFailure)
    assert found.reason is reason
    assert resolver.asked == [("MX", NAME)]


@pytest.mark.parametrize("nxdomain", [False, True])
def test_rfc5321_5_1_without_mx_the_domain_is_its_own_host(nxdomain: bool) -> None:
    resolver = FakeResolver()
    resolver.deny("MX", NAME, nxdomain=nxdomain)
    resolver.give("A", NAME, ADDRESS)
    resolver.give("TLSA", f"_25._tcp.{NAME}", TLSA)
    evidence = look(resolver)
    assert evidence.implicit
    assert evidence.secure
    assert [(found.mx_hostname, found.tlsa_status) for found in evidence.hosts] == [(NAME, TlsaStatus.USABLE)]


def test_a_domain_that_does_not_exist_has_no_reachable_host() -> None:
    assert host(FakeResolver()).tlsa_status is TlsaStatus.UNREACHABLE


def test_an_insecure_denial_of_mx_is_insecure() -> None:
    resolver = FakeResolver()
    resolver.deny("MX", NAME, secure=False)
    resolver.give("A", NAME, ADDRESS)
    assert not look(resolver).secure


def test_rfc7505_3_null_mx() -> None:
    resolver = FakeResolver()
    resolver.give("MX", NAME, MxRecord(0, None), ttl=77)
    evidence = look(resolver)
    assert evidence == MxEvidence((), secure=True, ttl=77, null_mx=True)
    assert resolver.asked == [("MX", NAME)]


def test_rfc7505_3_null_mx_beside_another_is_not_null() -> None:
    resolver = one_mx()
    resolver.give("MX", NAME, MxRecord(0, None), MxRecord(10, MX))
    evidence = look(resolver)
    assert not evidence.null_mx
    assert [found.mx_hostname for found in evidence.hosts] == [MX]


def test_rfc7672_2_2_1_hosts_stand_in_order_of_preference_each_once() -> None:
    resolver = one_mx()
    names = [Domain(f"mx{number}.example.com") for number in range(3)]
    resolver.give(
        "MX", NAME, MxRecord(30, names[0]), MxRecord(10, names[2]), MxRecord(20, names[1]), MxRecord(5, names[0])
    )
    assert [(found.mx_hostname, found.preference) for found in look(resolver).hosts] == [
        (names[0], 5),
        (names[2], 10),
        (names[1], 20),
    ]


@pytest.mark.parametrize("status", ["nodata", "nxdomain"])
def test_rfc7672_2_2_2_a_host_without_address_is_unreachable_and_not_asked_for_tlsa(status: str) -> None:
    resolver = one_mx()
    resolver.deny("A", MX, nxdomain=status == "nxdomain")
    found = host(resolver)
    assert found.tlsa_status is TlsaStatus.UNREACHABLE
    assert found.detail == status
    assert resolver.count("TLSA") == 0


def test_rfc7672_2_2_2_no_tlsa_lookup_for_insecure_addresses() -> None:
    resolver = one_mx(addresses_secure=False)
    assert host(resolver).tlsa_status is TlsaStatus.ABSENT
    assert resolver.count("TLSA") == 0
    assert resolver.count("CNAME") == 0


@pytest.mark.parametrize("kind", ["A", "TLSA"])
@pytest.mark.parametrize("reason", [LookupReason.SERVFAIL, LookupReason.BOGUS, LookupReason.TIMEOUT])
def test_rfc7672_2_1_2_a_failed_lookup_takes_that_host_alone_out(kind: str, reason: LookupReason) -> None:
    resolver = one_mx()
    second = Domain("mx2.example.com")
    resolver.give("MX", NAME, MxRecord(10, MX), MxRecord(20, second))
    resolver.give("A", second, ADDRESS)
    resolver.give("TLSA", f"_25._tcp.{second}", TLSA)
    resolver.fail(kind, MX if kind == "A" else f"_25._tcp.{MX}", reason)
    first, other = look(resolver).hosts
    assert first.tlsa_status is TlsaStatus.FAILED
    assert reason.value in first.detail
    assert other.tlsa_status is TlsaStatus.USABLE


def test_rfc7672_2_2_an_insecure_mx_rrset_still_has_its_hosts_looked_up() -> None:
    resolver = one_mx(secure=False)
    resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    evidence = look(resolver)
    assert not evidence.secure
    assert evidence.hosts[0].tlsa_status is TlsaStatus.USABLE


def test_rfc7672_2_2_3_the_port_of_the_key_stands_in_the_name() -> None:
    resolver = one_mx()
    resolver.give("TLSA", f"_587._tcp.{MX}", TLSA)
    assert host(resolver, 587).tlsa_status is TlsaStatus.USABLE
    assert resolver.count("TLSA", f"_587._tcp.{MX}") == resolver.count("TLSA") == 1


def test_rfc7672_2_2_3_insecure_tlsa_records_are_none() -> None:
    resolver = one_mx()
    resolver.give("TLSA", f"_25._tcp.{MX}", TLSA, secure=False)
    assert host(resolver).tlsa_status is TlsaStatus.ABSENT


def test_rfc7672_2_2_3_records_of_which_none_is_usable() -> None:
    resolver = one_mx()
    resolver.give("TLSA", f"_25._tcp.{MX}", TlsaRecord(1, 1, 1, b"\x01" * 32))
    found = host(resolver)
    assert found.tlsa_status is TlsaStatus.UNUSABLE
    assert found.tlsa == ()


def alias(*, secure: bool, cname_secure: bool = True) -> FakeResolver:
    resolver = one_mx()
    resolver.give("A", MX, ADDRESS, at=CDN, secure=secure)
    resolver.cname_secure[MX] = cname_secure
    return resolver


def test_rfc7672_2_2_3_a_secure_alias_is_tried_expanded_first_then_as_it_is() -> None:
    resolver = alias(secure=True)
    resolver.deny("TLSA", f"_25._tcp.{CDN}")
    resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    found = host(resolver)
    assert found.tlsa_base_domain == MX
    assert [name for kind, name in resolver.asked if kind == "TLSA"] == [f"_25._tcp.{CDN}", f"_25._tcp.{MX}"]


def test_rfc7672_2_2_3_the_first_candidate_with_secure_records_is_the_base_domain() -> None:
    resolver = alias(secure=True)
    resolver.give("TLSA", f"_25._tcp.{CDN}", TLSA)
    resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    assert host(resolver).tlsa_base_domain == CDN
    assert resolver.count("TLSA") == 1


def test_rfc7672_2_2_3_insecure_records_at_the_expanded_name_lead_to_the_other() -> None:
    resolver = alias(secure=True)
    resolver.give("TLSA", f"_25._tcp.{CDN}", TLSA, secure=False)
    resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    assert host(resolver).tlsa_base_domain == MX


def test_rfc7672_2_2_2_a_failed_tlsa_lookup_at_the_expanded_name_is_not_rescued_by_the_other() -> None:
    resolver = alias(secure=True)
    resolver.fail("TLSA", f"_25._tcp.{CDN}")
    resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    assert host(resolver).tlsa_status is TlsaStatus.FAILED


def test_rfc7672_2_2_2_an_insecure_cname_to_insecure_addresses_has_no_dane() -> None:
    resolver = alias(secure=False, cname_secure=False)
    resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    assert host(resolver).tlsa_status is TlsaStatus.ABSENT
    assert resolver.count("TLSA") == 0


def test_rfc7672_2_2_2_a_secure_cname_to_insecure_addresses_is_tried_as_it_is() -> None:
    resolver = alias(secure=False, cname_secure=True)
    resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    found = host(resolver)
    assert found.tlsa_status is TlsaStatus.USABLE
    assert found.tlsa_base_domain == MX
    assert resolver.count("TLSA") == 1


def test_a_host_with_so_long_a_name_that_no_tlsa_name_exists_has_none_and_harms_no_other() -> None:
    resolver = one_mx()
    long = Domain(".".join(["a" * 61] * 4))
    resolver.give("MX", NAME, MxRecord(10, MX), MxRecord(20, long))
    resolver.give("A", long, ADDRESS)
    assert [found.tlsa_status for found in look(resolver).hosts] == [TlsaStatus.ABSENT, TlsaStatus.ABSENT]


def test_no_more_hosts_than_the_limit_the_best_of_them() -> None:
    resolver = FakeResolver()
    records = [MxRecord(1000 - number, Domain(f"mx{number:04}.example.com")) for number in range(500)]
    resolver.give("MX", NAME, *records)
    hosts = look(resolver).hosts
    assert len(hosts) == MAX_MX_HOSTS
    assert hosts[0].preference == 501
    assert resolver.count("A") == MAX_MX_HOSTS


@pytest.mark.parametrize(("mx", "a", "tlsa", "least"), [(50, 900, 900, 50), (900, 50, 900, 50), (900, 900, 50, 50)])
def test_the_ttl_is_the_least_of_all_that_was_used(mx: int, a: int, tlsa: int, least: int) -> None:
    resolver = FakeResolver()
    resolver.give("MX", NAME, MxRecord(10, MX), ttl=mx)
    resolver.give("A", MX, ADDRESS, ttl=a)
    resolver.deny("TLSA", f"_25._tcp.{MX}", ttl=tlsa)
    assert look(resolver).ttl == least
