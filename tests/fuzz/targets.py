"""The parsers that are fuzzed, each as a function of bytes that lets through only what must never happen.

A target returns for a value and for the parser's own documented error; any other exception, and a value that breaks a
promise of the parser, is a finding. To add one: a function here, a line in `TARGETS`, and seeds below `corpus/NAME/`.
Imports stay inside the functions, so that a target loads, and is instrumented, with its own parser only.
"""

from collections.abc import Callable

Target = Callable[[bytes], None]


def sts_record(data: bytes) -> None:
    """The TXT records at `_mta-sts`, one a line (RFC 8461 §3.1)."""
    from stsguard.core.errors import RecordInvalid
    from stsguard.core.mtasts import parse_record, select_record

    records = data.split(b"\n")
    try:
        record = select_record(records)
    except RecordInvalid as exc:
        _check_message(str(exc))
        return
    if record is not None:
        assert record.record_id.isalnum()
        assert record.record_id.isascii()
        assert parse_record(f"v=STSv1; id={record.record_id};").record_id == record.record_id
        _check_warnings(record.warnings)


def policy(data: bytes) -> None:
    """A policy file (RFC 8461 §3.2)."""
    from stsguard.core.errors import PolicyInvalid
    from stsguard.core.mtasts import MAX_MAX_AGE, Mode, parse_policy

    try:
        found = parse_policy(data)
    except PolicyInvalid as exc:
        _check_message(str(exc))
        return
    assert found.mx_patterns or found.mode is Mode.NONE
    assert 0 <= found.max_age <= MAX_MAX_AGE
    assert not any(end in line for line in found.policy_text for end in "\r\n")
    assert parse_policy("\n".join((*found.policy_text, "")).encode()) == found
    _check_warnings(found.warnings)


def tlsrpt_record(data: bytes) -> None:
    """The TXT records at `_smtp._tls`, one a line (RFC 8460 §3)."""
    from stsguard.core.errors import RecordInvalid
    from stsguard.core.tlsrpt_record import is_uri, parse_tlsrpt_record, select_tlsrpt_record

    try:
        record = select_tlsrpt_record(data.split(b"\n"))
    except RecordInvalid as exc:
        _check_message(str(exc))
        return
    if record is not None:
        assert all(map(is_uri, record.ruas))
        if record.ruas:
            assert parse_tlsrpt_record("v=TLSRPTv1;rua=" + ",".join(record.ruas)).ruas == record.ruas
        _check_warnings(record.warnings)


def mx_pattern(data: bytes) -> None:
    """An mx value, and after a line feed an MX host (RFC 8461 §3.2, §4.1)."""
    from stsguard.core.errors import PolicyInvalid
    from stsguard.core.mtasts import MxPattern, mx_matches
    from stsguard.names import Domain, NameInvalid

    text, _, host = data.decode("utf-8", "surrogateescape").partition("\n")
    try:
        pattern = MxPattern.parse(text)
    except PolicyInvalid as exc:
        _check_message(str(exc))
        return
    assert str(pattern) == text.lower()
    assert MxPattern.parse(str(pattern)) == pattern
    try:
        mx_hostname = Domain.parse(host)
    except NameInvalid:
        return
    wildcard_filled = f"{mx_hostname.split('.')[0]}.{pattern.name}" if pattern.wildcard else pattern.name
    assert mx_matches(pattern, mx_hostname) is (mx_hostname == wildcard_filled)


def media_type(data: bytes) -> None:
    """The value of a Content-Type field (RFC 8461 §3.2)."""
    from stsguard.core.mtasts import media_type_accepted

    text = data.decode("latin-1")
    if media_type_accepted(text):
        assert text.split(";")[0].strip().lower() == "text/plain"


def domain(data: bytes) -> None:
    """A domain name in any form."""
    from stsguard.names import MAX_NAME_OCTETS, Domain, NameInvalid

    try:
        name = Domain.parse(data.decode("utf-8", "surrogateescape"))
    except NameInvalid as exc:
        _check_message(str(exc))
        return
    assert Domain.parse(name) == name
    assert name.isascii()
    assert len(name) <= MAX_NAME_OCTETS


def _check_message(text: str) -> None:
    """It goes to logs and terminals: nothing in it may act there, and it may not fill them."""
    assert text.isprintable(), repr(text)
    assert len(text) < 1000, len(text)


def _check_warnings(warnings: tuple[str, ...]) -> None:
    assert len(warnings) <= 25
    for warning in warnings:
        _check_message(warning)


TARGETS: dict[str, Target] = {
    "domain": domain,
    "media_type": media_type,
    "mx_pattern": mx_pattern,
    "policy": policy,
    "sts_record": sts_record,
    "tlsrpt_record": tlsrpt_record,
}
