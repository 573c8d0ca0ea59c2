"""One DNS query to one nameserver: UDP, then TCP where the answer was truncated (RFC 1035 §4.2, RFC 7766 §5).

The plain answers are read by `plain`, all others by dnspython. The sockets are ours, so that an ICMP error ends the
wait at once and nothing outlives the call.

Left out on purpose: servers that don't know EDNS (RFC 6891). They can't validate, and none is left among resolvers.
"""

import asyncio
import os
import socket
import struct
from enum import Enum

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype

from stsguard.adapters.resolver.plain import (
    HEADER_SIZE,
    MAX_RECORDS,
    PlainAnswer,
    Question,
    make_wire_query,
    read_plain,
)
from stsguard.adapters.resolver.udp import ID_OCTETS, Malformed, NoAnswer, UdpQueries, open_socket
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.metrics import Counter

TRUNCATED = Counter("dns_truncated", "DNS answers that were truncated and asked for again over TCP.")
TRUNCATED_FLAG = dns.flags.TC

Response = PlainAnswer | dns.message.Message
Outcome = Response | NoAnswer | OSError | None  # of a query over UDP; None: the answer was truncated


class Unasked(Enum):
    """No query has been sent yet."""

    UNASKED = 0


UNASKED = Unasked.UNASKED


def question_of(name: dns.name.Name, rdtype: int) -> Question:
    """The question as its octets, for any name that dnspython has read."""
    owner = name.canonicalize()
    wire = owner.to_wire() or b""
    return Question(owner.to_text(omit_final_dot=True), rdtype, wire + struct.pack("!HH", rdtype, 1))


def describe(question: Question) -> str:
    """The question for a log line: name and type."""
    return f"{question.name} {dns.rdatatype.to_text(dns.rdatatype.RdataType.make(question.rdtype))}"


async def exchange(
    question: Question,
    udp: UdpQueries[Response | None],
    *,
    timeout_seconds: float,
    first: "Outcome | Unasked" = UNASKED,
) -> Response:
    """The answer of a nameserver to `question`, whatever its RCODE. `first`: what has come over UDP already.

    Raises:
        LookupFailed: TIMEOUT, UNREACHABLE or MALFORMED.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    where = f"{udp.nameserver[0]} port {udp.nameserver[1]}"
    try:
        if first is UNASKED:
            response = await udp.ask(question, timeout_seconds)
        elif isinstance(first, NoAnswer | OSError):
            raise first
        else:
            response = first
        if response is None:
            TRUNCATED.inc()
            async with asyncio.timeout_at(deadline):
                response = await _exchange_tcp(question, udp.nameserver)
    except NoAnswer as exc:
        # Where the server did send something, what it sent is the better reason.
        reason = LookupReason.MALFORMED if exc.malformed else LookupReason.TIMEOUT
        detail = f"{where}: {exc.malformed}" if exc.malformed else where
        raise LookupFailed(reason, describe(question), detail) from exc
    except TimeoutError as exc:
        raise LookupFailed(LookupReason.TIMEOUT, describe(question), where) from exc
    except OSError as exc:
        detail = f"{where}: {exc.strerror or type(exc).__name__}"
        raise LookupFailed(LookupReason.UNREACHABLE, describe(question), detail) from exc
    except Malformed as exc:
        raise LookupFailed(LookupReason.MALFORMED, describe(question), f"{where}: {exc}") from exc
    return response


def read_answer(wire: bytes, question: Question) -> Response | None:
    """What `wire` says, whose ID is that of the query; None where it is truncated.

    Raises:
        Malformed: it is no usable answer to `question`.
    """
    plain = read_plain(wire, question)
    return plain if plain is not None else parse_response(wire, question)


def parse_response(wire: bytes, question: Question) -> dns.message.Message | None:
    """The message in `wire` as dnspython reads it, one RR per RRset; None for an answer that is truncated.

    Raises:
        Malformed: no DNS message, no answer to `question`, or one with too many records.
    """
    if len(wire) < HEADER_SIZE:
        raise Malformed("shorter than a header")
    query_id, flags, *counts = struct.unpack("!6H", wire[:HEADER_SIZE])
    if counts[0] > 1 or sum(counts[1:]) > MAX_RECORDS:
        # Refused, not cut: what was left out might have been the record that demands more security.
        raise Malformed(f"{counts[0]} questions and {sum(counts[1:])} records")
    truncated = bool(flags & TRUNCATED_FLAG)
    try:
        # What follows the question of a truncated message may end anywhere. One RR per RRset, since dnspython keeps
        # only the last CNAME or SOA of a set, and two of them have to be noticed.
        message = dns.message.from_wire(wire, question_only=truncated, one_rr_per_rrset=True)
        name, _ = dns.name.from_wire(question.wire, 0)
        query = dns.message.make_query(name, dns.rdatatype.RdataType.make(question.rdtype), id=query_id)
        is_response = query.is_response(message)
    except (dns.exception.DNSException, ValueError) as exc:
        text = " ".join(str(exc).split())  # dnspython's texts go over several lines
        raise Malformed(f"{type(exc).__name__}: {text[:100]}") from exc
    if not is_response:
        raise Malformed("not an answer to this query")
    return None if truncated else message


async def _exchange_tcp(question: Question, nameserver: tuple[str, int]) -> Response:
    loop = asyncio.get_running_loop()
    wire = make_wire_query(question, os.urandom(ID_OCTETS))
    with open_socket(nameserver, socket.SOCK_STREAM) as sock:
        await loop.sock_connect(sock, nameserver)
        await loop.sock_sendall(sock, struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await _receive_exactly(sock, 2))
        received = await _receive_exactly(sock, length)
    if received[:2] != wire[:2]:
        raise Malformed("not an answer to this query")
    response = read_answer(received, question)
    if response is None:
        raise Malformed("truncated over TCP")
    return response


async def _receive_exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = b""
    while len(received) < count:
        octets = await loop.sock_recv(sock, count - len(received))
        if not octets:
            raise Malformed("the connection ended within the message")
        received += octets
    return received
