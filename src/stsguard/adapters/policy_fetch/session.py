"""One session with one address of a Policy Host: connection, TLS, one request (RFC 8461 §3.3)."""

import ssl
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

from stsguard.adapters.policy_fetch.connecting import connect
from stsguard.adapters.policy_fetch.response import PolicyResponse
from stsguard.adapters.policy_fetch.tls import MAX_OVERHEAD_OCTETS, TlsConnection
from stsguard.names import Domain

IPAddress = IPv4Address | IPv6Address

DEFAULT_TIMEOUT_SECONDS = 60.0  # RFC 8461 §3.3: a suggested timeout is one minute
DEFAULT_MAX_SIZE_BYTES = 65_536  # RFC 8461 §3.3: a suggested maximum policy size is 64 kilobytes


class PolicyHostSessions:
    """Opens sessions under one TLS context, which says what a certificate has to be like."""

    def __init__(self, context: ssl.SSLContext, *, max_size_bytes: int, port: int) -> None:
        self._context = context
        self._max_size = max_size_bytes
        self._port = port

    async def connect(self, policy_host: Domain, address: IPAddress, note: Callable[[str], None]) -> TlsConnection:
        """A session with the Policy Host at that address, the handshake done; `note` is told what is going on.

        Raises:
            PolicyFetchFailed: the connection or the handshake failed, the certificate's faults included.
            OSError: the connection broke in a way that is nobody's yet.
        """
        where = f"{address} port {self._port}"
        note(f"connecting to {where}")
        with ExitStack() as stack:
            sock = stack.enter_context(await connect(address, self._port))
            note(f"TLS handshake with {where}")
            limit = MAX_OVERHEAD_OCTETS + 4 * self._max_size
            tls = stack.enter_context(TlsConnection(sock, self._context, policy_host, max_received_octets=limit))
            await tls.handshake()
            stack.pop_all()
            return tls

    async def request(self, tls: TlsConnection, policy_host: Domain) -> bytes:
        """The policy's octets.

        Raises:
            PolicyFetchFailed: whatever came is no policy by RFC 8461 §3.2 and §3.3.
        """
        response = PolicyResponse(policy_host, max_size_bytes=self._max_size, port=self._port)
        await tls.send(response.request)
        body: bytes | None = None
        while body is None:
            data = await tls.receive()
            body = response.receive(data) if data else response.finish()
        return body
