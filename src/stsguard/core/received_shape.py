"""Brings a report of any sender into the shape of RFC 8460 §4.4, and notes what had to be done to it.

What can't be made out is left away with a note, one value at a time: never a report for one policy, never a policy for
one value. Known names of keys are those of the RFC, of its drafts, and of what programs write in their place
(`mx-host-pattern` of §4.4's prose, `additional-info-uri` of parsedmarc's and Neztore's samples). What the values mean
is left to `tlsrpt_report_received`.
"""

import re
from collections.abc import Mapping
from math import isfinite

from msgspec import UNSET, UnsetType

from stsguard.core.errors import ReportInvalid
from stsguard.core.received_json import HUGE, loads
from stsguard.core.received_report import (
    MAX_SESSIONS,
    MAX_STRING_LENGTH,
    MAX_STRINGS,
    MAX_TEXT_LENGTH,
    AppliedPolicy,
    Notes,
    ReceivedDetail,
    ReceivedPolicy,
    Strings,
    Summary,
    WarningCode,
)
from stsguard.core.syntax import quoted
from stsguard.core.tlsrpt_report_wire import WireDates, WireReport, as_details, as_policy

_RFC = {
    "report": ("organization-name", "date-range", "contact-info", "report-id", "policies"),
    "dates": ("start-datetime", "end-datetime"),
    "result": ("policy", "summary", "failure-details"),
    "policy": ("policy-type", "policy-string", "policy-domain", "mx-host"),
    "summary": ("total-successful-session-count", "total-failure-session-count"),
    "detail": (
        *("result-type", "sending-mta-ip", "receiving-mx-hostname", "receiving-mx-helo", "receiving-ip"),
        *("failed-session-count", "additional-information", "failure-reason-code"),
    ),
}
_EXACT = {kind: frozenset(names) for kind, names in _RFC.items()}
# Names of the drafts (draft-ietf-uta-smtp-tlsrpt-00 and later) and of programs, with the RFC's for them.
_OTHER = {
    "report": {"organisation-name": "organization-name", "policy": "policies"},
    "dates": {"start-date": "start-datetime", "end-date": "end-datetime"},
    "result": {"failure-detail": "failure-details"},
    "policy": {"mx-host-pattern": "mx-host", "mx-host-patterns": "mx-host", "policy-strings": "policy-string"},
    "summary": {
        "success-aggregate": "total-successful-session-count",
        "failure-aggregate": "total-failure-session-count",
    },
    "detail": {
        "session-count": "failed-session-count",
        "additional-info-uri": "additional-information",
        "failure-error-code": "failure-reason-code",
        "receiving-mx-host": "receiving-mx-hostname",
    },
}
_OPTIONAL = frozenset({"policy-string", "mx-host", "failure-details", *_RFC["detail"]}) - {
    *("result-type", "failed-session-count")
}
_UNSTORABLE = {0: "\ufffd", **dict.fromkeys(range(0xD800, 0xE000), "\ufffd")}
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
_REPORT = -1
_ABSENT: "Object" = {}  # in place of an object that is noted as missing, so that its keys are not noted as well

Object = Mapping[str, object]


def shape(found: object, notes: Notes) -> WireReport:
    """The report in `found`, a value of JSON.

    Raises:
        ReportInvalid: it is no object, or has nothing of a report.
    """
    return _Shaper(notes).report(found)


