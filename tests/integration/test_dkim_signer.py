"""DKIM signatures of report mail, verified by dkimpy with the key that a nameserver answers; the published key."""

import base64
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dkim
import dns.rcode
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from stsguard.adapters.dkim_signer import SIGNED_FIELDS, DkimSigner, PublicKey, check_published_key
from stsguard.core.errors import OperatorError
from stsguard.core.tlsrpt_mail import build_mail, message_id
from stsguard.names import Domain
from tests.lab.nameserver import Handler, respond, zone
from tests.lab.resolving import ask
from tests.reports import DOMAIN, EXPIRED, STS, report, row

SENDER = Domain("mail.example.com")
SELECTOR = "tlsrpt2026"
NAME = f"{SELECTOR}._domainkey.{SENDER}"
RSA_KEY = rsa.generate_private_key(65537, 2048)
ED25519_KEY = ed25519.Ed25519PrivateKey.generate()
Key = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def pem(
    key: Key, form: PrivateFormat = PrivateFormat.PKCS8, encryption: KeySerializationEncryption | None = None
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def seed(key: ed25519.Ed25519PrivateKey) -> bytes:
    return base64.b64encode(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())) + b"\n"


def published(key: PublicKey, tags: str = "v=DKIM1; k={k}; s=tlsrpt; p={p}") -> str:
    """The TXT record of `key`."""
    if isinstance(key, rsa.RSAPublicKey):
        octets, kind = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "rsa"
    else:
        octets, kind = key.public_bytes(Encoding.Raw, PublicFormat.Raw), "ed25519"
    return tags.format(k=kind, p=base64.b64encode(octets).decode())


def txt(*texts: str) -> Handler:
    """A nameserver with these TXT records, cut into strings of 255 octets."""

    def strings(text: str) -> str:
        return " ".join(f'"{text[at : at + 255]}"' for at in range(0, max(1, len(text)), 255))

    return zone(*(f"{NAME}. 300 IN TXT {strings(text)}" for text in texts))


def signer(tmp_path: Path, content: bytes) -> DkimSigner:
    file = tmp_path / "dkim.pem"
    file.write_bytes(content)
    return DkimSigner(domain=SENDER, selector=SELECTOR, key_file=file)


def mail() -> bytes:
    built = report(row(STS, 5326, 303, {EXPIRED: 303}))
    return build_mail(
        built,
        ["reports@example.net", '"not@me"@example.org'],
        report_domain=DOMAIN,
        sender=f"noreply@{SENDER}",
        message_id=message_id(built, "mailto:reports@example.net"),
        at=datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC),
    )


async def verified(message: bytes, key: PublicKey) -> bool:
    """Whether a receiver that insists on s=tlsrpt takes the signature."""
    answer = await ask(txt(published(key)), lambda resolver: resolver.lookup_txt(Domain(NAME)))
    [record] = answer.records

    def lookup(name: bytes, timeout: float = 0) -> bytes | None:
        return record if name == f"{NAME}.".encode() else None

    try:
        return bool(dkim.DKIM(message, tlsrpt="strict").verify(dnsfunc=lookup))
    except dkim.ValidationError:  # the body's hash is another one
        return False


KEYS: list[tuple[str, bytes, PublicKey]] = [
    ("RSA in PKCS #8", pem(RSA_KEY), RSA_KEY.public_key()),
    ("RSA in PKCS #1", pem(RSA_KEY, PrivateFormat.TraditionalOpenSSL), RSA_KEY.public_key()),
    ("Ed25519 in PKCS #8", pem(ED25519_KEY), ED25519_KEY.public_key()),
    ("Ed25519 seed", seed(ED25519_KEY), ED25519_KEY.public_key()),
]


@pytest.mark.parametrize(("content", "key"), [item[1:] for item in KEYS], ids=[item[0] for item in KEYS])
async def test_rfc6376_signature_verifies(tmp_path: Path, content: bytes, key: PublicKey) -> None:
    message = mail()
    signed = signer(tmp_path, content).sign(message)
    assert signed.endswith(message)
    assert await verified(signed, key)


