"""One DNS query to one nameserver: UDP, then TCP where the answer was truncated (RFC 1035 §4.2, RFC 7766 §5).

dnspython writes and reads the messages; the sockets are ours, so that an ICMP error ends the wait at once and nothing
outlives the call. Each query has a socket, hence a port, and an ID of its own (RFC 5452 §9.2).

Left out on purpose: servers that don't know EDNS (RFC 6891). They can't validate, and none is left among resolvers.
"""

import asyncio
import socket
import struct

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype

from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.metrics import Counter

TRUNCATED = Counter("dns_truncated", "DNS answers that were truncated and asked for again over TCP.")
STRAY = Counter("dns_stray", "Datagrams that came instead of an answer to the query sent.")

Nameserver = tuple[str, int]  # IP address (an IPv6 one may carry its zone) and port

PAYLOAD_SIZE = 1232  # octets; what passes unfragmented everywhere (DNS flag day 2020)
HEADER_SIZE = 12  # RFC 1035 §4.1.1
MAX_RECORDS = 300  # in all sections together; reading a record costs some 50 µs, during which nothing else runs


class MessageMalformed(Exception):
    """These octets are no usable answer to the query; the message says why."""


def make_query(name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.message.Message:
    """A recursive query that asks for validation: DO, and AD for servers that set theirs only on demand.

    RFC 6840 §5.7: AD in a query asks for AD in the answer. RFC 4035 §3.2.1: some heed only DO. CD stays clear, so that
    a validating server withholds what is bogus.
    """
    flags = dns.flags.RD | dns.flags.AD
    return dns.message.make_query(name, rdtype, use_edns=0, want_dnssec=True, payload=PAYLOAD_SIZE, flags=flags)


def describe(query: dns.message.Message) -> str:
    """The question for a log line: name and type."""
    section = query.question[0]
    return f"{section.name.to_text(omit_final_dot=True)} {dns.rdatatype.to_text(section.rdtype)}"


async def exchange(
    query: dns.message.Message, nameserver: Nameserver, *, timeout_seconds: float
) -> dns.message.Message:
    """The answer of `nameserver` to `query`, whatever its RCODE.

    Raises:
        LookupFailed: TIMEOUT, UNREACHABLE or MALFORMED.
    """
    strays: list[MessageMalformed] = []
    where = f"{nameserver[0]} port {nameserver[1]}"
    try:
        async with asyncio.timeout(timeout_seconds):
            wire = query.to_wire()
            message = await _exchange_udp(query, wire, nameserver, strays)
            if message is None:
                TRUNCATED.inc()
                message = await _exchange_tcp(query, wire, nameserver)
            return message
    except TimeoutError as exc:
        # Where the server did send something, what it sent is the better reason.
        reason, detail = (LookupReason.MALFORMED, f": {strays[-1]}") if strays else (LookupReason.TIMEOUT, "")
        raise LookupFailed(reason, describe(query), where + detail) from exc
    except OSError as exc:
        detail = f"{where}: {exc.strerror or type(exc).__name__}"
        raise LookupFailed(LookupReason.UNREACHABLE, describe(query), detail) from exc
    except MessageMalformed as exc:
        raise LookupFailed(LookupReason.MALFORMED, describe(query), f"{where}: {exc}") from exc


def parse_response(wire: bytes, query: dns.message.Message) -> dns.message.Message | None:
    """The message in `wire`, one RR per RRset; None for an answer that is truncated.

    Raises:
        MessageMalformed: no DNS message, no answer to `query`, or one with too many records.
    """
    if len(wire) < HEADER_SIZE:
        raise MessageMalformed("shorter than a header")
    _, flags, *counts = struct.unpack("!6H", wire[:HEADER_SIZE])
    if counts[0] > 1 or sum(counts[1:]) > MAX_RECORDS:
        # Refused, not cut: what was left out might have been the record that demands more security.
        raise MessageMalformed(f"{counts[0]} questions and {sum(counts[1:])} records")
    truncated = bool(flags & dns.flags.TC)
    try:
        # What follows the question of a truncated message may end anywhere. One RR per RRset, since dnspython keeps
        # only the last CNAME or SOA of a set, and two of them have to be noticed.
        message = dns.message.from_wire(wire, question_only=truncated, one_rr_per_rrset=True)
        is_response = query.is_response(message)
    except (dns.exception.DNSException, ValueError) as exc:
        text = " ".join(str(exc).split())  # dnspython's texts go over several lines
        raise MessageMalformed(f"{type(exc).__name__}: {text[:100]}") from exc
    if not is_response:
        raise MessageMalformed("not an answer to this query")
    return None if truncated else message


def _socket(nameserver: Nameserver, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in nameserver[0] else socket.AF_INET, kind)
    sock.setblocking(False)
    return sock


async def _exchange_udp(
    query: dns.message.Message, wire: bytes, nameserver: Nameserver, strays: list[MessageMalformed]
) -> dns.message.Message | None:
    loop = asyncio.get_running_loop()
    with _socket(nameserver, socket.SOCK_DGRAM) as sock:
        sock.connect(nameserver)  # at once for a datagram socket; from now on the kernel drops what others send
        await loop.sock_sendall(sock, wire)
        while True:
            datagram = await loop.sock_recv(sock, 65535)
            try:
                return parse_response(datagram, query)
            except MessageMalformed as exc:
                # RFC 5452 §9.1: somebody may be guessing, and the true answer may still come.
                STRAY.inc()
                strays[:] = [exc]


async def _exchange_tcp(query: dns.message.Message, wire: bytes, nameserver: Nameserver) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    with _socket(nameserver, socket.SOCK_STREAM) as sock:
        await loop.sock_connect(sock, nameserver)
        await loop.sock_sendall(sock, struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await _receive_exactly(sock, 2))
        message = parse_response(await _receive_exactly(sock, length), query)
    if message is None:
        raise MessageMalformed("truncated over TCP")
    return message


async def _receive_exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = b""
    while len(received) < count:
        octets = await loop.sock_recv(sock, count - len(received))
        if not octets:
            raise MessageMalformed("the connection ended within the message")
        received += octets
    return received
