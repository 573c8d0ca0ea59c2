"""Signs report mail with DKIM (RFC 6376, RFC 8463): a `ports.Signer` of dkimpy, and a look at the published key.

RFC 8460 §3: a report without a valid signature of the reporting domain MUST be ignored, so a wrong key is told at
start. The key file holds a PEM private key, RSA or Ed25519, not encrypted; dkimpy's own form of Ed25519 keys (the seed
in base64) is taken as well.
"""

import base64
import binascii
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from stsguard.core.dane import Answer
from stsguard.core.errors import LookupFailed, OperatorError
from stsguard.names import Domain, NameInvalid

PublicKey = RSAPublicKey | Ed25519PublicKey

MIN_RSA_BITS = 1024  # RFC 8301 §3.2: shorter keys MUST NOT be used
MAX_KEY_FILE_BYTES = 65_536
_MAX_DETAIL_LENGTH = 200
_ED25519_OCTETS = 32

# RFC 8460 §5.3: the TLS-Report fields SHOULD be signed; RFC 6376 §5.4.1 for the others.
SIGNED_FIELDS = (
    *(b"From", b"To", b"Subject", b"Date", b"Message-ID", b"MIME-Version", b"Content-Type"),
    *(b"TLS-Report-Domain", b"TLS-Report-Submitter", b"TLS-Required"),
)
_TAG = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*=\s*(.*?)\s*", re.DOTALL)


class TxtLookup(Protocol):
    """The part of `ports.Resolver` that is needed here."""

    def lookup_txt(self, name: Domain) -> Awaitable[Answer[bytes]]:
        """TXT records, strings joined; raises LookupFailed only."""


class DkimSigner:
    """Implements `ports.Signer`.

    Args:
        domain: the signing domain (d=), that of From.
        selector: under which the key is published.
        key_file: the private key.

    Raises:
        OperatorError: the key file can't be read, or holds no key that can sign.
    """

    def __init__(self, *, domain: Domain, selector: str, key_file: Path) -> None:
        try:
            Domain.parse(f"{selector}._domainkey.{domain}")
        except NameInvalid as exc:
            raise OperatorError(f"DKIM selector {selector!r}: {exc}") from exc
        key = _load_key(key_file)
        self.domain = domain
        self.selector = selector
        self.public_key: PublicKey = key.public_key()
        self._algorithm, self._key = _as_dkimpy_wants(key)

    def sign(self, message: bytes) -> bytes:
        """`message` with a DKIM-Signature field in front: relaxed/relaxed, the whole body (RFC 8460 §3: no `l=`)."""
        import dkim  # noqa: PLC0415 (it loads a DNS library, for a task of once a day)

        signer = dkim.DKIM(message, signature_algorithm=self._algorithm, tlsrpt=True)
        field = signer.sign(
            self.selector.encode(),
            self.domain.encode(),
            self._key,
            canonicalize=(b"relaxed", b"relaxed"),
            # Each once more than it is there, so that none can be added (RFC 6376 §5.4.2, §8.15).
            include_headers=[*SIGNED_FIELDS, *SIGNED_FIELDS],
        )
        return bytes(field) + message


async def check_published_key(resolver: TxtLookup, domain: Domain, selector: str, public_key: PublicKey) -> list[str]:
    """What receivers will not like about the published key, each a sentence for the log; empty where all is well."""
    name = Domain.parse(f"{selector}._domainkey.{domain}")
    try:
        answer = await resolver.lookup_txt(name)
    except LookupFailed as exc:
        return [f"the DKIM key at {name} can't be looked up: {exc}"]
    # Some zones have other TXT records below _domainkey; RFC 6376 §3.6.2.2 leaves several keys undefined.
    records = [tags for tags in (_tags(record) for record in answer.records) if tags is not None and "p" in tags]
    if not records:
        return [f"there is no DKIM key at {name}: receivers must ignore our reports (RFC 8460 §3)"]
    if len(records) > 1:
        return [
            f"there are {len(records)} DKIM keys at {name}: what receivers do then is undefined (RFC 6376 §3.6.2.2)"
        ]
    return [f"the DKIM key at {name} {text}" for text in _faults(records[0], public_key)]


