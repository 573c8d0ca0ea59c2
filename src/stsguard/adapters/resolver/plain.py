"""The plain DNS answers, read straight from the octets: what nearly every look-up gets (RFC 1035 §4.1, RFC 2308).

dnspython builds an object for every name and record, which costs ten times the rest of a look-up. Here only what a
look-up uses is read, and only where there is nothing to interpret: records of the type asked for at the name asked for,
a denial with one SOA, or SERVFAIL alone. Everything else (aliases, extended errors, names that no host has, anything
malformed) is None, and dnspython reads it: this module can leave out cases, and never has one of its own. A property
test holds what it reads against what dnspython reads from the same octets.

Records that nobody asked for are stepped over by their lengths; their content is not looked at, nor are the names in a
SOA.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from stsguard.core.dane import AnswerStatus, MxRecord, TlsaRecord
from stsguard.names import MAX_NAME_OCTETS, Domain, NameInvalid

PAYLOAD_SIZE = 1232  # octets; what passes unfragmented everywhere (DNS flag day 2020)
HEADER_SIZE = 12  # RFC 1035 §4.1.1
MAX_RECORDS = 300  # in all sections together; reading a record of dnspython's costs some 50 µs

A, CNAME, SOA, MX, TXT, SIG, AAAA, OPT, DNSKEY, TLSA, TSIG, CAA = 1, 5, 6, 15, 16, 24, 28, 41, 48, 52, 250, 257
_NAMES = {
    A: "A",
    CNAME: "CNAME",
    SOA: "SOA",
    MX: "MX",
    TXT: "TXT",
    AAAA: "AAAA",
    DNSKEY: "DNSKEY",
    TLSA: "TLSA",
    CAA: "CAA",
}
_IN = 1
_QR_OPCODE_TC = 0xFA00
_QR = 0x8000
TRUNCATED_FLAG = 0x0200
_RD = 0x0100
AUTHENTIC_FLAG = _AD = 0x0020
_CD = 0x0010
_DO = 0x8000
_RCODE = 0x000F
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
_POINTER = 0xC0
_MAX_TTL = 0x7FFFFFFF  # RFC 2181 §8
_MAX_LABELS = 128
_LENGTHS = {length: chr(length) for length in range(1, 64)}  # of labels, as octets (RFC 1035 §2.3.4)
_HEADER = struct.Struct("!6H")
_END = struct.Struct("!BHH")  # of a question: the root, type, class
_ENDS = {rdtype: _END.pack(0, rdtype, _IN) for rdtype in (A, MX, TXT, AAAA, TLSA)}
_HEAD = struct.pack("!5H", _RD | _AD, 1, 0, 0, 1)  # of a query, without its ID
_HEAD_CD = struct.pack("!5H", _RD | _AD | _CD, 1, 0, 0, 1)
# The root, OPT, payload size, flags, no data (RFC 6891 §6.1.2).
_OPTIONS = struct.pack("!BHHIH", 0, OPT, PAYLOAD_SIZE, _DO, 0)
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, length of the RDATA
_ASKED_RECORD = struct.Struct("!HHHIH")  # the same after an owner that is two octets, as the pointer to the question is
_MINIMUM = struct.Struct("!I")  # the last field of a SOA (RFC 1035 §3.3.13)
# The usual end of a message: no upper bits of an RCODE, version 0, any payload size and flags, no options.
_PLAIN_OPT = re.compile(re.escape(struct.pack("!BH", 0, OPT)) + rb"..\0\0..\0\0", re.DOTALL)
_ASKED = 0xC00C  # the usual compression: a pointer to the question
_AROUND_NAME = 6  # octets of a question beside those of its name: the first length, the root, type and class
_HOSTS_NAME = re.compile(rb"[A-Za-z0-9._-]+")
_MIN_TLSA = _MIN_DNSKEY = 4
_MIN_SOA = 22  # two names and five numbers (RFC 1035 §3.3.13)
_FOUND, _NODATA, _DENIED = AnswerStatus.FOUND, AnswerStatus.NODATA, AnswerStatus.NXDOMAIN  # an enum's are found slowly

Value = bytes | MxRecord | TlsaRecord | IPv4Address | IPv6Address


@dataclass(slots=True, eq=False)  # not frozen: it would be three times as costly to make; nobody changes one
class Question:
    """What is asked: `name` in lower case, `wire` as it stands in the question section.

    `checking_disabled` leaves validation to us (CD, RFC 4035 §3.2.2); `plain` False has dnspython read the answer.
    """

    name: str
    rdtype: int
    wire: bytes
    checking_disabled: bool = False
    plain: bool = True


@dataclass(slots=True)  # as above
class PlainAnswer:
    """What a plain answer says, records that are equal taken for one."""

    status: AnswerStatus
    records: tuple[Value, ...]
    ttl: int
    authentic: bool


@dataclass(slots=True)  # as above
class PlainFailure:
    """The RCODE of an answer that says nothing else: SERVFAIL or REFUSED, with no extended error."""

    rcode: int


class _NotPlain(Exception):
    """Something that dnspython has to read."""


def make_question(name: Domain, rdtype: int) -> Question | None:
    """The question; None for a name that the DNS cannot carry."""
    wire = encode_question(name, rdtype)
    return Question(name, rdtype, wire) if wire else None


def encode_question(name: Domain, rdtype: int) -> bytes:
    """What asks it in a message (RFC 1035 §4.1.2); empty for a name that the DNS cannot carry."""
    if len(name) > MAX_NAME_OCTETS:
        return b""
    labels = ""
    try:
        for label in name.split("."):
            labels += _LENGTHS[len(label)] + label
    except KeyError:  # a label of no octets, or of more than 63
        return b""
    return labels.encode("ascii") + (_ENDS.get(rdtype) or make_question_end(rdtype))


def make_root_question(rdtype: int) -> Question:
    """The question for the root of the DNS, which is no `Domain`."""
    return Question("", rdtype, make_question_end(rdtype))


def make_question_end(rdtype: int) -> bytes:
    """What follows the labels in a question."""
    return _END.pack(0, rdtype, _IN)


def type_name(rdtype: int) -> str:
    """The type for a log line (RFC 3597 §5 where it has no name here)."""
    return _NAMES.get(rdtype, f"TYPE{rdtype}")


def make_wire_query(question: Question, query_id: bytes) -> bytes:
    """A recursive query that asks for validation: DO, and AD for servers that set theirs only on demand.

    RFC 6840 §5.7: AD in a query asks for AD in the answer. RFC 4035 §3.2.1: some heed only DO. CD stays clear, so that
    a validating server withholds what is bogus.
    """
    head = _HEAD_CD if question.checking_disabled else _HEAD
    return query_id + head + question.wire + _OPTIONS


def read_plain(wire: bytes, question: Question) -> PlainAnswer | PlainFailure | None:
    """What the answer `wire` to `question` says; None where it is not plain."""
    if not question.plain:
        return None
    try:
        _, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(wire)
        rcode = flags & _RCODE
        total = answers + authorities + additionals
        if flags & _QR_OPCODE_TC != _QR or questions != 1 or total > MAX_RECORDS:
            return None
        if not wire.startswith(question.wire, HEADER_SIZE):
            return None
        if rcode and rcode != NXDOMAIN:
            return _failure(wire, rcode, total, additionals, question)
        position = HEADER_SIZE + len(question.wire)
        records: tuple[Value, ...] = ()
        ttl = negative = None
        if answers:
            records, ttl, position = _answers(wire, position, answers, question)
        if authorities:
            negative, position = _authority(wire, position, authorities, question)
        if additionals != 1 or _PLAIN_OPT.fullmatch(wire, position) is None:
            _skip_additional(wire, position, additionals, question)
    except (_NotPlain, struct.error, IndexError):
        return None
    if not records:
        status, ttl = _DENIED if rcode else _NODATA, negative
    elif rcode:
        return None
    else:
        status = _FOUND
    return PlainAnswer(status, records, ttl, flags & _AD != 0) if ttl is not None else None


def is_truncated(wire: bytes, question: Question) -> bool:
    """Whether `wire` is plainly an answer to `question` that has to be asked for over TCP; what follows the question
    may end anywhere."""
    if len(wire) < HEADER_SIZE:
        return False
    _, flags, questions, *counts = _HEADER.unpack_from(wire)
    asked = questions == 1 and sum(counts) <= MAX_RECORDS and wire.startswith(question.wire, HEADER_SIZE)
    return flags & _QR_OPCODE_TC == _QR | TRUNCATED_FLAG and asked


def _failure(wire: bytes, rcode: int, total: int, additionals: int, question: Question) -> PlainFailure | None:
    if rcode not in (SERVFAIL, REFUSED) or total > additionals:
        return None
    _skip_additional(wire, HEADER_SIZE + len(question.wire), additionals, question)
    return PlainFailure(rcode)


def _answers(wire: bytes, position: int, count: int, question: Question) -> tuple[tuple[Value, ...], int, int]:
    """The records asked for, their least TTL, and where the section ends."""
    if count == 1:  # nearly always, and at the very name asked for: that takes no bookkeeping
        pointer, rdtype, rdclass, ttl, length = _ASKED_RECORD.unpack_from(wire, position)
        is_asked_for = pointer == _ASKED and rdtype == question.rdtype and rdclass == _IN
        if is_asked_for and rdtype != CNAME and ttl <= _MAX_TTL:
            end = position + 12 + length
            return (_READERS[rdtype](wire, position + 12, end, question),), ttl, end
    found: dict[Value, Value] = {}
    least = _MAX_TTL
    for _ in range(count):
        pointer, rdtype, rdclass, ttl, length = _ASKED_RECORD.unpack_from(wire, position)
        if pointer == _ASKED:
            owner, position = question.name, position + 12
        else:
            owner, position = _name(wire, position, question)
            rdtype, rdclass, ttl, length = _FIXED.unpack_from(wire, position)
            position += 10
        end = position + length
        if rdtype == CNAME:
            raise _NotPlain
        if rdtype == question.rdtype and rdclass == _IN and owner == question.name:
            if ttl > _MAX_TTL:
                raise _NotPlain
            value = _READERS[rdtype](wire, position, end, question)
            # Two that join the same strings another way are two records.
            found.setdefault(wire[position:end] if rdtype == TXT else value, value)
            least = min(least, ttl)
        position = end
    return tuple(found.values()), least, position


def _authority(wire: bytes, position: int, count: int, question: Question) -> tuple[int | None, int]:
    """RFC 2308 §5: the negative TTL that a SOA for the name asked for gives, and where the section ends."""
    negative: int | None = None
    for _ in range(count):
        owner, position = _name(wire, position, question)
        rdtype, rdclass, ttl, length = _FIXED.unpack_from(wire, position)
        position += 10
        end = position + length
        if rdtype == SOA:
            if rdclass != _IN or ttl > _MAX_TTL or negative is not None or length < _MIN_SOA:
                raise _NotPlain
            if not (question.name == owner or question.name.endswith(f".{owner}") or not owner):
                raise _NotPlain
            (minimum,) = _MINIMUM.unpack_from(wire, end - 4)
            negative = ttl if ttl < minimum else minimum
        position = end
    return negative, position


def _skip_additional(wire: bytes, position: int, count: int, question: Question) -> None:
    options = 0
    for _ in range(count):
        start = position
        position = _name(wire, position, question)[1] if wire[position] else position + 1
        rdtype, _, ttl, length = _FIXED.unpack_from(wire, position)
        if rdtype in (TSIG, SIG):
            raise _NotPlain
        if rdtype == OPT:
            options += 1
            # The upper bits of the TTL are those of the RCODE, and options may hold an extended error (RFC 8914).
            if options > 1 or position != start + 1 or ttl >> 16 or length:
                raise _NotPlain
        position += 10 + length
    if position != len(wire):
        raise _NotPlain


def _name(wire: bytes, position: int, question: Question) -> tuple[str, int]:
    """The name at `position` in lower case, without its final dot, and where it ends; a name of other characters than
    a host's is not plain."""
    labels: list[bytes] = []
    rest = ""
    after = 0
    while True:
        length = wire[position]
        if length >= _POINTER:
            target = (length & 0x3F) << 8 | wire[position + 1]
            after = after or position + 2
            if target >= position or len(labels) > _MAX_LABELS:  # RFC 1035 §4.1.4: a prior occurrence
                raise _NotPlain
            offset = target - HEADER_SIZE
            # Nearly every name ends as the one asked for does, whose text has each label where its octets have it, but
            # for escapes: those make the text longer.
            asked = question.name
            if 0 <= offset < len(asked) == len(question.wire) - _AROUND_NAME and (
                not offset or asked[offset - 1] == "."
            ):
                rest = asked[offset:]
                if not labels:
                    return rest, after
                break
            position = target
        elif length & _POINTER:
            raise _NotPlain
        elif not length:
            break
        else:
            label = wire[position + 1 : position + 1 + length]
            if len(label) != length:
                raise _NotPlain
            labels.append(label)
            position += 1 + length
    octets = b".".join(labels)
    if labels and (_HOSTS_NAME.fullmatch(octets) is None or octets.count(b".") != len(labels) - 1):
        raise _NotPlain  # the second: a dot within a label
    name = octets.decode("ascii").lower()
    if rest:
        name = f"{name}.{rest}" if labels else rest
    if len(name) > MAX_NAME_OCTETS:
        raise _NotPlain
    return name, after or position + 1


