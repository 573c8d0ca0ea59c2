"""Asks over the public path whether a policy host leads to us, before a CA is bothered: a `ports.ReachProver`.

A CA counts failed validations, and a name that points elsewhere fails for ever. So the challenge of our own is fetched
first as the CA would fetch its own: at every public address of the name, at port 80 by HTTP (RFC 8555 §8.3) or at port
443 by TLS (RFC 8737 §3), only at addresses that the guard permits, and each within one time limit. An address of a
family that this machine has no route for says nothing.

Left out on purpose: redirects, which a CA follows and we do not; a policy host has no use for them.
"""

import asyncio
import errno
import ssl
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

import h11

from stsguard import __version__
from stsguard.core.acme_identifier import carries_identifier
from stsguard.core.addresses import AddressGuard
from stsguard.core.dane import Answer
from stsguard.core.errors import CertificateFailed, LookupFailed
from stsguard.core.hosted import REACH_PROTOCOL, AcmeChallenge
from stsguard.names import Domain

IPAddress = IPv4Address | IPv6Address

REACH_PATH = "/.well-known/stsguard-reach/"
TIMEOUT_SECONDS = 10.0  # for one address
MAX_ADDRESSES = 8
MAX_RESPONSE_OCTETS = 8192
_NO_ROUTE = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class AddressLookup(Protocol):
    """The part of `ports.Resolver` that is needed here."""

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        """A and AAAA records together; raises LookupFailed only."""


class PublicPath:
    """Implements `ports.ReachProver`. Other ports than 80 and 443 are for tests."""

    def __init__(
        self, resolver: AddressLookup, guard: AddressGuard, *, http_port: int = 80, tls_port: int = 443
    ) -> None:
        self._resolver = resolver
        self._guard = guard
        self._http_port = http_port
        self._tls_port = tls_port
        self._tls = _trusting_context()

    async def prove(self, challenge: AcmeChallenge) -> None:
        """Return if every public address of `challenge.host` answers the challenge.

        Raises:
            CertificateFailed: with the address and what it answered.
        """
        try:
            answer = await self._resolver.lookup_addresses(challenge.host)
        except LookupFailed as exc:
            raise CertificateFailed(f"the addresses of the policy host can't be looked up: {exc}") from exc
        if not answer.records:
            raise CertificateFailed(f"{challenge.host} has no address yet: publish the record that `domain dns` shows")
        problems = await asyncio.gather(
            *(self._ask_at(challenge, address) for address in answer.records[:MAX_ADDRESSES])
        )
        told = [problem for problem in problems if problem]
        if told:
            raise CertificateFailed(f"{challenge.host} does not lead here: {'; '.join(told)}")
        if None not in problems:
            raise CertificateFailed(f"{challenge.host} can't be reached: this machine has no route to its addresses")

    async def _ask_at(self, challenge: AcmeChallenge, address: IPAddress) -> str | None:
        """What is wrong there; None where nothing is, "" where this machine can't tell."""
        refusal = self._guard.refusal(address)
        if refusal is not None:
            return f"no connection there: {refusal}"
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                if challenge.kind == "reach":
                    wrong = await self._ask_http(challenge, address)
                else:
                    wrong = await self._ask_tls(challenge, address)
        except TimeoutError:
            wrong = f"no answer within {TIMEOUT_SECONDS:g} s"
        except OSError as exc:
            if exc.errno in _NO_ROUTE:
                return ""
            wrong = exc.strerror or type(exc).__name__
        port = self._http_port if challenge.kind == "reach" else self._tls_port
        return wrong and f"{address} port {port}: {wrong}"

    async def _ask_http(self, challenge: AcmeChallenge, address: IPAddress) -> str | None:
        reader, writer = await asyncio.open_connection(str(address), self._http_port)
        try:
            headers = [("Host", challenge.host), ("User-Agent", f"stsguard/{__version__}"), ("Connection", "close")]
            http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RESPONSE_OCTETS)
            request = h11.Request(method="GET", target=REACH_PATH + challenge.token, headers=headers)
            writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
            return await _read_answer(http, reader, challenge.content)
        finally:
            writer.transport.abort()

    async def _ask_tls(self, challenge: AcmeChallenge, address: IPAddress) -> str | None:
        _, writer = await asyncio.open_connection(
            str(address), self._tls_port, ssl=self._tls, server_hostname=challenge.host
        )
        try:
            session: ssl.SSLObject = writer.get_extra_info("ssl_object")
            der = session.getpeercert(binary_form=True) or b""
            return None if carries_identifier(der, challenge.content) else "another server answers there"
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


async def _read_answer(http: h11.Connection, reader: asyncio.StreamReader, content: str) -> str | None:
    body = bytearray()
    try:
        while len(body) <= MAX_RESPONSE_OCTETS:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(MAX_RESPONSE_OCTETS))
            elif isinstance(event, h11.Response) and event.status_code != 200:  # RFC 9110 §15.3.1
                return f"another server answers there, with status {event.status_code}"
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
    except (h11.RemoteProtocolError, ValueError):
        return "what answers there is no web server"
    return None if bytes(body).strip() == content.encode() else "another server answers there"


def _trusting_context() -> ssl.SSLContext:
    """The peer proves itself by the nonce in its certificate, which no CA has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([REACH_PROTOCOL.decode("ascii")])
    return context
