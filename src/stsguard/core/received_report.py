"""A TLS report that somebody sent us (RFC 8460 §4), as values, and what was wrong with it, as warnings.

Everything in them was written by strangers. It is bounded in length and number and can be stored; it is not safe for
a terminal, a CSV file or a page: who prints it escapes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from stsguard.core.errors import ResultType
from stsguard.core.session import PolicyType
from stsguard.names import Domain, NameInvalid

MAX_WARNINGS = 500  # of a report and all its policies; one for each code and policy at most
MAX_WARNING_LENGTH = 300
MAX_SESSIONS = 10**12  # in one count; the largest sender of all has less in a day, and sums of more would overflow
MAX_TEXT_LENGTH = 1024  # a URL or a sentence; what mail.ru and others write as failure-reason-code is under 300
MAX_STRING_LENGTH = 8192  # a policy-string may be a TLSA record with a whole certificate in hexadecimal
MAX_STRINGS = 1000  # a policy of 64 KiB (RFC 8461 §3.3) has no more lines that make sense

# Bounds of the decoder, not of the values: an empty string is worth a warning, so it takes the slow way.
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT_LENGTH)]
Strings = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STRING_LENGTH)], ...],
    msgspec.Meta(max_length=MAX_STRINGS),
]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_SESSIONS)]
# Ours to say: whatever a report has under that name is refused by the decoder, since no array is as long as this.
OwnWarnings = Annotated[tuple["ReceivedWarning", ...], msgspec.Meta(min_length=2**40)]

POLICY_TYPES = {policy_type.value: policy_type for policy_type in PolicyType}
_RESULT_TYPES = {result_type.value: result_type for result_type in ResultType}


class WarningCode(StrEnum):
    """What senders do that RFC 8460 does not have, and we take. The codes are an interface: stored, filtered by."""

    # The file and its text (RFC 8460 §4: I-JSON, UTF-8; §5.2: gzip)
    BYTE_ORDER_MARK = "byte-order-mark"
    NOT_UTF8 = "not-utf8"
    TRAILING_DATA = "trailing-data"
    CUT_OFF = "cut-off"
    MEDIA_TYPE = "media-type"
    SEVERAL_FILES = "several-files"
    CONTROL_CHARACTER = "control-character"
    DUPLICATE_KEY = "duplicate-key"
    NOT_A_NUMBER = "not-a-number"
    JSON_IN_STRING = "json-in-string"
    # The shape (RFC 8460 §4.4)
    UNKNOWN_KEY = "unknown-key"
    KEY_SPELLING = "key-spelling"
    DRAFT_KEY = "draft-key"
    BOTH_KEYS = "both-keys"
    MISSING_KEY = "missing-key"
    NULL_VALUE = "null-value"
    EMPTY_VALUE = "empty-value"
    WRONG_TYPE = "wrong-type"
    STRING_FOR_ARRAY = "string-for-array"
    OBJECT_FOR_ARRAY = "object-for-array"
    ARRAY_FOR_VALUE = "array-for-value"
    COUNT_AS_TEXT = "count-as-text"
    COUNT_FORM = "count-form"
    COUNT_RANGE = "count-range"
    TEXT_CUT = "text-cut"
    POLICIES_LEFT_OUT = "policies-left-out"
    DETAILS_LEFT_OUT = "details-left-out"
    STRINGS_LEFT_OUT = "strings-left-out"
    WARNINGS_LEFT_OUT = "warnings-left-out"
    # The meaning
    NO_POLICIES = "no-policies"
    DATE_WITHOUT_ZONE = "date-without-zone"
    DATE_FORM = "date-form"
    DATE_UNREADABLE = "date-unreadable"
    DATES_REVERSED = "dates-reversed"
    NOT_ONE_DAY = "not-one-day"
    IN_THE_FUTURE = "in-the-future"
    POLICY_TYPE_UNKNOWN = "policy-type-unknown"
    POLICY_TYPE_SPELLING = "policy-type-spelling"
    DOMAIN_FORM = "domain-form"
    DOMAIN_UNREADABLE = "domain-unreadable"
    DOMAIN_FROM_HEADER = "domain-from-header"
    LINE_END = "line-end"
    RESULT_TYPE_UNKNOWN = "result-type-unknown"
    RESULT_TYPE_SPELLING = "result-type-spelling"
    ADDRESS_FORM = "address-form"
    SUMS_DIFFER = "sums-differ"
    FAILURES_UNEXPLAINED = "failures-unexplained"
    # The mail (RFC 8460 §5.3)
    NOT_MULTIPART_REPORT = "not-multipart-report"
    REPORT_TYPE = "report-type"
    PARAMETER_FORM = "parameter-form"
    BOUNDARY = "boundary"
    BASE64 = "base64"
    TRANSFER_ENCODING = "transfer-encoding"
    FORWARDED = "forwarded"
    SEVERAL_REPORTS = "several-reports"
    PARTS_LEFT_OUT = "parts-left-out"


@dataclass(frozen=True, slots=True)
class ReceivedWarning:
    """A deviation that was tolerated: its code, where it was first seen, and how often it was there."""

    code: WarningCode
    text: str
    times: int = 1


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


class AppliedPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """`policy` of RFC 8460 §4.4. UNSET for a list that is not there, which an empty one or null is not."""

    policy_type: Text = msgspec.field(name="policy-type")
    policy_domain: Text = msgspec.field(name="policy-domain")
    policy_strings: Strings | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="policy-string")
    mx_hosts: Strings | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="mx-host")


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """`summary` of RFC 8460 §4.4."""

    successes: Count = msgspec.field(name="total-successful-session-count")
    failures: Count = msgspec.field(name="total-failure-session-count")


class ReceivedPolicy(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One element of `policies`: the policy, its summary and its failure-details (RFC 8460 §4.4).

    It has the shape that it has in JSON, so that the decoder's result is kept as it is. `details` may count other
    sessions than `failures` does: failure types are not exclusive (RFC 8460 §4), and senders err.
    """

    policy: AppliedPolicy
    summary: Summary
    listed: tuple[ReceivedDetail, ...] | msgspec.UnsetType = msgspec.field(
        default=msgspec.UNSET, name="failure-details"
    )
    warnings: OwnWarnings = ()

    @property
    def policy_type_text(self) -> str:
        """policy-type as the reporter wrote it."""
        return self.policy.policy_type

    @property
    def policy_type(self) -> PolicyType | None:
        """The policy-type that is meant; None where the text names none."""
        text = self.policy.policy_type
        return POLICY_TYPES.get(text) or POLICY_TYPES.get(text.strip().lower().replace("_", "-"))

    @property
    def policy_domain_text(self) -> str:
        """policy-domain as the reporter wrote it."""
        return self.policy.policy_domain

    @property
    def policy_domain(self) -> Domain | None:
        """The policy domain; None where the text names none."""
        try:
            return Domain.parse(self.policy.policy_domain.strip())
        except NameInvalid:
            return None

    @property
    def policy_strings(self) -> tuple[str, ...]:
        """The lines of the policy; empty where there are none."""
        return self.policy.policy_strings or ()

    @property
    def mx_hosts(self) -> tuple[str, ...]:
        """mx-host; empty where there are none."""
        return self.policy.mx_hosts or ()

    @property
    def successes(self) -> int:
        """total-successful-session-count."""
        return self.summary.successes

    @property
    def failures(self) -> int:
        """total-failure-session-count."""
        return self.summary.failures

    @property
    def details(self) -> tuple[ReceivedDetail, ...]:
        """failure-details; empty where there are none."""
        return self.listed or ()


