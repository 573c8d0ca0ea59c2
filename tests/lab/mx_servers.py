"""MX servers: real SMTP with STARTTLS, each on an address of its own, good or broken in one way.

They accept every message and remember of each whether it came over TLS and which server name the client asked for.
"""

import asyncio
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tests.lab.ca import IssuedCertificate
from tests.lab.certificates import CertificateKind, Certificates
from tests.lab.namespace import LabFailed

SMTP_PORT = 25
SESSION_LIMIT_SECONDS = 60
_NETWORKS = (
    IPv4Network("203.0.113.0/24"),
    IPv4Network("198.51.100.0/24"),
    IPv4Network("192.0.2.128/25"),
    IPv4Network("198.18.0.0/20"),
)
_BROKEN = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError, TimeoutError, ValueError)


class Behaviour(StrEnum):
    """What the server does with STARTTLS and with the client as a whole."""

    GOOD = "good"
    NO_STARTTLS = "no-starttls"
    REFUSES_STARTTLS = "refuses-starttls"  # offers it, then answers 454
    BREAKS_HANDSHAKE = "breaks-handshake"  # answers 220, then closes
    REJECTS = "rejects"  # 554 instead of a greeting
    DOWN = "down"  # nothing listens


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted message: its Subject, the recipient, whether it came over TLS, the SNI sent with it, and all of it
    as the mailbox holds it."""

    subject: str
    recipient: str
    hostname: str
    tls: bool
    sni: str | None
    content: bytes = field(repr=False)


@dataclass(slots=True)
class MxServer:
    """One MX host. Change `behaviour` or `issued` at run time; the next connection sees it."""

    hostname: str
    address: IPv4Address | IPv6Address
    behaviour: Behaviour
    issued: IssuedCertificate
    connections: int = 0


@dataclass(slots=True)
class _Session:
    server: MxServer
    tls: bool = False
    sni: str | None = None
    recipients: list[str] = field(default_factory=list)


class MxServers:
    """All MX servers of a lab, at addresses of `networks`, which the machine has to have."""

    def __init__(self, certificates: Certificates, networks: Sequence[IPv4Network] = _NETWORKS) -> None:
        self._certificates = certificates
        self._addresses_4: Iterator[IPv4Address | IPv6Address] = _hosts(*networks)
        self._addresses_6: Iterator[IPv4Address | IPv6Address] = IPv6Network("2001:db8:25::/112").hosts()
        self._listening: list[asyncio.Server] = []
        self._sessions: set[asyncio.Task[None]] = set()
        self.accepted: list[Accepted] = []

    async def add(
        self,
        hostname: str,
        *,
        behaviour: Behaviour = Behaviour.GOOD,
        certificate: CertificateKind = CertificateKind.VALID,
        names: Sequence[str] = (),
        ipv6: bool = False,
        port: int = SMTP_PORT,
    ) -> MxServer:
        """Start a server for `hostname` on the next free address; `names` replaces the certificate's names."""
        address = next(self._addresses_6 if ipv6 else self._addresses_4, None)
        if address is None:
            raise LabFailed("the lab has no address left for another MX server")
        issued = self._certificates.issue(hostname, certificate, names=names)
        server = MxServer(hostname, address, behaviour, issued)
        if behaviour is not Behaviour.DOWN:
            listening = await asyncio.start_server(
                lambda reader, writer: self._connected(server, reader, writer), str(address), port
            )
            self._listening.append(listening)
        return server

    def with_subject(self, subject: str) -> list[Accepted]:
        """The accepted messages with that Subject, in order."""
        return [message for message in self.accepted if message.subject == subject]

    def mailbox(self, recipient: str) -> list[Accepted]:
        """The accepted messages to that recipient, in order."""
        return [message for message in self.accepted if message.recipient == recipient]

    async def stop(self) -> None:
        """Close all listeners and connections."""
        for listening in self._listening:
            listening.close()
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    def _connected(self, server: MxServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.ensure_future(self._bounded_session(server, reader, writer))
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    async def _bounded_session(
        self, server: MxServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(SESSION_LIMIT_SECONDS):
                await self._session(_Session(server), reader, writer)
        except _BROKEN:
            pass  # the client went away, as a client may that does not like what it sees
        finally:
            writer.close()
            with suppress(*_BROKEN):
                await writer.wait_closed()

    async def _session(self, session: _Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = session.server
        if server.behaviour is Behaviour.REJECTS:
            await _say(writer, "554 no service for you")
            await reader.readline()
            return
        await _say(writer, f"220 {server.hostname} ESMTP")
        while line := await reader.readline():
            verb, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
            match verb.upper():
                case "EHLO":
                    await _say(writer, *_greeting(session))
                case "STARTTLS" if server.behaviour is Behaviour.REFUSES_STARTTLS:
                    await _say(writer, "454 4.7.0 TLS not available")
                case "STARTTLS":
                    await _say(writer, "220 2.0.0 Go ahead")
                    if server.behaviour is Behaviour.BREAKS_HANDSHAKE:
                        return
                    await writer.start_tls(_context(session))
                    session.tls = True
                case "RCPT":
                    session.recipients.append(rest.partition("<")[2].partition(">")[0])
                    await _say(writer, "250 2.1.5 Ok")
                case "DATA":
                    await _say(writer, "354 Go ahead")
                    self._remember(session, await reader.readuntil(b"\r\n.\r\n"))
                    session.recipients.clear()
                    await _say(writer, "250 2.0.0 Ok")
                case "QUIT":
                    await _say(writer, "221 2.0.0 Bye")
                    return
                case "MAIL" | "RSET" | "HELO" | "NOOP":
                    await _say(writer, "250 2.0.0 Ok")
                case _:
                    await _say(writer, "502 5.5.2 Command not recognized")

    def _remember(self, session: _Session, message: bytes) -> None:
        header = message.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
        subjects = [line[9:] for line in header.split("\r\n") if line.startswith("Subject: ")]
        content = re.sub(rb"(?m)^\.", b"", message.removesuffix(b".\r\n"))  # RFC 5321 §4.5.2
        subject = subjects[0] if subjects else ""
        self.accepted += [
            Accepted(subject, recipient, session.server.hostname, session.tls, session.sni, content)
            for recipient in session.recipients
        ]


def _greeting(session: _Session) -> list[str]:
    extensions = ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
    if not session.tls and session.server.behaviour is not Behaviour.NO_STARTTLS:
        extensions.append("STARTTLS")
    lines = [session.server.hostname, *extensions]
    return [f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"]


def _context(session: _Session) -> ssl.SSLContext:
    context = session.server.issued.server_context()  # one for each session, so that the callback knows whose it is

    def remember_sni(_object: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        session.sni = name

    context.sni_callback = remember_sni
    return context


async def _say(writer: asyncio.StreamWriter, *lines: str) -> None:
    writer.write("".join(f"{line}\r\n" for line in lines).encode())
    await writer.drain()


def _hosts(*networks: IPv4Network) -> Iterator[IPv4Address]:
    for network in networks:
        yield from network.hosts()
