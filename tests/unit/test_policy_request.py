"""What a request for a policy says beside its path: host, client, User-Agent (RFC 8461 §3.3, RFC 9110 §7.2)."""

import pytest

from stsguard.core.policy_request import (
    MAX_USER_AGENT,
    client_network,
    forwarded_for,
    is_local,
    parse_host,
    printable_agent,
)


@pytest.mark.parametrize(
    ("octets", "host"),
    [
        (b"mta-sts.example.com", "mta-sts.example.com"),
        (b"MTA-STS.Example.COM", "mta-sts.example.com"),
        (b"mta-sts.example.com:443", "mta-sts.example.com"),
        (b"mta-sts.example.com:", "mta-sts.example.com"),  # RFC 3986 §3.2.3: an empty port
        (b"mta-sts.example.com.", "mta-sts.example.com"),
        (b"mta-sts.example.com.:8443", "mta-sts.example.com"),
        ("mta-sts.bücher.example".encode(), "mta-sts.xn--bcher-kva.example"),
        (b"mta-sts.xn--bcher-kva.example", "mta-sts.xn--bcher-kva.example"),
    ],
)
def test_rfc9110_7_2_host(octets: bytes, host: str) -> None:
    assert parse_host(octets) == host


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b".",
        b"mta-sts.example.com..",  # one final dot only
        b"[::1]",
        b"[::1]:443",
        b"::1",
        b"192.0.2.1",
        b"192.0.2.1:443",
        b"mta-sts.example.com:https",
        b"mta-sts.example.com:443443",
        b"mta-sts.example.com:443:443",
        b"user@mta-sts.example.com",
        b"mta-sts.example.com/x",
        b"mta-sts example.com",
        b"mta-sts.b\xfccher.example",  # latin-1
        b"a" * 301,
    ],
)
def test_no_host_name(octets: bytes) -> None:
    assert parse_host(octets) is None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),  # an IPv4 client at a socket of both families
        ("fe80::1%eth0", "fe80::/48"),
        ("", "local"),
        ("/run/client.sock", "local"),
        ("256.1.1.1", "local"),
    ],
)
def test_network_of_a_client(address: str, network: str) -> None:
    assert client_network(address) == network


@pytest.mark.parametrize(
    ("field", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"10.0.0.1, 192.0.2.1", "192.0.2.1"),  # what stands before the last anybody can make up
        (b"192.0.2.1, 2001:db8::1 ", "2001:db8::1"),
        (b"192.0.2.1, unknown", ""),
        (b"192.0.2.1,", ""),
        (b"\xff", ""),
        (b"", ""),
    ],
)
def test_last_address_of_x_forwarded_for(field: bytes, address: str) -> None:
    assert forwarded_for(field) == address


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "/run/nginx.sock"])
def test_a_program_on_this_machine(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1"])
def test_another_machine(address: str) -> None:
    assert not is_local(address)


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"Postfix-tlspol/1.8", "Postfix-tlspol/1.8"),
        (b"", "-"),
        (b"a\tb\x1b[31m\xe4", "a?b?[31m?"),
        (b"x" * 5000, "x" * MAX_USER_AGENT),
    ],
)
def test_user_agent_is_bounded_and_printable(octets: bytes, text: str) -> None:
    assert printable_agent(octets) == text
