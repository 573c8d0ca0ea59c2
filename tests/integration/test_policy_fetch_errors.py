"""Every failure of a policy fetch is a FetchReason: no other exception gets through, and no reason is unused."""

import errno
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import NoReturn

import h11
import pytest

from stsguard.adapters.policy_fetch import FETCHES, HttpsPolicyFetcher
from stsguard.adapters.policy_fetch.connecting import NoRoute, choose_addresses, failure_of, most_telling
from stsguard.adapters.policy_fetch.response import PolicyResponse
from stsguard.adapters.policy_fetch.session import PolicyHostSessions
from stsguard.core.addresses import AddressGuard
from stsguard.core.errors import FetchReason, LookupReason, PolicyFetchFailed
from stsguard.names import Domain
from tests.lab.ca import IssuedCertificate, ThrowAwayCA
from tests.lab.fetching import (
    DOMAIN,
    LOOPBACK,
    POLICY_HOST,
    Addresses,
    fetcher,
    response,
)
from tests.lab.https_server import Answer as Reply
from tests.lab.https_server import HttpsServer, say, say_and_cut, say_and_stall


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path_factory.mktemp("ca"))


PEERS_FAULT = {
    FetchReason.CONNECTION_REFUSED: {errno.ECONNREFUSED},
    FetchReason.CONNECTION_LOST: {errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ESHUTDOWN},
}


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_error_of_the_operating_system_is_ours_unless_the_peer_caused_it(number: int) -> None:
    exc = failure_of(OSError(number, os.strerror(number)), "192.0.2.1 port 443")
    expected = next((reason for reason, numbers in PEERS_FAULT.items() if number in numbers), None)
    if expected is None:
        assert exc.reason.maybe_ours
    else:
        assert exc.reason is expected
    assert os.strerror(number) in str(exc)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EMFILE, FetchReason.LOCAL),
        (errno.ENFILE, FetchReason.LOCAL),
        (errno.ENOBUFS, FetchReason.LOCAL),
        (errno.ETIMEDOUT, FetchReason.TIMEOUT),
        (errno.ENETUNREACH, FetchReason.CONNECT_FAILED),
        (errno.EHOSTUNREACH, FetchReason.CONNECT_FAILED),
        (errno.EACCES, FetchReason.CONNECT_FAILED),
    ],
)
def test_error_of_the_operating_system(number: int, reason: FetchReason) -> None:
    assert failure_of(OSError(number, "text"), "somewhere").reason is reason


def failed(reason: FetchReason) -> PolicyFetchFailed:
    return PolicyFetchFailed(reason, "text")


NO_ROUTE = NoRoute(FetchReason.CONNECT_FAILED, "text")


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        ([failed(FetchReason.CONNECTION_REFUSED)], FetchReason.CONNECTION_REFUSED),
        # No IPv6 here, and over IPv4 the Policy Host refuses: that is what it does.
        ([NO_ROUTE, failed(FetchReason.CONNECTION_REFUSED)], FetchReason.CONNECTION_REFUSED),
        ([NO_ROUTE, NO_ROUTE], FetchReason.CONNECT_FAILED),
        # One that we could not reach might have served the policy.
        ([failed(FetchReason.CONNECTION_REFUSED), failed(FetchReason.TIMEOUT)], FetchReason.TIMEOUT),
        ([failed(FetchReason.CONNECTION_REFUSED), failed(FetchReason.CONNECT_FAILED)], FetchReason.CONNECT_FAILED),
        ([failed(FetchReason.LOCAL), failed(FetchReason.TIMEOUT)], FetchReason.LOCAL),
        ([failed(FetchReason.LOCAL), failed(FetchReason.TLS_FAILED)], FetchReason.TLS_FAILED),
        ([failed(FetchReason.TIMEOUT), failed(FetchReason.CERTIFICATE_EXPIRED)], FetchReason.CERTIFICATE_EXPIRED),
    ],
)
def test_most_telling_of_several_failures(failures: list[PolicyFetchFailed], reason: FetchReason) -> None:
    assert most_telling(failures).reason is reason
    assert most_telling(failures[::-1]).reason is reason


