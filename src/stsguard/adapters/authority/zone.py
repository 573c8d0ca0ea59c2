"""The zone that a name is in, and the names of its servers (RFC 1034 §4.2, RFC 2181 §6)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.NS import NS

from stsguard.core.addresses import IPAddress
from stsguard.core.dane import Answer
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.names import Domain


class ZoneResolver(Protocol):
    """The configured resolver, as far as it is needed here."""

    async def lookup_raw(self, name: str, rdtype: dns.rdatatype.RdataType) -> dns.message.Message:
        """The response, a denial or an answer, one RR per RRset; raises LookupFailed only."""

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        """A and AAAA records together; raises LookupFailed only."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone by the name of its apex, and the targets of its NS records in order."""

    apex: dns.name.Name
    servers: tuple[dns.name.Name, ...]


async def find_zone(resolver: ZoneResolver, owner: dns.name.Name) -> Zone:
    """The zone that `owner` is in: the closest name at or above it that has a SOA record.

    An alias is not followed: it can't be a zone's apex, so its own zone begins above it.

    Raises:
        LookupFailed: a step of the way failed, or the zone names no server.
    """
    apex = owner
    while True:
        if await _is_apex(resolver, apex):
            break
        if apex == dns.name.root:
            raise LookupFailed(LookupReason.MALFORMED, f"{owner} SOA", "not even the root has a SOA record")
        apex = apex.parent()
    response = await resolver.lookup_raw(apex.to_text(), dns.rdatatype.NS)
    servers = sorted({cast(NS, rr[0]).target for rr in _at(response, apex, dns.rdatatype.NS)})
    if not servers:
        raise LookupFailed(LookupReason.MALFORMED, f"{apex} NS", "the zone names no server")
    return Zone(apex, tuple(servers))


async def _is_apex(resolver: ZoneResolver, name: dns.name.Name) -> bool:
    try:
        response = await resolver.lookup_raw(name.to_text(), dns.rdatatype.SOA)
    except LookupFailed:
        # The resolver follows an alias, which may lead nowhere; the alias itself it gives to who asks for it.
        alias = await resolver.lookup_raw(name.to_text(), dns.rdatatype.CNAME)
        if any(_at(alias, name, dns.rdatatype.CNAME)):
            return False
        raise
    return any(_at(response, name, dns.rdatatype.SOA))


def _at(
    response: dns.message.Message, owner: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> Iterator[dns.rrset.RRset]:
    for rr in response.answer:
        if rr.name == owner and rr.rdtype == rdtype and rr.rdclass == dns.rdataclass.IN:
            yield rr
