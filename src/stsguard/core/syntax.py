"""What the parsers of published text share: quoting, warnings, and the TXT records' common grammar.

RFC 8461 §3.1 and RFC 8460 §3 give both TXT records the same shape (a version, then fields between semicolons) and the
same rule for choosing one among several. What a field means is left to `mtasts` and `tlsrpt_record`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stsguard.core.errors import RecordInvalid

WSP = " \t"  # RFC 5234 appendix B.1
MAX_WARNINGS = 20  # a hostile text of 64 KiB could ask for tens of thousands
_MAX_QUOTED = 60

# RFC 8461 §3.1 sts-extension and RFC 8460 §3 tlsrpt-extension are the same.
_EXTENSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_EXTENSION_VALUE = re.compile(r"[\x21-\x3a\x3c\x3e-\x7e]+")


def quoted(text: str) -> str:
    """`text`, which a stranger wrote, for a message: between quotes, escaped and cut."""
    return repr(text) if len(text) <= _MAX_QUOTED else repr(text[:_MAX_QUOTED]) + "..."


class Warnings:
    """Collects warnings, keeps the first `MAX_WARNINGS` and counts the rest."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._more = 0

    def add(self, text: str) -> None:
        """Keep or count one."""
        if len(self._kept) < MAX_WARNINGS:
            self._kept.append(text)
        else:
            self._more += 1

    def kept(self) -> tuple[str, ...]:
        """Those kept; the last of them says how many more there were."""
        if not self._more:
            return tuple(self._kept)
        return (*self._kept[:-1], f"and {self._more + 1} more warnings")


@dataclass(frozen=True, slots=True)
class Candidate:
    """The one TXT record that may be the one looked for; `ignored` others look like it but don't count."""

    text: str
    ignored: int


def select_candidate(records: Sequence[bytes], version: str) -> Candidate | None:
    """The one of the TXT records at a name that is to be parsed (RFC 8461 §3.1, RFC 8460 §3).

    `records` have their strings joined. None means that nothing there resembles the record.

    Raises:
        RecordInvalid: several count, or none of several that resemble it counts, or it is not US-ASCII.
    """
    literal = f"{version};"
    # What carries the version's word in any spelling was meant to be the record: the admin is told what is wrong.
    word = version[2:-1].lower().encode()
    alike = [record for record in records if word in record.lower()]
    if not alike:
        return None
    # RFC 8461 §3.1: records without the literal beginning are discarded "if multiple TXT records" are returned, so a
    # record alone may have white space before its first semicolon, as the ABNF says (erratum 6285 is not verified).
    candidates = alike if len(records) == 1 else [r for r in alike if r.startswith(literal.encode())]
    if not candidates:
        raise RecordInvalid(f"there are {len(records)} TXT records, and none of them begins with {literal!r}")
    if len(candidates) > 1:
        raise RecordInvalid(f"{len(candidates)} TXT records begin with {literal!r}, and only one may be there")
    try:
        text = candidates[0].decode("ascii")
    except UnicodeDecodeError as exc:
        found = exc.object[exc.start]
        raise RecordInvalid(f"the record is not US-ASCII: byte 0x{found:02x} at position {exc.start + 1}") from exc
    return Candidate(text, len(alike) - 1)


def split_record(text: str, version: str, warnings: Warnings) -> Iterator[str]:
    """The fields after the version, white space around the semicolons removed (RFC 8461 §3.1, RFC 8460 §3).

    No production allows a semicolon within a field, so cutting at each is exact.

    Raises:
        RecordInvalid: the version is not there, no field follows it, or a field is empty.
    """
    if not text.isascii():
        raise RecordInvalid("the record is not US-ASCII")
    begin, semicolon, rest = text.partition(";")
    if begin.rstrip(WSP) != version:
        raise RecordInvalid(_why_no_version(text, begin, version))
    fields = [field.strip(WSP) for field in rest.split(";")]
    if not fields[-1]:
        fields.pop()  # the final delimiter is optional
    if not semicolon or not fields:
        raise RecordInvalid(f"nothing follows {version!r}")
    if begin != version:
        warnings.add("white space before the first ';': the record would not count beside other TXT records")
    if text[-1] in WSP:
        # No production covers it at the end of a field: tolerated, since it carries no information.
        warnings.add("white space at the end of the record")
    return _not_empty(fields)


def _not_empty(fields: list[str]) -> Iterator[str]:
    for number, field in enumerate(fields, 1):
        if not field:
            raise RecordInvalid(f"field {number} is empty: there is one ';' too many")
        yield field


def _why_no_version(text: str, begin: str, version: str) -> str:
    wanted = f"the record does not begin with {version + ';'!r}"
    if not text.strip(WSP):
        return "the record is empty"
    if text[0] in WSP:
        return f"{wanted}: there is white space before it"
    if text[0] in "\"'":
        return f"{wanted}: there is a quotation mark, which belongs to the zone file only"
    if begin.endswith("\\"):
        return f"{wanted}: there is a '\\', which belongs to the zone file only"
    if begin.startswith(version) and begin[len(version)] in WSP:
        return f"{wanted}: no ';' follows the version"
    if "".join(begin.split()).lower() == version.lower():
        return f"{wanted}: {quoted(begin)} is not spelled exactly so"
    return f"{wanted} but with {quoted(begin)}"


def parse_extension(field: str) -> tuple[str, str]:
    """Name and value of a field that is at least an extension (RFC 8461 §3.1, RFC 8460 §3).

    Raises:
        RecordInvalid: it is not even that.
    """
    name, equals, value = field.partition("=")
    if not equals:
        raise RecordInvalid(f"field {quoted(field)} has no '='")
    if not _EXTENSION_NAME.fullmatch(name):
        raise RecordInvalid(f"{quoted(name)} is not the name of a field")
    if not value:
        raise RecordInvalid(f"field {quoted(name)} has no value")
    if not _EXTENSION_VALUE.fullmatch(value):
        raise RecordInvalid(
            f"the value of {quoted(name)} may not hold white space, control characters or '=': {quoted(value)}"
        )
    return name, value


def is_extension(field: str) -> bool:
    """Whether the field matches sts-extension or tlsrpt-extension, which are the same."""
    name, _, value = field.partition("=")
    return bool(_EXTENSION_NAME.fullmatch(name) and _EXTENSION_VALUE.fullmatch(value))


def note_unused(name: str, known: str, warnings: Warnings) -> None:
    """Warn of a field that is not used: RFC 8461 §3.2 and RFC 8460 §3 demand that it is ignored."""
    if name == known:
        warnings.add(f"{name!r} is there more than once: only the first counts")
    elif name.lower() == known:
        warnings.add(f"the unknown field {quoted(name)} is ignored: {known!r} is written in lower case")
    elif name == "v":
        warnings.add("'v' is there more than once: only the first counts")
    else:
        warnings.add(f"the unknown field {quoted(name)} is ignored")
