"""To which addresses of a Policy Host to connect, and what it means when none can be connected to."""

import errno
import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from itertools import zip_longest

from stsguard.core.addresses import AddressGuard
from stsguard.core.errors import FetchReason, PolicyFetchFailed

IPAddress = IPv4Address | IPv6Address

MAX_ADDRESSES = 6  # tried in one fetch; more would only divide its time into less

_LOCAL = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_NO_ROUTE = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

# Of several failures, the one to tell: what the Policy Host showed of itself, then what may be our own fault.
_TELLING = (
    FetchReason.CERTIFICATE_HOST_MISMATCH,
    FetchReason.CERTIFICATE_EXPIRED,
    FetchReason.CERTIFICATE_NOT_YET_VALID,
    FetchReason.CERTIFICATE_NOT_TRUSTED,
    FetchReason.TLS_FAILED,
    FetchReason.TOO_LARGE,
    FetchReason.LOCAL,
    FetchReason.TIMEOUT,
    FetchReason.CONNECT_FAILED,
    FetchReason.CONNECTION_LOST,
    FetchReason.CONNECTION_REFUSED,
)


class NoRoute(PolicyFetchFailed):
    """This machine does not speak the address's family, or has no route at all for it."""


def choose_addresses(addresses: Sequence[IPAddress], guard: AddressGuard) -> list[IPAddress]:
    """The addresses to try, in order: only what `guard` permits, IPv6 and IPv4 in turns (RFC 8305 §4).

    Raises:
        PolicyFetchFailed: NO_ADDRESS, or ADDRESS_REFUSED where none is permitted.
    """
    if not addresses:
        raise PolicyFetchFailed(FetchReason.NO_ADDRESS, "the Policy Host has no address")
    permitted = [address for address in addresses if guard.permits(address)]
    if not permitted:
        raise PolicyFetchFailed(FetchReason.ADDRESS_REFUSED, f"no connection there: {guard.refusal(addresses[0])}")
    v6 = [address for address in permitted if address.version == 6]
    v4 = [address for address in permitted if address.version == 4]
    mixed = [address for pair in zip_longest(v6, v4) for address in pair if address is not None]
    return mixed[:MAX_ADDRESSES]


def begin_connection(address: IPAddress, port: int) -> socket.socket:
    """A non-blocking socket that is being connected to that very address: no name is resolved any more. When it can be
    written to, `end_connection` tells what came of it.

    Raises:
        PolicyFetchFailed: LOCAL, CONNECT_FAILED (NoRoute as well), CONNECTION_REFUSED, CONNECTION_LOST or TIMEOUT.
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as exc:
        raise failure_of(exc, _where(address, port)) from exc
    error = sock.connect_ex((str(address), port))
    if error not in (0, errno.EINPROGRESS):
        sock.close()
        raise failure_of(OSError(error, os.strerror(error)), _where(address, port))
    return sock


def end_connection(sock: socket.socket, address: IPAddress, port: int) -> None:
    """Raises:
    PolicyFetchFailed: as `begin_connection`, where the connection was not made.
    """
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise failure_of(OSError(error, os.strerror(error)), _where(address, port))


def _where(address: IPAddress, port: int) -> str:
    return f"{address} port {port}"


def failure_of(exc: OSError, where: str) -> PolicyFetchFailed:
    """What an error of the operating system means for a fetch. Whatever may be our own fault stays that."""
    detail = f"{where}: {exc.strerror or type(exc).__name__}"
    if exc.errno in _NO_ROUTE:
        return NoRoute(FetchReason.CONNECT_FAILED, detail)
    if exc.errno in _LOCAL:
        return PolicyFetchFailed(FetchReason.LOCAL, detail)
    if isinstance(exc, TimeoutError):
        return PolicyFetchFailed(FetchReason.TIMEOUT, detail)
    if isinstance(exc, ConnectionRefusedError):
        return PolicyFetchFailed(FetchReason.CONNECTION_REFUSED, detail)
    if isinstance(exc, ConnectionError):
        return PolicyFetchFailed(FetchReason.CONNECTION_LOST, detail)
    # EHOSTUNREACH, EACCES of a local firewall, and what else there may be
    return PolicyFetchFailed(FetchReason.CONNECT_FAILED, detail)


def most_telling(failures: Sequence[PolicyFetchFailed]) -> PolicyFetchFailed:
    """Which of several addresses' failures is the fetch's.

    Where one family has no route the other speaks alone: most machines have no IPv6, and a Policy Host that refuses
    over IPv4 does refuse.
    """
    routed = [failure for failure in failures if not isinstance(failure, NoRoute)]
    return min(routed or failures, key=lambda failure: _TELLING.index(failure.reason))
