"""TLSRPT: the `_smtp._tls` TXT record that says where reports go (RFC 8460 §3).

A URI is judged by RFC 3986 appendix A as RFC 8460 §3 narrows it. What a mailto address means (RFC 6068) and whether
an endpoint may be connected to is left to those who send there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv6Address

from stsguard.core.errors import RecordInvalid
from stsguard.core.syntax import (
    WSP,
    Warnings,
    is_extension,
    note_unused,
    parse_extension,
    quoted,
    select_candidate,
    split_record,
)

VERSION = "TLSRPTv1"
_RUA = "rua="

# RFC 3986 appendix A, less the comma, exclamation mark and semicolon that RFC 8460 §3 wants percent-encoded.
_PLAIN = r"A-Za-z0-9._~$&'()*+=\-"  # unreserved and sub-delims
_ESCAPED = "%[0-9A-Fa-f]{2}"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_PATH = re.compile(rf"(?:[{_PLAIN}:@/]|{_ESCAPED})*")
_QUERY = re.compile(rf"(?:[{_PLAIN}:@/?]|{_ESCAPED})*")  # and fragment
_USERINFO = re.compile(rf"(?:[{_PLAIN}:]|{_ESCAPED})*")
_REG_NAME = re.compile(rf"(?:[{_PLAIN}]|{_ESCAPED})*")
_HOST_PORT = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::[0-9]*)?")
_HAS_HOST = re.compile(r"//[^/?#]")
_IP_FUTURE = re.compile(rf"[vV][0-9A-Fa-f]+\.[{_PLAIN}:]+")


@dataclass(frozen=True, slots=True)
class TlsrptRecord:
    """A TLSRPT record. `ruas` are the URIs that reports can go to (mailto and https), as published and each once.

    Empty `ruas` means that the domain names no destination that anyone supports.
    """

    ruas: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def parse_tlsrpt_record(text: str) -> TlsrptRecord:
    """The record in one TXT record's text, its strings joined (RFC 8460 §3 tlsrpt-record).

    Raises:
        RecordInvalid: it does not match the ABNF, or has no `rua` with a list of URIs. Nothing but white space at the
            end is forgiven.
    """
    warnings = Warnings()
    ruas: dict[str, str] = {}
    not_uri: str | None = None
    found = False
    for field in split_record(text, f"v={VERSION}", warnings):
        if not field.startswith(_RUA):
            note_unused(parse_extension(field)[0], "rua", warnings)
            continue
        uris = _split_uris(field.removeprefix(_RUA))
        wrong = next((uri for uri in uris if not is_uri(uri)), None)
        if wrong is None:
            # RFC 8460 §3 does not say which of several rua fields counts: all do.
            found = True
            _collect(uris, ruas, warnings)
        elif is_extension(field):
            # Then the grammar takes it for tlsrpt-extension, which is ignored.
            warnings.add(f"a rua is ignored: {_why_no_uri(wrong)}")
            not_uri = not_uri or _why_no_uri(wrong)
        else:
            raise RecordInvalid(f"rua: {_why_no_uri(wrong)}")
    if not found:
        raise RecordInvalid(f"rua: {not_uri}" if not_uri else "there is no 'rua' field")
    if not ruas:
        warnings.add("no rua can be used: there is nowhere to report to")
    return TlsrptRecord(tuple(ruas.values()), warnings.kept())


def select_tlsrpt_record(records: Sequence[bytes]) -> TlsrptRecord | None:
    """The TLSRPT record among all TXT records at `_smtp._tls` (RFC 8460 §3), each with its strings joined.

    None means that nothing there resembles one: the domain wants no reports.

    Raises:
        RecordInvalid: something is there but can't be used: two records, or one that does not match the ABNF.
            A sender takes it for no TLSRPT.
    """
    candidate = select_candidate(records, f"v={VERSION}")
    if candidate is None:
        return None
    record = parse_tlsrpt_record(candidate.text)
    if candidate.ignored:
        note = f"{candidate.ignored} more TXT records look like TLSRPT but do not begin with 'v={VERSION};'"
        return replace(record, warnings=(note, *record.warnings))
    return record


def _split_uris(value: str) -> list[str]:
    """The parts between commas, without the white space that RFC 8460 §3 tlsrpt-rua allows around each comma."""
    first, *others = value.split(",")
    if not others:
        return [first]
    return [first.rstrip(WSP), *(uri.strip(WSP) for uri in others)]


def _collect(uris: Sequence[str], ruas: dict[str, str], warnings: Warnings) -> None:
    for uri in uris:
        scheme, _, rest = uri.partition(":")
        scheme = scheme.lower()  # RFC 3986 §3.1
        if scheme not in {"mailto", "https"}:
            # RFC 8460 §3: "Two URI schemes are supported".
            warnings.add(f"rua {quoted(uri)} is skipped: only mailto and https are supported")
        elif ruas.setdefault(f"{scheme}:{rest}", uri) is not uri:
            warnings.add(f"rua {quoted(uri)} is there more than once")
        elif scheme == "mailto" and "@" not in rest:
            warnings.add(f"rua {quoted(uri)} has no mail address")
        elif scheme == "https" and not _HAS_HOST.match(rest):
            warnings.add(f"rua {quoted(uri)} has no host")


def _why_no_uri(text: str) -> str:
    if not text:
        return "a URI is missing"
    if "!" in text:
        return f"{quoted(text)} is not a URI here: '!' has to be written as %21"
    if ":" not in text:
        return f"{quoted(text)} is not a URI: it has no scheme, such as 'mailto:'"
    return f"{quoted(text)} is not a URI"


def is_uri(text: str) -> bool:
    """Whether it is a URI by RFC 3986 appendix A without a comma, `!` or `;` (RFC 8460 §3 tlsrpt-uri)."""
    scheme, colon, rest = text.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        return False
    rest, _, fragment = rest.partition("#")
    hier_part, _, query = rest.partition("?")
    if not _QUERY.fullmatch(fragment) or not _QUERY.fullmatch(query):
        return False
    if not hier_part.startswith("//"):
        return bool(_PATH.fullmatch(hier_part))
    authority, slash, path = hier_part[2:].partition("/")
    return _is_authority(authority) and bool(_PATH.fullmatch(slash + path))


def _is_authority(authority: str) -> bool:
    userinfo, _, host_port = authority.rpartition("@")
    match = _HOST_PORT.fullmatch(host_port)
    if not match or not _USERINFO.fullmatch(userinfo):
        return False
    host = match[1]
    if not host.startswith("["):
        return bool(_REG_NAME.fullmatch(host))
    literal = host[1:-1]
    if _IP_FUTURE.fullmatch(literal):
        return True
    try:
        IPv6Address(literal)
    except AddressValueError:
        return False
    return "%" not in literal  # RFC 3986 knows no zone
