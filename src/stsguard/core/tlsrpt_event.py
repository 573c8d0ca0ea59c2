"""The datagrams of libtlsrpt, by which an MTA tells how its TLS sessions ended.

One JSON object for each delivery request, in the form that libtlsrpt 0.5 writes (its documentation calls the version
"1"; the key that says so is absent before 0.5.0): `d` is the domain whose TLSRPT record was found, `policies` what
was applied and how it ended. RFC 8460 §4.3 and §4.4 define what the values mean in a report.

Senders are every MTA on the machine, and much of what they pass on is what strangers wrote: names, EHLO replies, TLSA
records. So all text is bounded and made printable, names are folded to A-labels, addresses checked; what is unusable
beside a usable outcome is dropped rather than the outcome with it.

Left out on purpose: `pr`, the TLSRPT record as the MTA saw it (it is looked up again when the report is sent);
`mx-host`, which need not be what the policy says (reports take it from the policy); `t`, the number of failures.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

from stsguard.core.errors import EventInvalid, ResultType
from stsguard.core.session import FailureDetail, PolicyType, Seen, Session, Source
from stsguard.core.syntax import quoted
from stsguard.names import Domain, NameInvalid

MAX_DATAGRAM_BYTES = 262_144  # more than the send buffer of a unix socket takes by default (212,992)
MAX_POLICIES = 100  # Postfix has one a datagram; an MTA may gather those of all MX hosts of a delivery
MAX_DETAILS = 100  # for one policy: Postfix has at most one
MAX_POLICY_STRINGS = 1000
MAX_POLICY_STRING_LENGTH = 4096  # a TLSA record with a whole certificate
MAX_REASON_LENGTH = 200  # OpenSSL's texts have 20 to 60
MAX_INFORMATION_LENGTH = 500
MAX_HELO_LENGTH = 255  # RFC 5321 §4.5.3.1.2

_VERSION = "1"
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined] # not in
# the stubs; it is json.loads without the search for white space
# tlsrpt.h of libtlsrpt, `tlsrpt_policy_type_t` and `tlsrpt_failure_t`.
_POLICY_TYPES = {1: PolicyType.TLSA, 2: PolicyType.STS, 9: PolicyType.NO_POLICY_FOUND}
_RESULT_TYPES = {
    201: ResultType.STARTTLS_NOT_SUPPORTED,
    202: ResultType.CERTIFICATE_HOST_MISMATCH,
    203: ResultType.CERTIFICATE_NOT_TRUSTED,
    204: ResultType.CERTIFICATE_EXPIRED,
    205: ResultType.VALIDATION_FAILURE,
    301: ResultType.STS_POLICY_FETCH_ERROR,
    302: ResultType.STS_POLICY_INVALID,
    303: ResultType.STS_WEBPKI_INVALID,
    304: ResultType.TLSA_INVALID,
    305: ResultType.DNSSEC_INVALID,
    306: ResultType.DANE_REQUIRED,
}

# RFC 8460 §4.4 IPv4address. Reading it with ipaddress takes ten times as long, and every failure has two.
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII)
# RFC 5321 §4.1.1.1: ehlo-ok-rsp = ( "250" SP Domain [ SP ehlo-greet ] CRLF ) / ( "250-" Domain … )
_EHLO_NAME = re.compile(r"(?:[0-9]{3}(?:[ -]|(?=[\r\n])|\Z))?[ \t]*(\S*)")


def parse_datagram(datagram: bytes, at: datetime, instance: str) -> tuple[Session, ...]:
    """The sessions that a datagram tells of, one for each of its policies.

    `at` is when it arrived, since it holds no time; `instance` the Postfix instance whose socket it came to. One and
    the same datagram sent n times means n times these sessions: libtlsrpt puts nothing into it that differs.

    Raises:
        EventInvalid: too large, not JSON, of another version, without its domain, or with a policy whose final result
            it does not tell. Then none of it counts.
    """
    content = _load(datagram)
    version = content.get("dpv", _VERSION)
    if version != _VERSION:
        # A later version may give the same keys another meaning; what we did not understand we do not claim.
        raise EventInvalid(f"version (dpv) {_shown(version)}, and only {_VERSION!r} is known")
    recipient_domain = _required_name(content.get("d"))
    policies = content.get("policies")
    if not isinstance(policies, list):
        raise EventInvalid(f"policies is no list: {_shown(policies)}")
    if len(policies) > MAX_POLICIES:
        raise EventInvalid(f"{len(policies)} policies, more than {MAX_POLICIES}")
    return tuple([_session(policy, recipient_domain, at, instance) for policy in policies])


def _load(datagram: bytes) -> dict[str, object]:
    if len(datagram) > MAX_DATAGRAM_BYTES:
        raise EventInvalid(f"{len(datagram)} bytes, more than {MAX_DATAGRAM_BYTES}")
    # libtlsrpt escapes what JSON wants escaped and passes on any other byte: an EHLO reply in latin-1 is no reason to
    # lose the event. Of a key that is repeated the last counts; libtlsrpt writes each once.
    text = datagram.decode("utf-8", "replace")
    try:
        try:
            content, end = _scan(text, 0)
        except StopIteration:
            end = -1
        if end != len(text):  # white space around it, or no JSON
            content = json.loads(text)
    except RecursionError as exc:
        raise EventInvalid("nested too deeply") from exc
    except ValueError as exc:  # JSONDecodeError, and a number of thousands of digits
        raise EventInvalid(f"not JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise EventInvalid(f"no JSON object: {_shown(content)}")
    return content


def _session(policy: object, recipient_domain: Domain, at: datetime, instance: str) -> Session:
    if not isinstance(policy, dict):
        raise EventInvalid(f"a policy is no object: {_shown(policy)}")
    # libtlsrpt: `f` of a policy is the final result of the session, 0 success and 1 failure; `f` of a detail is text.
    final = policy.get("f")
    if not isinstance(final, int) or final not in (0, 1):
        raise EventInvalid(f"the final result (f) of a policy is {_shown(final)}")
    # RFC 8460 §4.4: total-failure-session-count counts sessions, failed-session-count those that match the detail's
    # result-type. So a policy is one session by its final result whatever its details, and each detail counts by
    # itself, as libtlsrpt's own collector does: the first is the failed session's, others and those before a success
    # are further ones.
    details = policy.get("failure-details") or []
    if not isinstance(details, list):
        raise EventInvalid(f"failure-details is no list: {_shown(details)}")
    own = _detail(details[0]) if final and details else _NO_DETAIL
    further = details[1 if final else 0 : MAX_DETAILS]
    code = policy.get("policy-type")
    policy_strings = policy.get("policy-string")
    # By position: this is the hot path, and keywords take half as long again.
    return Session(
        at,
        Source.DATAGRAM,
        instance,
        Seen.FAILURE if final else Seen.SUCCESS,
        recipient_domain,
        # None where the type is unknown: then what we know of the domain ourselves decides.
        _POLICY_TYPES.get(code) if type(code) is int else None,
        _name(policy.get("policy-domain"), recipient_domain),
        _policy_strings(policy_strings) if policy_strings else (),
        *own,
        25,
        True,
        "",
        tuple([_further(detail) for detail in further]) if further else (),
    )


class _Detail(NamedTuple):
    """A failure detail as the fields of a session, in their order there."""

    result_type: ResultType | None
    failure_reason_code: str
    sending_mta_ip: str
    receiving_mx_hostname: Domain | None
    receiving_mx_helo: str
    receiving_ip: str
    additional_information: str


_NO_DETAIL = _Detail(None, "", "", None, "", "", "")


def _detail(given: object) -> _Detail:
    if not isinstance(given, dict):
        raise EventInvalid(f"a failure detail is no object: {_shown(given)}")
    code = given.get("c")
    reason = _text(given.get("f"), MAX_REASON_LENGTH)
    result_type = _RESULT_TYPES.get(code) if type(code) is int else None
    if result_type is None:
        # RFC 8460 §4.3.3: validation-failure takes what fits no other category. The code, which may be of a later
        # libtlsrpt, or 901, an error inside it, is all that tells what happened.
        result_type = ResultType.VALIDATION_FAILURE
        reason = f"tlsrpt-code-{_shown(code)} {reason}".rstrip()[:MAX_REASON_LENGTH]
    return _Detail(
        result_type,
        reason,
        _address(given.get("s")),
        _name(given.get("n"), None),
        _ehlo_name(given.get("h")),
        _address(given.get("r")),
        _text(given.get("a"), MAX_INFORMATION_LENGTH),
    )


def _further(given: object) -> FailureDetail:
    result_type, reason, sending_mta_ip, mx_hostname, mx_helo, receiving_ip, information = _detail(given)
    return FailureDetail(
        result_type or "", sending_mta_ip, mx_hostname or "", mx_helo, receiving_ip, information, reason
    )


def _required_name(given: object) -> Domain:
    if not isinstance(given, str):
        raise EventInvalid(f"the domain (d) is {_shown(given)}")
    try:
        return Domain.parse(given)
    except NameInvalid as exc:
        raise EventInvalid(f"the domain (d) {_shown(given)}: {exc}") from exc


def _name(given: object, likely: Domain | None) -> Domain | None:
    """A name that may be missing; None also for one that can't be read. `likely` is what it most often is."""
    if not isinstance(given, str):
        return None
    if given == likely:
        return likely
    try:
        return Domain.parse(given)
    except NameInvalid:
        return None


