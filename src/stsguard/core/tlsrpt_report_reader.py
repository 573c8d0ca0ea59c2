"""Reads a report strictly by RFC 8460 §4.4, in the form that we write: `stsguard lint report`, and our own tests.

An error is what the RFC forbids or what a key that it shows lacks; a warning is what it allows but no receiver expects.
All errors are told, not only the first. Left out on purpose: what other senders get wrong (bare strings for arrays,
numbers as text, wrong names of keys) is not repaired here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from stsguard.core.errors import ReportInvalid, ResultType
from stsguard.core.session import AppliedPolicy, FailureDetail, PolicyType
from stsguard.core.syntax import Warnings, quoted
from stsguard.core.tlsrpt_report_merge import canonical_detail, canonical_policy
from stsguard.core.tlsrpt_report_model import PolicyResult, Report, contact_domain
from stsguard.names import Domain, NameInvalid

MAX_REPORT_BYTES = 32 * 1024 * 1024  # more than 10,000 details and 100 policies take; receivers stop at 10 MB
MAX_SAFE_INTEGER = 2**53 - 1  # RFC 7493 §2.2

_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_RESULT_TYPES = frozenset(result_type.value for result_type in ResultType)
_POLICY_TYPES = {policy_type.value: policy_type for policy_type in PolicyType}
_NOWHERE = datetime(1970, 1, 1, tzinfo=UTC)

_REPORT_KEYS = ("organization-name", "date-range", "contact-info", "report-id", "policies")
_POLICY_KEYS = ("policy", "summary", "failure-details")
_APPLIED_KEYS = ("policy-type", "policy-string", "policy-domain", "mx-host")
_SUMMARY_KEYS = ("total-successful-session-count", "total-failure-session-count")
# Keys of failure-details, and the fields of `FailureDetail` that they fill.
_DETAIL_FIELDS = {
    "result-type": "result_type",
    "sending-mta-ip": "sending_mta_ip",
    "receiving-mx-hostname": "receiving_mx_hostname",
    "receiving-mx-helo": "receiving_mx_helo",
    "receiving-ip": "receiving_ip",
    "additional-information": "additional_information",
    "failure-reason-code": "failure_reason_code",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A report as read. `report` is None where `errors` say why it is none."""

    report: Report | None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def parse_report(data: bytes) -> Report:
    """The report in `data`, which is JSON, not compressed.

    Raises:
        ReportInvalid: it is not as RFC 8460 §4.4 has it; the message holds the first errors.
    """
    reading = read_report(data)
    if reading.report is None:
        raise ReportInvalid("; ".join(reading.errors[:3]))
    return reading.report


def read_report(data: bytes) -> Reading:
    """The report in `data` with all that is wrong or strange. Raises nothing."""
    try:
        found = _load(data)
    except ReportInvalid as exc:
        return Reading(None, (str(exc),))
    reader = _Reader()
    report = reader.report(found)
    errors = reader.errors.kept()
    return Reading(None if errors else report, errors, reader.warnings.kept())


