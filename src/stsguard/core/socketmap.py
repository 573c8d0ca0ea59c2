"""The socketmap protocol as Postfix speaks it, and the text of a TLS policy in its replies.

Request: `MAPNAME SPACE KEY`. Replies: `OK DATA`, `NOTFOUND SPACE`, `TEMP SPACE REASON` (Postfix
src/util/dict_sockmap.c). TEMP, and anything wrong in a reply, makes Postfix defer the mail; NOTFOUND leaves it with
the level of main.cf. A reply is at most 100,000 bytes.

A key is the next hop as Postfix has it: any case, U-labels, a final dot, `[host]`, `host:port`, or a parent
domain with its dot. No text that comes from a policy reaches a reply but inside `{ policy_string = … }`, and there
only lines without braces, so that it can never become an attribute.
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address

from stsguard.core.errors import RequestInvalid
from stsguard.core.mtasts import Policy
from stsguard.core.tlspolicy import Decision, Reply
from stsguard.names import Domain, NameInvalid

MAX_REPLY_BYTES = 100_000  # socketmap_max_reply_size, without the framing
MAX_KEPT_STRINGS = 20  # a policy may repeat its version or mode thousands of times; the first counts
SMTP_PORT = 25
NOTFOUND = b"NOTFOUND "


class Dialect(StrEnum):
    """What the client's Postfix understands: `policy` from 3.4 on, `policy-tlsrpt` from 3.10 on."""

    POLICY = "policy"
    POLICY_TLSRPT = "policy-tlsrpt"


# The names of postfix-mta-sts-resolver and postfix-tlspol are taken too, so that a site can move without a change.
MAP_NAMES = {
    b"policy": Dialect.POLICY,
    b"postfix": Dialect.POLICY,
    b"QUERY": Dialect.POLICY,
    b"policy-tlsrpt": Dialect.POLICY_TLSRPT,
    b"QUERYwithTLSRPT": Dialect.POLICY_TLSRPT,
}


class KeyKind(StrEnum):
    """What a key names."""

    DOMAIN = "domain"
    PARENT = "parent"  # `.example.com`: Postfix asks for parents after NOTFOUND (RFC 8461 §3.4: no policy from there)
    ADDRESS = "address"  # an address literal, bare or in brackets
    BRACKETED = "bracketed"  # `[host]`: no MX look-up, so no MX to check
    INVALID = "invalid"  # no name that the DNS could hold


@dataclass(slots=True)  # not frozen: see `dane.Answer`
class NextHop:
    """A key, taken apart. `host` is None for a parent, an address literal and what is no name."""

    kind: KeyKind
    host: Domain | None
    port: int = SMTP_PORT


@dataclass(slots=True)  # as above
class Request:
    """A look-up of one key in one map."""

    dialect: Dialect
    key: bytes


class UnknownMap(RequestInvalid):
    """The request is well-formed, for a map that is not there. Answer PERM; the connection goes on."""


def parse_request(payload: bytes) -> Request:
    """The request in a netstring's payload.

    Raises:
        UnknownMap: a map name that is none of `MAP_NAMES`.
        RequestInvalid: no space, or no key.
    """
    map_name, space, key = payload.partition(b" ")
    if not space or not key:
        raise RequestInvalid("a socketmap request is MAPNAME SPACE KEY")
    dialect = MAP_NAMES.get(map_name)
    if dialect is None:
        known = ", ".join(sorted({dialect.value for dialect in MAP_NAMES.values()}))
        raise UnknownMap(f"the map name is none of {known}")
    return Request(dialect, key)


