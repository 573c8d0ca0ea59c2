"""A TLS report that somebody sent us (RFC 8460 §4), as values, and what was wrong with it, as warnings.

Everything in them was written by strangers. It is bounded in length and number and can be stored; it is not safe for
a terminal, a CSV file or a page: who prints it escapes it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from stsguard.core.session import PolicyType
from stsguard.core.tlsrpt_report_wire import ReceivedDetail
from stsguard.names import Domain

__all__ = ["Notes", "ReceivedDetail", "ReceivedPolicy", "ReceivedReport", "ReceivedWarning", "WarningCode"]

MAX_WARNINGS = 500  # of a report and all its policies; one for each code and policy at most
MAX_WARNING_LENGTH = 300


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


@dataclass(slots=True)
class ReceivedPolicy:
    """One element of `policies`: the policy, its summary and its failure-details (RFC 8460 §4.4).

    `policy_type` and `policy_domain` are None where the text beside them names none. `details` may count other
    sessions than `failures` does: failure types are not exclusive (RFC 8460 §4), and senders err.
    """

    policy_type_text: str
    policy_type: PolicyType | None
    policy_domain_text: str
    policy_domain: Domain | None
    policy_strings: tuple[str, ...]
    mx_hosts: tuple[str, ...]
    successes: int
    failures: int
    details: tuple[ReceivedDetail, ...] = ()
    warnings: tuple[ReceivedWarning, ...] = ()


@dataclass(slots=True)
class ReceivedReport:
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
