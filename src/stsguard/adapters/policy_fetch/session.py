"""Exchanges with Policy Hosts under one TLS context, with the bounds that all have (RFC 8461 §3.3)."""

import ssl
from ipaddress import IPv4Address, IPv6Address

from stsguard.adapters.policy_fetch.exchange import Exchange
from stsguard.adapters.policy_fetch.response import PolicyResponse
from stsguard.adapters.policy_fetch.turns import Turns
from stsguard.names import Domain

IPAddress = IPv4Address | IPv6Address

DEFAULT_TIMEOUT_SECONDS = 60.0  # RFC 8461 §3.3: a suggested timeout is one minute
DEFAULT_MAX_SIZE_BYTES = 65_536  # RFC 8461 §3.3: a suggested maximum policy size is 64 kilobytes
MAX_OVERHEAD_OCTETS = 262_144  # OpenSSL takes 100 KiB of certificates; the rest is for headers and records


class PolicyHostSessions:
    """Begins exchanges under one TLS context, which says what a certificate has to be like."""

    def __init__(self, context: ssl.SSLContext, *, max_size_bytes: int, port: int) -> None:
        self._context = context
        self._max_size = max_size_bytes
        self._port = port
        self._turns = Turns()

    def ask(self, policy_host: Domain, address: IPAddress) -> Exchange:
        """Ask that address for the policy; it is under way when this returns.

        Raises:
            PolicyFetchFailed: there can be no connection.
        """
        response = PolicyResponse(policy_host, max_size_bytes=self._max_size, port=self._port)
        return self._begin(policy_host, address, response)

    def shake_hands(self, policy_host: Domain, address: IPAddress) -> Exchange:
        """Ask that address for nothing but its certificate.

        Raises:
            PolicyFetchFailed: there can be no connection.
        """
        return self._begin(policy_host, address, None)

    def _begin(self, policy_host: Domain, address: IPAddress, response: PolicyResponse | None) -> Exchange:
        limit = MAX_OVERHEAD_OCTETS + 4 * self._max_size
        return Exchange(
            self._turns,
            self._context,
            policy_host,
            address,
            response,
            port=self._port,
            max_received_octets=limit,
        )
