"""The decoders for reports in the shape of RFC 8460 §4.4, and for JSON that has nothing odd about it.

Most reports are well-formed, and msgspec reads those into `ReceivedPolicy` and the values here at once. Whatever
departs from the shape in the least (another type, an unknown, missing or repeated key, a null, an empty string) is left
to `received_shape`, which reads the same octets slowly into the same values and notes each deviation. So nothing here
warns of anything.
"""

from typing import Final

import msgspec

from stsguard.core.received_report import ReceivedDetail, ReceivedPolicy, Text


class WireDates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """`date-range`."""

    start: Text = msgspec.field(name="start-datetime")
    end: Text = msgspec.field(name="end-datetime")


class WireReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The whole, its dates not yet understood and its policies not yet judged."""

    organization_name: Text = msgspec.field(name="organization-name")
    dates: WireDates = msgspec.field(name="date-range")
    contact_info: Text = msgspec.field(name="contact-info")
    report_id: Text = msgspec.field(name="report-id")
    policies: tuple[ReceivedPolicy, ...]


NOTHING: Final = object()  # None is a value of JSON

_decode = msgspec.json.Decoder(WireReport).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

# Escapes that no report needs: NUL, which no database keeps in text, and what would make counting colons wrong.
_ESCAPES = (b"\\u0000", b"\\u003a", b"\\u003A")
_NUL = _ESCAPES[0]
_MAX_COMMAS = 500_000  # bounds the values before any is built; 50,000 policies have 400,000


def decode_strict(data: bytes) -> WireReport | None:
    """The report in `data` where it is exactly of the shape; None where anything at all is to be repaired or told."""
    if len(data) > _MAX_COMMAS and data.count(b",") > _MAX_COMMAS:
        return None
    try:
        found = _decode(data)
    except (msgspec.DecodeError, ValueError):  # ValueError: octets that are not UTF-8; from 0.20 on both are that
        return None
    return found if _said_once(data, found) else None


def decode_json(data: bytes) -> object:
    """The value in `data` where any reader of JSON would find the same; `NOTHING` where one might not.

    Depth and number of values are to be bounded by the one who calls.
    """
    try:
        found: object = _decode_any(data)
        return found if _said_once(data, found) else NOTHING
    except (msgspec.DecodeError, ValueError, OverflowError):  # the last: a number that can't be written again
        return NOTHING


def as_policy(found: object) -> ReceivedPolicy | None:
    """One of `policies`, which `decode_json` or another found, where it is exactly of the shape; None where not."""
    try:
        policy = msgspec.convert(found, ReceivedPolicy)
        return None if _NUL in _encode(policy) else policy
    except (msgspec.ValidationError, ValueError):  # ValueError: half of a surrogate pair
        return None


def as_details(found: list[object]) -> tuple[ReceivedDetail, ...] | None:
    """`failure-details` where all of them are exactly of the shape; None where not."""
    try:
        details = msgspec.convert(found, tuple[ReceivedDetail, ...])
        return None if _NUL in _encode(details) else details
    except (msgspec.ValidationError, ValueError):
        return None


def _said_once(data: bytes, found: object) -> bool:
    """Whether `found`, read from `data`, has no NUL in it, and all the keys that are there.

    msgspec takes the last of repeated keys without a word. But what is written again is never longer than what was
    read: where both are as long, nothing was left out. Else the values have as many colons in the octets as when they
    are written again, so that one more is that of a repeated key.
    """
    if b"\\" in data and any(escape in data for escape in _ESCAPES):
        return False
    again = _encode(found)
    return len(again) == len(data) or again.count(b":") == data.count(b":")
