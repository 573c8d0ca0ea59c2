"""The address guard: design.md, "What failure means"."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.addresses import AddressGuard, is_loopback, unwrap

PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",  # IPv4-mapped
    "64:ff9b::8.8.8.8",  # NAT64: what a host without IPv4 gets from DNS64
    "2002:808:808::1",  # 6to4 of 8.8.8.8
]

SPECIAL = [
    ("0.0.0.0", "unspecified"),
    ("0.255.255.255", "unspecified"),
    ("10.0.0.0", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.0", "shared by a carrier"),
    ("100.127.255.255", "shared by a carrier"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.255", "loopback"),
    ("169.254.169.254", "link-local"),
    ("172.16.0.0", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.170", "for protocol assignments"),
    ("192.0.2.1", "for documentation"),
    ("192.88.99.1", "a deprecated 6to4 relay"),
    ("192.168.255.255", "private"),
    ("198.18.0.0", "for benchmarks"),
    ("198.19.255.255", "for benchmarks"),
    ("198.51.100.7", "for documentation"),
    ("203.0.113.7", "for documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::8.8.8.8", "IPv4-compatible, deprecated"),
    ("::127.0.0.1", "IPv4-compatible, deprecated"),
    ("64:ff9b:1::808:808", "for NAT64 of a local network"),
    ("100::1", "for discarding"),
    ("2001::1", "Teredo"),
    ("2001:2::1", "for protocol assignments"),
    ("2001:1ff:ffff::1", "for protocol assignments"),
    ("2001:db8::1", "for documentation"),
    ("3ffe::1", "of the former 6bone"),
    ("3fff::1", "for documentation"),
    ("fc00::1", "unique local"),
    ("fdff:ffff::1", "unique local"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("febf::1", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("::ffff:0:8.8.8.8", "outside the global unicast space"),
    ("1fff:ffff::1", "outside the global unicast space"),
    ("4000::1", "outside the global unicast space"),
    ("5f00::1", "outside the global unicast space"),
]

WRAPPED = [
    ("::ffff:127.0.0.1", "127.0.0.1", "loopback"),
    ("::ffff:10.1.2.3", "10.1.2.3", "private"),
    ("64:ff9b::127.0.0.1", "127.0.0.1", "loopback"),
    ("64:ff9b::a9fe:a9fe", "169.254.169.254", "link-local"),
    ("2002:7f00:1::", "127.0.0.1", "loopback"),
    ("2002:c0a8:101::8:8", "192.168.1.1", "private"),
    ("2002:7f00:1:ffff:ffff:ffff:ffff:ffff", "127.0.0.1", "loopback"),
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_address_is_permitted(text: str) -> None:
    assert AddressGuard().refusal(ip_address(text)) is None
    assert AddressGuard(False).permits(ip_address(text))


@pytest.mark.parametrize(("text", "kind"), SPECIAL)
def test_special_purpose_address_is_refused(text: str, kind: str) -> None:
    guard = AddressGuard()
    assert not guard.permits(ip_address(text))
    assert guard.refusal(ip_address(text)) == f"{ip_address(text)} is {kind}"


@pytest.mark.parametrize(("text", "inner", "kind"), WRAPPED)
def test_embedded_ipv4_address_is_judged(text: str, inner: str, kind: str) -> None:
    address = ip_address(text)
    assert unwrap(address) == IPv4Address(inner)
    assert AddressGuard().refusal(address) == f"{address} leads to {inner}, which is {kind}"


def test_true_permits_every_address() -> None:
    guard = AddressGuard(True)
    assert all(guard.permits(ip_address(text)) for text in PUBLIC)
    assert all(guard.permits(ip_address(text)) for text, _ in SPECIAL)


@pytest.mark.parametrize(
    ("text", "permitted"),
    [
        ("10.20.0.1", True),
        ("10.21.0.1", False),
        ("::ffff:10.20.0.1", True),  # the unwrapped address is in the network
        ("64:ff9b::10.20.0.1", True),
        ("2002:a14:1::1", True),
        ("::ffff:10.21.0.1", False),
        ("fd00:1::1", True),
        ("fd00:2::1", False),
        ("127.0.0.1", False),
        ("9.9.9.9", True),
        ("2002:7f00:1::1", False),
    ],
)
def test_allowed_networks_are_permitted_beside_public_addresses(text: str, permitted: bool) -> None:
    guard = AddressGuard([ip_network("10.20.0.0/16"), ip_network("fd00:1::/32")])
    assert guard.permits(ip_address(text)) is permitted


def test_allowed_network_of_an_embedding_prefix_is_permitted() -> None:
    guard = AddressGuard([ip_network("2002:a14::/32")])
    assert guard.permits(ip_address("2002:a14:1::1"))
    assert not guard.permits(ip_address("10.20.0.1"))


def test_empty_list_permits_public_addresses_only() -> None:
    assert AddressGuard([]).permits(ip_address("9.9.9.9"))
    assert not AddressGuard([]).permits(ip_address("10.0.0.1"))


@given(st.ip_addresses(v=4))
def test_every_ipv6_form_is_judged_like_its_ipv4_address(inner: IPv4Address) -> None:
    expected = AddressGuard().permits(inner)
    for base in (0xFFFF << 32, 0x64FF9B << 96):
        assert AddressGuard().permits(IPv6Address(base | int(inner))) is expected
    assert AddressGuard().permits(IPv6Address((0x2002 << 112) | (int(inner) << 80) | 1)) is expected


@given(st.ip_addresses(v=6))
def test_nothing_that_the_standard_library_calls_local_is_permitted(address: IPv6Address) -> None:
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        assert not AddressGuard().permits(address)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.0.0.53", True),
        ("128.0.0.1", False),
        ("::1", True),
        ("::2", False),
        ("::ffff:127.0.0.53", True),
        ("::ffff:192.0.2.1", False),
        ("64:ff9b::127.0.0.1", False),  # leaves the machine for the translator
        ("fe80::1", False),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    assert is_loopback(ip_address(text)) is loopback