def test_rfc8305_4_families_take_turns() -> None:
    v4 = [ip_address(f"192.0.2.{i}") for i in range(9)]
    v6 = [ip_address(f"2001:db8::{i}") for i in range(2)]
    chosen = choose_addresses([*v4, *v6], AddressGuard(True))
    assert chosen == [v6[0], v4[0], v6[1], v4[1], v4[2], v4[3]]


def _ssl_errors() -> list[type[ssl.SSLError]]:
    found = [ssl.SSLError]
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if cls is not ssl.SSLWantReadError]


class Raising:
    """An SSLContext and an SSLObject of which one operation raises an exception."""

    def __init__(self, operation: str, exc: Exception) -> None:
        self._operation = operation
        self._exc = exc

    def _do(self, operation: str) -> None:
        if operation == self._operation:
            raise self._exc

    def wrap_bio(self, *_args: object, **_options: object) -> "Raising":
        return self

    def do_handshake(self) -> None:
        self._do("do_handshake")

    def read(self, _size: int) -> bytes:
        self._do("read")
        raise AssertionError

    def write(self, _data: bytes) -> int:
        self._do("write")
        return 0


@pytest.mark.parametrize("operation", ["do_handshake", "write", "read"])
@pytest.mark.parametrize("cls", _ssl_errors())
async def test_no_error_of_ssl_gets_through(cls: type[ssl.SSLError], operation: str) -> None:
    exc = cls(1, "text")
    exc.verify_code, exc.verify_message = 1, "text"  # type: ignore[attr-defined]  # on one of the classes
    with socket.create_server(("127.0.0.1", 0)) as listener:
        context = Raising(operation, exc)
        port = listener.getsockname()[1]
        sessions = PolicyHostSessions(context, max_size_bytes=1, port=port)  # type: ignore[arg-type]  # a fake
        with sessions.ask(Domain(POLICY_HOST), LOOPBACK) as exchange, listener.accept()[0] as peer:
            peer.send(b"x")
            with pytest.raises(PolicyFetchFailed):
                await exchange.done


def test_no_error_of_h11_is_unknown() -> None:
    # LocalProtocolError would mean that our own request is wrong, which every other test would show.
    assert set(h11.ProtocolError.__subclasses__()) == {h11.LocalProtocolError, h11.RemoteProtocolError}


@pytest.mark.parametrize("reply", [b"\xff" * 50, b"HTTP/1.1 200 OK\r\n\x00\r\n\r\n", b"HTTP/9.9 999 \xff\r\n\r\n"])
def test_response_object_raises_nothing_else(reply: bytes) -> None:
    for size in (1, 7, len(reply)):
        parser = PolicyResponse(Domain(POLICY_HOST), max_size_bytes=10)
        with pytest.raises(PolicyFetchFailed):
            [parser.receive(reply[start : start + size]) for start in range(0, len(reply), size)]


def test_port_443_is_not_named_in_the_request() -> None:
    assert b"\r\nHost: mta-sts.example.test\r\n" in PolicyResponse(Domain(POLICY_HOST), max_size_bytes=10).request


