"""What dnspython reads: the answers that are not plain, and those of which more is wanted than a look-up uses.

Loaded when the first of these comes and not before (`reader`): dnspython takes 5 MiB and 30 ms.
"""

import struct
from collections.abc import Callable
from dataclasses import replace

import dns.exception
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype

from stsguard.adapters.resolver.answer import Step, read_response
from stsguard.adapters.resolver.plain import (
    HEADER_SIZE,
    MAX_RECORDS,
    TRUNCATED_FLAG,
    PlainAnswer,
    Question,
    make_question_end,
)
from stsguard.adapters.resolver.records import to_address, to_mx, to_tlsa, to_txt
from stsguard.adapters.resolver.udp import Malformed

_CONVERT: dict[int, Callable[[dns.rdata.Rdata], object]] = {
    dns.rdatatype.TXT: to_txt,
    dns.rdatatype.MX: to_mx,
    dns.rdatatype.TLSA: to_tlsa,
    dns.rdatatype.A: to_address,
    dns.rdatatype.AAAA: to_address,
}


def question_of(name: dns.name.Name, rdtype: int) -> Question:
    """The question as its octets, for any name that dnspython has read."""
    owner = name.canonicalize()
    labels = (owner.to_wire() or b"\0")[:-1]  # the root is in the end
    return Question(owner.to_text(omit_final_dot=True), rdtype, labels + make_question_end(rdtype))


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


def read_step(response: PlainAnswer | dns.message.Message, owner: dns.name.Name, rdtype: int, question: str) -> Step:
    """What one response says, its records as our values."""
    if isinstance(response, PlainAnswer):
        return Step(response.status, owner, (), response.records, response.ttl, response.authentic)
    step = read_response(response, owner, dns.rdatatype.RdataType.make(rdtype), question)
    return replace(step, records=tuple(map(_CONVERT.get(rdtype, str), step.records)))
