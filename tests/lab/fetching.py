"""Policy fetches in tests: responses, a resolver of values, and a fetcher for servers on loopback."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from stsguard.adapters.policy_fetch import HttpsPolicyFetcher
from stsguard.core.addresses import AddressGuard
from stsguard.core.dane import Answer, AnswerStatus
from stsguard.core.errors import LookupFailed, LookupReason, PolicyFetchFailed
from stsguard.core.mtasts import Policy
from stsguard.names import Domain
from tests.lab.ca import IssuedCertificate, ThrowAwayCA
from tests.lab.https_server import Answer as Reply
from tests.lab.https_server import HttpsServer

DOMAIN = Domain("example.test")
POLICY_HOST = "mta-sts.example.test"
LOOPBACK = ip_address("127.0.0.1")
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.test\r\nmax_age: 86400\r\n"

IPAddress = IPv4Address | IPv6Address


def response(
    body: bytes = POLICY,
    *headers: str,
    status: str = "HTTP/1.1 200 OK",
    content_type: str | None = "text/plain",
    length: bool = True,
) -> bytes:
    """A response, right unless told otherwise; `length` False leaves Content-Length out."""
    lines = [status, *headers]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body


def chunked(*chunks: bytes, last: bytes = b"0\r\n\r\n", headers: Sequence[str] = ()) -> bytes:
    """A response in these chunks, then `last`."""
    head = response(b"", "Transfer-Encoding: chunked", *headers, length=False)
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + last


@dataclass(frozen=True, slots=True)
class Addresses:
    """A resolver that knows the addresses of one name, or how the look-up for it fails."""

    addresses: Sequence[IPAddress] = (LOOPBACK,)
    failure: LookupReason | None = None
    stalls: bool = False
    asked: list[Domain] = field(default_factory=list)

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        self.asked.append(name)
        if self.stalls:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise LookupFailed(self.failure, f"{name} A")
        status = AnswerStatus.FOUND if self.addresses else AnswerStatus.NODATA
        return Answer(status, tuple(self.addresses), name, 300, secure=False)


def fetcher(
    ca: ThrowAwayCA,
    port: int,
    resolver: Addresses | None = None,
    *,
    allow: bool = True,
    timeout_seconds: float = 30.0,
    max_size_bytes: int = 65536,
    concurrency: int = 10,
) -> HttpsPolicyFetcher:
    """A fetcher that trusts `ca` and looks for Policy Hosts at `port` of this machine."""
    return HttpsPolicyFetcher(
        resolver or Addresses(),
        AddressGuard(allow),
        ca_file=ca.ca_file,
        port=port,
        timeout_seconds=timeout_seconds,
        max_size_bytes=max_size_bytes,
        concurrency=concurrency,
    )


async def fetch(
    ca: ThrowAwayCA, certificate: IssuedCertificate, reply: Reply, *, timeout_seconds: float = 30.0
) -> Policy:
    """The policy of DOMAIN from a server with `certificate` that replies by `reply`."""
    async with HttpsServer(reply, certificate.server_context()) as server:
        return await fetcher(ca, server.port, timeout_seconds=timeout_seconds).fetch(DOMAIN)


async def failure(
    ca: ThrowAwayCA, certificate: IssuedCertificate, reply: Reply, *, timeout_seconds: float = 30.0
) -> PolicyFetchFailed:
    """How that fetch fails."""
    with pytest.raises(PolicyFetchFailed) as caught:
        await fetch(ca, certificate, reply, timeout_seconds=timeout_seconds)
    return caught.value