class _Shaper:
    """Each method returns something of its type whatever is there. `_at` is the policy that notes belong to."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._at = _REPORT

    def report(self, found: object) -> WireReport:
        """The whole."""
        whole = self._opened(found, "the report")
        if isinstance(whole, list) and len(whole) == 1:
            self._note(WarningCode.ARRAY_FOR_VALUE, "the report stands in an array")
            whole = whole[0]
        if not isinstance(whole, dict):
            raise ReportInvalid(f"JSON, but no TLS report: {_kind(whole)}, where one is an object")
        top = self._keys(whole, "report", "the report", also=("summary", "failure-details"))
        if not {"policies", "date-range"} & top.keys():
            raise ReportInvalid("JSON, but no TLS report: it has neither policies nor a date-range")
        dates = self._object(top, "date-range", "dates", "the report")
        return WireReport(
            organization_name=self._text(top, "organization-name", "the report"),
            dates=WireDates(
                start=self._text(dates, "start-datetime", "date-range"),
                end=self._text(dates, "end-datetime", "date-range"),
            ),
            contact_info=self._text(top, "contact-info", "the report"),
            report_id=self._text(top, "report-id", "the report"),
            policies=tuple(self._results(top)),
        )

    def _results(self, top: Object) -> list[ReceivedPolicy]:
        """`policies`, also where a draft's `policy`, `summary` and `failure-details` stand beside each other."""
        found = self._opened(top.get("policies"), "policies")
        if isinstance(found, dict):
            self._note(WarningCode.OBJECT_FOR_ARRAY, "policies: one object where an array belongs")
            beside = {key: top[key] for key in ("summary", "failure-details") if key in top}
            found = [found if "policy" in found else {"policy": found, **beside}]
        if not isinstance(found, list):
            if found is not None:
                self._note(WarningCode.WRONG_TYPE, f"policies: {_kind(found)} where an array belongs")
            return []
        results = []
        for at, each in enumerate(found):
            self._at = at
            results.append(as_policy(each) or self._result(each, f"policies[{at}]"))
        self._at = _REPORT
        return results

    def _result(self, found: object, where: str) -> ReceivedPolicy:
        opened = self._opened(found, where)
        if not isinstance(opened, dict):
            self._note(WarningCode.WRONG_TYPE, f"{where}: {_kind(opened)} where an object belongs")
            return ReceivedPolicy(AppliedPolicy("", ""), Summary(0, 0))
        result = self._keys(opened, "result", where)
        policy = self._object(result, "policy", "policy", where)
        summary = self._object(result, "summary", "summary", where)
        details = self._details(result, where)
        failures = self._count(summary, "total-failure-session-count", f"{where}.summary")
        if failures is None:  # the details alone say how many there were
            failures = min(sum(detail.sessions for detail in details), MAX_SESSIONS)
        return ReceivedPolicy(
            policy=AppliedPolicy(
                policy_type=self._text(policy, "policy-type", f"{where}.policy"),
                policy_domain=self._text(policy, "policy-domain", f"{where}.policy"),
                policy_strings=self._strings(policy, "policy-string", f"{where}.policy"),
                mx_hosts=self._strings(policy, "mx-host", f"{where}.policy"),
            ),
            summary=Summary(
                successes=self._count(summary, "total-successful-session-count", f"{where}.summary") or 0,
                failures=failures,
            ),
            listed=details,
        )

    def _details(self, result: Object, where: str) -> tuple[ReceivedDetail, ...]:
        where = f"{where}.failure-details"
        if "failure-details" not in result:
            return ()
        if result["failure-details"] is None:
            self._note(WarningCode.NULL_VALUE, f"{where} is null")
            return ()
        found = self._opened(result["failure-details"], where)
        if isinstance(found, dict):
            self._note(WarningCode.OBJECT_FOR_ARRAY, f"{where}: one object where an array belongs")
            found = [found]
        if not isinstance(found, list):
            self._note(WarningCode.WRONG_TYPE, f"{where}: {_kind(found)} where an array belongs")
            return ()
        exact = as_details(found)
        return exact if exact is not None else self._odd_details(found, where)

    def _odd_details(self, found: list[object], where: str) -> tuple[ReceivedDetail, ...]:
        details = []
        for at, each in enumerate(found):
            opened = self._opened(each, where)
            if isinstance(opened, dict):
                details.append(self._detail(opened, f"{where}[{at}]"))
            else:
                self._note(WarningCode.WRONG_TYPE, f"{where}[{at}]: {_kind(opened)} where an object belongs")
        return tuple(details)

    def _detail(self, found: dict[str, object], where: str) -> ReceivedDetail:
        detail = self._keys(found, "detail", where)
        return ReceivedDetail(
            result_type_text=self._text(detail, "result-type", where),
            sessions=self._count(detail, "failed-session-count", where) or 0,
            sending_mta_ip=self._text(detail, "sending-mta-ip", where),
            receiving_mx_hostname=self._text(detail, "receiving-mx-hostname", where),
            receiving_mx_helo=self._text(detail, "receiving-mx-helo", where),
            receiving_ip=self._text(detail, "receiving-ip", where),
            additional_information=self._text(detail, "additional-information", where),
            failure_reason_code=self._text(detail, "failure-reason-code", where),
        )

    def _object(self, found: Object, key: str, kind: str, where: str) -> Object:
        if key not in found:
            self._note(WarningCode.MISSING_KEY, f"{where}: {key} is missing")
            return _ABSENT
        path = key if where == "the report" else f"{where}.{key}"
        opened = self._opened(found[key], path)
        if isinstance(opened, list) and len(opened) == 1:
            self._note(WarningCode.ARRAY_FOR_VALUE, f"{path}: an array where an object belongs")
            opened = opened[0]
        if isinstance(opened, dict):
            return self._keys(opened, kind, path)
        self._note(WarningCode.WRONG_TYPE, f"{path}: {_kind(opened)} where an object belongs")
        return _ABSENT

    def _keys(self, found: dict[str, object], kind: str, where: str, *, also: tuple[str, ...] = ()) -> Object:
        """`found` by the RFC's names of its keys. An exact name counts before another for the same."""
        exact = _RFC[kind]
        if found.keys() <= _EXACT[kind]:
            return found
        known: dict[str, object] = {key: found[key] for key in exact if key in found}
        for key, value in found.items():
            if key in exact:
                continue
            name, code = self._meant(key, kind, also if "policy" in found else ())
            if name is None:
                self._note(code, f"{where}: the key {quoted(key)} is none of RFC 8460")
            elif name in known:
                self._note(WarningCode.BOTH_KEYS, f"{where}: {quoted(key)} beside {name}, which counts")
            else:
                known[name] = value
                if name != key:
                    self._note(code, f"{where}: {quoted(key)} where {name} belongs")
        return known

    def _meant(self, key: str, kind: str, also: tuple[str, ...]) -> tuple[str | None, WarningCode]:
        if key in _OTHER[kind]:
            return _OTHER[kind][key], WarningCode.DRAFT_KEY
        if key in also:
            return key, WarningCode.DRAFT_KEY
        plain = key.strip().lower().replace("_", "-").replace(" ", "-")
        name = plain if plain in _RFC[kind] else _OTHER[kind].get(plain)
        return name, WarningCode.UNKNOWN_KEY if name is None else WarningCode.KEY_SPELLING

    def _text(self, found: Object, key: str, where: str) -> str:
        value = found.get(key)
        if type(value) is str and 0 < len(value) <= MAX_TEXT_LENGTH and value.isprintable():
            return value  # nearly always
        path = key if where == "the report" else f"{where}.{key}"
        if key not in found:
            if key not in _OPTIONAL and found is not _ABSENT:
                self._note(WarningCode.MISSING_KEY, f"{path} is missing")
            return ""
        if isinstance(value, list) and len(value) == 1:
            self._note(WarningCode.ARRAY_FOR_VALUE, f"{path}: an array where a string belongs")
            value = value[0]
        if value is None:
            self._note(WarningCode.NULL_VALUE, f"{path} is null")
            return ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._note(WarningCode.WRONG_TYPE, f"{path}: a number where a string belongs")
            return str(min(max(value, -HUGE), HUGE))
        if not isinstance(value, str):
            self._note(WarningCode.WRONG_TYPE, f"{path}: {_kind(value)} where a string belongs")
            return ""
        if not value:
            self._note(WarningCode.EMPTY_VALUE, f"{path} is empty")
        return self._cleaned(value, MAX_TEXT_LENGTH, path)

    def _strings(self, found: Object, key: str, where: str) -> Strings | UnsetType:
        path = f"{where}.{key}"
        if key not in found:
            return UNSET
        value = found[key]
        if isinstance(value, str):
            self._note(WarningCode.STRING_FOR_ARRAY, f"{path}: a string where an array belongs")
            value = value.splitlines()
        if value is None:
            self._note(WarningCode.NULL_VALUE, f"{path} is null")
            return UNSET
        if not isinstance(value, list):
            self._note(WarningCode.WRONG_TYPE, f"{path}: {_kind(value)} where an array belongs")
            return UNSET
        texts = [text for text in value if isinstance(text, str) and text]
        if len(texts) < len(value):
            self._note(WarningCode.WRONG_TYPE, f"{path}: not only strings with something in them")
        if len(texts) > MAX_STRINGS:
            self._note(WarningCode.STRINGS_LEFT_OUT, f"{path}: {len(texts) - MAX_STRINGS} strings are left out")
        return tuple(self._cleaned(text, MAX_STRING_LENGTH, path) for text in texts[:MAX_STRINGS])

    def _count(self, found: Object, key: str, where: str) -> int | None:
        value = found.get(key)
        if type(value) is int and 0 <= value <= MAX_SESSIONS:
            return value
        path = f"{where}.{key}"
        if key not in found:
            if found is not _ABSENT:
                self._note(WarningCode.MISSING_KEY, f"{path} is missing")
            return None
        if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
            self._note(WarningCode.COUNT_AS_TEXT, f"{path}: {quoted(value)} is a string")
            value = int(value.strip()[:20])
        elif isinstance(value, float) and not isfinite(value):
            self._note(WarningCode.NOT_A_NUMBER, f"{path}: {value} is no number of JSON")
            return None
        elif isinstance(value, float):
            self._note(WarningCode.COUNT_FORM, f"{path}: {value!r} is no whole number")
            value = int(min(max(value, -1.0), float(MAX_SESSIONS)))
        if isinstance(value, bool) or not isinstance(value, int):
            self._note(WarningCode.WRONG_TYPE, f"{path}: {_kind(value)} where a number belongs")
            return None
        if not 0 <= value <= MAX_SESSIONS:
            value = min(max(value, -HUGE), HUGE)
            self._note(WarningCode.COUNT_RANGE, f"{path}: {value} sessions can't be")
            return 0
        return value

    def _opened(self, found: object, where: str) -> object:
        """`found`, or the JSON in it where it is a string with an object or an array in it."""
        if not isinstance(found, str) or not found.lstrip().startswith(("{", "[")):
            return found
        try:
            opened = loads(found, self._notes)
        except ReportInvalid:
            return found
        self._note(WarningCode.JSON_IN_STRING, f"{where}: JSON within a string")
        return opened

    def _cleaned(self, text: str, limit: int, path: str) -> str:
        if len(text) > limit:
            self._note(WarningCode.TEXT_CUT, f"{path}: {len(text)} characters, of which {limit} are kept")
            text = text[:limit]
        clean = text.translate(_UNSTORABLE) if "\0" in text or not text.isprintable() else text
        if clean != text:
            self._note(WarningCode.CONTROL_CHARACTER, f"{path}: characters that can't be stored")
        return clean

    def _note(self, code: WarningCode, text: str) -> None:
        self._notes.add(code, text, self._at)


def _kind(value: object) -> str:
    """What `value` is in JSON, for a message."""
    if value is None:
        return "nothing"
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "true or false", int: "a number"}
    return kinds.get(type(value), "a number")