def _faults(tags: dict[str, str], public_key: PublicKey) -> list[str]:
    """RFC 6376 §3.6.1, tag by tag."""
    found: list[str] = []
    if tags.get("v", "DKIM1") != "DKIM1":
        found.append("is of another version than DKIM1")
    if not tags["p"]:
        return [*found, "has been revoked: its p= is empty"]
    if not _is_same(tags.get("k", "rsa"), tags["p"], public_key):
        found.append("is another one than that of the key file: no signature of ours will verify")
    services = _list(tags.get("s", "*"))
    if not {"*", "tlsrpt"} & set(services):
        found.append(f"excludes TLS reports: its s= has no 'tlsrpt' (RFC 8460 §3), only {','.join(services)[:60]!r}")
    if "sha256" not in _list(tags.get("h", "sha256")):
        found.append("does not permit SHA-256 in its h=")
    if "y" in _list(tags.get("t", "")):
        found.append("is in test mode (t=y): receivers may treat our reports as unsigned")
    if isinstance(public_key, Ed25519PublicKey):
        found.append("is an Ed25519 key, which many receivers can't verify yet (RFC 8463): use RSA for reports")
    return found


def _is_same(kind: str, encoded: str, public_key: PublicKey) -> bool:
    try:
        octets = base64.b64decode("".join(encoded.split()), validate=True)
        if isinstance(public_key, Ed25519PublicKey):
            return kind == "ed25519" and octets == public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        published = load_der_public_key(octets)
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        return False
    return (
        kind == "rsa"
        and isinstance(published, RSAPublicKey)
        and published.public_numbers() == public_key.public_numbers()
    )


def _tags(record: bytes) -> dict[str, str] | None:
    """tag-list of RFC 6376 §3.2; None where it is none. Of duplicate tags, which make it invalid, the last counts."""
    found: dict[str, str] = {}
    for field in record.decode("latin-1").removesuffix(";").split(";"):
        match = _TAG.fullmatch(field)
        if match is None:
            return None
        found[match[1]] = match[2]
    return found


def _list(value: str) -> list[str]:
    return [item.strip() for item in value.split(":")]


def _load_key(key_file: Path) -> RSAPrivateKey | Ed25519PrivateKey:
    try:
        with key_file.open("rb") as file:
            octets = file.read(MAX_KEY_FILE_BYTES)
    except OSError as exc:
        raise OperatorError(f"DKIM key file {key_file}: {exc.strerror}") from exc
    key = _seed_key(octets)
    if key is not None:
        return key
    try:
        loaded = load_pem_private_key(octets, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: it is encrypted
        raise OperatorError(
            f"DKIM key file {key_file}: no private key in PEM: {str(exc)[:_MAX_DETAIL_LENGTH]}"
        ) from exc
    if isinstance(loaded, RSAPrivateKey) and loaded.key_size < MIN_RSA_BITS:
        raise OperatorError(f"DKIM key file {key_file}: {loaded.key_size} bits, and at least {MIN_RSA_BITS} are needed")
    if not isinstance(loaded, RSAPrivateKey | Ed25519PrivateKey):
        raise OperatorError(f"DKIM key file {key_file}: neither an RSA nor an Ed25519 key")
    return loaded


def _seed_key(octets: bytes) -> Ed25519PrivateKey | None:
    try:
        seed = base64.b64decode(octets.strip(), validate=True)
    except binascii.Error:
        return None
    return Ed25519PrivateKey.from_private_bytes(seed) if len(seed) == _ED25519_OCTETS else None


def _as_dkimpy_wants(key: RSAPrivateKey | Ed25519PrivateKey) -> tuple[bytes, bytes]:
    """Algorithm and key: PKCS #1 for RSA, the seed for Ed25519."""
    if isinstance(key, RSAPrivateKey):
        return b"rsa-sha256", key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return b"ed25519-sha256", base64.b64encode(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