class ReceivedReport(msgspec.Struct, gc=False):
    """A report. Empty text: the reporter did not say. Instants are aware UTC, `start_at` never after `end_at`.

    `warnings` are of the report itself; those of a policy are in the policy.
    """

    organization_name: str
    contact_info: str
    report_id: str
    start_at: datetime
    end_at: datetime
    policies: tuple[ReceivedPolicy, ...]
    warnings: tuple[ReceivedWarning, ...] = ()

    @property
    def day(self) -> date:
        """The UTC day that the middle of the range is on: where all its sessions are counted."""
        return (self.start_at + (self.end_at - self.start_at) / 2).date()

    @property
    def successes(self) -> int:
        """The successful sessions under all policies."""
        return sum(policy.successes for policy in self.policies)

    @property
    def failures(self) -> int:
        """The failed sessions under all policies."""
        return sum(policy.failures for policy in self.policies)

    def all_warnings(self) -> Iterator[ReceivedWarning]:
        """Those of the report, then those of each policy."""
        yield from self.warnings
        for policy in self.policies:
            yield from policy.warnings


class Notes:
    """Collects warnings while a report is read: one for each code and policy, with its first text and a count."""

    __slots__ = ("_kept", "_more", "_number")

    def __init__(self) -> None:
        self._kept: dict[int, dict[WarningCode, tuple[str, int]]] = {}
        self._number = 0
        self._more = 0

    def add(self, code: WarningCode, text: str, policy: int = -1) -> None:
        """One deviation, of the report itself or of the policy of that number."""
        found = self._kept.setdefault(policy, {})
        if code in found:
            first, times = found[code]
            found[code] = (first, times + 1)
        elif self._number < MAX_WARNINGS:
            self._number += 1
            found[code] = (text[:MAX_WARNING_LENGTH], 1)
        else:
            self._more += 1

    def of(self, policy: int) -> tuple[ReceivedWarning, ...]:
        """Those of one policy."""
        found = self._kept.get(policy) if self._kept else None
        return tuple(ReceivedWarning(code, *told) for code, told in found.items()) if found else ()

    def of_report(self) -> tuple[ReceivedWarning, ...]:
        """Those of the report itself; the last says how many of policies were not kept."""
        kept = self.of(-1)
        if not self._more:
            return kept
        return (*kept, ReceivedWarning(WarningCode.WARNINGS_LEFT_OUT, f"{self._more} more warnings of policies"))
