"""One STARTTLS session with an MX host, to see its TLS (RFC 3207, RFC 8461 §4.2, RFC 7672 §3): a `ports.MxProber`.

Banner, EHLO, STARTTLS, handshake, QUIT; no mail is ever offered. OpenSSL verifies the chain within the handshake, as
it does in Postfix; names and TLSA records are judged in `core`. A chain that fails ends the handshake before Python
shows the certificate, so such a host gets a second connection that verifies nothing, for the certificate's facts and
the TLSA match alone: the verdict stays the first one's.

Everything the peer sends is bounded: one deadline for both connections, lines and lines per reply. Nothing but TLS
says something of TLS: no connection, a rejecting banner, a refused EHLO, nonsense and silence are inconclusive
(RFC 8460 §4.3.4), and so is a fault of our own.
"""

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from stsguard import log
from stsguard.core.dane import TlsaRecord
from stsguard.core.errors import CertificateInvalid, OperatorError
from stsguard.core.mxcheck import (
    HANDSHAKE_FAILED,
    INJECTED,
    CertificateFacts,
    MxProbe,
    TlsSession,
    bounded,
    judge,
)
from stsguard.names import Domain

IPAddress = IPv4Address | IPv6Address

MAX_LINE_LENGTH = 4096  # RFC 5321 §4.5.3.1.5 says 512 octets; servers exceed it
MAX_REPLY_LINES = 128
QUIT_SECONDS = 3.0
_READ_SIZE = 8192
_DER = 2  # _ssl.ENCODING_DER
_REPLY_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)

# Postfix's own selection for mandatory TLS (smtp_tls_mandatory_ciphers = medium, security level 0): what it would
# accept is not to be reported as a failure.
_CIPHERS = "HIGH:MEDIUM:!aNULL:!eNULL:!PSK:!SRP:@SECLEVEL=0"

_log = log.logger("adapters.smtp_probe")


class _Inconclusive(Exception):
    """The session ended without saying anything of TLS; the message says where."""


class _HandshakeFailed(Exception):
    """The TLS handshake failed for another reason than the chain; the message is the detail for the log."""


