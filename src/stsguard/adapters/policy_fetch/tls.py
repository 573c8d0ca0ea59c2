"""One TLS connection to one Policy Host, over a socket that is connected already (RFC 8461 §3.3, RFC 8446 §6.1).

OpenSSL works on buffers and we move the octets, for two reasons: a library's transport hides whether the peer ended
the session or somebody cut the connection, and a pool might share one connection between Policy Hosts.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from stsguard.core.errors import FetchReason, OperatorError, PolicyFetchFailed
from stsguard.names import Domain

T = TypeVar("T")

# X509_verify_cert_error_string(3): what OpenSSL says of the first thing wrong with a chain.
_REASONS = {
    9: FetchReason.CERTIFICATE_NOT_YET_VALID,
    10: FetchReason.CERTIFICATE_EXPIRED,
    62: FetchReason.CERTIFICATE_HOST_MISMATCH,
}

READ_SIZE = 16_384
MAX_UNSEEN_OCTETS = 65_536  # that came while nobody looked: then the peer has to wait
MAX_DETAIL_LENGTH = 200
MAX_OVERHEAD_OCTETS = 262_144  # OpenSSL takes 100 KiB of certificates; the rest is for headers and records


class ConnectionCut(Exception):
    """The connection ended without the peer ending the TLS session: whatever it was about to say is lost."""


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The context of all fetches, made once: reading the CA certificates costs a tenth of a second.

    Args:
        ca_file: the trusted CA certificates; None for the system's.

    Raises:
        OperatorError: there are no CA certificates, or they can't be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996, RFC 9325 §3.1.1
    # RFC 8461 §3.3: only DNS-ID identifiers count, no CN. A wildcard only as the complete left-most label, for one
    # label, is what OpenSSL does when Python asks it to match (X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS).
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if not _has_roots(context):
            # Every host would look untrustworthy, and our own fault would be reported as theirs.
            raise OperatorError("this system has no CA certificates (install ca-certificates)")
        return context
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise OperatorError(f"{ca_file}: no CA certificates can be read from it: {exc}") from exc
    return context


def tls_context_for_dates_without_verification() -> ssl.SSLContext:
    """A context that takes any certificate, for reading how long it lasts: nothing else there is to be believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _has_roots(context: ssl.SSLContext) -> bool:
    if context.cert_store_stats()["x509_ca"] > 0:
        return True
    # A directory of hashed certificates is read on demand, so it never shows in the statistics.
    directory = ssl.get_default_verify_paths().capath
    try:
        return directory is not None and any(Path(directory).iterdir())
    except OSError:  # what we can't list OpenSSL can't read
        return False


class TlsConnection:
    """TLS over `sock`, which is connected, non-blocking, and closed at the end of a `with` block.

    It is closed without saying goodbye: the one response has come, or failed, and nobody waits for more.
    `max_received_octets` bounds all that is read from the peer, handshake and padding included.

    The loop watches the socket for octets all the time, for a fetch needs some three of them and to begin and end the
    watch costs more than to read.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, policy_host: Domain, *, max_received_octets: int
    ) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._left = max_received_octets
        self._unseen = 0  # octets that came since somebody looked
        self._problem: Exception | None = None  # why no more can be read
        self._watching = False
        self._more: asyncio.Future[None] | None = None
        try:
            # RFC 8461 §3.3, RFC 6066 §3: SNI is the Policy Host; so is the name that the certificate has to have.
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=str(policy_host))
        except ValueError as exc:  # UnicodeError included
            raise PolicyFetchFailed(FetchReason.LOCAL, f"{policy_host!r} can't be asked for: {exc}") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unwatch()
        self._sock.close()

    async def handshake(self) -> None:
        """Our last message goes with the request, or not at all where nothing is asked.

        Raises:
            PolicyFetchFailed: CERTIFICATE_… or TLS_FAILED.
        """
        try:
            await self._run(self._tls.do_handshake)
        except (ConnectionCut, ConnectionError) as exc:
            raise PolicyFetchFailed(FetchReason.TLS_FAILED, "the connection ended within the handshake") from exc

    def presented_certificate(self) -> bytes:
        """The peer's certificate in DER, the handshake being done; as good as the context's verification."""
        return self._tls.getpeercert(binary_form=True) or b""

    async def send(self, data: bytes) -> None:
        """Raises:
        PolicyFetchFailed: TLS_FAILED, CONNECTION_LOST.
        """
        await self._run_established(lambda: self._tls.write(data), flush=True)

    async def receive(self) -> bytes:
        """What the peer says next; empty once it has ended the TLS session.

        Raises:
            PolicyFetchFailed: TLS_FAILED, TOO_LARGE, or CONNECTION_LOST where the connection ended any other way.
        """
        return await self._run_established(lambda: self._tls.read(READ_SIZE))

    async def _run_established(self, operation: Callable[[], T], *, flush: bool = False) -> T:
        try:
            result = await self._run(operation)
            if flush:
                await self._flush()
            return result
        except (ConnectionCut, ConnectionError) as exc:
            text = "the connection was cut, without an end of the TLS session"
            raise PolicyFetchFailed(FetchReason.CONNECTION_LOST, text) from exc

    async def _run(self, operation: Callable[[], T]) -> T:
        """Do `operation`, moving octets as it demands."""
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLEOFError as exc:
                raise ConnectionCut from exc
            except ssl.SSLError as exc:
                await self._flush_alert()
                raise _failure_of(exc) from exc

    async def _fill(self) -> None:
        """Wait until there is something that has not been looked at, be it the end."""
        if not self._watching and self._problem is None:
            self._loop.add_reader(self._sock, self._receive)
            self._watching = True
        if not self._unseen and self._problem is None:
            self._more = self._loop.create_future()
            await self._more
        if self._unseen:
            self._unseen = 0
        elif self._problem is not None:
            raise self._problem

    def _receive(self) -> None:
        """Take what has come, whether somebody waits for it or not."""
        try:
            octets = self._sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._end(exc)
        else:
            self._left -= len(octets)
            if self._left < 0:
                self._end(PolicyFetchFailed(FetchReason.TOO_LARGE, "the server sends without end"))
            elif octets:
                self._incoming.write(octets)
                self._unseen += len(octets)
                if self._unseen > MAX_UNSEEN_OCTETS:
                    self._unwatch()
            else:
                self._incoming.write_eof()  # OpenSSL is to tell what that means
                self._unseen += 1
                self._end(ConnectionCut())
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _end(self, problem: Exception) -> None:
        self._problem = problem
        self._unwatch()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._sock)

    async def _flush(self) -> None:
        if not self._outgoing.pending:
            return
        octets = self._outgoing.read()
        try:
            sent = self._sock.send(octets)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(octets):  # hardly ever: a request fits into any socket's buffer
            await self._loop.sock_sendall(self._sock, octets[sent:])

    async def _flush_alert(self) -> None:
        """Tell the peer why (RFC 8446 §6.2), where it still listens."""
        with suppress(OSError):
            await self._flush()


def _failure_of(exc: ssl.SSLError) -> PolicyFetchFailed:
    if isinstance(exc, ssl.SSLCertVerificationError):
        reason = _REASONS.get(exc.verify_code, FetchReason.CERTIFICATE_NOT_TRUSTED)
        return PolicyFetchFailed(reason, exc.verify_message[:MAX_DETAIL_LENGTH])
    return PolicyFetchFailed(FetchReason.TLS_FAILED, str(exc)[:MAX_DETAIL_LENGTH])
