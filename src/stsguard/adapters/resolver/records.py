"""dnspython's names and records as our values, and ours as its names."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import cast

import dns.exception
import dns.name
import dns.rdata
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.TLSA import TLSA
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from stsguard.core.dane import MxRecord, TlsaRecord
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.names import Domain, NameInvalid


def to_txt(rdata: dns.rdata.Rdata) -> bytes:
    """The strings of a TXT record, joined without blanks (RFC 8461 §3.1)."""
    return b"".join(cast(TXT, rdata).strings)


def to_mx(rdata: dns.rdata.Rdata) -> MxRecord:
    """An MX record; see `MxRecord` for targets that are no host names."""
    record = cast(MX, rdata)
    try:
        mx_hostname = Domain.parse(record.exchange.to_text(omit_final_dot=True))
    except NameInvalid:
        mx_hostname = None  # the root (RFC 7505 §3), an address, or octets that no host name has
    return MxRecord(record.preference, mx_hostname)


def to_tlsa(rdata: dns.rdata.Rdata) -> TlsaRecord:
    """A TLSA record, usable or not."""
    record = cast(TLSA, rdata)
    return TlsaRecord(record.usage, record.selector, record.mtype, record.cert)


def to_address(rdata: dns.rdata.Rdata) -> IPv4Address | IPv6Address:
    """The address of an A or AAAA record."""
    return ip_address(cast(A | AAAA, rdata).address)


def to_wire_name(name: str, question: str) -> dns.name.Name:
    """`name` as dnspython has it.

    Raises:
        LookupFailed: MALFORMED, where the DNS cannot carry it.
    """
    try:
        return dns.name.from_text(name)
    except dns.exception.DNSException as exc:
        raise LookupFailed(LookupReason.MALFORMED, question, f"no name for the DNS: {exc}") from exc


def to_domain(name: dns.name.Name, question: str) -> Domain:
    """A name that an alias leads to.

    Raises:
        LookupFailed: MALFORMED, where no host has such a name.
    """
    try:
        return Domain.parse(name.to_text(omit_final_dot=True))
    except NameInvalid as exc:
        raise LookupFailed(LookupReason.MALFORMED, question, f"an alias to what is no host name: {exc}") from exc
