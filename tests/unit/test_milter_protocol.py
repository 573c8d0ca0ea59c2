"""The milter protocol: packets, what is agreed on, and what is said, by Postfix's src/milter/milter8.c."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core import milter_protocol as protocol
from stsguard.core.milter_protocol import MAX_PACKET_BYTES, Action, PacketInvalid, Step, negotiate, take_packets

# What Postfix 3.7 and 3.10 offer: every action, every step.
OFFER = struct.pack(">III", 6, 0x1FF, 0x1FFFFF)


def test_what_is_agreed_with_postfix() -> None:
    agreed = negotiate(OFFER, "{rcpt_host} i")
    length, command, version, actions, steps = struct.unpack_from(">IcIII", agreed.answer)
    assert (length, command, version) == (len(agreed.answer) - 4, b"O", 6)
    assert actions == Action.DELETE_RECIPIENT | Action.CHOOSE_MACROS
    assert steps == 0x1 | 0x2 | 0x4 | 0x80 | 0x100 | 0x8000 | 0x40000 | 0x80000 | 0x100000
    assert agreed.answer[17:] == b"\0\0\0\x03{rcpt_host} i\0"  # SMFIM_ENVRCPT
    assert agreed.quiet == {protocol.RECIPIENT, protocol.HEADER, protocol.END_OF_HEADER, protocol.BODY}
    assert agreed.leading_space


def test_nothing_is_asked_for_that_is_not_offered() -> None:
    agreed = negotiate(struct.pack(">III", 2, 0x3F, 0x7F), "i")
    assert struct.unpack_from(">IcIII", agreed.answer) == (13, b"O", 2, 0x08, 0x7)
    assert len(agreed.answer) == 17
    assert agreed.quiet == frozenset()
    assert not agreed.leading_space


@pytest.mark.parametrize("offer", [b"", OFFER[:11], struct.pack(">III", 1, 0, 0)])
def test_what_is_no_offer(offer: bytes) -> None:
    with pytest.raises(PacketInvalid):
        negotiate(offer, "")


@given(st.lists(st.tuples(st.sampled_from(list(Step.__members__)), st.binary(max_size=50)), max_size=5), st.data())
def test_packets_come_out_however_they_are_cut(sent: list[tuple[str, bytes]], data: st.DataObject) -> None:
    packets = [(name[:1].encode(), content) for name, content in sent]
    stream = b"".join(protocol.packet(*packet) for packet in packets)
    buffer, found = bytearray(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        buffer += stream[:size]
        stream = stream[size:]
        found += take_packets(buffer)
    assert found == packets
    assert not buffer


@pytest.mark.parametrize("length", [0, MAX_PACKET_BYTES + 1, 2**32 - 1])
def test_a_packet_that_is_none(length: int) -> None:
    with pytest.raises(PacketInvalid, match=f"of {length} bytes"):
        list(take_packets(bytearray(struct.pack(">I", length))))


def test_macros() -> None:
    found = protocol.parse_macros(b"{rcpt_mailer}\0smtp\0{rcpt_host}\0b\xc3\xbccher.example\0i\0\xff\0half")
    assert found == {"{rcpt_mailer}": "smtp", "{rcpt_host}": "bücher.example", "i": "\ufffd"}
    assert protocol.parse_macros(b"") == {}


@pytest.mark.parametrize(
    ("data", "leading_space", "field"),
    [
        (b"Subject\0 a\n\tb\0", True, b"Subject: a\r\n\tb\r\n"),
        (b"Subject\0a\r\n b\0", True, b"Subject:a\r\n b\r\n"),
        (b"Subject\0a\0", False, b"Subject: a\r\n"),
        (b"X\0\0", True, b"X:\r\n"),
    ],
)
def test_header_fields_as_they_came(data: bytes, leading_space: bool, field: bytes) -> None:
    assert protocol.header_field(data, leading_space=leading_space) == field


def test_answers() -> None:
    assert protocol.CONTINUE == b"\0\0\0\x01c"
    assert protocol.DISCARD == b"\0\0\0\x01d"
    assert protocol.delete_recipient(b"<a@b>") == b"\0\0\0\x07-<a@b>\0"
    assert protocol.refuse("451", "4.3.0", "later") == b"\0\0\0\x11y451 4.3.0 later\0"
