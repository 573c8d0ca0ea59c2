"""JSON of strangers, read with bounds and tolerance that keeps its meaning (RFC 8460 §4, RFC 7493, RFC 8259).

Depth and number of values are known before anything is built, so that no text costs more memory than a multiple of its
own size. Of repeated keys the first counts, as in records and policies. NaN and Infinity come out as floats,
for the one who needs a number to refuse. Left out on purpose: what is no JSON at all
(single quotes, comments, commas before a bracket); guessing there would make up reports.
"""

import json
import re
from collections.abc import Sequence

from stsguard.core.errors import ReportInvalid
from stsguard.core.received_report import Notes, WarningCode
from stsguard.core.syntax import quoted
from stsguard.core.tlsrpt_report_wire import NOTHING, decode_json

MAX_DEPTH = 32  # a report has six levels, JSON within a string two more
MAX_VALUES = 250_000  # more than 10,000 policies take, or 20,000 details
MAX_REPAIRED_BYTES = 8 * 1024 * 1024  # the slow way costs ten times the text; well-formed reports don't go it

_STRING = re.compile(rb'"[^"]*+"?')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_STRUCTURE = bytes(octet for octet in range(256) if octet not in b'[]{},"')
_SPACE = " \t\r\n"
_MAX_DIGITS = 20
HUGE = 10**_MAX_DIGITS  # what `loads` makes of larger numbers, and the one who takes them should
_BOM = "\ufeff"


def load(data: bytes, notes: Notes) -> object:
    """The value in `data`, which should be UTF-8; all text in it is free of lone surrogates only after `cleaned`.

    Raises:
        ReportInvalid: it is no JSON, or larger, deeper or of more values than any report; the message says where.
    """
    if len(data) > MAX_REPAIRED_BYTES:
        raise ReportInvalid(f"not as RFC 8460 has it, and with {len(data)} bytes too large to be repaired")
    check_bounds(data)
    found = decode_json(data)
    if found is not NOTHING:
        return found
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        notes.add(WarningCode.NOT_UTF8, f"byte 0x{data[exc.start]:02x} at position {exc.start} is not UTF-8")
        text = data.decode("utf-8", "replace")
    if text.startswith(_BOM):
        notes.add(WarningCode.BYTE_ORDER_MARK, "a byte order mark before the JSON")
        text = text[1:]
    return loads(text, notes)


def loads(text: str, notes: Notes) -> object:
    """The value in `text`, which is at most `MAX_REPAIRED_BYTES` long.

    Raises:
        ReportInvalid: as `load`.
    """
    check_bounds(text.encode("utf-8", "surrogatepass"))
    begin = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _decoder(notes, strict=True).raw_decode(text, begin)
    except json.JSONDecodeError as exc:
        if not exc.msg.startswith("Invalid control character"):
            raise ReportInvalid(_why(exc)) from exc
        notes.add(WarningCode.CONTROL_CHARACTER, f"a control character within a string in line {exc.lineno}")
        try:
            value, end = _decoder(notes, strict=False).raw_decode(text, begin)
        except json.JSONDecodeError as again:
            raise ReportInvalid(_why(again)) from again
    rest = text[end : end + 100].strip(_SPACE)
    if rest:
        notes.add(WarningCode.TRAILING_DATA, f"something follows the JSON: {quoted(rest)}")
    return value


def check_bounds(data: bytes) -> None:
    """Nothing where the JSON in `data` is within `MAX_DEPTH` (or at most twice that) and `MAX_VALUES`.

    Raises:
        ReportInvalid: it is not.
    """
    # Those within strings counted as well, there are few enough in most reports.
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH and data.count(b",") <= MAX_VALUES - MAX_DEPTH:
        return
    # Octets of UTF-8 are never those of ASCII. Two quotation marks beside each other end what they begin: without them
    # the others still tell what is within a string.
    marks = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_STRUCTURE).replace(b'""', b"")
    structure = _STRING.sub(b"", marks)
    values = structure.count(b",") + structure.count(b"[") + structure.count(b"{")
    if values > MAX_VALUES:
        raise ReportInvalid(f"{values} values, and a report has {MAX_VALUES} at most")
    brackets = structure.translate(_BRACKETS, b",")
    for _ in range(MAX_DEPTH):  # each turn takes the innermost level away
        brackets = brackets.replace(b"[]", b"")
    if brackets.count(b"[") > MAX_DEPTH:
        raise ReportInvalid(f"nested more than {MAX_DEPTH} deep")


def _decoder(notes: Notes, *, strict: bool) -> json.JSONDecoder:
    def pairs(found: Sequence[tuple[str, object]]) -> dict[str, object]:
        whole = dict(found)
        if len(whole) < len(found):
            whole.clear()
            for key, value in found:
                if key in whole:
                    notes.add(WarningCode.DUPLICATE_KEY, f"{quoted(key)} is there more than once: the first counts")
                else:
                    whole[key] = value
        return whole

    def whole_number(digits: str) -> int:
        return int(digits) if len(digits) <= _MAX_DIGITS else -HUGE if digits.startswith("-") else HUGE

    return json.JSONDecoder(object_pairs_hook=pairs, parse_int=whole_number, strict=strict)


def _why(exc: json.JSONDecodeError) -> str:
    return f"not JSON: {exc.msg} in line {exc.lineno}, column {exc.colno}"
