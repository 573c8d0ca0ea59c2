"""Fetching policies from a real TLS server on loopback: names, addresses, certificates, connections."""

import asyncio
import errno
import os
import resource
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
import uvloop

from stsguard import __version__
from stsguard.adapters.policy_fetch import HttpsPolicyFetcher
from stsguard.core.addresses import AddressGuard
from stsguard.core.errors import FetchReason, LookupReason, OperatorError, PolicyFetchFailed
from stsguard.core.mtasts import Mode
from stsguard.names import Domain
from tests.lab.ca import IssuedCertificate, ThrowAwayCA
from tests.lab.fetching import (
    DOMAIN,
    LOOPBACK,
    POLICY_HOST,
    Addresses,
    failure,
    fetch,
    fetcher,
    response,
)
from tests.lab.https_server import HttpsServer, say, say_and_stall


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def good(ca: ThrowAwayCA) -> IssuedCertificate:
    return ca.issue([POLICY_HOST])


# What is accepted


async def test_rfc8461_3_3_policy_is_fetched_from_the_policy_host(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    resolver = Addresses()
    async with HttpsServer(say(response()), good.server_context()) as server:
        policy = await fetcher(ca, server.port, resolver).fetch(DOMAIN)
    assert policy.mode is Mode.ENFORCE
    assert policy.max_age == 86400
    assert resolver.asked == [POLICY_HOST]
    assert server.server_names == [POLICY_HOST]
    [request] = server.requests
    lines = request.decode().split("\r\n")
    assert lines[0] == "GET /.well-known/mta-sts.txt HTTP/1.1"
    assert f"Host: {POLICY_HOST}:{server.port}" in lines
    assert f"User-Agent: stsguard/{__version__}" in lines
    assert "Connection: close" in lines


@pytest.mark.parametrize(
    "issue",
    [
        lambda ca: ca.issue(["other.test", POLICY_HOST]),
        lambda ca: ca.issue([POLICY_HOST.upper()]),
        lambda ca: ca.issue(["*.example.test"]),
        lambda ca: ca.issue([POLICY_HOST], intermediate=True),
        lambda ca: ca.issue([POLICY_HOST], common_name="other.test"),
    ],
)
async def test_rfc8461_3_3_certificate_with_the_dns_id(
    ca: ThrowAwayCA, issue: Callable[[ThrowAwayCA], IssuedCertificate]
) -> None:
    assert (await fetch(ca, issue(ca), say(response()))).mode is Mode.ENFORCE


def test_under_uvloop(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async def run() -> None:
        assert (await fetch(ca, good, say(response()))).mode is Mode.ENFORCE
        exc = await failure(ca, good, say_and_stall(b""), timeout_seconds=0.3)
        assert exc.reason is FetchReason.TIMEOUT
        with refusing_port() as port, pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, port).fetch(DOMAIN)
        assert caught.value.reason is FetchReason.CONNECTION_REFUSED

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_tls_1_2_is_enough(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    context = good.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with HttpsServer(say(response()), context) as server:
        assert (await fetcher(ca, server.port).fetch(DOMAIN)).mode is Mode.ENFORCE


async def test_each_policy_host_has_a_connection_of_its_own(ca: ThrowAwayCA) -> None:
    certificate = ca.issue([POLICY_HOST, "mta-sts.other.test"])
    async with HttpsServer(say(response()), certificate.server_context()) as server:
        policies = fetcher(ca, server.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(policies.fetch(DOMAIN))
            group.create_task(policies.fetch(Domain("other.test")))
        await policies.fetch(DOMAIN)
    assert sorted(str(name) for name in server.server_names) == [POLICY_HOST, POLICY_HOST, "mta-sts.other.test"]
    hosts = sorted(line for request in server.requests for line in request.decode().split("\r\n") if "Host:" in line)
    assert hosts == sorted(f"Host: {name}:{server.port}" for name in server.server_names)


# How a certificate fails

CERTIFICATES: list[tuple[str, FetchReason, Callable[[ThrowAwayCA], IssuedCertificate]]] = [
    ("another name", FetchReason.CERTIFICATE_HOST_MISMATCH, lambda ca: ca.issue(["example.test"])),
    # RFC 8461 §3.3: matching is performed only against the DNS-ID identifiers.
    (
        "CN only",
        FetchReason.CERTIFICATE_HOST_MISMATCH,
        lambda ca: ca.issue([], common_name=POLICY_HOST, san=False),
    ),
    (
        "CN beside another SAN",
        FetchReason.CERTIFICATE_HOST_MISMATCH,
        lambda ca: ca.issue(["other.test"], common_name=POLICY_HOST),
    ),
    (
        "CN beside an iPAddress",
        FetchReason.CERTIFICATE_HOST_MISMATCH,
        lambda ca: ca.issue([], addresses=[IPv4Address("127.0.0.1")], common_name=POLICY_HOST),
    ),
    # RFC 6125 §6.4.3: a wildcard stands for one label, and for a complete one.
    ("wildcard for two labels", FetchReason.CERTIFICATE_HOST_MISMATCH, lambda ca: ca.issue(["*.test"])),
    ("wildcard of a part", FetchReason.CERTIFICATE_HOST_MISMATCH, lambda ca: ca.issue(["mta-*.example.test"])),
    ("wildcard not left-most", FetchReason.CERTIFICATE_HOST_MISMATCH, lambda ca: ca.issue(["mta-sts.*.test"])),
    ("wildcard alone", FetchReason.CERTIFICATE_HOST_MISMATCH, lambda ca: ca.issue(["*"])),
    (
        "expired",
        FetchReason.CERTIFICATE_EXPIRED,
        lambda ca: ca.issue([POLICY_HOST], not_after=datetime.now(UTC) - timedelta(minutes=1)),
    ),
    (
        "not yet valid",
        FetchReason.CERTIFICATE_NOT_YET_VALID,
        lambda ca: ca.issue([POLICY_HOST], not_before=datetime.now(UTC) + timedelta(days=1)),
    ),
    ("self-signed", FetchReason.CERTIFICATE_NOT_TRUSTED, lambda ca: ca.issue([POLICY_HOST], self_signed=True)),
    (
        "unknown CA",
        FetchReason.CERTIFICATE_NOT_TRUSTED,
        lambda ca: ThrowAwayCA(ca.directory / "unknown").issue([POLICY_HOST]),
    ),
    (
        "no intermediate",
        FetchReason.CERTIFICATE_NOT_TRUSTED,
        lambda ca: ca.issue([POLICY_HOST], intermediate=True, send_intermediate=False),
    ),
    ("for clients", FetchReason.CERTIFICATE_NOT_TRUSTED, lambda ca: ca.issue([POLICY_HOST], server_auth=False)),
]


@pytest.mark.parametrize(("reason", "issue"), [row[1:] for row in CERTIFICATES], ids=[row[0] for row in CERTIFICATES])
async def test_rfc8461_3_3_certificate_that_is_not_valid(
    ca: ThrowAwayCA, reason: FetchReason, issue: Callable[[ThrowAwayCA], IssuedCertificate]
) -> None:
    exc = await failure(ca, issue(ca), say(response()))
    assert exc.reason is reason
    assert exc.reason.result_type.value == "sts-webpki-invalid"


# Time


async def test_stall_in_the_look_up(ca: ThrowAwayCA) -> None:
    with pytest.raises(PolicyFetchFailed) as caught:
        await fetcher(ca, 1, Addresses(stalls=True), timeout_seconds=0.1).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.TIMEOUT
    assert "looking up" in str(caught.value)


@contextmanager
def full_port() -> Iterator[int]:
    """A port whose queue is full, so that a connection is neither accepted nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for sock in waiting:
                sock.close()


async def test_stall_in_the_connection(ca: ThrowAwayCA) -> None:
    with full_port() as port, pytest.raises(PolicyFetchFailed) as caught:
        await fetcher(ca, port, timeout_seconds=0.5).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.TIMEOUT
    assert f"connecting to 127.0.0.1 port {port}" in str(caught.value)


async def test_stall_in_the_handshake(ca: ThrowAwayCA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, port, timeout_seconds=0.5).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.TIMEOUT
    assert f"TLS handshake with 127.0.0.1 port {port}" in str(caught.value)


async def test_fetch_that_never_has_its_turn_is_our_own_fault(ca: ThrowAwayCA) -> None:
    with pytest.raises(PolicyFetchFailed) as caught:
        await fetcher(ca, 1, timeout_seconds=0.1, concurrency=0).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.LOCAL


# Connections


async def test_no_tls_at_all(ca: ThrowAwayCA) -> None:
    async def answer(_writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a request was sent in plaintext")

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response())
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        with pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, server.sockets[0].getsockname()[1]).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.TLS_FAILED


async def test_rfc8996_tls_1_1_is_not_spoken(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    context = good.server_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that it is out of date is the point
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    async with HttpsServer(say(response()), context) as server:
        with pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, server.port).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.TLS_FAILED
    assert server.requests == []


@pytest.mark.parametrize("greeting", [b"", b"\x16\x03\x03", b"\x15\x03\x03\x00\x02\x02\x28"])
async def test_handshake_that_ends_early(ca: ThrowAwayCA, greeting: bytes) -> None:
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        with pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, server.sockets[0].getsockname()[1]).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.TLS_FAILED


async def test_server_that_wants_a_certificate_of_ours(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    context = good.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cafile=ca.ca_file)
    async with HttpsServer(say(response()), context) as server:
        with pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, server.port).fetch(DOMAIN)
    # TLS 1.3 lets the client finish first, so what is seen of the alert depends on who is faster.
    assert caught.value.reason in (FetchReason.TLS_FAILED, FetchReason.CONNECTION_LOST)


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port on which nothing listens, and nothing else can."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def test_connection_refused(ca: ThrowAwayCA) -> None:
    with refusing_port() as port, pytest.raises(PolicyFetchFailed) as caught:
        await fetcher(ca, port).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.CONNECTION_REFUSED
    assert not caught.value.reason.maybe_ours


async def test_address_without_a_route_may_be_our_own_fault(ca: ThrowAwayCA) -> None:
    resolver = Addresses([ip_address("255.255.255.255")])
    with pytest.raises(PolicyFetchFailed) as caught:
        await fetcher(ca, 443, resolver).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.CONNECT_FAILED
    assert caught.value.reason.maybe_ours


async def test_no_socket_left_is_our_own_fault(ca: ThrowAwayCA) -> None:
    policies = fetcher(ca, 443)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # what is open stays open
    try:
        with pytest.raises(PolicyFetchFailed) as caught:
            await policies.fetch(DOMAIN)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.reason is FetchReason.LOCAL
    assert os.strerror(errno.EMFILE) in str(caught.value)


async def test_second_address_is_tried(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    resolver = Addresses([ip_address("127.0.0.2"), ip_address("255.255.255.255"), LOOPBACK])
    async with HttpsServer(say(response()), good.server_context()) as server:
        assert (await fetcher(ca, server.port, resolver).fetch(DOMAIN)).mode is Mode.ENFORCE


async def test_address_that_stalls_leaves_time_for_the_next(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async with HttpsServer(say(response()), good.server_context()) as server:
        with socket.create_server(("127.0.0.2", server.port)):  # accepts and says nothing
            resolver = Addresses([ip_address("127.0.0.2"), LOOPBACK])
            policy = await fetcher(ca, server.port, resolver, timeout_seconds=6).fetch(DOMAIN)
    assert policy.mode is Mode.ENFORCE


async def test_who_has_proved_to_be_the_policy_host_has_the_last_word(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    reply = say(response(status="HTTP/1.1 404 Not Found"))
    async with HttpsServer(reply, good.server_context()) as server:
        with socket.create_server(("127.0.0.2", server.port)) as other:
            other.setblocking(False)
            resolver = Addresses([LOOPBACK, ip_address("127.0.0.2")])
            with pytest.raises(PolicyFetchFailed) as caught:
                await fetcher(ca, server.port, resolver).fetch(DOMAIN)
            with pytest.raises(BlockingIOError):
                other.accept()
    assert caught.value.reason is FetchReason.HTTP_STATUS


async def test_certificate_failure_is_told_before_those_of_other_addresses(ca: ThrowAwayCA) -> None:
    resolver = Addresses([ip_address("127.0.0.2"), LOOPBACK, ip_address("255.255.255.255")])
    async with HttpsServer(say(response()), ca.issue(["other.test"]).server_context()) as server:
        with pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, server.port, resolver).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.CERTIFICATE_HOST_MISMATCH


# Names and addresses


@pytest.mark.parametrize("reason", list(LookupReason))
async def test_failed_look_up(ca: ThrowAwayCA, reason: LookupReason) -> None:
    with pytest.raises(PolicyFetchFailed) as caught:
        await fetcher(ca, 443, Addresses(failure=reason)).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.DNS_FAILED


async def test_policy_host_without_address(ca: ThrowAwayCA) -> None:
    with pytest.raises(PolicyFetchFailed) as caught:
        await fetcher(ca, 443, Addresses([])).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.NO_ADDRESS


async def test_domain_too_long_for_a_policy_host(ca: ThrowAwayCA) -> None:
    resolver = Addresses()
    with pytest.raises(PolicyFetchFailed) as caught:
        await fetcher(ca, 443, resolver).fetch(Domain.parse(".".join(["a" * 49] * 5)))
    assert caught.value.reason is FetchReason.NO_ADDRESS
    assert resolver.asked == []


async def test_name_that_cannot_be_an_sni_fails(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async with HttpsServer(say(response()), good.server_context()) as server:
        with pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, server.port).fetch(Domain("a\0.test"))  # not by Domain.parse, which refuses it
    assert caught.value.reason is FetchReason.LOCAL


async def test_private_address_is_not_connected_to(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async with HttpsServer(say(response()), good.server_context()) as server:
        with pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, server.port, allow=False).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.ADDRESS_REFUSED
    assert "127.0.0.1 is loopback" in str(caught.value)
    assert server.server_names == []


async def test_only_permitted_addresses_are_connected_to(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    guard = AddressGuard([ip_network("127.0.0.1/32")])
    async with HttpsServer(say(response()), good.server_context()) as server:
        with socket.create_server(("127.0.0.2", server.port)) as forbidden:
            forbidden.setblocking(False)
            resolver = Addresses([ip_address("127.0.0.2"), LOOPBACK])
            policies = HttpsPolicyFetcher(resolver, guard, ca_file=ca.ca_file, port=server.port)
            assert (await policies.fetch(DOMAIN)).mode is Mode.ENFORCE
            with pytest.raises(BlockingIOError):
                forbidden.accept()


# CA certificates


def test_unusable_ca_file_stops_the_start(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for path in (tmp_path / "absent.pem", empty):
        with pytest.raises(OperatorError, match=str(path)):
            HttpsPolicyFetcher(Addresses(), AddressGuard(), ca_file=path)


def test_system_without_ca_certificates_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with pytest.raises(OperatorError, match="no CA certificates"):
        HttpsPolicyFetcher(Addresses(), AddressGuard())
    (tmp_path / "4a6481c9.0").touch()  # the name is a hash, so the file is read when it is needed
    HttpsPolicyFetcher(Addresses(), AddressGuard())


async def test_certificates_of_the_system_do_not_trust_ours(good: IssuedCertificate) -> None:
    async with HttpsServer(say(response()), good.server_context()) as server:
        policies = HttpsPolicyFetcher(Addresses(), AddressGuard(True), port=server.port)
        with pytest.raises(PolicyFetchFailed) as caught:
            await policies.fetch(DOMAIN)
    assert caught.value.reason is FetchReason.CERTIFICATE_NOT_TRUSTED