async def test_rfc8460_3_what_the_signature_says(tmp_path: Path) -> None:
    signed = signer(tmp_path, pem(RSA_KEY)).sign(mail())
    field = signed.partition(b"\r\nFrom:")[0]
    assert all(len(line) <= 78 for line in field.split(b"\r\n"))
    tags = dict(
        item.strip().split("=", 1) for item in field.decode().removeprefix("DKIM-Signature:").split(";") if item.strip()
    )
    assert "l" not in tags  # "DKIM signatures MUST NOT use the "l=" attribute"
    assert tags["c"] == "relaxed/relaxed"
    assert tags["a"] == "rsa-sha256"
    assert (tags["d"], tags["s"]) == (SENDER, SELECTOR)
    names = [name.strip() for name in tags["h"].split(":")]
    assert set(names) == {name.decode().lower() for name in SIGNED_FIELDS}


@pytest.mark.parametrize(
    ("found", "put"),
    [
        (b"TLS-Report-Domain: example.net", b"TLS-Report-Domain: example.org"),
        (b"TLS-Report-Submitter: mail", b"TLS-Report-Submitter: mai1"),
        (b"TLS-Required: No", b"TLS-Required: Yes"),
        (b"Subject: Report", b"Subject: A report"),
        (b"\r\nTo: ", b"\r\nTo: x@example.org, "),
        (b"aggregate report", b"aggregate repast"),
        (b"\r\nFrom:", b"\r\nFrom: x@example.org\r\nFrom:"),  # RFC 6376 §8.15
        (b"\r\nSubject:", b"\r\nSubject: x\r\nSubject:"),
        (b"\r\nTLS-Report-Domain:", b"\r\nTLS-Report-Domain: x\r\nTLS-Report-Domain:"),
    ],
)
async def test_rfc8460_5_3_what_the_signature_covers(tmp_path: Path, found: bytes, put: bytes) -> None:
    signed = signer(tmp_path, pem(RSA_KEY)).sign(mail())
    assert found in signed
    assert not await verified(signed.replace(found, put, 1), RSA_KEY.public_key())


async def test_another_line_end_or_fold_changes_nothing(tmp_path: Path) -> None:
    """What a sendmail program and a relay do to a message on its way (RFC 6376 §3.4, relaxed)."""
    signed = signer(tmp_path, pem(RSA_KEY)).sign(mail())
    unfolded = signed.replace(b"\r\n Submitter:", b" Submitter:").replace(b"\r\nDate: ", b"\r\nDate:   ")
    assert unfolded != signed
    assert await verified(unfolded.replace(b"\r\n", b"\n"), RSA_KEY.public_key())


# Key files


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no private key in PEM"),
        (b"nonsense", "no private key in PEM"),
        (b"AAAA", "no private key in PEM"),
        (pem(RSA_KEY, encryption=BestAvailableEncryption(b"x")), "no private key in PEM: Password was not given"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "neither an RSA nor an Ed25519 key"),
    ],
    ids=["empty", "nonsense", "short", "encrypted", "EC"],
)
def test_key_file_without_a_key(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(OperatorError, match=why) as caught:
        signer(tmp_path, content)
    assert str(tmp_path / "dkim.pem") in str(caught.value)


def test_rfc8301_3_2_short_rsa_keys_are_refused(tmp_path: Path) -> None:
    made = subprocess.run(["openssl", "genrsa", "768"], capture_output=True, check=True).stdout
    with pytest.raises(OperatorError, match=r"dkim\.pem: 768 bits, and at least 1024 are needed"):
        signer(tmp_path, made)


def test_key_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"absent\.pem: No such file or directory"):
        DkimSigner(domain=SENDER, selector=SELECTOR, key_file=tmp_path / "absent.pem")
    with pytest.raises(OperatorError, match="Is a directory"):
        DkimSigner(domain=SENDER, selector=SELECTOR, key_file=tmp_path)


@pytest.mark.parametrize("selector", ["", "a b", "ä b", "x" * 64])
def test_selector_has_to_be_a_name(tmp_path: Path, selector: str) -> None:
    with pytest.raises(OperatorError, match="DKIM selector"):
        DkimSigner(domain=SENDER, selector=selector, key_file=tmp_path)


