"""The address guard: which addresses we connect to at names that strangers choose.

Policy hosts, MX hosts and report endpoints live at names that their owners (or an attacker) point anywhere, so a
look-up could make us speak to our own network. Judged here is the address alone, with a table of our own:
`ipaddress.is_private` has changed its meaning between Python versions. The table follows the IANA special-purpose
registries (RFC 6890); whoever connects must connect to the very address that was judged.

Left out on purpose: NAT64 prefixes of one's own network (RFC 6052 §2.2) and ISATAP, which can't be told from other
global addresses.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_SPECIAL_V4 = tuple(
    (IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "unspecified"),  # RFC 791 §3.2; Linux takes 0.0.0.0 for loopback
        ("10.0.0.0/8", "private"),  # RFC 1918
        ("100.64.0.0/10", "shared by a carrier"),  # RFC 6598
        ("127.0.0.0/8", "loopback"),  # RFC 1122 §3.2.1.3
        ("169.254.0.0/16", "link-local"),  # RFC 3927; metadata services of clouds live here
        ("172.16.0.0/12", "private"),  # RFC 1918
        ("192.0.0.0/24", "for protocol assignments"),  # RFC 6890 §2.1
        ("192.0.2.0/24", "for documentation"),  # RFC 5737
        ("192.88.99.0/24", "a deprecated 6to4 relay"),  # RFC 7526
        ("192.168.0.0/16", "private"),  # RFC 1918
        ("198.18.0.0/15", "for benchmarks"),  # RFC 2544
        ("198.51.100.0/24", "for documentation"),  # RFC 5737
        ("203.0.113.0/24", "for documentation"),  # RFC 5737
        ("224.0.0.0/4", "multicast"),  # RFC 5771
        ("240.0.0.0/4", "reserved"),  # RFC 1112 §4, with the limited broadcast address
    )
)

_SPECIAL_V6 = tuple(
    (IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "unspecified"),  # RFC 4291 §2.5.2
        ("::1/128", "loopback"),  # RFC 4291 §2.5.3
        ("::/96", "IPv4-compatible, deprecated"),  # RFC 4291 §2.5.5.1
        ("64:ff9b:1::/48", "for NAT64 of a local network"),  # RFC 8215
        ("100::/64", "for discarding"),  # RFC 6666
        ("2001::/32", "Teredo"),  # RFC 4380; its server and client are IPv4 addresses of anyone's choice
        ("2001::/23", "for protocol assignments"),  # RFC 2928: benchmarks, ORCHID, AMT and others
        ("2001:db8::/32", "for documentation"),  # RFC 3849
        ("3ffe::/16", "of the former 6bone"),  # RFC 3701
        ("3fff::/20", "for documentation"),  # RFC 9637
        ("fc00::/7", "unique local"),  # RFC 4193
        ("fe80::/10", "link-local"),  # RFC 4291 §2.5.6
        ("fec0::/10", "site-local"),  # RFC 3879
        ("ff00::/8", "multicast"),  # RFC 4291 §2.7
    )
)

# RFC 4291 §2.4 and the IANA registry: nothing outside has been given out as global unicast. That also covers
# IPv4-translated addresses (::ffff:0:0:0/96), segment routing (5f00::/16) and whatever comes next.
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1
_SIX_TO_FOUR = IPv6Network("2002::/16")  # RFC 3056 §2
_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


def unwrap(address: IPAddress) -> IPAddress:
    """The IPv4 address that packets to `address` end up at, where it embeds one; else `address` itself.

    IPv4-mapped (RFC 4291 §2.5.5.2), NAT64 by the well-known prefix (RFC 6052) and 6to4 (RFC 3056).
    """
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _SIX_TO_FOUR:
        return IPv4Address((int(address) >> 80) & 0xFFFF_FFFF)
    return address


def is_loopback(address: IPAddress) -> bool:
    """Whether packets to `address` never leave this machine: 127.0.0.0/8 and ::1, IPv4-mapped or not."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return _within(address, _LOOPBACK)


class AddressGuard:
    """Decides whether a connection to an address that a stranger chose is permitted.

    Args:
        allow: False for public addresses only, True for every address, or the networks that are permitted beside
            the public addresses. A network also permits the IPv6 forms of the IPv4 addresses in it.
    """

    __slots__ = ("_networks", "_unrestricted")

    def __init__(self, allow: bool | Sequence[IPNetwork] = False) -> None:
        self._unrestricted = allow is True
        self._networks: tuple[IPNetwork, ...] = () if isinstance(allow, bool) else tuple(allow)

    def permits(self, address: IPAddress) -> bool:
        """Whether a connection to `address` is permitted."""
        return self.refusal(address) is None

    def refusal(self, address: IPAddress) -> str | None:
        """Why no connection to `address` is permitted, for the log; None where it is permitted."""
        if self._unrestricted:
            return None
        final = unwrap(address)
        if _within(final, self._networks) or _within(address, self._networks):
            return None
        kind = _special_purpose(final)
        if kind is None:
            return None
        return f"{address} is {kind}" if final == address else f"{address} leads to {final}, which is {kind}"


def _within(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _special_purpose(address: IPAddress) -> str | None:
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _SPECIAL_V4 if address in network), None)
    for network, kind in _SPECIAL_V6:
        if address in network:
            return kind
    return None if address in _GLOBAL_UNICAST_V6 else "outside the global unicast space"
