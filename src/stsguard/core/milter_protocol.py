"""The milter protocol, version 6, as Postfix speaks it (MILTER_README, src/milter/milter8.c): octets and values.

A packet is a length, one octet that says what it is, and data. Postfix offers what it can do (actions, and steps that
may be left out or go without an answer), and we choose. Left out on purpose: every action but taking recipients off,
and protocols before 2, which have no negotiation.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache

MAX_PACKET_BYTES = 1_048_576  # a body comes in pieces of 64 KiB, a header field has up to header_size_limit
VERSION = 6
MIN_VERSION = 2

NEGOTIATE, MACROS, CONNECT, HELO, MAIL, RECIPIENT, DATA = b"O", b"D", b"C", b"H", b"M", b"R", b"T"
HEADER, END_OF_HEADER, BODY, END, ABORT, QUIT, QUIT_NEW, UNKNOWN = b"L", b"N", b"B", b"E", b"A", b"Q", b"K", b"U"
CONTINUE, ACCEPT, DISCARD, TEMPFAIL = (struct.pack(">IB", 1, octet) for octet in b"cadt")

_STAGE_RECIPIENT = 3
_HEAD = struct.Struct(">I")
_OPTIONS = struct.Struct(">III")


class Action(IntFlag):
    """What a milter may do to a mail."""

    DELETE_RECIPIENT = 0x08
    CHOOSE_MACROS = 0x100


class Step(IntFlag):
    """What Postfix may leave out (NO_), or tell without waiting for an answer (QUIET_)."""

    NO_CONNECT = 0x1
    NO_HELO = 0x2
    NO_MAIL = 0x4
    QUIET_HEADER = 0x80
    NO_UNKNOWN = 0x100
    QUIET_RECIPIENT = 0x8000
    QUIET_END_OF_HEADER = 0x40000
    QUIET_BODY = 0x80000
    LEADING_SPACE = 0x100000  # header values octet by octet


# As plain numbers: flags cost several times as much, and each connection begins with them.
_ACTIONS = int(Action.DELETE_RECIPIENT | Action.CHOOSE_MACROS)
_STEPS = int(
    Step.NO_CONNECT
    | Step.NO_HELO
    | Step.NO_MAIL
    | Step.NO_UNKNOWN
    | Step.QUIET_RECIPIENT
    | Step.QUIET_HEADER
    | Step.QUIET_END_OF_HEADER
    | Step.QUIET_BODY
    | Step.LEADING_SPACE
)
QUIET = {
    RECIPIENT: Step.QUIET_RECIPIENT,
    HEADER: Step.QUIET_HEADER,
    END_OF_HEADER: Step.QUIET_END_OF_HEADER,
    BODY: Step.QUIET_BODY,
}


class PacketInvalid(Exception):
    """The other side does not speak the protocol. Its connection ends."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was agreed on: the answer's octets, the commands that Postfix wants no answer to, and whether header values
    come with the space before them."""

    answer: bytes
    quiet: frozenset[bytes]
    leading_space: bool


def packet(command: bytes, data: bytes = b"") -> bytes:
    """One packet."""
    return _HEAD.pack(1 + len(data)) + command + data


def negotiate(data: bytes, macros: str) -> Agreement:
    """The answer to an offer; `macros` are the names that we want to know with each recipient.

    Raises:
        PacketInvalid: it is none, or of a version before 2.
    """
    if len(data) < _OPTIONS.size:
        raise PacketInvalid("an offer that is too short")
    version, actions, steps = _OPTIONS.unpack_from(data)
    if version < MIN_VERSION:
        raise PacketInvalid(f"protocol version {version}")
    agreed_actions, agreed_steps = actions & _ACTIONS, steps & _STEPS
    answer = _OPTIONS.pack(min(version, VERSION), agreed_actions, agreed_steps)
    if agreed_actions & Action.CHOOSE_MACROS:
        answer += _HEAD.pack(_STAGE_RECIPIENT) + macros.encode("ascii") + b"\0"
    return _agreement(packet(NEGOTIATE, answer), agreed_steps)


@lru_cache(maxsize=16)
def _agreement(answer: bytes, steps: int) -> Agreement:
    """One for all connections of a Postfix, which always offers the same."""
    quiet = frozenset(command for command, step in QUIET.items() if steps & step)
    return Agreement(answer, quiet, leading_space=bool(steps & Step.LEADING_SPACE))


def take_packets(buffer: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Each whole packet in `buffer`, which is taken out of it: its command and data.

    Raises:
        PacketInvalid: one is empty or too long.
    """
    while len(buffer) >= _HEAD.size:
        (length,) = _HEAD.unpack_from(buffer)
        if not 0 < length <= MAX_PACKET_BYTES:
            raise PacketInvalid(f"a packet of {length} bytes")
        end = _HEAD.size + length
        if len(buffer) < end:
            return
        command, data = bytes(buffer[4:5]), bytes(buffer[5:end])
        del buffer[:end]
        yield command, data


def parse_macros(data: bytes) -> dict[str, str]:
    """Names and values of a macro packet, after the octet for the step that they belong to."""
    words = data.split(b"\0")
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in _pairs(words)}


def _pairs(words: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(words[0::2], words[1::2], strict=False)


def header_field(data: bytes, *, leading_space: bool) -> bytes:
    """A header field as it came, with CRLF; Postfix gives LF within it."""
    name, _, value = data.removesuffix(b"\0").partition(b"\0")
    value = value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return name + (b":" if leading_space else b": ") + value + b"\r\n"


def delete_recipient(path: bytes) -> bytes:
    """Take a recipient off; before the answer to the end of the mail."""
    return packet(b"-", path + b"\0")


def refuse(code: str, enhanced: str, text: str) -> bytes:
    """Refuse with this reply: for now with a 4xx code, for good with a 5xx."""
    return packet(b"y", f"{code} {enhanced} {text}".encode("ascii", "replace") + b"\0")