def test_dkimpy_is_loaded_only_to_sign() -> None:
    code = "import sys, stsguard.adapters.dkim_signer; sys.exit('dkim' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The published key

GOOD = published(RSA_KEY.public_key())
OTHER = rsa.generate_private_key(65537, 2048).public_key()
PUBLISHED: list[tuple[str, Handler, list[str]]] = [
    ("as it should be", txt(GOOD), []),
    ("all services", txt(published(RSA_KEY.public_key(), "v=DKIM1; p={p}")), []),
    ("no version", txt(published(RSA_KEY.public_key(), "p={p};")), []),
    ("any service", txt(published(RSA_KEY.public_key(), "v=DKIM1; s=*; p={p}; t=s; h=sha1:sha256; n=a note")), []),
    ("beside mail", txt(published(RSA_KEY.public_key(), "v=DKIM1; s=email : tlsrpt; p={p}")), []),
    ("another record beside it", txt(GOOD, "something else"), []),
    ("missing", zone(), ["there is no DKIM key at"]),
    ("no key", txt("v=DKIM1; s=tlsrpt"), ["there is no DKIM key at"]),
    ("no tag list", txt("v=DKIM1 p"), ["there is no DKIM key at"]),
    ("two keys", txt(GOOD, published(OTHER)), ["there are 2 DKIM keys at"]),
    ("revoked", txt("v=DKIM1; p="), ["has been revoked"]),
    ("another key", txt(published(OTHER)), ["is another one than that of the key file"]),
    ("another kind", txt(published(ED25519_KEY.public_key())), ["is another one than that of the key file"]),
    ("another kind of tag", txt(published(RSA_KEY.public_key(), "k=ed25519; p={p}")), ["is another one"]),
    ("no base64", txt("v=DKIM1; p=Mlf4qwSZfase4fa=="), ["is another one than that of the key file"]),
    ("no key in it", txt("v=DKIM1; p=AAAA"), ["is another one than that of the key file"]),
    ("for mail only", txt(published(RSA_KEY.public_key(), "s=email; p={p}")), ["excludes TLS reports: its s="]),
    ("test mode", txt(published(RSA_KEY.public_key(), "t=s:y; p={p}")), ["is in test mode (t=y)"]),
    ("SHA-1 only", txt(published(RSA_KEY.public_key(), "h=sha1; p={p}")), ["does not permit SHA-256"]),
    ("another version", txt(published(RSA_KEY.public_key(), "v=DKIM2; p={p}")), ["is of another version than DKIM1"]),
    ("several", txt(published(OTHER, "t=y; s=email; p={p}")), ["is another one", "excludes TLS", "is in test mode"]),
    ("servfail", lambda query, _tcp: [respond(query, rcode=dns.rcode.SERVFAIL)], ["can't be looked up"]),
]


@pytest.mark.parametrize(("handler", "expected"), [item[1:] for item in PUBLISHED], ids=[item[0] for item in PUBLISHED])
async def test_rfc6376_3_6_1_published_key(handler: Handler, expected: list[str]) -> None:
    warnings = await ask(
        handler, lambda resolver: check_published_key(resolver, SENDER, SELECTOR, RSA_KEY.public_key())
    )
    assert len(warnings) == len(expected)
    for warning, part in zip(warnings, expected, strict=True):
        assert NAME in warning
        assert part in warning


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (published(ED25519_KEY.public_key()), 1),
        (published(ed25519.Ed25519PrivateKey.generate().public_key()), 2),
        (published(ED25519_KEY.public_key(), "p={p}"), 2),
    ],
    ids=["ours", "another", "no kind"],
)
async def test_rfc8463_published_ed25519_key(record: str, expected: int) -> None:
    public_key = ED25519_KEY.public_key()
    warnings = await ask(txt(record), lambda resolver: check_published_key(resolver, SENDER, SELECTOR, public_key))
    assert len(warnings) == expected
    assert "use RSA for reports" in warnings[-1]
