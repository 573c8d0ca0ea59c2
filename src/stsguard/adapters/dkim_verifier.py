"""Verifies the DKIM signatures of received report mail with dkimpy: a `ports.ReportVerifier` (RFC 6376 §6, 8460 §3).

dkimpy hashes the header fields and verifies; the tags, the key, the time and the body are looked at before it, so that
it sees only what is bounded, each reason is our own, and what counts is when the mail came. Keys are looked up by our
own resolver, never by dkimpy's. It is done when a mail comes, since keys and signatures expire.
"""

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from stsguard.core.dane import Answer
from stsguard.core.dkim_body import body_hash
from stsguard.core.dkim_tags import Key, Signature, claimed_domain, parse_signature, select_key
from stsguard.core.dkim_verdict import UNSIGNED, DkimStatus, DkimVerdict, SignatureResult, decide_verdict
from stsguard.core.errors import LookupFailed, LookupReason, SignatureInvalid
from stsguard.core.public_suffix import PublicSuffixes
from stsguard.core.received_mail import MAX_MESSAGE_BYTES, mail_header
from stsguard.metrics import Counter
from stsguard.names import Domain

VERIFIED = Counter("received_dkim", "Received report mails, by what came of their DKIM signatures.", "status")

MAX_SIGNATURES = 5  # of one mail; RFC 6376 §6.1 leaves the number to us, and Google's and ARC's make three
MAX_HEADER_BYTES = 128 * 1024  # Postfix' header_size_limit is 100 KiB a field
MAX_HEADER_LINES = 2000

_NO_FIELD = re.compile(rb"^From ", re.MULTILINE)
_END_OF_HEADER = re.compile(rb"\n\r?\n")
_UNUSABLE = frozenset({LookupReason.MALFORMED, LookupReason.CNAME_LOOP})  # asking again gives the same


class TxtLookup(Protocol):
    """The part of `ports.Resolver` that is needed here."""

    def lookup_txt(self, name: Domain) -> Awaitable[Answer[bytes]]:
        """TXT records, strings joined; raises LookupFailed only."""


Keys = Mapping[Domain, Answer[bytes] | LookupFailed]


@dataclass(frozen=True, slots=True)
class SignedMail:
    """A mail taken apart, not verified yet. `signatures` has for each field, by its number, the signature that may be
    valid, or what came of one that can't be; `dkim` is dkimpy's object for the header, None where it can't be read."""

    body: bytes
    dkim: Any
    fields: tuple[tuple[bytes, bytes], ...]
    signatures: tuple[Signature | SignatureResult, ...]
    from_address: str
    submitter: str

    @property
    def key_names(self) -> tuple[Domain, ...]:
        """Where the keys are that verification needs, each once."""
        return tuple(dict.fromkeys(found.key_name for found in self.signatures if isinstance(found, Signature)))


class DkimVerifier:
    """Implements `ports.ReportVerifier`."""

    def __init__(self, resolver: TxtLookup, suffixes: PublicSuffixes) -> None:
        self._resolver = resolver
        self._suffixes = suffixes

    async def verify(self, message: bytes, received_at: datetime) -> DkimVerdict:
        """The verdict on `message`, which came at `received_at`; TEMPORARY where a key could not be looked up."""
        mail = read_signatures(message, received_at)
        if mail is None:
            verdict = UNSIGNED
        else:
            names = mail.key_names
            keys = dict(zip(names, await asyncio.gather(*map(self._lookup, names)), strict=True))
            verdict = await asyncio.to_thread(verify_signatures, mail, keys, self._suffixes)
        VERIFIED.inc(verdict.status.value)
        return verdict

    async def _lookup(self, name: Domain) -> Answer[bytes] | LookupFailed:
        try:
            return await self._resolver.lookup_txt(name)
        except LookupFailed as exc:
            return exc


def read_signatures(message: bytes, received_at: datetime) -> SignedMail | None:
    """The signatures of a mail, the first `MAX_SIGNATURES`; None where there is none. Cheap, whatever is in it."""
    import dkim  # noqa: PLC0415 (it loads a DNS library; only where mail is taken in)

    if message.startswith((b"From ", b">From ")):  # the first line of mbox
        message = message.partition(b"\n")[2]
    end = _END_OF_HEADER.search(message, 0, MAX_HEADER_BYTES)
    head = message[: end.start() + 1] if end else message
    if b"dkim-signature" not in head[:MAX_HEADER_BYTES].lower():
        return None
    known = mail_header(head)
    fault = _bound_fault(message, head)
    if fault is None:
        try:
            signer = dkim.DKIM(head, tlsrpt=True)
        except (dkim.DKIMException, ValueError, IndexError) as exc:
            fault = f"the header can't be read: {str(exc)[:100]!r}"
    if fault is not None:
        failed = SignatureResult(DkimStatus.FAIL, None, "", fault)
        return SignedMail(b"", None, (), (failed,), known.from_address, known.submitter)
    fields = tuple((name, value) for name, value in signer.headers if name.lower() == b"dkim-signature")
    signatures = tuple(_parse(value, received_at) for _, value in fields[:MAX_SIGNATURES])
    if not signatures:
        return None
    body = message[end.end() :] if end else b""
    return SignedMail(body, signer, fields, signatures, known.from_address, known.submitter)


