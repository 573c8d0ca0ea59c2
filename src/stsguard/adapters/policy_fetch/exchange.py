"""One exchange with one address of a Policy Host: connection, TLS, one request and its response (RFC 8461 §3.3).

OpenSSL works on buffers and we move the octets, for two reasons: a library's transport hides whether the peer ended
the session or somebody cut the connection (RFC 8446 §6.1), and a pool might share one connection between Policy Hosts.

Every step is made from `Turns`, when the socket is ready for it, and none by a task of its own: to wake one up for each
step took a tenth of the processor time of a fetch.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from stsguard.adapters.policy_fetch.connecting import begin_connection, end_connection
from stsguard.adapters.policy_fetch.response import PolicyResponse
from stsguard.adapters.policy_fetch.tls import tls_failure_of
from stsguard.adapters.policy_fetch.turns import Turns
from stsguard.core.errors import FetchReason, PolicyFetchFailed
from stsguard.names import Domain

IPAddress = IPv4Address | IPv6Address

READ_SIZE = 16_384


class Phase(Enum):
    """How far an exchange has come; the value says what is going on, for people."""

    CONNECTION = "connecting to {}"
    HANDSHAKE = "TLS handshake with {}"
    RESPONSE = "waiting for the response"


class Exchange:
    """It is under way when it is made, and given up at the end of a `with` block.

    It ends without a goodbye: the one response has come, or failed, and nobody waits for more.

    Args:
        turns: tells when the socket is ready.
        context: says what a certificate has to be like.
        address: where to connect to, which the guard has permitted.
        response: to be asked for; None to ask for nothing and end with the handshake.
        max_received_octets: bounds all that is read from the peer, handshake and padding included.

    Raises:
        PolicyFetchFailed: there can be no connection, or the name can't be asked for (LOCAL).
    """

    __slots__ = (
        *("_address", "_incoming", "_left", "_outgoing", "_port", "_response", "_sock", "_tls", "_turns", "_unsent"),
        *("done", "on_secured", "phase"),
    )

    def __init__(
        self,
        turns: Turns,
        context: ssl.SSLContext,
        policy_host: Domain,
        address: IPAddress,
        response: PolicyResponse | None,
        *,
        port: int,
        max_received_octets: int,
    ) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """The policy's octets, empty where nothing is asked for.

        Raises:
            PolicyFetchFailed: CERTIFICATE_… or TLS_FAILED within the handshake; CONNECTION_LOST where the connection
                ends later without an end of the TLS session; TOO_LARGE; or what came is no policy by RFC 8461 §3.2 and
                §3.3.
            OSError: the connection broke in a way that is nobody's yet.
        """
        self.on_secured: Callable[[], None] = _nothing
        """Called when the peer has proved to be the Policy Host, before anything is asked."""
        self.phase = Phase.CONNECTION
        self._turns = turns
        self._address, self._port = address, port
        self._response = response
        self._left = max_received_octets
        self._unsent = b""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            # RFC 8461 §3.3, RFC 6066 §3: SNI is the Policy Host; so is the name that the certificate has to have. As
            # octets, or it would be turned into A-labels, which it is of.
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=policy_host.encode())
        except (ValueError, TypeError) as exc:
            raise PolicyFetchFailed(FetchReason.LOCAL, f"{policy_host!r} can't be asked for: {exc}") from exc
        self._sock = begin_connection(address, port)
        turns.watch(self._sock, self._advance, writable=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def __str__(self) -> str:
        """What is going on."""
        return self.phase.value.format(f"{self._address} port {self._port}")

    @property
    def is_secured(self) -> bool:
        """Whether the peer has proved to be the Policy Host."""
        return self.phase is Phase.RESPONSE

    def presented_certificate(self) -> bytes:
        """The peer's certificate in DER, as good as the context's verification; for `on_secured`."""
        return self._tls.getpeercert(binary_form=True) or b""

    def _advance(self) -> None:
        """The socket is ready: go as far as it goes."""
        if self.done.done():  # given up; the `with` block has not ended yet
            return
        try:
            if self.phase is Phase.CONNECTION:
                end_connection(self._sock, self._address, self._port)
                self.phase = Phase.HANDSHAKE
                self._turns.watch(self._sock, self._advance, writable=False)
            elif self._unsent:
                self._send_the_rest()
            else:
                self._take_in()
            self._go_on()
        except (BlockingIOError, InterruptedError):
            return
        except ssl.SSLEOFError as exc:
            self._fail(self._cut(exc))
        except ssl.SSLError as exc:
            with suppress(OSError):
                self._flush()  # RFC 8446 §6.2: tell the peer why, where it still listens
            self._fail(tls_failure_of(exc))
        except ConnectionError as exc:
            self._fail(self._cut(exc))
        except Exception as exc:  # noqa: BLE001 (not swallowed: whoever waits for `done` raises it)
            self._fail(exc)

    def _take_in(self) -> None:
        octets = self._sock.recv(READ_SIZE)
        self._left -= len(octets)
        if self._left < 0:
            raise PolicyFetchFailed(FetchReason.TOO_LARGE, "the server sends without end")
        if octets:
            self._incoming.write(octets)
        else:
            self._incoming.write_eof()  # OpenSSL is to tell what that means

    def _go_on(self) -> None:
        try:
            if self.phase is Phase.HANDSHAKE:
                self._tls.do_handshake()
                self._ask()
            while self._incoming.pending or self._incoming.eof:
                if self._read():
                    return
        except ssl.SSLWantReadError:
            self._flush()

    def _ask(self) -> None:
        """Our last message of the handshake goes with the request, or not at all where nothing is asked."""
        self.phase = Phase.RESPONSE
        self.on_secured()
        if self._response is None:
            self._end(b"")
        else:
            self._tls.write(self._response.request)
            self._flush()

    def _read(self) -> bool:
        """Read what there is of the response; whether that is all."""
        if self._response is None:
            return True
        data = self._tls.read(READ_SIZE)
        body = self._response.receive(data) if data else self._response.finish()
        if body is None:
            return False
        self._end(body)
        return True

    def _flush(self) -> None:
        octets = self._outgoing.read()
        if octets and not self._unsent:
            self._send(octets)
        else:
            self._unsent += octets

    def _send(self, octets: bytes) -> None:
        try:
            sent = self._sock.send(octets)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(octets):  # hardly ever: all that we say fits into any socket's buffer
            self._turns.watch(self._sock, self._advance, writable=True)
        self._unsent = octets[sent:]

    def _send_the_rest(self) -> None:
        self._send(self._unsent)
        if not self._unsent:
            self._turns.watch(self._sock, self._advance, writable=False)

    def _cut(self, exc: OSError) -> PolicyFetchFailed:
        if self.phase is Phase.RESPONSE:
            text = "the connection was cut, without an end of the TLS session"
            failure = PolicyFetchFailed(FetchReason.CONNECTION_LOST, text)
        else:
            failure = PolicyFetchFailed(FetchReason.TLS_FAILED, "the connection ended within the handshake")
        failure.__cause__ = exc
        return failure

    def _end(self, body: bytes) -> None:
        self._close()
        if not self.done.done():
            self.done.set_result(body)

    def _fail(self, exc: Exception) -> None:
        self._close()
        if not self.done.done():
            self.done.set_exception(exc)

    def _close(self) -> None:
        self._turns.forget(self._sock)
        self._sock.close()


def _nothing() -> None:
    """Nobody has to know."""
