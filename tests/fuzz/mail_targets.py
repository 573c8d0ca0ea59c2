"""Targets about report mail on its way in; see `targets`."""

from tests.fuzz.checks import check_message


def dkim_signature(data: bytes) -> None:
    """A DKIM-Signature field, and after an empty line the TXT records of its key, one a line (RFC 6376 §3.5, 3.6.1)."""
    from datetime import UTC, datetime

    from stsguard.core.dkim_tags import claimed_domain, parse_signature, select_key
    from stsguard.core.errors import SignatureInvalid

    field, _, records = data.partition(b"\n\n")
    _, selector = claimed_domain(field)
    assert len(selector) <= 63
    try:
        signature = parse_signature(field, datetime(2026, 3, 1, tzinfo=UTC))
        assert b"from" in signature.signed_fields
        assert b"l" not in signature.tags
        assert signature.key_name.endswith(f"._domainkey.{signature.domain}")
        key = select_key(tuple(records.split(b"\n")), signature)
    except SignatureInvalid as exc:
        check_message(str(exc))
        return
    assert key.record.startswith(b"v=DKIM1; k=")


def dkim_body(data: bytes) -> None:
    """The body of a mail (RFC 6376 §3.4.3, §3.4.4): the canonical form of the canonical form is the same."""
    from stsguard.core.dkim_body import canonical_body

    for relaxed in (False, True):
        found = canonical_body(data, relaxed=relaxed)
        assert found == b"" or found.endswith(b"\r\n")
        assert canonical_body(found, relaxed=relaxed) == found


def milter(data: bytes) -> None:
    """What comes over a milter's connection."""
    from stsguard.core import milter_protocol as protocol
    from stsguard.core.recipients import next_hop_to_warm, parse_path

    buffer = bytearray(data)
    try:
        for command, octets in protocol.take_packets(buffer):
            if command == protocol.NEGOTIATE:
                agreed = protocol.negotiate(octets, "i")
                assert next(protocol.take_packets(bytearray(agreed.answer)))[0] == protocol.NEGOTIATE
            macros = protocol.parse_macros(octets)
            next_hop_to_warm("smtp", macros.get("{rcpt_host}", ""))
            assert protocol.header_field(octets, leading_space=True).endswith(b"\r\n")
            address = parse_path(octets)
            assert address == "" or "@" in address
    except protocol.PacketInvalid as exc:
        check_message(str(exc))
