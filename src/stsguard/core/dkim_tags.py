"""DKIM-Signature fields and published keys (RFC 6376 §3.2, 3.5, 3.6.1, 6.1.1, 6.1.2), as a TLS report has to have them.

Everything is checked here that the RFCs say of the tags: RFC 8301 (no SHA-1, no short keys), RFC 8463 (Ed25519), and
RFC 8460 §3 (no `l=`, service type tlsrpt). Hashing headers and verifying the signature itself are left to dkimpy.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from stsguard.core.errors import SignatureInvalid
from stsguard.core.syntax import quoted
from stsguard.names import Domain, NameInvalid

MAX_SIGNATURE_BYTES = 16 * 1024
MAX_WHITE_SPACE = 500  # in a row within the field: dkimpy's expression for b= takes the square of it
MAX_SIGNED_FIELDS = 200
MIN_RSA_BITS = 1024  # RFC 8301 §3.2
MAX_RSA_BITS = 4096  # RFC 6376 §3.3.3 asks for 2048; longer ones are a way to make us calculate
MAX_RSA_EXPONENT_BITS = 33
ED25519_OCTETS = 32

_TAG_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
_WHITE_SPACE = re.compile(rb"\s+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_SECONDS = re.compile(rb"[0-9]{1,12}")
_REQUIRED = (b"v", b"a", b"b", b"bh", b"d", b"h", b"s")


class Algorithm(StrEnum):
    """a= of a signature that counts (RFC 8301 §3.1: rsa-sha1 MUST NOT be used)."""

    RSA_SHA256 = "rsa-sha256"
    ED25519_SHA256 = "ed25519-sha256"


@dataclass(frozen=True, slots=True)
class Signature:
    """A DKIM-Signature field that may be valid. `tags` are as written, for dkimpy; `identity` is the domain of i=."""

    tags: dict[bytes, bytes]
    algorithm: Algorithm
    domain: Domain
    selector: str
    key_name: Domain
    identity: str
    signed_fields: tuple[bytes, ...]
    body_hash: bytes
    relaxed_body: bool


@dataclass(frozen=True, slots=True)
class Key:
    """A published key that permits TLS reports. `record` is what dkimpy has to be told of it; `testing` is t=y, with
    which the mail counts as unsigned (RFC 6376 §3.6.1)."""

    record: bytes
    testing: bool


def parse_tags(text: bytes) -> dict[bytes, bytes]:
    """A tag-list (RFC 6376 §3.2), values without the white space around them.

    Raises:
        SignatureInvalid: it is none, or a tag is there twice.
    """
    tags: dict[bytes, bytes] = {}
    fields = text.strip().removesuffix(b";").split(b";")
    for field in fields:
        name, equals, value = field.partition(b"=")
        name = name.strip()
        if not equals or not _TAG_NAME.fullmatch(name):
            raise SignatureInvalid(f"no list of tags: {_quoted(field.strip())}")
        if name in tags:
            raise SignatureInvalid(f"the tag {_quoted(name)} is there twice")
        tags[name] = value.strip()
    return tags


def claimed_domain(text: bytes) -> tuple[Domain | None, str]:
    """d= and s= of a field, as far as they can be read, to name a signature that is not valid."""
    try:
        tags = parse_tags(text[:MAX_SIGNATURE_BYTES])
        selector = tags.get(b"s", b"").decode("utf-8", "replace")[:63]
        return Domain.parse(tags[b"d"].decode()), selector
    except (SignatureInvalid, NameInvalid, UnicodeDecodeError, KeyError):
        return None, ""


def parse_signature(text: bytes, received_at: datetime) -> Signature:
    """A DKIM-Signature field's value, checked as RFC 6376 §6.1.1 has it, for a report that came at `received_at`.

    Raises:
        SignatureInvalid: it can't be valid; the message says why.
    """
    if len(text) > MAX_SIGNATURE_BYTES:
        raise SignatureInvalid(f"a signature of {len(text)} bytes, and {MAX_SIGNATURE_BYTES} are looked at")
    if any(len(run) > MAX_WHITE_SPACE for run in _WHITE_SPACE.findall(text)):
        raise SignatureInvalid("a signature of white space")
    tags = parse_tags(text)
    missing = [name.decode() for name in _REQUIRED if not tags.get(name)]
    if missing:
        raise SignatureInvalid(f"the signature has no {missing[0]}=")
    if tags[b"v"] != b"1":
        raise SignatureInvalid(f"the signature is of the unknown version {_quoted(tags[b'v'])}")
    if b"l" in tags:
        # RFC 8460 §3: "l=" MUST NOT be used, since whatever follows the signed part would be believed.
        raise SignatureInvalid("the signature has l=, which a TLS report must not have (RFC 8460 §3)")
    _check_time(tags, received_at)
    domain, selector, key_name = _names(tags)
    return Signature(
        tags,
        _algorithm(tags[b"a"]),
        domain,
        selector,
        key_name,
        _identity(tags, domain),
        _signed_fields(tags[b"h"]),
        _body_hash(tags),
        _is_body_relaxed(tags),
    )


def _algorithm(value: bytes) -> Algorithm:
    try:
        return Algorithm(value.decode("latin-1").lower())
    except ValueError as exc:
        raise SignatureInvalid(f"the algorithm {_quoted(value)} is none that counts (RFC 8301 §3.1)") from exc


def _names(tags: dict[bytes, bytes]) -> tuple[Domain, str, Domain]:
    try:
        # RFC 8616 §4: in internationalised mail d= and s= may hold U-labels.
        domain, selector = Domain.parse(tags[b"d"].decode()), Domain.parse(tags[b"s"].decode())
        return domain, selector, Domain.parse(f"{selector}._domainkey.{domain}")
    except (NameInvalid, UnicodeDecodeError) as exc:
        raise SignatureInvalid(f"d= or s= is no name: {str(exc)[:120]}") from exc


def _identity(tags: dict[bytes, bytes], domain: Domain) -> str:
    """RFC 6376 §3.5, i=: the same as d= or a name beneath it."""
    if b"i" not in tags:
        return domain
    identity = tags[b"i"].rpartition(b"@")[2].decode("utf-8", "replace").lower()
    if identity != domain and not identity.endswith("." + domain):
        raise SignatureInvalid(f"i= is not beneath d=: {quoted(identity)}")
    return identity


def _signed_fields(value: bytes) -> tuple[bytes, ...]:
    fields = tuple(name.strip().lower() for name in value.split(b":"))
    if len(fields) > MAX_SIGNED_FIELDS:
        raise SignatureInvalid(f"{len(fields)} signed fields, and {MAX_SIGNED_FIELDS} are looked at")
    if b"from" not in fields:
        raise SignatureInvalid("From is not signed (RFC 6376 §5.4)")
    return fields


def _body_hash(tags: dict[bytes, bytes]) -> bytes:
    for name in (b"b", b"bh"):
        if not _BASE64.fullmatch(_WHITE_SPACE.sub(b"", tags[name])):
            raise SignatureInvalid(f"{name.decode()}= is no base64")
    try:
        return binascii.a2b_base64(tags[b"bh"])
    except binascii.Error as exc:
        raise SignatureInvalid("bh= is no base64") from exc


def _is_body_relaxed(tags: dict[bytes, bytes]) -> bool:
    header, _, body = tags.get(b"c", b"simple/simple").partition(b"/")
    if header not in (b"simple", b"relaxed") or body not in (b"", b"simple", b"relaxed"):
        raise SignatureInvalid(f"the canonicalisation {_quoted(tags[b'c'])} is unknown")
    return body == b"relaxed"


def _check_time(tags: dict[bytes, bytes], received_at: datetime) -> None:
    """RFC 6376 §3.5, t= and x=; what counts is when the mail came, not when we get to it."""
    for name in (b"t", b"x"):
        if name in tags and not _SECONDS.fullmatch(tags[name]):
            raise SignatureInvalid(f"{name.decode()}= is no number of seconds: {_quoted(tags[name])}")
    if b"x" in tags:
        if int(tags[b"x"]) <= int(tags.get(b"t", b"0")):
            raise SignatureInvalid("the signature expires before it was made")
        if int(tags[b"x"]) < received_at.timestamp():
            raise SignatureInvalid("the signature had expired when the mail came (x=)")
    if b"q" in tags and b"dns/txt" not in [method.strip() for method in tags[b"q"].split(b":")]:
        raise SignatureInvalid(f"the key is to be had by {_quoted(tags[b'q'])} only")


def select_key(records: tuple[bytes, ...], signature: Signature) -> Key:
    """The key of `signature` among the TXT records at its name (RFC 6376 §6.1.2).

    Raises:
        SignatureInvalid: there is none, or several, or it does not permit this; the message says why.
    """
    found = [record for record in records if _looks_like_key(record)]
    if not found:
        raise SignatureInvalid("there is no key")
    if len(found) > 1:
        raise SignatureInvalid(f"there are {len(found)} keys, which is undefined (RFC 6376 §3.6.2.2)")
    tags = parse_tags(found[0])
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise SignatureInvalid(f"the key is of the unknown version {_quoted(tags[b'v'])}")
    if not tags[b"p"]:
        raise SignatureInvalid("the key has been revoked (p= is empty)")
    if b"sha256" not in _list(tags.get(b"h", b"sha256")):
        raise SignatureInvalid("the key does not permit SHA-256 (h=)")
    if not {b"*", b"tlsrpt"} & set(_list(tags.get(b"s", b"*"))):
        # RFC 8460 §3 names the service type; RFC 6376 §3.6.1: a verifier MUST ignore a key without its own.
        raise SignatureInvalid(f"the key is not for TLS reports: s={tags[b's'][:60].decode('latin-1')!r}")
    flags = _list(tags.get(b"t", b""))
    if b"s" in flags and signature.identity != signature.domain:
        raise SignatureInvalid("the key permits no names beneath d= in i= (t=s)")
    return Key(_key_record(tags, signature.algorithm), b"y" in flags)


def _looks_like_key(record: bytes) -> bool:
    try:
        return b"p" in parse_tags(record)
    except SignatureInvalid:
        return False


def _list(value: bytes) -> list[bytes]:
    return [item.strip() for item in value.split(b":")]


def _key_record(tags: dict[bytes, bytes], algorithm: Algorithm) -> bytes:
    """The record in the one form that dkimpy cannot take for anything else; it trips over some lists in s=."""
    kind = tags.get(b"k", b"rsa")
    if not algorithm.encode().startswith(kind + b"-"):
        raise SignatureInvalid(f"the key is of the kind {_quoted(kind)}, the signature is {algorithm.value}")
    try:
        octets = base64.b64decode(_WHITE_SPACE.sub(b"", tags[b"p"]), validate=True)
    except binascii.Error as exc:
        raise SignatureInvalid("the key is no base64") from exc
    if algorithm is Algorithm.RSA_SHA256:
        _check_rsa(octets)
    elif len(octets) != ED25519_OCTETS:
        raise SignatureInvalid(f"an Ed25519 key of {len(octets)} octets (RFC 8463 §4)")
    return b"v=DKIM1; k=" + kind + b"; p=" + base64.b64encode(octets)


def _check_rsa(octets: bytes) -> None:
    try:
        key = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise SignatureInvalid("the key can't be read") from exc
    if not isinstance(key, RSAPublicKey):
        raise SignatureInvalid("the key is no RSA key")
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise SignatureInvalid(f"an RSA key of {key.key_size} bits, not {MIN_RSA_BITS} to {MAX_RSA_BITS}")
    if key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise SignatureInvalid("an RSA key with a very large exponent")


def _quoted(text: bytes) -> str:
    return quoted(text[:70].decode("utf-8", "replace"))