def _bound_fault(message: bytes, head: bytes) -> str | None:
    if len(message) > MAX_MESSAGE_BYTES:
        return f"a mail of {len(message)} bytes, and {MAX_MESSAGE_BYTES} are looked at"
    if len(head) > MAX_HEADER_BYTES:
        return f"the header is longer than {MAX_HEADER_BYTES} bytes"
    if _NO_FIELD.search(head):
        # dkimpy skips such a line, so that nobody signs it, and a mail program takes `From :` for the sender
        # (RFC 5322 §4.5.2).
        return "a line within the header begins with From and a blank"
    lines = head.count(b"\n")
    return f"a header of {lines} lines, and {MAX_HEADER_LINES} are looked at" if lines > MAX_HEADER_LINES else None


def _parse(value: bytes, received_at: datetime) -> Signature | SignatureResult:
    try:
        return parse_signature(value, received_at)
    except SignatureInvalid as exc:
        domain, selector = claimed_domain(value)
        return SignatureResult(DkimStatus.FAIL, domain, selector, str(exc))


def verify_signatures(mail: SignedMail, keys: Keys, suffixes: PublicSuffixes) -> DkimVerdict:
    """The verdict on `mail`, given what was found at each of its `key_names`. It calculates: not for the event loop."""
    hashes: dict[bool, bytes] = {}
    results = [
        found if isinstance(found, SignatureResult) else _verify(mail, number, found, keys[found.key_name], hashes)
        for number, found in enumerate(mail.signatures)
    ]
    return decide_verdict(results, mail.from_address, mail.submitter, suffixes)


def _verify(
    mail: SignedMail,
    number: int,
    signature: Signature,
    answer: Answer[bytes] | LookupFailed,
    hashes: dict[bool, bytes],
) -> SignatureResult:
    def result(status: DkimStatus, reason: str = "") -> SignatureResult:
        covers = (name in signature.signed_fields for name in (b"content-type", b"tls-report-domain"))
        return SignatureResult(status, signature.domain, signature.selector, reason, *covers)

    if isinstance(answer, LookupFailed):
        status = DkimStatus.FAIL if answer.reason in _UNUSABLE else DkimStatus.TEMPORARY
        return result(status, f"the key can't be looked up: {answer}")
    try:
        key = select_key(answer.records, signature)
        _check_body(mail, signature, hashes)
        _check_header(mail, number, signature, key)
    except SignatureInvalid as exc:
        return result(DkimStatus.FAIL, f"{exc} ({signature.key_name})")
    if key.testing:
        # RFC 6376 §3.6.1: "MUST NOT treat messages from Signers in testing mode differently from unsigned email".
        return result(DkimStatus.NONE, f"the key at {signature.key_name} is in test mode (t=y)")
    return result(DkimStatus.PASS)


def _check_body(mail: SignedMail, signature: Signature, hashes: dict[bool, bytes]) -> None:
    relaxed = signature.relaxed_body
    if relaxed not in hashes:  # once for all signatures
        hashes[relaxed] = body_hash(mail.body, relaxed=relaxed)
    if hashes[relaxed] != signature.body_hash:
        raise SignatureInvalid("the body has been changed after it was signed")


def _check_header(mail: SignedMail, number: int, signature: Signature, key: Key) -> None:
    """Let dkimpy hash the header fields and verify; the body it is not asked about."""
    import dkim  # noqa: PLC0415

    def published(_name: bytes, timeout: float = 0) -> bytes:
        return key.record

    tags = {name: value for name, value in signature.tags.items() if name != b"bh"}
    tags[b"a"] = signature.algorithm.encode()
    included: Sequence[bytes] = list(signature.signed_fields)  # dkimpy adds one to it
    try:
        valid = mail.dkim.verify_sig(tags, included, mail.fields[number], published)
    except (dkim.DKIMException, ValueError, TypeError, KeyError, IndexError, AssertionError) as exc:
        raise SignatureInvalid(f"the signature can't be verified: {str(exc)[:80]!r}") from exc
    if not valid:
        raise SignatureInvalid("the signature does not fit: header fields have been changed, or the key is another one")
