"""Whether a policy host leads to us, asked of real servers on loopback: each address, each kind, each wrong answer."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address

import pytest

from stsguard.adapters import reach
from stsguard.adapters.acme_challenge import challenge_context
from stsguard.adapters.reach import MAX_RESPONSE_OCTETS, REACH_PATH, IPAddress, PublicPath
from stsguard.core.addresses import AddressGuard
from stsguard.core.dane import Answer, AnswerStatus
from stsguard.core.errors import CertificateFailed, LookupFailed, LookupReason
from stsguard.core.hosted import AcmeChallenge
from stsguard.names import Domain

HOST = Domain("mta-sts.example.test")
HERE, THERE = "127.0.0.1", "127.0.0.2"
FAILED = LookupFailed(LookupReason.SERVFAIL, "mta-sts.example.test A")
LOOPBACK = AddressGuard(allow=True)
OK = "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"


class Addresses:
    """What DNS says of the policy host."""

    def __init__(self, *addresses: str, failure: LookupFailed | None = None) -> None:
        self._addresses = tuple(ip_address(address) for address in addresses)
        self._failure = failure

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        assert name == HOST
        if self._failure is not None:
            raise self._failure
        status = AnswerStatus.FOUND if self._addresses else AnswerStatus.NODATA
        return Answer(status, self._addresses, name, 300, secure=False)


def challenge(kind: str = "reach") -> AcmeChallenge:
    return AcmeChallenge(kind, HOST, "token", "nonce", datetime.now(UTC) + timedelta(minutes=5))


@asynccontextmanager
async def answering(
    reply: str, *hosts: str, tls: ssl.SSLContext | None = None, asked: list[str] | None = None
) -> AsyncIterator[int]:
    """A server at `hosts` that answers everything with `reply`, and its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if tls is None:
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                if asked is not None:
                    asked.append(request)
                writer.write(reply.encode())
                await writer.drain()
            else:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    port = 0
    servers = []
    for host in hosts:
        server = await asyncio.start_server(serve, host, port, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield port
    finally:
        for server in servers:
            server.close()


def path(addresses: Addresses, *, port: int = 1, guard: AddressGuard = LOOPBACK) -> PublicPath:
    return PublicPath(addresses, guard, http_port=port, tls_port=port)


async def test_rfc8555_8_3_every_address_is_asked_as_the_ca_asks() -> None:
    asked: list[str] = []
    async with answering(OK.format(length=6, body="nonce\n"), HERE, THERE, asked=asked) as port:
        await path(Addresses(HERE, THERE), port=port).prove(challenge())
    assert len(asked) == 2
    for request in asked:
        assert request.startswith(f"GET {REACH_PATH}token HTTP/1.1\r\n")
        assert f"Host: {HOST}\r\n" in request


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (OK.format(length=5, body="other"), "another server answers there"),
        (OK.format(length=0, body=""), "another server answers there"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "another server answers there, with status 404"),
        ("HTTP/1.1 301 Moved\r\nLocation: https://x.example/\r\nContent-Length: 0\r\n\r\n", "with status 301"),
        ("220 mail.example ESMTP\r\n", "what answers there is no web server"),
        ("", "what answers there is no web server"),
        (OK.format(length=5, body="non"), "what answers there is no web server"),  # cut short
        (OK.format(length=10**6, body="x" * (2 * MAX_RESPONSE_OCTETS)), "another server answers there"),
        (f"HTTP/1.1 200 OK\r\nX: {'x' * 10**6}\r\n\r\n", "what answers there is no web server"),
    ],
)
async def test_another_answer_is_told_with_its_address(reply: str, says: str) -> None:
    async with answering(reply, HERE) as port:
        with pytest.raises(CertificateFailed, match=f"{HOST} does not lead here: {HERE} port {port}: .*") as failed:
            await path(Addresses(HERE), port=port).prove(challenge())
    assert says in str(failed.value)


async def test_one_of_two_addresses_that_leads_elsewhere_is_enough() -> None:
    async with answering(OK.format(length=5, body="nonce"), HERE) as port:
        with pytest.raises(CertificateFailed, match=f"{THERE} port {port}: ") as failed:
            await path(Addresses(HERE, THERE), port=port).prove(challenge())
    assert f"{HERE} port" not in str(failed.value)


async def test_rfc8737_3_by_tls_the_certificate_of_the_nonce_counts() -> None:
    async with answering("", HERE, tls=challenge_context(challenge("reach-tls"))) as port:
        await path(Addresses(HERE), port=port).prove(challenge("reach-tls"))
    other = AcmeChallenge("reach-tls", HOST, "token", "other", challenge().expires_at)
    async with answering("", HERE, tls=challenge_context(other)) as port:
        with pytest.raises(CertificateFailed, match="another server answers there"):
            await path(Addresses(HERE), port=port).prove(challenge("reach-tls"))


async def test_what_speaks_no_tls_is_told() -> None:
    async with answering("220 mail.example ESMTP\r\n", HERE) as port:
        with pytest.raises(CertificateFailed, match=f"{HERE} port {port}: "):
            await path(Addresses(HERE), port=port).prove(challenge("reach-tls"))


async def test_no_answer_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "TIMEOUT_SECONDS", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, HERE, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(CertificateFailed, match=r"no answer within 0\.2 s"):
            await path(Addresses(HERE), port=port).prove(challenge())


async def test_only_addresses_that_the_guard_permits_are_asked() -> None:
    asked: list[str] = []
    async with answering(OK.format(length=5, body="nonce"), HERE, asked=asked) as port:
        with pytest.raises(CertificateFailed, match="no connection there: "):
            await path(Addresses(HERE), port=port, guard=AddressGuard()).prove(challenge())
    assert asked == []


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        (Addresses(), "has no address yet: publish the record that `domain dns` shows"),
        (Addresses(failure=FAILED), "the addresses of the policy host can't be looked up: mta-sts.example.test A"),
    ],
)
async def test_without_an_address_nothing_is_asked(addresses: Addresses, says: str) -> None:
    with pytest.raises(CertificateFailed) as failed:
        await path(addresses).prove(challenge())
    assert says in str(failed.value)


async def test_a_family_without_a_route_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., object] = asyncio.open_connection

    async def no_ipv6(host: str, *arguments: object, **options: object) -> object:
        if ":" in host:  # as on a machine without IPv6
            raise OSError(101, "Network is unreachable")
        return await real(host, *arguments, **options)  # type: ignore[misc]

    monkeypatch.setattr(asyncio, "open_connection", no_ipv6)
    ours: Sequence[str] = ("2001:db8::1", str(IPv4Address(HERE)))
    async with answering(OK.format(length=5, body="nonce"), HERE) as port:
        await path(Addresses(*ours), port=port).prove(challenge())
    with pytest.raises(CertificateFailed, match="this machine has no route to its addresses"):
        await path(Addresses("2001:db8::1")).prove(challenge())