def _load(data: bytes) -> object:
    """RFC 8460 §4 wants I-JSON (RFC 7493): UTF-8, each key once, no number that JSON does not know."""
    if len(data) > MAX_REPORT_BYTES:
        raise ReportInvalid(f"more than {MAX_REPORT_BYTES} bytes")
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as exc:
        raise ReportInvalid(f"not UTF-8: byte 0x{data[exc.start]:02x} at position {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise ReportInvalid(f"not JSON: {exc.msg} in line {exc.lineno}, column {exc.colno}") from exc
    except ValueError as exc:
        raise ReportInvalid("a number of too many digits") from exc  # int() takes 4300
    except RecursionError as exc:
        raise ReportInvalid("nested too deeply") from exc


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ReportInvalid(f"the key {quoted(key)} is there twice in one object")
        found[key] = value
    return found


def _no_constant(name: str) -> object:
    raise ReportInvalid(f"{name} is no number of JSON")


class _Reader:
    """Walks the object. Each method returns something of its type, whatever is there, and notes what is wrong."""

    def __init__(self) -> None:
        self.errors = Warnings()
        self.warnings = Warnings()

    def report(self, found: object) -> Report:
        top = self._object(found, "the report", _REPORT_KEYS)
        dates = self._object(top.get("date-range"), "date-range", ("start-datetime", "end-datetime"))
        start_at = self._date_time(dates, "start-datetime")
        end_at = self._date_time(dates, "end-datetime")
        if end_at < start_at:
            self.errors.add("date-range: it ends before it begins")
        elif (start_at.hour, start_at.minute, start_at.second) != (0, 0, 0) or not (
            timedelta(hours=23, minutes=59) < end_at - start_at <= timedelta(days=1)
        ):
            # RFC 8460 §4.1, §4.4: "The report SHOULD cover a full day, from 00:00-24:00 UTC".
            self.warnings.add("date-range: not one full day in UTC")
        policies = self._array(top.get("policies"), "policies")
        if not policies:
            self.warnings.add("policies: empty, so the report says nothing")
        return Report(
            organization=self._text(top, "organization-name", ""),
            contact=self._contact(top),
            report_id=self._text(top, "report-id", ""),
            start_at=start_at,
            end_at=end_at,
            policies=tuple(self._policy(policy, f"policies[{at}]") for at, policy in enumerate(policies)),
        )

    def _contact(self, top: Mapping[str, object]) -> str:
        contact = self._text(top, "contact-info", "")
        try:
            if "@" not in contact:
                raise NameInvalid("it has no '@'", contact)
            contact_domain(contact)
        except NameInvalid as exc:
            if contact:
                self.errors.add(f"contact-info: {quoted(contact)} is no mail address: {exc}")
        return contact

    def _policy(self, found: object, where: str) -> PolicyResult:
        result = self._object(found, where, _POLICY_KEYS, optional=("failure-details",))
        applied = self._applied(result.get("policy"), f"{where}.policy")
        summary = self._object(result.get("summary"), f"{where}.summary", _SUMMARY_KEYS)
        successes, failures = (self._count(summary, key, f"{where}.summary") for key in _SUMMARY_KEYS)
        details = tuple(
            self._detail(detail, f"{where}.failure-details[{at}]")
            for at, detail in enumerate(self._array(result.get("failure-details", []), f"{where}.failure-details"))
        )
        if len({detail for detail, _ in details}) != len(details):
            self.warnings.add(f"{where}: equal failure-details are not merged")
        # RFC 8460 §4: "failure types are non-exclusive", so details may count more sessions than failed, not fewer.
        if failures > 0 and sum(sessions for _, sessions in details) < failures:
            self.warnings.add(f"{where}: the failure-details explain fewer sessions than the summary says failed")
        return PolicyResult(applied, successes, failures, details)

    def _applied(self, found: object, where: str) -> AppliedPolicy:
        policy = self._object(found, where, _APPLIED_KEYS, optional=("policy-string", "mx-host"))
        text = self._text(policy, "policy-type", where)
        policy_type = _POLICY_TYPES.get(text)
        if policy_type is None and text:
            self.errors.add(f"{where}.policy-type: {quoted(text)} is none of {', '.join(_POLICY_TYPES)}")
        domain = self._text(policy, "policy-domain", where)
        applied = AppliedPolicy(
            policy_type or PolicyType.NO_POLICY_FOUND,
            domain,
            self._texts(policy, "policy-string", where),
            self._texts(policy, "mx-host", where),  # erratum 6241: an array, as §4.4 says
        )
        if policy_type is not None and domain:
            canonical = canonical_policy(applied, Domain("invalid"))
            if domain != canonical.policy_domain:
                self.errors.add(f"{where}.policy-domain: {quoted(domain)} is no domain name in A-labels and lower case")
            if applied.mx_host_patterns != canonical.mx_host_patterns:
                self.warnings.add(
                    f"{where}.mx-host: not only patterns of host names, or not of a policy-type that has them"
                )
            if policy_type is not PolicyType.NO_POLICY_FOUND and not applied.policy_strings:
                self.warnings.add(f"{where}: there is no policy-string")
        return applied

    def _detail(self, found: object, where: str) -> tuple[FailureDetail, int]:
        optional = tuple(_DETAIL_FIELDS)[1:]
        detail = self._object(found, where, (*_DETAIL_FIELDS, "failed-session-count"), optional=optional)
        texts = {field: self._text(detail, key, where) for key, field in _DETAIL_FIELDS.items() if key in detail}
        failure = FailureDetail(**{"result_type": "", **texts})
        if failure.result_type and failure.result_type not in _RESULT_TYPES:
            # RFC 8460 §4.3: the list "is expected to grow".
            self.warnings.add(f"{where}.result-type: {quoted(failure.result_type)} is not among those of RFC 8460 §4.3")
        canonical = canonical_detail(failure)
        for key, field in _DETAIL_FIELDS.items():
            if getattr(failure, field) != getattr(canonical, field):
                self.warnings.add(
                    f"{where}.{key}: {quoted(getattr(failure, field))} is not what RFC 8460 §4.4 has there"
                )
        return failure, self._count(detail, "failed-session-count", where)

    def _object(
        self, found: object, where: str, keys: Sequence[str], *, optional: Sequence[str] = ()
    ) -> Mapping[str, object]:
        if not isinstance(found, dict):
            self.errors.add(f"{where}: not there" if found is None else f"{where}: not an object")
            return {}
        for key in keys:
            if key not in found and key not in optional:
                self.errors.add(f"{where}: the key {key!r} is missing")
        for key in found:
            if key not in keys:
                self.warnings.add(f"{where}: the key {quoted(key)} is none of RFC 8460")
        return found

    def _array(self, found: object, where: str) -> list[object]:
        if isinstance(found, list):
            return found
        if found is not None:
            self.errors.add(f"{where}: not an array")
        return []

    def _text(self, found: Mapping[str, object], key: str, where: str) -> str:
        text = found.get(key, "")
        path = f"{where}.{key}" if where else key
        if not isinstance(text, str):
            self.errors.add(f"{path}: not a string")
            return ""
        if key in found and not text:
            self.errors.add(f"{path}: empty")
        return text

    def _texts(self, found: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
        texts = self._array(found.get(key, []), f"{where}.{key}")
        if not all(isinstance(text, str) for text in texts):
            self.errors.add(f"{where}.{key}: not an array of strings")
        return tuple(text for text in texts if isinstance(text, str))

    def _count(self, found: Mapping[str, object], key: str, where: str) -> int:
        number = found.get(key, 0)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_SAFE_INTEGER:
            self.errors.add(f"{where}.{key}: not a whole number from 0 on")
            return 0
        return number

    def _date_time(self, dates: Mapping[str, object], key: str) -> datetime:
        text = self._text(dates, key, "date-range")
        if not text:
            return _NOWHERE
        try:
            if not _DATE_TIME.fullmatch(text):  # RFC 3339 §5.6; datetime takes more
                raise ValueError(text)
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            self.errors.add(f"date-range.{key}: {quoted(text)} is no date-time of RFC 3339")
            return _NOWHERE