@dataclass(frozen=True, slots=True)
class _Reply:
    code: int
    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one connection showed; `inconclusive` is the reason, or "" where the rest says something of TLS."""

    inconclusive: str = ""
    starttls: bool = True
    refusal: str = ""
    handshake_error: str = ""
    verify_code: int = 0
    chain: tuple[bytes, ...] = ()
    tls_version: str = ""
    detail: str = ""


class SmtpProber:
    """Probes MX hosts at `port`.

    Args:
        helo: the name to greet with, printable ASCII without blanks.
        permits: whether an address may be connected to (`core.addresses.AddressGuard.permits`).
        now: the wall clock, aware, UTC.
        ca_file: the trusted roots; None for the system's.
        timeout_seconds: for a probe as a whole.

    Raises:
        OperatorError: there are no trusted roots, or they can't be read.
    """

    def __init__(
        self,
        *,
        helo: str,
        permits: Callable[[IPAddress], bool],
        now: Callable[[], datetime],
        port: int = 25,
        ca_file: Path | None = None,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._ehlo = f"EHLO {helo}\r\n".encode("ascii")
        self._permits = permits
        self._now = now
        self._port = port
        self._timeout_seconds = timeout_seconds
        self._verifying = _tls_context()
        self._verifying.verify_mode = ssl.CERT_REQUIRED
        if ca_file is None:
            _require_roots_of_system()
        else:
            _load_roots(self._verifying, ca_file)
        self._lacks_roots = ca_file is None  # see _load_roots_of_system
        self._loading = asyncio.Lock()
        self._accepting = _tls_context()
        self._reads_certificates = False

    async def probe(
        self,
        mx_hostname: Domain,
        address: IPAddress,
        tlsa: Sequence[TlsaRecord],
        *,
        reference_identifiers: Sequence[Domain] = (),
    ) -> MxProbe:
        """What one STARTTLS session showed; see `ports.MxProber`. Never raises."""
        at = self._now()
        identifiers = tuple(reference_identifiers) or (mx_hostname,)
        # RFC 8461 §7.1: SNI is the MX hostname; RFC 7672 §8.1: with DANE it is the TLSA base domain.
        server_name = identifiers[0] if tlsa else mx_hostname
        if self._permits(address):
            seen = await self._look(address, server_name)
        else:
            # The address checked is the address connected to: no name is resolved after this.
            seen = _Seen(inconclusive="address-refused")
        if seen.chain and not self._reads_certificates:
            # Loaded when the first is there: eight MiB that many a daemon never needs. In a thread, since Postfix would
            # wait for its answers as long as it takes.
            await asyncio.to_thread(_load_certificate_reading)
            self._reads_certificates = True
        probe = _conclude(mx_hostname, address, at, seen)
        if tlsa and seen.chain:
            from stsguard.core.danechain import match_chain  # noqa: PLC0415

            matched = match_chain(tlsa, seen.chain, identifiers, at)
            probe = replace(probe, dane_matched=matched.authenticated)
        log.outcome(
            _log,
            logging.DEBUG,
            "probed MX host",
            mx_hostname=mx_hostname,
            address=address,
            result=probe.result_type or ("inconclusive" if probe.inconclusive else "valid"),
            reason=probe.failure_reason_code or None,
            dane_matched=probe.dane_matched,
            detail=seen.detail or None,
        )
        return probe

    async def _load_roots_of_system(self) -> bool:
        """Have them read before the first probe, and not at the start: that takes 24 ms and a MiB or more. In a thread,
        since Postfix would wait for its answers meanwhile. Whether there are any."""
        async with self._loading:
            if self._lacks_roots:
                with contextlib.suppress(OSError):  # SSLError among them
                    await asyncio.to_thread(self._verifying.load_default_certs)
                    self._lacks_roots = not _has_roots(self._verifying)
        return not self._lacks_roots

    async def _look(self, address: IPAddress, server_name: Domain) -> _Seen:
        if self._lacks_roots and not await self._load_roots_of_system():
            # Every host would fail, and our own fault would be reported as theirs.
            return _Seen(inconclusive="no-CA-certificates")
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        seen = await self._connect(address, server_name, self._verifying, deadline)
        if seen.verify_code:
            again = await self._connect(address, server_name, self._accepting, deadline)
            seen = replace(seen, chain=again.chain, tls_version=again.tls_version)
        return seen

    async def _connect(
        self, address: IPAddress, server_name: Domain, context: ssl.SSLContext, deadline: float
    ) -> _Seen:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as exc:  # out of file descriptors, or no IPv6 in this kernel
            return _Seen(inconclusive=f"socket: {_error_name(exc)}")
        with sock:
            sock.setblocking(False)
            peer = _Peer(sock)
            try:
                async with asyncio.timeout_at(deadline):
                    await peer.connect(address, self._port)
                    seen = await self._converse(peer, server_name, context)
            except TimeoutError:
                # RFC 8460 §4.3.4: a timeout, also within the handshake, is transient and no finding.
                return _Seen(inconclusive=f"{peer.phase}: timeout")
            except _Inconclusive as exc:
                return _Seen(inconclusive=f"{peer.phase}: {exc}")
            except ssl.SSLCertVerificationError as exc:
                # 1 is X509_V_ERR_UNSPECIFIED: 0 would say that the chain is trusted.
                return _Seen(verify_code=exc.verify_code or 1, detail=exc.verify_message)
            except _HandshakeFailed as exc:
                return _Seen(handshake_error=HANDSHAKE_FAILED, detail=str(exc))
            except OSError as exc:
                return _Seen(inconclusive=f"{peer.phase}: {_error_name(exc)}")
            if not seen.handshake_error:
                await peer.leave()
        return seen

    async def _converse(self, peer: "_Peer", server_name: Domain, context: ssl.SSLContext) -> _Seen:
        """The dialogue up to the handshake. What it returns is followed by a QUIT, unless TLS failed."""
        peer.phase = "banner"
        greeting = await peer.read_reply()
        if greeting.code != 220:
            # A rejection, greylisting, 421: the host may have the best TLS, it does not want us.
            return _Seen(inconclusive=f"banner: {greeting.code}")
        peer.phase = "EHLO"
        ehlo = await peer.command(self._ehlo)
        if ehlo.code != 250:
            return _Seen(inconclusive=f"EHLO: {ehlo.code}")
        if not _offers_starttls(ehlo):
            return _Seen(starttls=False)
        peer.phase = "STARTTLS"
        reply = await peer.command(b"STARTTLS\r\n")
        if reply.code == 421:  # RFC 5321 §3.8: the host is shutting down; 454 is what refuses TLS (RFC 3207 §4)
            return _Seen(inconclusive="STARTTLS: 421")
        if reply.code != 220:
            return _Seen(starttls=False, refusal=f"STARTTLS-refused-{reply.code}")
        if peer.has_unread():
            # RFC 3207 §5: whatever came in plaintext with the reply is not the host's word, and would be read as if
            # it had come over TLS.
            return _Seen(handshake_error=INJECTED)
        peer.phase = "handshake"
        tls = await peer.start_tls(context, server_name)
        return _Seen(chain=_presented_chain(tls), tls_version=tls.version() or "")


def _conclude(mx_hostname: Domain, address: IPAddress, at: datetime, seen: _Seen) -> MxProbe:
    if seen.inconclusive:
        return MxProbe(mx_hostname, address, at, False, False, None, seen.inconclusive, True, None, None)
    facts = _facts(seen.chain)
    session = TlsSession(seen.starttls, seen.refusal, seen.handshake_error, seen.verify_code, facts)
    judgement = judge(session, mx_hostname)
    return MxProbe(
        mx_hostname=mx_hostname,
        address=address,
        at=at,
        tls=bool(seen.tls_version),
        trusted=judgement.trusted,
        result_type=judgement.result_type,
        failure_reason_code=judgement.failure_reason_code,
        inconclusive=False,
        dane_matched=None,
        certificate=facts and bounded(facts, trusted=judgement.trusted),
        tls_version=seen.tls_version,
    )


def _facts(chain: Sequence[bytes]) -> CertificateFacts | None:
    try:
        from stsguard.core.certificate_reader import certificate_facts  # noqa: PLC0415

        return certificate_facts(chain[0]) if chain else None
    except CertificateInvalid:
        return None


def _load_certificate_reading() -> None:
    from stsguard.core import danechain  # noqa: PLC0415

    del danechain


def _offers_starttls(ehlo: _Reply) -> bool:
    # RFC 5321 §4.1.1.1: the first line is the greeting, a keyword starts each other one, in any case.
    return any(line.split()[:1] == [b"STARTTLS"] for line in map(bytes.upper, ehlo.lines[1:]))


def _error_name(exc: OSError) -> str:
    return errno.errorcode.get(exc.errno or 0, type(exc).__name__)


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # names are judged in core: by RFC 8461 without the CN, and by Postfix's rule
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8461 §7.2
    context.set_ciphers(_CIPHERS)
    return context


def _load_roots(context: ssl.SSLContext, ca_file: Path) -> None:
    try:
        context.load_verify_locations(cafile=ca_file)
    except OSError as exc:
        raise OperatorError(f"the CA file {ca_file} can't be used: {exc}") from exc


def _require_roots_of_system() -> None:
    # Without roots every host would fail, and our own fault would be reported as theirs.
    if ssl.get_default_verify_paths().cafile is None and not _has_directory_of_roots():
        raise OperatorError("this system has no CA certificates (install ca-certificates)")


def _has_roots(context: ssl.SSLContext) -> bool:
    return context.cert_store_stats()["x509_ca"] > 0 or _has_directory_of_roots()


def _has_directory_of_roots() -> bool:
    # It is read when it is needed, so it does not show in a context.
    directory = Path(ssl.get_default_verify_paths().capath or os.devnull)
    return directory.is_dir() and any(directory.iterdir())


def _presented_chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates as presented, leaf first, whether they verify or not."""
    public = getattr(tls, "get_unverified_chain", None)  # Python 3.13
    if public is not None:
        return tuple(public())
    certificates = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # the same, private before 3.13
    return tuple(certificate.public_bytes(_DER) for certificate in certificates or ())


