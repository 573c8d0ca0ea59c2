"""What is kept of one address of one MX host: little, since there may be ten thousand, and of most nothing is known."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from stsguard.core.dane import TlsaRecord
from stsguard.core.mxcheck import CertificateFacts, Finding, MxProbe
from stsguard.core.packed_probe import has_fault, pack_probe, unpack_probe
from stsguard.names import Domain
from stsguard.ports import IPAddress


@dataclass(slots=True)
class _Found:
    """What probes have found."""

    conclusive: bytes = b""  # the newest, packed; empty before the first
    certificate: CertificateFacts | None = None  # which that one has shown
    concluded_at: float = 0.0
    confirmed: bool = False
    inconclusive: bytes = b""


class Target:
    """One address of one MX host. Instants are of the monotonic clock.

    `others` are the further addresses of the host, known to the first alone: one a host is the rule, for which any
    container is large. So are names and addresses as objects of their own.
    """

    __slots__ = (
        *("_found", "asked_at", "confirming", "due", "name", "next_at", "number", "others"),
        *("tlsa", "tlsa_base_domain"),
    )

    def __init__(self, mx_hostname: Domain, address: IPAddress) -> None:
        self.name = str(mx_hostname)
        self.number = number_of(address)
        self._found: _Found | None = None
        self.others: tuple[Target, ...] = ()
        self.tlsa: tuple[TlsaRecord, ...] = ()
        self.tlsa_base_domain: Domain | None = None
        self.asked_at = 0.0
        self.next_at = float("-inf")  # a request makes no probe before
        self.due: float | None = None  # when it is to be probed, if it is
        self.confirming = False  # the next probe is the second one for a fault

    @property
    def mx_hostname(self) -> Domain:
        """The host."""
        return Domain(self.name)

    @property
    def address(self) -> IPAddress:
        """The address."""
        return IPv4Address(self.number) if self.number >= 0 else IPv6Address(~self.number)

    def all_of_host(self) -> tuple["Target", ...]:
        """This, which is the first of its host, and the others."""
        return (self, *self.others)

    def note(self, probe: MxProbe, concluded_at: float, *, confirmed: bool) -> None:
        """This is what the newest probe has shown; the time and `confirmed` count for a conclusive one."""
        found = self._found
        if found is None:
            found = self._found = _Found()
        if probe.inconclusive:
            found.inconclusive = pack_probe(probe)
        else:
            found.conclusive, found.certificate = pack_probe(probe), probe.certificate
            found.concluded_at, found.confirmed = concluded_at, confirmed

    @property
    def has_confirmed_fault(self) -> bool:
        """Whether two probes have agreed on one."""
        found = self._found
        return found is not None and found.confirmed and has_fault(found.conclusive)

    def finding(self, oldest: float) -> Finding | None:
        """The newest conclusive probe, if it is not older, or an inconclusive one where there is no other."""
        found = self._found
        if found is None:
            return None
        if found.conclusive and found.concluded_at > oldest:
            probe = unpack_probe(found.conclusive, self.mx_hostname, self.address, found.certificate)
            return Finding(probe, found.confirmed)
        if not found.inconclusive:
            return None
        return Finding(unpack_probe(found.inconclusive, self.mx_hostname, self.address, None), confirmed=False)


def number_of(address: IPAddress) -> int:
    """The address as a number, which takes a third of the object: that of an IPv6 address is negative."""
    return int(address) if isinstance(address, IPv4Address) else ~int(address)