def _address(given: object) -> str:
    """An address in the form of RFC 8460 §4.4, empty for what is none."""
    if not isinstance(given, str):
        return ""
    if _IPV4.fullmatch(given):
        return given
    try:
        # RFC 5952 has no zones ("fe80::1%eth0"): they mean something on this machine only.
        address = ip_address(given.partition("%")[0])
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _ehlo_name(given: object) -> str:
    """receiving-mx-helo: the name of the EHLO reply, of which Postfix passes on all lines with their codes."""
    if not isinstance(given, str):
        return ""
    # RFC 8460 §4.4: the HELO or EHLO string, not the greeting and the extensions that follow it.
    found = _EHLO_NAME.match(given, 0, 2 * MAX_HELO_LENGTH)
    return _text(found[1] if found else "", MAX_HELO_LENGTH)


def _policy_strings(given: object) -> tuple[str, ...]:
    # RFC 8460 §4.4: in the order of the policy. Anything but a list of strings says nothing of the policy.
    if not isinstance(given, list):
        return ()
    texts = [each for each in given[:MAX_POLICY_STRINGS] if isinstance(each, str)]
    whole = "".join(texts)
    if len(whole) <= MAX_POLICY_STRING_LENGTH and whole.isprintable():
        return tuple(texts)
    return tuple([_text(each, MAX_POLICY_STRING_LENGTH) for each in texts])


def _text(given: object, limit: int) -> str:
    """Text of at most `limit` characters that can be printed, and encoded in UTF-8."""
    if not isinstance(given, str):
        return ""
    text = given[:limit]
    # Control characters and half surrogates, which JSON can spell, each become what a bad byte has become already.
    return text if text.isprintable() else "".join([each if each.isprintable() else "\ufffd" for each in text])


def _shown(value: object) -> str:
    """A value for a message: printable, and cut before it is rendered."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = "missing" if value is None else str(value)
    return text[:40]
