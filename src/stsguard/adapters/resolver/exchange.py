"""One DNS query to one nameserver: UDP, then TCP where the answer was truncated (RFC 1035 §4.2, RFC 7766 §5).

The sockets are ours, so that an ICMP error ends the
wait at once and nothing outlives the call.

Left out on purpose: servers that don't know EDNS (RFC 6891). They can't validate, and none is left among resolvers.
"""

import asyncio
import os
import socket
import struct
from enum import Enum
from typing import TypeAlias

from stsguard.adapters.resolver.plain import Question, make_wire_query, type_name
from stsguard.adapters.resolver.reader import Read, Reader, Response, Unread
from stsguard.adapters.resolver.udp import ID_OCTETS, STRAY, Malformed, NoAnswer, UdpQueries, open_socket
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.metrics import Counter

TRUNCATED = Counter("dns_truncated", "DNS answers that were truncated and asked for again over TCP.")

Outcome: TypeAlias = "Response | Unread | NoAnswer | OSError | None"  # of a query over UDP; None: truncated


class Unasked(Enum):
    """No query has been sent yet."""

    UNASKED = 0


UNASKED = Unasked.UNASKED


def describe(question: Question) -> str:
    """The question for a log line: name and type."""
    return f"{question.name or '.'} {type_name(question.rdtype)}"


async def exchange(
    question: Question,
    udp: UdpQueries[Read],
    reader: Reader,
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
        if isinstance(response, Unread):
            response = await _read_late(response, question, udp, reader, deadline)
        if response is None:
            TRUNCATED.inc()
            async with asyncio.timeout_at(deadline):
                response = await _exchange_tcp(question, udp.nameserver, reader)
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


async def _read_late(
    unread: Unread, question: Question, udp: UdpQueries[Read], reader: Reader, deadline: float
) -> "Response | None":
    async with asyncio.timeout_at(deadline):
        await reader.load()
    try:
        response = reader.read(unread.wire, question)
    except Malformed:
        # RFC 5452 §9.1: somebody may be guessing. The true answer may have come since, so it is asked for again.
        STRAY.inc()
        response = await udp.ask(question, max(0.0, deadline - asyncio.get_running_loop().time()))
    assert not isinstance(response, Unread)  # noqa: S101 (nothing is, once dnspython is there)
    return response


async def _exchange_tcp(question: Question, nameserver: tuple[str, int], reader: Reader) -> Response:
    loop = asyncio.get_running_loop()
    wire = make_wire_query(question, os.urandom(ID_OCTETS))
    with open_socket(nameserver, socket.SOCK_STREAM) as sock:
        await loop.sock_connect(sock, nameserver)
        await loop.sock_sendall(sock, struct.pack("!H", len(wire)) + wire)
        (length,) = struct.unpack("!H", await _receive_exactly(sock, 2))
        received = await _receive_exactly(sock, length)
    if received[:2] != wire[:2]:
        raise Malformed("not an answer to this query")
    response = reader.read(received, question)
    if isinstance(response, Unread):
        await reader.load()
        response = reader.read(received, question)
        assert not isinstance(response, Unread)  # noqa: S101 (as above)
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
