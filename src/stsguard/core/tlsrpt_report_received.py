"""Reads a report that somebody sent us (RFC 8460 §4), whatever its sender got wrong, and says what that was.

Well-formed reports go one fast way (`tlsrpt_report_wire`), all others a slow one (`received_json`, `received_shape`);
what the values mean is found out here for both, so that they end in equal values. `tlsrpt_report_reader` is the strict
reader for what we ourselves write.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from stsguard.core.errors import ReportInvalid, ResultType
from stsguard.core.received_json import load, loads
from stsguard.core.received_report import (
    MAX_STRINGS,
    POLICY_TYPES,
    AppliedPolicy,
    Notes,
    ReceivedDetail,
    ReceivedPolicy,
    ReceivedReport,
    WarningCode,
)
from stsguard.core.received_shape import shape
from stsguard.core.syntax import quoted
from stsguard.core.tlsrpt_report_wire import WireDates, WireReport, decode_strict
from stsguard.names import Domain, NameInvalid

MAX_POLICIES = 10_000
MAX_DETAILS = 20_000  # of all policies; RFC 8460 says nothing, and the largest seen has a few hundred

_RESULT_TYPES = frozenset(result_type.value for result_type in ResultType)
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_END_OF_DAY = re.compile(r"([T ])24:00(?::00)?", re.ASCII)
_LEAP_SECOND = re.compile(r"(?<=\d:\d\d):60", re.ASCII)
_IN_ADDRESSES = "0123456789ABCDEFabcdef:. "
_ADDRESS = re.compile(rf"[{_IN_ADDRESSES}]*+(?:%\w+)?")
_ONE_DAY = timedelta(days=1)
_ALMOST_ONE_DAY = timedelta(hours=23, minutes=59)
_CLOCK_SKEW = timedelta(hours=1)
_RANGES_IN_MEMORY = 1000  # most reports of one day have one of a few ranges
_SMALL = 500_000  # octets with less than MAX_POLICIES and MAX_DETAILS, of which each takes 50 at least
_FIRST_YEAR, _LAST_YEAR = 1970, 9998  # what can be moved by a zone and a day without leaving datetime


def parse_received(data: bytes, *, now: datetime | None = None) -> ReceivedReport:
    """The report in `data`, JSON in UTF-8 as `unpack` gives it.

    Args:
        now: when it was received, aware, to warn of a range that is not over; None where that is not known.

    Raises:
        ReportInvalid: nothing can be made of it; the message says why and where. Nothing else is raised.
    """
    wire = decode_strict(data)
    if wire is not None and len(data) <= _SMALL:
        plain = _as_it_is(wire, now)
        if plain is not None:
            return plain
    notes = Notes()
    if wire is None:
        wire = shape(load(data, notes), notes)
    start_at, end_at = _plain_range(wire.dates.start, wire.dates.end) or _range(wire.dates, notes)
    if now is not None and end_at > now + _CLOCK_SKEW:
        notes.add(WarningCode.IN_THE_FUTURE, f"date-range: it ends at {wire.dates.end}, which is yet to come")
    policies = _policies(wire, notes)
    return ReceivedReport(
        wire.organization_name, wire.contact_info, wire.report_id, start_at, end_at, policies, notes.of_report()
    )


def _as_it_is(wire: WireReport, now: datetime | None) -> ReceivedReport | None:
    """The report where there is nothing to be said of it; None where there is, or may be."""
    found = _plain_range(wire.dates.start, wire.dates.end)
    policies = wire.policies
    if found is None or not policies or not all(map(_is_plain, policies)):
        return None
    start_at, end_at = found
    if now is not None and end_at > now:
        return None
    return ReceivedReport(wire.organization_name, wire.contact_info, wire.report_id, start_at, end_at, policies)


def _policies(wire: WireReport, notes: Notes) -> tuple[ReceivedPolicy, ...]:
    if not wire.policies:
        notes.add(WarningCode.NO_POLICIES, "policies: none, so the report says nothing")
    left_out = wire.policies[MAX_POLICIES:]
    if left_out:
        sessions = sum(policy.successes + policy.failures for policy in left_out)
        text = f"policies: {len(left_out)} are left out, with {sessions} sessions"
        notes.add(WarningCode.POLICIES_LEFT_OUT, text)
    room = MAX_DETAILS
    policies = []
    for at, policy in enumerate(wire.policies[:MAX_POLICIES]):
        policies.append(_policy(policy, at, room, notes))
        room -= len(policies[-1].details)
    return tuple(policies)


def _is_plain(found: ReceivedPolicy) -> bool:
    """Whether there is nothing to be said of a policy, so that it can stay as it was decoded."""
    policy, failures, details = found.policy, found.summary.failures, found.listed
    if policy.policy_type not in POLICY_TYPES or not Domain.is_canonical(policy.policy_domain):
        return False
    strings, hosts = policy.policy_strings, policy.mx_hosts
    if strings and (strings[0][0] == "[" or tuple(map(str.strip, strings)) != strings):
        return False
    if hosts and hosts[0][0] == "[":
        return False
    return _explains(details or (), failures) if failures or details else True


def _explains(details: Sequence[ReceivedDetail], failures: int) -> bool:
    """Whether the details explain as many failures, all with a known result-type, and addresses that may be some."""
    counted, addresses = 0, ""
    for detail in details:
        if detail.result_type_text not in _RESULT_TYPES:
            return False
        counted += detail.sessions
        addresses += f"{detail.sending_mta_ip} {detail.receiving_ip} "
    return counted == failures and not addresses.strip(_IN_ADDRESSES)


def _policy(found: ReceivedPolicy, at: int, room: int, notes: Notes) -> ReceivedPolicy:
    details = found.details
    if len(details) <= room and _is_plain(found):
        found.warnings = notes.of(at)
        return found
    if details or found.failures:
        _judge_details(details, found.failures, at, notes)
    if len(details) > room:
        sessions = sum(detail.sessions for detail in details[room:])
        text = f"policies[{at}]: {len(details) - room} failure-details are left out, with {sessions} sessions"
        notes.add(WarningCode.DETAILS_LEFT_OUT, text, at)
        details = details[:room]
    if found.policy_type_text not in POLICY_TYPES:
        _judge_policy_type(found, at, notes)
    _judge_domain(found.policy_domain_text, at, notes)
    return ReceivedPolicy(
        AppliedPolicy(
            policy_type=found.policy_type_text,
            policy_domain=found.policy_domain_text,
            policy_strings=_lines(_listed(found.policy_strings, "policy-string", at, notes), at, notes),
            mx_hosts=_listed(found.mx_hosts, "mx-host", at, notes),
        ),
        found.summary,
        details,
        notes.of(at),
    )


def _judge_policy_type(found: ReceivedPolicy, at: int, notes: Notes) -> None:
    """Notes what is meant by a policy-type that is none of RFC 8460 §4.4 as it is written."""
    text, meant = found.policy_type_text, found.policy_type
    if meant is not None:
        notes.add(WarningCode.POLICY_TYPE_SPELLING, f"policies[{at}]: policy-type {quoted(text)} for {meant}", at)
    elif text:
        notes.add(WarningCode.POLICY_TYPE_UNKNOWN, f"policies[{at}]: policy-type {quoted(text)}", at)


def _judge_domain(text: str, at: int, notes: Notes) -> None:
    if not text:
        return  # noted already, as missing, null or empty
    try:
        found = Domain.parse(text.strip())
    except NameInvalid as exc:
        notes.add(WarningCode.DOMAIN_UNREADABLE, f"policies[{at}]: policy-domain {quoted(text)}: {exc}", at)
        return
    if found != text:
        # RFC 8460 §4.4: "encoded as A-labels"
        notes.add(WarningCode.DOMAIN_FORM, f"policies[{at}]: policy-domain {quoted(text)} for {found}", at)


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
    for detail in details:
        result_type, text = detail.result_type, detail.result_type_text
        if result_type is None and text:
            notes.add(WarningCode.RESULT_TYPE_UNKNOWN, f"policies[{at}]: result-type {quoted(text)}", at)
        elif result_type is not None and result_type != text:
            text = f"policies[{at}]: result-type {quoted(text)} for {result_type}"
            notes.add(WarningCode.RESULT_TYPE_SPELLING, text, at)
        for address in (detail.sending_mta_ip, detail.receiving_ip):
            if not _ADDRESS.fullmatch(address):
                text = f"policies[{at}]: {quoted(address)} where an address belongs"
                notes.add(WarningCode.ADDRESS_FORM, text, at)


@lru_cache(maxsize=_RANGES_IN_MEMORY)
def _plain_range(start: str, end: str) -> tuple[datetime, datetime] | None:
    """Begin and end of a full day, both as RFC 3339 has it; None where it is anything else."""
    notes = Notes()
    try:
        found = _range(WireDates(start, end), notes)
    except ReportInvalid:
        return None
    return None if notes.of_report() else found


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