def _txt(wire: bytes, position: int, end: int, _question: Question) -> bytes:
    """RFC 1035 §3.3.14: one or more strings, joined without blanks (RFC 8461 §3.1)."""
    raw = wire[position:end]
    if len(raw) != end - position or not raw:
        raise _NotPlain
    if raw[0] == len(raw) - 1:
        return raw[1:]
    strings: list[bytes] = []
    at = 0
    while at < len(raw):
        string = raw[at + 1 : at + 1 + raw[at]]
        if len(string) != raw[at]:
            raise _NotPlain
        strings.append(string)
        at += 1 + raw[at]
    return b"".join(strings)


def _mx(wire: bytes, position: int, end: int, question: Question) -> MxRecord:
    name, after = _name(wire, position + 2, question)
    if after != end:
        raise _NotPlain
    preference = wire[position] << 8 | wire[position + 1]
    if not name:
        return MxRecord(preference, None)  # RFC 7505 §3
    try:
        return MxRecord(preference, Domain.parse(name))
    except NameInvalid:
        raise _NotPlain from None


def _tlsa(wire: bytes, position: int, end: int, _question: Question) -> TlsaRecord:
    raw = wire[position:end]
    if len(raw) != end - position or len(raw) < _MIN_TLSA:
        raise _NotPlain
    return TlsaRecord(raw[0], raw[1], raw[2], raw[3:])


def _a(wire: bytes, position: int, end: int, _question: Question) -> IPv4Address:
    raw = wire[position:end]
    if len(raw) != 4 or end - position != 4:
        raise _NotPlain
    return IPv4Address(raw)


def _aaaa(wire: bytes, position: int, end: int, _question: Question) -> IPv6Address:
    raw = wire[position:end]
    if len(raw) != 16 or end - position != 16:
        raise _NotPlain
    return IPv6Address(raw)


def _dnskey(wire: bytes, position: int, end: int, _question: Question) -> bytes:
    raw = wire[position:end]
    if len(raw) != end - position or len(raw) < _MIN_DNSKEY:
        raise _NotPlain
    return raw  # nobody looks into it


_READERS: dict[int, Callable[[bytes, int, int, Question], Value]] = {
    TXT: _txt,
    MX: _mx,
    TLSA: _tlsa,
    A: _a,
    AAAA: _aaaa,
    DNSKEY: _dnskey,
}
