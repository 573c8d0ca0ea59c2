"""DKIM-Signature fields and keys as a TLS report has to have them: one row for each rule."""

import base64
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stsguard.core.dkim_tags import (
    MAX_SIGNATURE_BYTES,
    MAX_SIGNED_FIELDS,
    MAX_WHITE_SPACE,
    Key,
    Signature,
    claimed_domain,
    parse_signature,
    parse_tags,
    select_key,
)
from stsguard.core.errors import SignatureInvalid

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
GOOD = {
    "v": "1",
    "a": "rsa-sha256",
    "c": "relaxed/relaxed",
    "d": "Mail.Example.com",
    "s": "sel",
    "h": "From : To:from",
    "bh": "AAAA BBBB",
    "b": "CC\r\n CC==",
}


def field(**changes: str | None) -> bytes:
    tags = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return " ".join(f"{name}={value};" for name, value in tags.items()).encode()


def parsed(**changes: str | None) -> Signature:
    return parse_signature(field(**changes), NOW)


def test_a_good_signature() -> None:
    signature = parsed(i="reports@news.mail.example.com", q="dns/txt", t=str(SECONDS - 5), x=str(SECONDS))
    assert (signature.domain, signature.selector) == ("mail.example.com", "sel")
    assert signature.key_name == "sel._domainkey.mail.example.com"
    assert signature.identity == "news.mail.example.com"
    assert signature.signed_fields == (b"from", b"to", b"from")
    assert signature.body_hash == base64.b64decode("AAAABBBB")
    assert signature.relaxed_body


@pytest.mark.parametrize(
    ("c", "relaxed"),
    [(None, False), ("relaxed", False), ("simple/relaxed", True), ("relaxed/simple", False)],  # RFC 6376 §3.5, c=
)
def test_canonicalisation_of_the_body(c: str | None, relaxed: bool) -> None:
    assert parsed(c=c).relaxed_body is relaxed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"b": None}, "no b="),
        ({"bh": ""}, "no bh="),
        ({"v": "2"}, "unknown version '2'"),
        ({"a": "rsa-sha1"}, "RFC 8301"),  # MUST NOT be used
        ({"a": "rsa-md5"}, "none that counts"),
        ({"l": "100"}, "RFC 8460 §3"),  # MUST NOT be used
        ({"d": "not a name"}, "no name"),
        ({"s": "a..b"}, "no name"),
        ({"i": "@example.com"}, "not beneath d="),
        ({"i": "x@badmail.example.com"}, "not beneath d="),
        ({"h": "to:subject"}, "From is not signed"),  # RFC 6376 §5.4
        ({"h": ":".join(["from"] * (MAX_SIGNED_FIELDS + 1))}, "signed fields"),
        ({"b": "!"}, "b= is no base64"),
        ({"bh": "A"}, "bh= is no base64"),
        ({"c": "relaxed/loose"}, "canonicalisation"),
        ({"c": "nofws"}, "canonicalisation"),
        ({"t": "yesterday"}, "t= is no number"),
        ({"x": "-1"}, "x= is no number"),
        ({"x": str(SECONDS - 1)}, "had expired when the mail came"),
        ({"t": str(SECONDS + 9), "x": str(SECONDS + 9)}, "expires before"),
        ({"q": "dns/other"}, "'dns/other' only"),
        ({"z": "x" * MAX_SIGNATURE_BYTES}, "bytes"),
        ({"z": "x" + " " * (MAX_WHITE_SPACE + 1) + "x"}, "white space"),
    ],
)
def test_a_signature_that_can_not_be_valid(changes: dict[str, str | None], reason: str) -> None:
    with pytest.raises(SignatureInvalid, match=reason):
        parsed(**changes)


@pytest.mark.parametrize(
    ("text", "reason"), [(b"", "no list"), (b"a=1; b", "no list"), (b"1=a", "no list"), (b"a=1;a=2", "twice")]
)
def test_what_is_no_list_of_tags(text: bytes, reason: str) -> None:
    with pytest.raises(SignatureInvalid, match=reason):
        parse_tags(text)


