"""What a request for a policy says, apart from its path: the Policy Host asked for, and who asks (RFC 8461 §3.3).

The host is compared as the DNS compares it (RFC 9110 §7.2, §4.2.3): in any case, with or without port and final dot, as
A- or U-label. Who asks is kept only as coarsely as statistics need: an IPv4 /24 or IPv6 /48, and a cut User-Agent.
"""

from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from stsguard.names import Domain, NameInvalid

LOCAL = "local"  # the network of a client on this machine that no proxy has named another for
OTHER = "other"  # the User-Agent and network of what is counted together since there is too much of it
MAX_USER_AGENT = 120
_MAX_HOST_OCTETS = 300  # a name, a port, and U-labels that are longer in UTF-8
_MAX_PORT_DIGITS = 5


def parse_host(octets: bytes) -> Domain | None:
    """The host name in a Host field (RFC 9110 §7.2); None for an address literal and for what is no name at all."""
    if len(octets) > _MAX_HOST_OCTETS:
        return None
    host, colon, port = octets.partition(b":")
    if colon and not (port == b"" or (port.isdigit() and len(port) <= _MAX_PORT_DIGITS)):
        return None
    try:
        return Domain.parse(host.decode("utf-8"))
    except (UnicodeDecodeError, NameInvalid):
        return None


def forwarded_for(octets: bytes) -> str:
    """The last address of an X-Forwarded-For field, which the proxy next to us has written; empty where it is none."""
    last = octets.rpartition(b",")[2].strip().decode("latin-1")
    return last if _address(last) is not None else ""


def client_network(address: str) -> str:
    """The network that a client's address is counted under: IPv4 /24, IPv6 /48, `LOCAL` where it is no address."""
    parsed = _address(address)
    if isinstance(parsed, IPv4Address):
        return str(IPv4Network((int(parsed) & 0xFFFFFF00, 24)))
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed) >> 80 << 80, 48)))
    return LOCAL


def is_local(address: str) -> bool:
    """Whether the peer is a program on this machine: by a unix socket, which has no address, or over loopback."""
    parsed = _address(address)
    return parsed is None or parsed.is_loopback


def printable_agent(octets: bytes) -> str:
    """A User-Agent in printable ASCII and cut to `MAX_USER_AGENT` characters; `-` for none."""
    cut = octets[:MAX_USER_AGENT]
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else "?" for octet in cut) or "-"


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(text)
    except (AddressValueError, ValueError):
        return None
    # One IPv4 client counts once, whichever family the socket is of (RFC 4291 §2.5.5.2).
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed
