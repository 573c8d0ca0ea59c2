"""MTA-STS: the TXT record, the policy file, MX matching (RFC 8461 §3.1, §3.2, §4.1).

Where a policy comes from, how long it lives and what it means for a delivery is decided elsewhere. A warning says
what an admin should put right; it never changes what the parsed value means.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from stsguard.core.errors import PolicyInvalid, RecordInvalid
from stsguard.core.syntax import WSP, Warnings, note_unused, parse_extension, quoted, select_candidate, split_record
from stsguard.names import Domain, NameInvalid

VERSION = "STSv1"
MAX_MAX_AGE = 31_557_600  # RFC 8461 §3.2

_RECORD_ID = re.compile(r"[A-Za-z0-9]{1,32}")  # RFC 8461 §3.1 sts-id
_FIELD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")  # §3.2 sts-policy-ext-name, and every known name
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # what sts-policy-vchar leaves out
_MAX_AGE = re.compile(r"[0-9]{1,10}")  # §3.2 sts-policy-max-age-value; erratum 7282 (1*8) is not verified
_KNOWN_FIELDS = ("version", "mode", "max_age", "mx")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What most domains have, which needs no more than this: the fields in the order of the RFC's examples, and no other.
_PLAIN_RECORD = re.compile(rb"v=STSv1; ?id=([A-Za-z0-9]{1,32});?")
_PLAIN_POLICY = re.compile(
    rb"version: STSv1(\r?\n)mode: (?:enforce|testing|none)\1(?:mx: [a-z0-9.*-]+\1)+max_age: ([1-9][0-9]{0,7})(?:\1)?"
)


class Mode(StrEnum):
    """The policy's mode (RFC 8461 §5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Record:
    """An `_mta-sts` TXT record. `warnings` never change the decision."""

    record_id: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MxPattern:
    """One `mx` value: `wildcard` with the name right of `*.`, or an exact name."""

    name: Domain
    wildcard: bool

    def __str__(self) -> str:
        return f"*.{self.name}" if self.wildcard else str(self.name)

    @classmethod
    def parse(cls, text: str) -> Self:
        """`["*."] Domain` (RFC 8461 §3.2 sts-policy-mx-value, RFC 5321 §4.1.2 Domain), in lower case.

        Raises:
            PolicyInvalid: anything else: a U-label, a final dot, an underscore, another `*`, an IP address (after
                `*.` as well).
        """
        wildcard = text.startswith("*.")
        name = text[2:] if wildcard else text
        # Domain.parse takes more than RFC 5321 §4.1.2 does: keys of look-ups come in those forms, patterns do not.
        if not name.isascii():
            raise PolicyInvalid(f"{quoted(text)} is not in A-labels (xn--...)")
        if name.endswith("."):
            raise PolicyInvalid(f"{quoted(text)} ends with a dot")
        if "_" in name:
            raise PolicyInvalid(f"{quoted(text)} has an underscore, so it is not the name of a host")
        if "*" in name:
            raise PolicyInvalid(f"{quoted(text)} has a '*' that is not the whole first label")
        try:
            return cls(Domain.parse(name), wildcard)
        except NameInvalid as exc:
            raise PolicyInvalid(f"{quoted(text)}: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy. `max_age` in seconds, 0 … 31557600; `policy_text` holds the served lines for policy-string."""

    mode: Mode
    max_age: int
    mx_patterns: tuple[MxPattern, ...]
    policy_text: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def parse_record(text: str) -> Record:
    """The record in one TXT record's text, its strings joined (RFC 8461 §3.1 sts-text-record).

    Raises:
        RecordInvalid: it does not match the ABNF. Nothing but white space at the end is forgiven.
    """
    warnings = Warnings()
    record_id: str | None = None
    for field in split_record(text, f"v={VERSION}", warnings):
        name, value = parse_extension(field)
        if name != "id" or record_id is not None:
            # RFC 8461 §3.2: "all entries except for the first SHALL be ignored" speaks of TXT records as well.
            note_unused(name, "id", warnings)
        elif not _RECORD_ID.fullmatch(value):
            raise RecordInvalid(f"id {quoted(value)} is not 1 to 32 letters and digits")
        else:
            record_id = value
    if record_id is None:
        raise RecordInvalid("there is no 'id' field")
    return Record(record_id, warnings.kept())


def select_record(records: Sequence[bytes]) -> Record | None:
    """The MTA-STS record among all TXT records at `_mta-sts` (RFC 8461 §3.1), each with its strings joined.

    None means that nothing there resembles one: the domain has no MTA-STS.

    Raises:
        RecordInvalid: something is there but can't be used: two records, or one that does not match the ABNF.
            A sender takes it for no MTA-STS, and goes on using a cached policy.
    """
    if len(records) == 1 and (plain := _PLAIN_RECORD.fullmatch(records[0])):
        return Record(plain[1].decode())
    candidate = select_candidate(records, f"v={VERSION}")
    if candidate is None:
        return None
    record = parse_record(candidate.text)
    if candidate.ignored:
        note = f"{candidate.ignored} more TXT records look like MTA-STS but do not begin with 'v={VERSION};'"
        return replace(record, warnings=(note, *record.warnings))
    return record


@dataclass(frozen=True, slots=True)
class _Field:
    number: int  # of the line, from 1
    name: str
    value: str


def parse_policy(body: bytes) -> Policy:
    """The policy in the body of a policy file (RFC 8461 §3.2 sts-policy-record).

    Forgiven with a warning: blank lines, white space at the end of a line, an `mx` that is no host pattern beside one
    that is. The caller bounds the size (§3.3 suggests 64 KiB).

    Raises:
        PolicyInvalid: anything else that does not match the ABNF. The message names the line.
    """
    return parse_plain_policy(body) or parse_any_policy(body)


def parse_plain_policy(body: bytes) -> Policy | None:
    """As `parse_any_policy`, at a fifth of its cost, for a body as most are; None for any other, valid or not."""
    plain = _PLAIN_POLICY.fullmatch(body)
    if plain is None or (max_age := int(plain[2])) > MAX_MAX_AGE:
        return None
    lines = body.decode().removesuffix("\n").replace("\r", "").split("\n")
    patterns = []
    for line in lines[2:-1]:
        wildcard = line.startswith("mx: *.")
        name = Domain.if_canonical(line[6:] if wildcard else line[4:])
        if name is None:
            return None
        patterns.append(MxPattern(name, wildcard))
    return Policy(Mode(lines[1][6:]), max_age, tuple(patterns), tuple(lines))


def parse_any_policy(body: bytes) -> Policy:
    """As `parse_policy`, line by line."""
    warnings = Warnings()
    lines = _served_lines(body)
    fields = _Fields(warnings)
    for number, line in enumerate(lines, 1):
        field = _parse_line(number, line, warnings)
        if field:
            fields.take(field)
    version = fields.required("version")
    if version.value != VERSION:
        raise PolicyInvalid(f"line {version.number}: version {quoted(version.value)} is not {VERSION!r}")
    mode = _parse_mode(fields.required("mode"))
    max_age = _parse_max_age(fields.required("max_age"), warnings)
    return Policy(mode, max_age, fields.mx_patterns(mode), lines, warnings.kept())


def _served_lines(body: bytes) -> tuple[str, ...]:
    """The lines without their ends. LF and CRLF end a line, a CR alone does not (RFC 8461 §3.2 sts-policy-term)."""
    if body.startswith(_BYTE_ORDER_MARK):
        raise PolicyInvalid("line 1: the file begins with a byte order mark")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        number = body.count(b"\n", 0, exc.start) + 1
        raise PolicyInvalid(f"line {number}: {body[exc.start : exc.end]!r} is not UTF-8") from exc
    if not text.strip(WSP + "\r\n"):
        raise PolicyInvalid("the file is empty")
    *ended, last = text.split("\n")
    lines = tuple([line.removesuffix("\r") for line in ended])
    return (*lines, last) if last else lines


def _parse_line(number: int, line: str, warnings: Warnings) -> _Field | None:
    stripped = line.rstrip(WSP)
    if not stripped:
        warnings.add(f"line {number}: blank line")
        return None
    if stripped != line:
        warnings.add(f"line {number}: white space at the end")
    if "\r" in stripped:
        raise PolicyInvalid(f"line {number}: a CR without LF does not end a line: {quoted(stripped)}")
    name, colon, value = stripped.partition(":")
    value = value.lstrip(WSP)
    if not colon or not _FIELD_NAME.fullmatch(name):
        raise PolicyInvalid(f"line {number}: {quoted(stripped)} is not of the form 'name: value'")
    if not value:
        raise PolicyInvalid(f"line {number}: {name!r} has no value")
    if _CONTROL.search(value):
        raise PolicyInvalid(f"line {number}: the value of {name!r} has a control character: {quoted(value)}")
    return _Field(number, name, value)


class _Fields:
    """The fields of a policy, taken line by line."""

    def __init__(self, warnings: Warnings) -> None:
        self._warnings = warnings
        self._first: dict[str, _Field] = {}
        self._mx_patterns: list[MxPattern] = []
        self._bad_mx: list[str] = []

    def take(self, field: _Field) -> None:
        if field.name == "mx":
            self._take_mx(field)
        elif field.name in self._first:
            # RFC 8461 §3.2: of a duplicate "all entries except for the first SHALL be ignored", whatever they say.
            self._warnings.add(f"line {field.number}: {field.name!r} is there already; only the first counts")
        else:
            self._first[field.name] = field
            if field.name not in _KNOWN_FIELDS:
                self._warnings.add(f"line {field.number}: the unknown field {field.name!r} is ignored")

    def _take_mx(self, field: _Field) -> None:
        try:
            self._mx_patterns.append(MxPattern.parse(field.value))
        except PolicyInvalid as exc:
            # Such a line also matches sts-policy-extension, which is ignored; to refuse the whole policy for it would
            # take away the protection that its good patterns give.
            self._bad_mx.append(f"line {field.number}: mx {exc}")
            self._warnings.add(f"{self._bad_mx[-1]}; the line is ignored")

    def required(self, name: str) -> _Field:
        """The first field of that name."""
        if name not in self._first:
            raise PolicyInvalid(self._why_missing(name))
        return self._first[name]

    def mx_patterns(self, mode: Mode) -> tuple[MxPattern, ...]:
        """The good patterns. RFC 8461 §3.2: mx is required at least once, except when mode is none."""
        if not self._mx_patterns and mode is not Mode.NONE:
            raise PolicyInvalid(f"{self._bad_mx[0]}; no mx is left" if self._bad_mx else self._why_missing("mx"))
        return tuple(self._mx_patterns)

    def _why_missing(self, name: str) -> str:
        for field in self._first.values():
            if field.name.lower() == name:
                return f"there is no {name!r}: line {field.number} has {field.name!r}, but names are in lower case"
        return f"there is no {name!r}"


def _parse_mode(field: _Field) -> Mode:
    try:
        return Mode(field.value)
    except ValueError as exc:
        allowed = ", ".join(repr(mode.value) for mode in Mode)
        raise PolicyInvalid(f"line {field.number}: mode {quoted(field.value)} is none of {allowed}") from exc


def _parse_max_age(field: _Field, warnings: Warnings) -> int:
    if not _MAX_AGE.fullmatch(field.value):
        raise PolicyInvalid(f"line {field.number}: max_age {quoted(field.value)} is not 1 to 10 digits")
    max_age = int(field.value)
    if max_age > MAX_MAX_AGE:
        # The ABNF admits it, the prose sets a maximum: refusing the policy would take the protection away.
        warnings.add(f"line {field.number}: max_age {max_age} is above {MAX_MAX_AGE} and counts as that")
        return MAX_MAX_AGE
    if max_age == 0:
        warnings.add(f"line {field.number}: max_age 0 keeps senders from caching the policy")
    return max_age


def mx_matches(pattern: MxPattern, mx_hostname: Domain) -> bool:
    """Whether the pattern permits the MX host (RFC 8461 §4.1): `*` stands for exactly one whole label, the first."""
    # Both are whole names in canonical form: they are equal where all of their labels are.
    return (mx_hostname.partition(".")[2] if pattern.wildcard else mx_hostname) == pattern.name


def mx_permitted(patterns: Iterable[MxPattern], mx_hostname: Domain) -> bool:
    """Whether any of a policy's patterns permits the MX host (RFC 8461 §4.1)."""
    return any(mx_matches(pattern, mx_hostname) for pattern in patterns)


def media_type_accepted(content_type: str) -> bool:
    """Whether a policy may be served with this Content-Type (RFC 8461 §3.2): text/plain, whatever its parameters."""
    return content_type.partition(";")[0].strip(WSP).lower() == "text/plain"
