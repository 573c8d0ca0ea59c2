"""Reads a report that somebody sent us (RFC 8460 §4), whatever its sender got wrong, and says what that was.

Well-formed reports go one fast way (`tlsrpt_report_wire`), all others a slow one (`received_json`, `received_shape`);
what the values mean is found out here for both, so that they end in equal values. `tlsrpt_report_reader` is the strict
reader for what we ourselves write.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from stsguard.core.errors import ReportInvalid, ResultType
from stsguard.core.received_json import load, loads
from stsguard.core.received_report import Notes, ReceivedDetail, ReceivedPolicy, ReceivedReport, WarningCode
from stsguard.core.received_shape import shape
from stsguard.core.session import PolicyType
from stsguard.core.syntax import quoted
from stsguard.core.tlsrpt_report_wire import MAX_STRINGS, WireDates, WirePolicy, WireReport, WireResult, decode_strict
from stsguard.names import Domain, NameInvalid

MAX_POLICIES = 10_000
MAX_DETAILS = 20_000  # of all policies; RFC 8460 says nothing, and the largest seen has a few hundred

_RESULT_TYPES = frozenset(result_type.value for result_type in ResultType)
_POLICY_TYPES = {policy_type.value: policy_type for policy_type in PolicyType}
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_END_OF_DAY = re.compile(r"([T ])24:00(?::00)?", re.ASCII)
_LEAP_SECOND = re.compile(r"(?<=\d:\d\d):60", re.ASCII)
_ADDRESSES = re.compile(r"[0-9A-Fa-f:. ]*+(?:%\w+)?")
_ONE_DAY = timedelta(days=1)
_ALMOST_ONE_DAY = timedelta(hours=23, minutes=59)
_CLOCK_SKEW = timedelta(hours=1)
_FIRST_YEAR, _LAST_YEAR = 1970, 9998  # what can be moved by a zone and a day without leaving datetime


def parse_received(data: bytes, *, now: datetime | None = None) -> ReceivedReport:
    """The report in `data`, JSON in UTF-8 as `unpack` gives it.

    Args:
        now: when it was received, aware, to warn of a range that is not over; None where that is not known.

    Raises:
        ReportInvalid: nothing can be made of it; the message says why and where. Nothing else is raised.
    """
    notes = Notes()
    wire = decode_strict(data)
    if wire is None:
        wire = shape(load(data, notes), notes)
    start_at, end_at = _range(wire.dates, notes)
    if now is not None and end_at > now + _CLOCK_SKEW:
        notes.add(WarningCode.IN_THE_FUTURE, f"date-range: it ends at {wire.dates.end}, which is yet to come")
    return ReceivedReport(
        organization_name=wire.organization_name,
        contact_info=wire.contact_info,
        report_id=wire.report_id,
        start_at=start_at,
        end_at=end_at,
        policies=_policies(wire, notes),
        warnings=notes.of_report(),
    )


def _policies(wire: WireReport, notes: Notes) -> tuple[ReceivedPolicy, ...]:
    if not wire.policies:
        notes.add(WarningCode.NO_POLICIES, "policies: none, so the report says nothing")
    left_out = wire.policies[MAX_POLICIES:]
    if left_out:
        sessions = sum(result.summary.successes + result.summary.failures for result in left_out)
        text = f"policies: {len(left_out)} are left out, with {sessions} sessions"
        notes.add(WarningCode.POLICIES_LEFT_OUT, text)
    room = MAX_DETAILS
    policies = []
    for at, result in enumerate(wire.policies[:MAX_POLICIES]):
        policies.append(_policy(result, at, room, notes))
        room -= len(policies[-1].details)
    return tuple(policies)


def _policy(result: WireResult, at: int, room: int, notes: Notes) -> ReceivedPolicy:
    policy, summary, details = result.policy, result.summary, result.details or ()
    if details or summary.failures:
        _judge_details(details, summary.failures, at, notes)
    if len(details) > room:
        sessions = sum(detail.sessions for detail in details[room:])
        text = f"policies[{at}]: {len(details) - room} failure-details are left out, with {sessions} sessions"
        notes.add(WarningCode.DETAILS_LEFT_OUT, text, at)
        details = details[:room]
    strings, hosts = policy.policy_strings or (), policy.mx_hosts or ()
    return ReceivedPolicy(
        policy_type_text=policy.policy_type,
        policy_type=_POLICY_TYPES.get(policy.policy_type) or _policy_type(policy, at, notes),
        policy_domain_text=policy.policy_domain,
        policy_domain=_domain(policy.policy_domain, at, notes),
        policy_strings=_lines(_listed(strings, "policy-string", at, notes), at, notes),
        mx_hosts=_listed(hosts, "mx-host", at, notes),
        successes=summary.successes,
        failures=summary.failures,
        details=details,
        warnings=notes.of(at),
    )


def _policy_type(policy: WirePolicy, at: int, notes: Notes) -> PolicyType | None:
    """What is meant by a policy-type that is none of RFC 8460 §4.4 as it is written."""
    text = policy.policy_type
    meant = _POLICY_TYPES.get(text.strip().lower().replace("_", "-"))
    if meant is not None:
        notes.add(WarningCode.POLICY_TYPE_SPELLING, f"policies[{at}]: policy-type {quoted(text)} for {meant}", at)
    elif text:
        notes.add(WarningCode.POLICY_TYPE_UNKNOWN, f"policies[{at}]: policy-type {quoted(text)}", at)
    return meant


def _domain(text: str, at: int, notes: Notes) -> Domain | None:
    if not text:
        return None  # noted already, as missing, null or empty
    try:
        found = Domain.parse(text.strip())
    except NameInvalid as exc:
        notes.add(WarningCode.DOMAIN_UNREADABLE, f"policies[{at}]: policy-domain {quoted(text)}: {exc}", at)
        return None
    if found != text:
        # RFC 8460 §4.4: "encoded as A-labels"
        notes.add(WarningCode.DOMAIN_FORM, f"policies[{at}]: policy-domain {quoted(text)} for {found}", at)
    return found


def _listed(strings: tuple[str, ...], key: str, at: int, notes: Notes) -> tuple[str, ...]:
    """The strings, also where the only one is an array in JSON (Microsoft's tlsa policies, 2024 and 2025)."""
    if len(strings) != 1 or not strings[0].startswith("["):
        return strings
    try:
        found = loads(strings[0], notes)
    except ReportInvalid:
        return strings
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        return strings
    notes.add(WarningCode.JSON_IN_STRING, f"policies[{at}].policy.{key}: an array within a string", at)
    return tuple(text for text in found[:MAX_STRINGS] if text and text.isprintable())


def _lines(strings: tuple[str, ...], at: int, notes: Notes) -> tuple[str, ...]:
    """Without what is left of line ends: Google quotes a policy with CRLF as lines that end in CR (2022)."""
    lines = tuple(map(str.strip, strings))
    if lines == strings:
        return strings
    notes.add(WarningCode.LINE_END, f"policies[{at}].policy.policy-string: white space around a line", at)
    return lines


def _judge_details(details: Sequence[ReceivedDetail], failures: int, at: int, notes: Notes) -> None:
    """Notes what the details leave open. They stay as they are."""
    if not details:
        text = f"policies[{at}]: {failures} failures without failure-details"
        notes.add(WarningCode.FAILURES_UNEXPLAINED, text, at)
        return
    counted = sum([detail.sessions for detail in details])
    if counted != failures:
        text = f"policies[{at}]: the failure-details count {counted} sessions, the summary {failures}"
        notes.add(WarningCode.SUMS_DIFFER, text, at)
    if {detail.result_type_text for detail in details} <= _RESULT_TYPES and _ADDRESSES.fullmatch(
        " ".join([f"{detail.sending_mta_ip} {detail.receiving_ip}" for detail in details])
    ):
        return  # the common case, at once
    for detail in details:
        result_type, text = detail.result_type, detail.result_type_text
        if result_type is None and text:
            notes.add(WarningCode.RESULT_TYPE_UNKNOWN, f"policies[{at}]: result-type {quoted(text)}", at)
        elif result_type is not None and result_type != text:
            text = f"policies[{at}]: result-type {quoted(text)} for {result_type}"
            notes.add(WarningCode.RESULT_TYPE_SPELLING, text, at)
        for address in (detail.sending_mta_ip, detail.receiving_ip):
            if not _ADDRESSES.fullmatch(address):
                text = f"policies[{at}]: {quoted(address)} where an address belongs"
                notes.add(WarningCode.ADDRESS_FORM, text, at)


def _range(dates: WireDates, notes: Notes) -> tuple[datetime, datetime]:
    """Begin and end. Where one of them can't be read the other's UTC day is taken (RFC 8460 §4.1: a full day).

    Raises:
        ReportInvalid: neither can be read.
    """
    start_at, end_at = _date_time(dates.start, "start", notes), _date_time(dates.end, "end", notes)
    if end_at is None:
        if start_at is None:
            raise ReportInvalid(f"date-range: neither {quoted(dates.start)} nor {quoted(dates.end)} is a date")
        start_at, end_at = _day_of(start_at)
    elif start_at is None:
        start_at, end_at = _day_of(end_at - timedelta(seconds=1))  # the end may be the next day's midnight
    elif end_at < start_at:
        notes.add(WarningCode.DATES_REVERSED, "date-range: it ends before it begins")
        start_at, end_at = end_at, start_at
    if not _ALMOST_ONE_DAY < end_at - start_at <= _ONE_DAY:
        # RFC 8460 §4.1: "The report SHOULD cover a full day, from 00:00-24:00 UTC"
        notes.add(WarningCode.NOT_ONE_DAY, f"date-range: {end_at - start_at} from begin to end")
    return start_at, end_at


def _day_of(instant: datetime) -> tuple[datetime, datetime]:
    start_at = instant.replace(hour=0, minute=0, second=0, microsecond=0)
    return start_at, start_at + _ONE_DAY - timedelta(seconds=1)


def _date_time(text: str, which: str, notes: Notes) -> datetime | None:
    """An instant of RFC 3339 §5.6, or what ISO 8601 allows beside, in UTC where no zone is named."""
    if not text:
        return None  # noted already, as missing, null or empty
    try:
        if _DATE_TIME.fullmatch(text):
            found = datetime.fromisoformat(text)
        else:
            found = _other_date_time(text, which, notes)
        if not _FIRST_YEAR <= found.year <= _LAST_YEAR:
            raise ValueError(text)
        return found if found.tzinfo is UTC else found.astimezone(UTC)
    except (ValueError, OverflowError):
        notes.add(WarningCode.DATE_UNREADABLE, f"date-range: {which}-datetime {quoted(text)} is no date")
        return None


def _other_date_time(text: str, which: str, notes: Notes) -> datetime:
    plain = _LEAP_SECOND.sub(":59", text.strip().upper())
    plain, ends = _END_OF_DAY.subn(r"\g<1>00:00", plain)
    found = datetime.fromisoformat(plain) + ends * _ONE_DAY
    if found.tzinfo is None:
        # Microsoft on and off until March 2024; all of its reports are of UTC days.
        notes.add(WarningCode.DATE_WITHOUT_ZONE, f"date-range: {which}-datetime {quoted(text)} has no zone: UTC")
        found = found.replace(tzinfo=UTC)
    if plain != text or not _DATE_TIME.match(f"{plain[:19]}Z"):
        notes.add(WarningCode.DATE_FORM, f"date-range: {which}-datetime {quoted(text)} is not as RFC 3339 has it")
    return found
