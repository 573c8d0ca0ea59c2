"""The policy hosts: one HTTPS server that is `mta-sts.` of many domains, told apart by the SNI.

What each serves is data that can change at run time: policy, status, type, delay, certificate, or octets that are no
HTTP at all. Requests are counted by policy host.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass

from tests.lab.ca import IssuedCertificate
from tests.lab.certificates import CertificateKind, Certificates

ADDRESS = "192.0.2.80"
SILENT_ADDRESS = "192.0.2.81"  # accepts connections and never says a word
REFUSING_ADDRESS = "192.0.2.82"  # nothing listens there
HTTPS_PORT = 443
WELL_KNOWN = "/.well-known/mta-sts.txt"  # RFC 8461 §3.3
SESSION_LIMIT_SECONDS = 60
MAX_REQUEST = 16_384
_BROKEN = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError)


@dataclass(slots=True)
class PolicySite:
    """What one policy host serves.

    `raw` replaces the whole response, `cut` closes the connection after so many octets of it; `refuses_tls` answers
    the handshake with an alert.
    """

    body: str | bytes
    status: str = "200 OK"
    content_type: str = "text/plain"
    more_headers: tuple[str, ...] = ()
    certificate: CertificateKind = CertificateKind.VALID
    delay_seconds: float = 0.0
    raw: bytes | None = None
    cut: int | None = None
    refuses_tls: bool = False

    def response(self) -> bytes:
        """The octets of the response."""
        if self.raw is not None:
            return self.raw
        body = self.body.encode() if isinstance(self.body, str) else self.body
        headers = [
            f"HTTP/1.1 {self.status}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *self.more_headers,
        ]
        return "".join(f"{line}\r\n" for line in headers).encode() + b"\r\n" + body


class PolicyHosts:
    """The running server. `sites` maps policy hosts to what they serve; anyone may change it at any time."""

    def __init__(self, certificates: Certificates) -> None:
        self.sites: dict[str, PolicySite] = {}
        self.requests: Counter[str] = Counter()
        self._certificates = certificates
        self._issued: dict[tuple[str, CertificateKind], IssuedCertificate] = {}
        self._servers: list[asyncio.Server] = []
        self._sessions: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen for HTTPS, and beside it on the address that stays silent."""
        self._servers = [
            await asyncio.start_server(self._connected, ADDRESS, HTTPS_PORT, limit=MAX_REQUEST),
            await asyncio.start_server(self._connected_in_silence, SILENT_ADDRESS, HTTPS_PORT),
        ]

    async def stop(self) -> None:
        """Close listeners and connections."""
        for server in self._servers:
            server.close()
        for session in self._sessions:
            session.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(self._session(reader, writer), writer)

    def _connected_in_silence(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def swallow() -> None:
            while await reader.read(MAX_REQUEST):
                pass

        self._keep(swallow(), writer)

    def _keep(self, session: Coroutine[None, None, None], writer: asyncio.StreamWriter) -> None:
        async def bounded() -> None:
            try:
                async with asyncio.timeout(SESSION_LIMIT_SECONDS):
                    await session
            except _BROKEN:
                pass  # a client that does not like the certificate goes away
            finally:
                writer.close()
                with suppress(*_BROKEN):
                    await writer.wait_closed()

        task = asyncio.ensure_future(bounded())
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chosen: list[str] = []
        await writer.start_tls(self._choosing_context(chosen))
        request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        [policy_host] = chosen
        self.requests[policy_host] += 1
        site = self.sites[policy_host]
        await asyncio.sleep(site.delay_seconds)
        response = site.response()
        lines = request.lower().split("\r\n")
        if lines[0] != f"get {WELL_KNOWN} http/1.1" or f"host: {policy_host}" not in lines:
            response = PolicySite("no such page", status="404 Not Found").response()
        writer.write(response[: site.cut])
        await writer.drain()

    def _choosing_context(self, chosen: list[str]) -> ssl.SSLContext:
        def choose(session: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
            site = self.sites.get(name or "")
            if name is None or site is None or site.refuses_tls:
                return int(ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE)
            chosen.append(name)
            session.context = self._issue(name, site.certificate).server_context()
            return None

        context = self._issue("policy-hosts.test", CertificateKind.VALID).server_context()
        context.sni_callback = choose
        return context

    def _issue(self, policy_host: str, kind: CertificateKind) -> IssuedCertificate:
        if (policy_host, kind) not in self._issued:
            self._issued[policy_host, kind] = self._certificates.issue(policy_host, kind)
        return self._issued[policy_host, kind]
