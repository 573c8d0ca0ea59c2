"""A report in the shape of RFC 8460 §4.4, typed but not yet understood, and the strict decoder for it.

Most reports are well-formed, and msgspec reads those into these values at once. Whatever departs from the shape in the
least (another type, an unknown, missing or repeated key, a null, an empty string) is left to `received_shape`, which
reads the same octets slowly into the same values and notes each deviation. So nothing here warns of anything.
"""

from typing import Annotated

import msgspec

from stsguard.core.errors import ResultType

MAX_SAFE_INTEGER = 2**53 - 1  # RFC 7493 §2.2
MAX_TEXT_LENGTH = 1024  # a URL or a sentence; what mail.ru and others write as failure-reason-code is under 300
MAX_STRING_LENGTH = 8192  # a policy-string may be a TLSA record with a whole certificate in hexadecimal
MAX_STRINGS = 1000  # a policy of 64 KiB (RFC 8461 §3.3) has no more lines that make sense

# Bounds of the decoder, not of the values: an empty string is worth a warning, so it takes the slow way.
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT_LENGTH)]
Strings = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STRING_LENGTH)], ...],
    msgspec.Meta(max_length=MAX_STRINGS),
]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]

_RESULT_TYPES = {result_type.value: result_type for result_type in ResultType}


class ReceivedDetail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One of failure-details (RFC 8460 §4.4) as the reporter wrote it. Empty text: the reporter did not say.

    Nothing in it is more than bounded text of a stranger: names and addresses may be none.
    """

    result_type_text: Text = msgspec.field(name="result-type")
    sessions: Count = msgspec.field(name="failed-session-count")
    sending_mta_ip: Text = msgspec.field(default="", name="sending-mta-ip")
    receiving_mx_hostname: Text = msgspec.field(default="", name="receiving-mx-hostname")
    receiving_mx_helo: Text = msgspec.field(default="", name="receiving-mx-helo")
    receiving_ip: Text = msgspec.field(default="", name="receiving-ip")
    additional_information: Text = msgspec.field(default="", name="additional-information")
    failure_reason_code: Text = msgspec.field(default="", name="failure-reason-code")

    @property
    def result_type(self) -> ResultType | None:
        """The result-type of RFC 8460 §4.3 that is meant; None for one that is not among them."""
        text = self.result_type_text
        return _RESULT_TYPES.get(text) or _RESULT_TYPES.get(text.strip().lower().replace("_", "-"))


class WirePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`policy`. None for a list that is not there."""

    policy_type: Text = msgspec.field(name="policy-type")
    policy_domain: Text = msgspec.field(name="policy-domain")
    policy_strings: Strings | None = msgspec.field(default=None, name="policy-string")
    mx_hosts: Strings | None = msgspec.field(default=None, name="mx-host")


class WireSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`summary`."""

    successes: Count = msgspec.field(name="total-successful-session-count")
    failures: Count = msgspec.field(name="total-failure-session-count")


class WireResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of `policies`."""

    policy: WirePolicy
    summary: WireSummary
    details: tuple[ReceivedDetail, ...] | None = msgspec.field(default=None, name="failure-details")


class WireDates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`date-range`."""

    start: Text = msgspec.field(name="start-datetime")
    end: Text = msgspec.field(name="end-datetime")


class WireReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole."""

    organization_name: Text = msgspec.field(name="organization-name")
    dates: WireDates = msgspec.field(name="date-range")
    contact_info: Text = msgspec.field(name="contact-info")
    report_id: Text = msgspec.field(name="report-id")
    policies: tuple[WireResult, ...]


_decode = msgspec.json.Decoder(WireReport).decode
_encode = msgspec.json.Encoder().encode

# Escapes that no report needs: NUL, which no database keeps in text, and what would make counting colons wrong.
_ESCAPES = (b"\\u0000", b"\\u003a", b"\\u003A")
_MAX_COMMAS = 500_000  # bounds the values before any is built; 50,000 policies have 400,000


def decode_strict(data: bytes) -> WireReport | None:
    """The report in `data` where it is exactly of the shape; None where anything at all is to be repaired or told."""
    if len(data) > _MAX_COMMAS and data.count(b",") > _MAX_COMMAS:
        return None
    try:
        found = _decode(data)
    except (msgspec.DecodeError, ValueError):  # ValueError: octets that are not UTF-8; from 0.20 on both are that
        return None
    if b"\\" in data and any(escape in data for escape in _ESCAPES):
        return None
    # msgspec takes the last of repeated keys without a word. The values have as many colons in the octets as when they
    # are written again, so that one more is that of a repeated key, or of an optional one that is null.
    return found if data.count(b":") == _encode(found).count(b":") else None