def test_who_a_bad_signature_claims_to_be() -> None:
    assert claimed_domain(field(a="rsa-sha1")) == ("mail.example.com", "sel")
    for bad in (field(d=None), field(d="a b"), b"rubbish", b"d=\xff.example"):
        assert claimed_domain(bad) == (None, "")


def rsa_key(bits: int = 2048) -> str:
    octets = (
        rsa.generate_private_key(65537, bits).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return base64.b64encode(octets).decode()


def exponent_key() -> str:
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    key = rsa.RSAPublicNumbers((1 << 40) + 1, numbers.n).public_key()
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


RSA = rsa_key()
SHORT = rsa_key(1024)
ELLIPTIC = base64.b64encode(
    ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
SEED = base64.b64encode(b"k" * 32).decode()


def key(record: str, *others: str, **changes: str | None) -> Key:
    return select_key((record.encode(), *(other.encode() for other in others)), parsed(**changes))


@pytest.mark.parametrize(
    "record",
    [
        f"v=DKIM1; k=rsa; p={RSA}",
        f"p={RSA[:40]} {RSA[40:]}",  # folded; all else is default
        f"v=DKIM1; s=*; p={RSA}",
        f"v=DKIM1; s=tlsrpt; p={RSA}",
        f"v=DKIM1; s=email : tlsrpt; h=sha1:sha256; t=s; n=note; p={RSA};",
    ],
)
def test_a_key_that_permits_reports(record: str) -> None:
    assert key(record, "v=spf1 -all") == Key(f"v=DKIM1; k=rsa; p={RSA}".encode(), testing=False)


def test_other_good_keys() -> None:
    assert key(f"p={SHORT}")  # RFC 8301 §3.2: verifiers MUST take 1024 bits, which Microsoft has
    assert key(f"t=y:s; p={RSA}").testing
    ed25519 = key(f"k=ed25519; p={SEED}", a="ed25519-sha256")
    assert ed25519 == Key(f"v=DKIM1; k=ed25519; p={SEED}".encode(), testing=False)


@pytest.mark.parametrize(
    ("record", "changes", "reason"),
    [
        ("v=spf1 -all", {}, "no key"),
        ("rubbish", {}, "no key"),
        (f"v=DKIM2; p={RSA}", {}, "unknown version 'DKIM2'"),
        ("v=DKIM1; p=", {}, "revoked"),
        (f"h=sha1; p={RSA}", {}, "SHA-256"),
        (f"s=email; p={RSA}", {}, "not for TLS reports: s='email'"),
        (f"t=s; p={RSA}", {"i": "@news.mail.example.com"}, "t=s"),
        (f"k=ed25519; p={SEED}", {}, "of the kind 'ed25519'"),
        (f"k=other; p={RSA}", {}, "of the kind 'other'"),
        (f"p={RSA}", {"a": "ed25519-sha256"}, "of the kind 'rsa'"),
        ("p=!!!!", {}, "no base64"),
        ("p=AAAA", {}, "can't be read"),
        (f"p={ELLIPTIC}", {}, "no RSA key"),
        (f"k=ed25519; p={RSA}", {"a": "ed25519-sha256"}, "of 294 octets"),
    ],
)
def test_a_key_that_does_not_permit_it(record: str, changes: dict[str, str | None], reason: str) -> None:
    with pytest.raises(SignatureInvalid, match=reason):
        key(record, **changes)


def test_keys_that_are_refused_for_their_size() -> None:
    numbers = rsa.RSAPublicNumbers(65537, (1 << 8191) + 1)
    large = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(SignatureInvalid, match="8192 bits"):
        key(f"p={base64.b64encode(large).decode()}")
    with pytest.raises(SignatureInvalid, match="exponent"):
        key(f"p={exponent_key()}")


def test_several_keys_are_undefined() -> None:
    with pytest.raises(SignatureInvalid, match="2 keys"):
        key(f"p={RSA}", f"p={SHORT}")
