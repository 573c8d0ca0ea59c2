"""The resolver against a real validating resolver: secure, insecure and bogus as unbound says them."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from stsguard.adapters.resolver import DnsResolver
from stsguard.adapters.resolver.validation import check_validation
from stsguard.core.dane import AnswerStatus, MxRecord, TlsaRecord
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.names import Domain
from tests.lab import unbound

SECURE = f"""
@ 300 IN MX 10 mx.secure.test.
mx 300 IN A 192.0.2.1
mx 300 IN AAAA 2001:db8::1
_25._tcp.mx 300 IN TLSA 3 1 1 {"ab" * 32}
alias 300 IN CNAME mx
far 300 IN CNAME mx.insecure.test.
old 300 IN DNAME secure.test.
*.wild 300 IN MX 20 mx
""" + "".join(f"many 300 IN MX {i} a-rather-long-name-for-an-mx-host-{i}\n" for i in range(100))

INSECURE = """
@ 300 IN MX 10 mx.secure.test.
mx 300 IN A 192.0.2.2
alias 300 IN CNAME mx.secure.test.
"""

EXPIRED = """
@ 300 IN MX 10 mx.secure.test.
@ 300 IN A 192.0.2.3
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    if not unbound.is_installed():
        pytest.skip("unbound is not installed")
    root = unbound.SignedRoot(tmp_path_factory.mktemp("unbound"))
    configuration = root.write({"secure.test": SECURE}, {"insecure.test": INSECURE}, {"expired.test": EXPIRED})
    with unbound.run_unbound(configuration) as address:
        yield address


@pytest.fixture
def resolver(address: tuple[str, int]) -> DnsResolver:
    return DnsResolver([address], trust_ad=True, timeout_seconds=60)


async def test_secure_answers(resolver: DnsResolver) -> None:
    mx_hostname = Domain("mx.secure.test")
    mx = await resolver.lookup_mx(Domain("secure.test"))
    assert (mx.status, mx.records, mx.secure) == (AnswerStatus.FOUND, (MxRecord(10, mx_hostname),), True)
    assert 0 < mx.ttl <= 300  # the resolver counts it down
    addresses = await resolver.lookup_addresses(mx_hostname)
    assert addresses.records == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    assert addresses.secure
    tlsa = await resolver.lookup_tlsa(mx_hostname.child("_25", "_tcp"))
    assert tlsa.records == (TlsaRecord(3, 1, 1, b"\xab" * 32),)
    assert tlsa.secure


@pytest.mark.parametrize("name", ["alias.secure.test", "mx.old.secure.test"])
async def test_rfc7672_2_1_3_secure_alias_by_cname_or_dname(resolver: DnsResolver, name: str) -> None:
    answer = await resolver.lookup_addresses(Domain(name))
    assert answer.canonical_name == "mx.secure.test"
    assert answer.secure


async def test_rfc7672_2_1_3_cname_of_a_secure_alias(resolver: DnsResolver) -> None:
    assert await resolver.lookup_cname_secure(Domain("alias.secure.test"))
    assert await resolver.lookup_cname_secure(Domain("mx.secure.test"))  # a secure denial: the zone is signed


async def test_secure_wildcard(resolver: DnsResolver) -> None:
    answer = await resolver.lookup_mx(Domain("any.wild.secure.test"))
    assert answer.records == (MxRecord(20, Domain("mx.secure.test")),)
    assert answer.secure


async def test_insecure_answer(resolver: DnsResolver) -> None:
    answer = await resolver.lookup_mx(Domain("insecure.test"))
    assert answer.status is AnswerStatus.FOUND
    assert not answer.secure


@pytest.mark.parametrize(("name", "cname_secure"), [("far.secure.test", True), ("alias.insecure.test", False)])
async def test_rfc7672_2_1_3_alias_with_one_insecure_end(resolver: DnsResolver, name: str, cname_secure: bool) -> None:
    assert not (await resolver.lookup_addresses(Domain(name))).secure
    assert await resolver.lookup_cname_secure(Domain(name)) is cname_secure


@pytest.mark.parametrize(
    ("name", "status"),
    [("mx.secure.test", AnswerStatus.NODATA), ("nowhere.secure.test", AnswerStatus.NXDOMAIN)],
)
async def test_secure_denial(resolver: DnsResolver, name: str, status: AnswerStatus) -> None:
    answer = await resolver.lookup_mx(Domain(name))
    assert (answer.status, answer.secure) == (status, True)
    assert 0 < answer.ttl <= 60


async def test_expired_signature_is_bogus(resolver: DnsResolver) -> None:
    with pytest.raises(LookupFailed) as caught:
        await resolver.lookup_mx(Domain("expired.test"))
    assert caught.value.reason is LookupReason.BOGUS


async def test_answer_too_large_for_udp(resolver: DnsResolver) -> None:
    answer = await resolver.lookup_mx(Domain("many.secure.test"))
    assert len(answer.records) == 100
    assert answer.secure


@pytest.mark.parametrize(
    ("signed_name", "bogus_name", "validates", "conclusive"),
    [
        (".", "expired.test", True, True),
        ("secure.test", "expired.test", True, True),
        (".", "nowhere.test", True, False),
        (".", "mx.insecure.test", False, True),  # stands for a bogus name that gets an answer
        ("insecure.test", "expired.test", False, True),
    ],
)
async def test_whether_it_validates(
    address: tuple[str, int], signed_name: str, bogus_name: str, validates: bool, conclusive: bool
) -> None:
    check = await check_validation([address], signed_name=signed_name, bogus_name=bogus_name, timeout_seconds=60)
    assert (check.validates, check.conclusive) == (validates, conclusive)