class _Peer:
    """The connection: replies and commands in plaintext, then TLS. `phase` names what is going on, for the reason."""

    def __init__(self, sock: socket.socket) -> None:
        self.phase = "connect"
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._unread = bytearray()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    async def connect(self, address: IPAddress, port: int) -> None:
        await self._loop.sock_connect(self._sock, (str(address), port))

    def has_unread(self) -> bool:
        """Whether the peer sent more than the replies that were read."""
        return bool(self._unread)

    async def command(self, line: bytes) -> _Reply:
        await self._loop.sock_sendall(self._sock, line)
        return await self.read_reply()

    async def read_reply(self) -> _Reply:
        """One reply, its lines without code and line end (RFC 5321 §4.2.1)."""
        lines: list[bytes] = []
        while len(lines) < MAX_REPLY_LINES:
            match = _REPLY_LINE.fullmatch(await self._read_line())
            if match is None:
                raise _Inconclusive("no SMTP reply")
            code, separator, text = match.groups()
            lines.append(text or b"")
            if separator != b"-":
                return _Reply(int(code), tuple(lines))
        raise _Inconclusive("endless reply")

    async def _read_line(self) -> bytes:
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) > MAX_LINE_LENGTH:
                raise _Inconclusive("endless line")
            data = await self._loop.sock_recv(self._sock, _READ_SIZE)
            if not data:
                raise _Inconclusive("connection closed")
            self._unread += data
        line = bytes(self._unread[:end]).removesuffix(b"\r")
        del self._unread[: end + 1]
        return line

    async def start_tls(self, context: ssl.SSLContext, server_name: Domain) -> ssl.SSLObject:
        """The handshake, with SNI `server_name`.

        Raises:
            ssl.SSLCertVerificationError: the chain is not trusted.
            _HandshakeFailed: any other failure, the connection's end included.
        """
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()  # OpenSSL bounds the messages, the deadline their number
            except ssl.SSLCertVerificationError:
                await self._send_alert()
                raise
            except ssl.SSLError as exc:
                await self._send_alert()
                raise _HandshakeFailed(exc.reason or str(exc)) from exc
        await self._flush()
        self._tls = tls
        return tls

    async def _send_alert(self) -> None:
        """Tell the server why, if it is still there; the reason is ours to keep whether it is or not."""
        with contextlib.suppress(OSError, _HandshakeFailed):
            await self._flush()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            try:
                await self._loop.sock_sendall(self._sock, self._outgoing.read())
            except ConnectionError as exc:
                raise _HandshakeFailed(_error_name(exc)) from exc

    async def _receive(self) -> None:
        try:
            data = await self._loop.sock_recv(self._sock, _READ_SIZE)
        except ConnectionError as exc:
            raise _HandshakeFailed(_error_name(exc)) from exc
        if not data:
            raise _HandshakeFailed("connection closed")
        self._incoming.write(data)

    async def leave(self) -> None:
        """QUIT and a short wait for the answer (RFC 5321 §4.1.1.10). Whatever happens, nothing depends on it."""
        with contextlib.suppress(OSError, _Inconclusive, _HandshakeFailed):
            async with asyncio.timeout(QUIT_SECONDS):
                if self._tls is None:
                    await self.command(b"QUIT\r\n")
                else:
                    await self._quit_over(self._tls)

    async def _quit_over(self, tls: ssl.SSLObject) -> None:
        tls.write(b"QUIT\r\n")
        await self._flush()
        while True:
            try:
                tls.read(_READ_SIZE)
                break
            except ssl.SSLWantReadError:  # session tickets come before the reply
                await self._receive()
        with contextlib.suppress(ssl.SSLError):
            tls.unwrap()
        await self._flush()
