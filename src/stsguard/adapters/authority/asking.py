"""One question to one authoritative server at one address: UDP with EDNS, TCP where truncated (RFC 1035 §4.2, RFC 6891,
RFC 7766 §5). Without recursion desired: what a server says here it says of its own zone, or it is no server of it.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.ANY.TXT import TXT

from stsguard.core.addresses import IPAddress

DNS_PORT = 53
PAYLOAD_OCTETS = 1232  # https://www.dnsflagday.net/2020: no fragments
UDP_TRIES = 2
UDP_SHARE = 0.3  # of the time, for each of them
MAX_TXT_RECORDS = 20
MAX_TXT_OCTETS = 4096
_MAX_TEXT = 120


@dataclass(frozen=True, slots=True)
class Asked:
    """What one server said: TXT records, an alias, or (neither) that there is none; or why it said nothing of use.
    `ttl` of the records, of the alias, or of the denial (RFC 2308 §5), in seconds."""

    texts: tuple[bytes, ...] = ()
    ttl: int = 0
    alias: dns.name.Name | None = None
    problem: str = ""


class _Unusable(Exception):
    """What came is no DNS message, or the connection ended within it."""


def has_route(address: IPAddress) -> bool:
    """Whether this machine can send anything to that address at all; nothing is sent for it."""
    try:
        with _socket(address, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), DNS_PORT))
    except OSError:
        return False
    return True


async def ask_for_txt(address: IPAddress, port: int, owner: dns.name.Name, *, timeout_seconds: float) -> Asked:
    """What the server at that address has as TXT at `owner`; never raises."""
    try:
        async with asyncio.timeout(timeout_seconds):
            response = await _exchange(address, port, owner, timeout_seconds * UDP_SHARE)
    except TimeoutError:
        return Asked(problem=f"no answer within {timeout_seconds:g} s")
    except OSError as exc:
        return Asked(problem=f"it can't be asked: {exc.strerror or type(exc).__name__}")
    except _Unusable as exc:
        return Asked(problem=f"what it answers can't be read: {exc}")
    return _read(response, owner)


async def _exchange(address: IPAddress, port: int, owner: dns.name.Name, try_seconds: float) -> dns.message.Message:
    response: dns.message.Message | None = None
    for use_edns in (True, False):
        query = dns.message.make_query(owner, dns.rdatatype.TXT, use_edns=use_edns, payload=PAYLOAD_OCTETS)
        query.flags &= ~dns.flags.RD
        response = await _ask_udp(address, port, query, try_seconds)
        if response is None:
            response = await _ask_tcp(address, port, query)
        # RFC 6891 §7: a server that knows no EDNS says FORMERR, or NOTIMP as some do.
        if response.rcode() not in (dns.rcode.FORMERR, dns.rcode.NOTIMP):
            break
    assert response is not None  # noqa: S101 (the loop has run)
    return response


async def _ask_udp(
    address: IPAddress, port: int, query: dns.message.Message, try_seconds: float
) -> dns.message.Message | None:
    """The response; None where it is truncated, or where only TCP is left to be tried."""
    for _ in range(UDP_TRIES):
        try:
            async with asyncio.timeout(try_seconds):
                return await _ask_udp_once(address, port, query)
        except TimeoutError:
            continue
    return None


async def _ask_udp_once(address: IPAddress, port: int, query: dns.message.Message) -> dns.message.Message | None:
    loop = asyncio.get_running_loop()
    # A connected socket of its own: a random port by the kernel, octets from that address only, and ICMP errors.
    with _socket(address, socket.SOCK_DGRAM) as sock:
        sock.connect((str(address), port))
        sock.send(query.to_wire())
        while True:
            wire = await loop.sock_recv(sock, 65_535)
            try:
                response = _parse(wire, query)
            except _Unusable:
                continue  # anybody may send that; the server's own answer may yet come
            return None if response.flags & dns.flags.TC else response


async def _ask_tcp(address: IPAddress, port: int, query: dns.message.Message) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    wire = query.to_wire()
    with _socket(address, socket.SOCK_STREAM) as sock:
        await loop.sock_connect(sock, (str(address), port))
        await loop.sock_sendall(sock, struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await _receive(sock, 2))
        response = _parse(await _receive(sock, length), query)
    if response.flags & dns.flags.TC:
        raise _Unusable("truncated over TCP")
    return response


async def _receive(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        octets = await asyncio.get_running_loop().sock_recv(sock, count - len(received))
        if not octets:
            raise _Unusable("the connection ended within the message")
        received += octets
    return received


def _socket(address: IPAddress, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, kind)
    sock.setblocking(False)
    return sock


def _parse(wire: bytes, query: dns.message.Message) -> dns.message.Message:
    try:
        response = dns.message.from_wire(wire, one_rr_per_rrset=True, raise_on_truncation=True)
    except dns.message.Truncated as exc:
        response = exc.message()  # type: ignore[no-untyped-call]  # dnspython 2.7 gives it no type
    except (dns.exception.DNSException, ValueError) as exc:
        raise _Unusable(" ".join(str(exc).split())[:_MAX_TEXT]) from exc
    if not query.is_response(response):
        raise _Unusable("not an answer to this query")
    return response


def _read(response: dns.message.Message, owner: dns.name.Name) -> Asked:
    rcode = response.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Asked(problem=f"it answers {dns.rcode.to_text(rcode)}: it does not serve this zone")
    if not response.flags & dns.flags.AA:
        # RFC 1912 §2.8: a lame server; whatever it says, it says from a cache or of somebody else.
        return Asked(problem="it is no authoritative server of this zone, although an NS record names it")
    texts = _of_type(response, owner, dns.rdatatype.TXT)
    if texts:
        return _read_texts(texts)
    aliases = _of_type(response, owner, dns.rdatatype.CNAME)
    if aliases:
        return Asked(ttl=min(rr.ttl for rr in aliases), alias=cast(CNAME, aliases[0][0]).target)
    return Asked(ttl=_negative_ttl(response))


def _read_texts(records: list[dns.rrset.RRset]) -> Asked:
    texts = tuple(b"".join(cast(TXT, rr[0]).strings) for rr in records)
    if len(texts) > MAX_TXT_RECORDS or any(len(text) > MAX_TXT_OCTETS for text in texts):
        return Asked(problem=f"more than {MAX_TXT_RECORDS} TXT records, or one of more than {MAX_TXT_OCTETS} octets")
    return Asked(texts, min(rr.ttl for rr in records))


def _of_type(
    response: dns.message.Message, owner: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> list[dns.rrset.RRset]:
    wanted = (owner, rdtype, dns.rdataclass.IN)
    return [rr for rr in response.answer if (rr.name, rr.rdtype, rr.rdclass) == wanted]


def _negative_ttl(response: dns.message.Message) -> int:
    """RFC 2308 §5: the lesser of the SOA's TTL and its MINIMUM; 0 without SOA, which is not to be cached."""
    ttls = [min(rr.ttl, cast(SOA, rr[0]).minimum) for rr in response.authority if rr.rdtype == dns.rdatatype.SOA]
    return min(ttls, default=0)