def parse_next_hop(key: bytes) -> NextHop:
    """The key of smtp_tls_policy_maps, taken apart. Never fails: what is no name is `KeyKind.INVALID`."""
    try:
        text = key.decode("utf-8")
    except UnicodeDecodeError:
        return NextHop(KeyKind.INVALID, None)
    if Domain.is_canonical(text):
        return NextHop(KeyKind.DOMAIN, Domain(text))  # nearly every key
    if text.startswith("."):
        return NextHop(KeyKind.PARENT, None)
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        port = _parse_port(rest.removeprefix(":")) if rest else SMTP_PORT
        if not bracket or port is None or (rest and not rest.startswith(":")):
            return NextHop(KeyKind.INVALID, None)
        if _is_address(inner):
            return NextHop(KeyKind.ADDRESS, None, port)
        host = _parse_host(inner)
        return NextHop(KeyKind.BRACKETED, host, port) if host else NextHop(KeyKind.INVALID, None)
    if _is_address(text):
        return NextHop(KeyKind.ADDRESS, None)
    name, colon, port_text = text.rpartition(":")
    if not colon:
        name = text
    parsed_port = _parse_port(port_text) if colon else SMTP_PORT
    if parsed_port is None:
        return NextHop(KeyKind.INVALID, None)
    if _is_address(name):
        return NextHop(KeyKind.ADDRESS, None, parsed_port)
    host = _parse_host(name)
    return NextHop(KeyKind.DOMAIN, host, parsed_port) if host else NextHop(KeyKind.INVALID, None)


def _parse_port(text: str) -> int | None:
    # Postfix takes service names as well (`host:smtp`, `host:submission`), from /etc/services; these are what occurs.
    named = {"smtp": 25, "submission": 587, "submissions": 465, "smtps": 465}.get(text)
    if named is not None:
        return named
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        return None
    port = int(text)
    return port if 0 < port < 65536 else None


def _is_address(text: str) -> bool:
    bare = text[5:] if text[:5].lower() == "ipv6:" else text
    try:
        address = ip_address(bare)
    except ValueError:
        return False
    return bare is text or isinstance(address, IPv6Address)


def _parse_host(text: str) -> Domain | None:
    try:
        return Domain.parse(text)
    except NameInvalid:
        return None


def render_reply(decision: Decision, dialect: Dialect, policy_domain: Domain) -> bytes:
    """The reply's bytes for `decision`, without the framing, at most `MAX_REPLY_BYTES` long."""
    match decision.reply:
        case Reply.NOTFOUND:
            return NOTFOUND
        case Reply.TEMP:
            return b"TEMP " + decision.reason.encode("ascii", "replace").replace(b"\n", b" ")
        case Reply.VERBATIM:
            return b"OK " + decision.verbatim.encode("ascii", "replace")
        case Reply.DANE | Reply.DANE_ONLY:
            # facts: Postfix makes its own tlsa report; sts attributes would relabel it, mx_host_pattern would block MX
            return b"OK " + decision.reply.value.encode("ascii")
    return _render_secure(decision, dialect, policy_domain)


def _render_secure(decision: Decision, dialect: Dialect, policy_domain: Domain) -> bytes:
    # RFC 8461 §7.1: SNI is the MX hostname. Without servername= Postfix sends none.
    base = f"OK secure match={':'.join(decision.match_names)} servername=hostname"
    if dialect is Dialect.POLICY or decision.policy is None:
        return base.encode("ascii")
    # policy_type never goes without a policy_string and an mx_host_pattern: builds of 3.10 crashed on it.
    attributes = [f" policy_type=sts policy_domain={policy_domain}"]
    attributes += [f" mx_host_pattern={name}" for name in decision.mx_host_patterns]
    text = (base + "".join(attributes)).encode("ascii")
    strings = _policy_strings(decision.policy)
    full = text + b"".join(map(_attribute, strings))
    if len(full) <= MAX_REPLY_BYTES:
        return full
    kept = [line for line in strings if line.startswith(("version:", "mode:"))]
    return text + b"".join(map(_attribute, kept[:MAX_KEPT_STRINGS]))


def _policy_strings(policy: Policy) -> list[str]:
    # A brace in an extension field could end the attribute early and start another: such a line is left out. Reports
    # take the policy from the store, so nothing is lost.
    lines = (line.strip() for line in policy.policy_text)
    return [line for line in lines if line and "{" not in line and "}" not in line]


def _attribute(line: str) -> bytes:
    return b" { policy_string = " + line.encode("utf-8") + b" }"