class Broken:
    """A resolver on a machine that is out of something."""

    def __init__(self, exc: Exception) -> None:
        self._exc = exc

    async def lookup_addresses(self, _name: Domain) -> NoReturn:
        raise self._exc


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (OSError(errno.EMFILE, "too many"), FetchReason.LOCAL),
        (TimeoutError(), FetchReason.TIMEOUT),
        (ConnectionResetError(), FetchReason.CONNECTION_LOST),
        (OSError("no number"), FetchReason.CONNECT_FAILED),
    ],
)
async def test_error_of_the_operating_system_anywhere(ca: ThrowAwayCA, exc: OSError, reason: FetchReason) -> None:
    policies = HttpsPolicyFetcher(Broken(exc), AddressGuard(True), ca_file=ca.ca_file)
    with pytest.raises(PolicyFetchFailed) as caught:
        await policies.fetch(DOMAIN)
    assert caught.value.reason is reason


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fetch, right in all that is not given."""

    reply: Reply = field(default_factory=lambda: say(response()))
    issue: Callable[[ThrowAwayCA], IssuedCertificate] = lambda ca: ca.issue([POLICY_HOST])
    resolver: Addresses = field(default_factory=Addresses)
    allow: bool = True
    ciphers: str = "DEFAULT"
    timeout_seconds: float = 30.0
    concurrency: int = 1


def dated(**dates: datetime) -> Callable[[ThrowAwayCA], IssuedCertificate]:
    return lambda ca: ca.issue([POLICY_HOST], not_before=dates.get("not_before"), not_after=dates.get("not_after"))


NOW = datetime.now(UTC)
PRODUCES: dict[FetchReason, Scenario] = {
    FetchReason.DNS_FAILED: Scenario(resolver=Addresses(failure=LookupReason.SERVFAIL)),
    FetchReason.NO_ADDRESS: Scenario(resolver=Addresses([])),
    FetchReason.ADDRESS_REFUSED: Scenario(allow=False),
    FetchReason.CONNECT_FAILED: Scenario(resolver=Addresses([ip_address("255.255.255.255")])),
    FetchReason.CONNECTION_REFUSED: Scenario(resolver=Addresses([ip_address("127.0.0.2")])),
    FetchReason.TIMEOUT: Scenario(say_and_stall(b""), timeout_seconds=0.3),
    FetchReason.TLS_FAILED: Scenario(ciphers="ECDHE-RSA-AES128-GCM-SHA256"),  # the key is not RSA
    FetchReason.CERTIFICATE_NOT_TRUSTED: Scenario(issue=lambda ca: ca.issue([POLICY_HOST], self_signed=True)),
    FetchReason.CERTIFICATE_EXPIRED: Scenario(issue=dated(not_after=NOW - timedelta(minutes=1))),
    FetchReason.CERTIFICATE_NOT_YET_VALID: Scenario(issue=dated(not_before=NOW + timedelta(days=1))),
    FetchReason.CERTIFICATE_HOST_MISMATCH: Scenario(issue=lambda ca: ca.issue(["other.test"])),
    FetchReason.HTTP_MALFORMED: Scenario(say(b"220 smtp.example.test\r\n")),
    FetchReason.HTTP_REDIRECT: Scenario(say(response(status="HTTP/1.1 301 Moved"))),
    FetchReason.HTTP_STATUS: Scenario(say(response(status="HTTP/1.1 404 Not Found"))),
    FetchReason.CONNECTION_LOST: Scenario(say_and_cut(response(length=False))),
    FetchReason.MEDIA_TYPE: Scenario(say(response(content_type="text/html"))),
    FetchReason.TOO_LARGE: Scenario(say(response(b"#" * 65537))),
    FetchReason.POLICY_SYNTAX: Scenario(say(response(b"version: STSv2\r\n"))),
    FetchReason.LOCAL: Scenario(timeout_seconds=0.1, concurrency=0),
}


@pytest.mark.parametrize("reason", list(FetchReason))
async def test_every_reason_is_produced_and_counted(ca: ThrowAwayCA, reason: FetchReason) -> None:
    scenario = PRODUCES[reason]
    context = scenario.issue(ca).server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose ciphers can be chosen
    context.set_ciphers(scenario.ciphers)
    counted = FETCHES.value(reason.code)
    async with HttpsServer(scenario.reply, context) as server:
        policies = fetcher(
            ca,
            server.port,
            scenario.resolver,
            allow=scenario.allow,
            timeout_seconds=scenario.timeout_seconds,
            concurrency=scenario.concurrency,
        )
        with pytest.raises(PolicyFetchFailed) as caught:
            await policies.fetch(DOMAIN)
    assert caught.value.reason is reason
    assert FETCHES.value(reason.code) == counted + 1
