"""DKIM verdicts on mail that is really signed, with keys that a nameserver answers."""

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import dns.rcode
import pytest

from stsguard.adapters.dkim_verifier import (
    MAX_HEADER_BYTES,
    MAX_HEADER_LINES,
    MAX_SIGNATURES,
    DkimVerifier,
)
from stsguard.adapters.public_suffix_file import SYSTEM_LIST, load_public_suffixes
from stsguard.adapters.resolver import DnsResolver
from stsguard.core.dkim_verdict import DkimStatus, DkimVerdict
from stsguard.core.public_suffix import PublicSuffixes
from tests.lab.nameserver import Handler, Nameserver, respond, zone
from tests.signing import MAIL, SELECTOR, ed25519_key, published, rsa_key, signed, signed_otherwise

SUFFIXES = PublicSuffixes(["com", "net", "co.uk"])
NAME = f"{SELECTOR}._domainkey.mail.example.com"
KEY = published(rsa_key())


def txt(*records: str, name: str = NAME) -> Handler:
    def strings(text: str) -> str:
        return " ".join(f'"{text[begin : begin + 255]}"' for begin in range(0, len(text), 255))

    return zone(*(f"{name}. 300 IN TXT {strings(record)}" for record in records))


def broken(rcode: dns.rcode.Rcode) -> Handler:
    return lambda query, _over_tcp: [respond(query, rcode=rcode)]


async def verify(
    message: bytes, handler: Handler, *, received_at: datetime | None = None, timeout_seconds: float = 5.0
) -> DkimVerdict:
    async with Nameserver(handler) as nameserver:
        resolver = DnsResolver([nameserver.address], timeout_seconds=timeout_seconds)
        return await DkimVerifier(resolver, SUFFIXES).verify(message, received_at or datetime.now(UTC))


@pytest.mark.parametrize(
    "tags", ["p={p}", "v=DKIM1; k={k}; s=tlsrpt; p={p}", "v=DKIM1; k={k}; s=email:tlsrpt; t=s; p={p}"]
)
async def test_signed_with_rsa(tags: str) -> None:
    verdict = await verify(signed(), txt(published(rsa_key(), tags)))
    assert verdict == DkimVerdict(DkimStatus.PASS, verdict.domain, SELECTOR, "", True, True, None, True, True)
    assert (verdict.reporter, verdict.counts) == ("mail.example.com", True)


async def test_whether_content_type_is_signed_is_told() -> None:
    verdict = await verify(signed_otherwise(), txt(KEY))
    assert (verdict.counts, verdict.content_type_signed) == (True, False)


async def test_signed_with_ed25519() -> None:
    message = signed(key=ed25519_key())
    verdict = await verify(message, txt(published(ed25519_key())))
    assert (verdict.status, verdict.counts) == (DkimStatus.PASS, True)
    assert (await verify(message.replace(b"of the day", b"of a day"), txt(published(ed25519_key())))).counts is False


@pytest.mark.parametrize("body", [b"simple", b"relaxed"])
@pytest.mark.parametrize("header", [b"simple", b"relaxed"])
async def test_every_canonicalisation(header: bytes, body: bytes) -> None:
    message = signed_otherwise(canonicalize=(header, body))
    assert (await verify(message, txt(KEY))).status is DkimStatus.PASS
    assert (await verify(message.replace(b"\r\n", b"\n"), txt(KEY))).status is DkimStatus.PASS, "as from a file"
    assert (await verify(b"From x Sun Mar  1\n" + message, txt(KEY))).status is DkimStatus.PASS, "as from mbox"


@pytest.mark.parametrize(
    ("message", "records", "reason"),
    [
        (signed().replace(b"of the day", b"of a day"), [KEY], "body has been changed"),
        (signed().replace(b"Domain: example.net", b"Domain: example.org"), [KEY], "header fields"),
        (signed().replace(b"From:", b"From: a@example.org\r\nFrom:"), [KEY], "header fields"),
        (signed(), [], "no key"),  # expired: the key has been taken out of DNS
        (signed(), ["v=DKIM1; p="], "revoked"),
        (signed(), [published(rsa_key(), "v=DKIM1; s=email; p={p}")], "s='email'"),
        (signed(), [published(rsa_key(1024))], "another one"),
        (signed(), [published(ed25519_key())], "of the kind"),
        (signed(), [KEY, published(rsa_key(1024))], "2 keys"),
        (signed_otherwise(length=True), [KEY], "l="),
        (signed_otherwise(algorithm=b"rsa-sha1"), [KEY], "RFC 8301"),
        (signed_otherwise(extra=((b"t", b"1000"), (b"x", b"2000"))), [KEY], "expired"),
        (b"DKIM-Signature: v=1; rubbish\r\n" + MAIL, [KEY], "no list of tags"),
        (b" folded into nothing\r\n" + signed(), [KEY], "can't be read"),
        (b"rubbish\r\n" + signed(), [KEY], "can't be read"),
    ],
)
async def test_what_fails(message: bytes, records: list[str], reason: str) -> None:
    verdict = await verify(message, txt(*records, "unrelated"))
    assert (verdict.status, verdict.reporter, verdict.counts) == (DkimStatus.FAIL, None, False)
    assert reason in verdict.reason


@pytest.mark.parametrize("message", [MAIL, b"", b"\r\n" + signed(), b"x: dkim-signature\r\n\r\n"])
async def test_a_mail_without_signature(message: bytes) -> None:
    assert (await verify(message, txt(KEY))).status is DkimStatus.NONE


async def test_a_key_in_test_mode_makes_it_unsigned() -> None:
    verdict = await verify(signed(), txt(published(rsa_key(), "t=y; p={p}")))
    assert (verdict.status, verdict.reporter) == (DkimStatus.NONE, None)
    assert "t=y" in verdict.reason


async def test_what_counts_is_when_the_mail_came() -> None:
    """Google's signatures expire after seven days (x=); one that came in time stays good."""
    now = datetime.now(UTC)
    made = int((now - timedelta(days=9)).timestamp())
    message = signed_otherwise(extra=((b"t", b"%d" % made), (b"x", b"%d" % (made + 7 * 86_400))))
    assert (await verify(message, txt(KEY))).status is DkimStatus.FAIL
    assert (await verify(message, txt(KEY), received_at=now - timedelta(days=8))).status is DkimStatus.PASS


@pytest.mark.parametrize("handler", [broken(dns.rcode.SERVFAIL), broken(dns.rcode.REFUSED), lambda *_: []])
async def test_a_failed_look_up_is_temporary(handler: Handler) -> None:
    verdict = await verify(signed(), handler, timeout_seconds=0.3)
    assert (verdict.status, verdict.domain) == (DkimStatus.TEMPORARY, "mail.example.com")
    assert "can't be looked up" in verdict.reason


async def test_a_look_up_that_will_always_fail_is_not() -> None:
    """More records than anyone reads; asked again it would be the same."""
    assert (await verify(signed(), txt(*(f"record {n}" for n in range(21))))).status is DkimStatus.FAIL


async def test_of_several_signatures_the_good_one_counts() -> None:
    """As a report that a mailing list or a provider has signed as well."""
    other = signed(domain="provider.net")
    added = other[: -len(MAIL)]
    keys = [f'{SELECTOR}._domainkey.{domain}. 300 IN TXT "v=DKIM1; ' for domain in ("provider.net", "mail.example.com")]
    text = '" "'.join(re.findall(".{1,200}", KEY.removeprefix("v=DKIM1; ")))
    both = zone(*(f'{key}" "{text}"' for key in keys))
    verdict = await verify(added + signed(), both)
    assert (verdict.status, verdict.domain, verdict.counts) == (DkimStatus.PASS, "mail.example.com", True)
    verdict = await verify(added + signed().replace(b"b=", b"b=BBBB"), both)
    assert (verdict.status, verdict.domain, verdict.counts) == (DkimStatus.PASS, "provider.net", False)
    assert "not the organisation in From" in verdict.reason


async def test_only_so_many_signatures_are_looked_at() -> None:
    bad = b"DKIM-Signature: v=1\r\n"
    assert (await verify(bad * (MAX_SIGNATURES - 1) + signed(), txt(KEY))).status is DkimStatus.PASS
    assert (await verify(bad * MAX_SIGNATURES + signed(), txt(KEY))).status is DkimStatus.FAIL


@pytest.mark.parametrize("line", [b"From : x@mail.example.com\r\n", b"From x@mail.example.com\r\n"])
async def test_rfc6376_5_4_a_from_line_that_is_not_hashed_fails(line: bytes) -> None:
    """dkimpy skips it, so that whoever reads it believes what nobody signed."""
    verdict = await verify(b"Received: by x\r\n" + line + signed(), txt(KEY))
    assert (verdict.status, verdict.reason) == (
        DkimStatus.FAIL,
        "a line within the header begins with From and a blank",
    )


BLANKS = b" " * (9 << 20)
HOSTILE = {
    "9 MB of blanks": MAIL + BLANKS,
    "9 MB of empty lines": MAIL + b"\r\n" * (9 << 19),
    "9 MB of bare CR": MAIL + b"\r" * (9 << 20),
    "a header of blanks": b"X: " + b" " * (MAX_HEADER_BYTES - 8000) + b"\r\n" + MAIL,
    "a header of many fields": b"".join(b"x%d: y\r\n" % n for n in range(MAX_HEADER_LINES - 40)) + MAIL,
    "a header of many lines": b"X: y\r\n" + b" y\r\n" * (MAX_HEADER_LINES * 20) + MAIL,
    "a header without end": b"X: y\r\n" * (2 << 20),
    "a signature of blanks": MAIL,
}
HOW = """
import asyncio, resource, sys, time
from datetime import UTC, datetime
import dkim, cryptography.hazmat.primitives.serialization
from stsguard.adapters.dkim_verifier import DkimVerifier
from stsguard.core.dane import Answer, AnswerStatus
from stsguard.core.public_suffix import PublicSuffixes
class Resolver:
    async def lookup_txt(self, name):
        return Answer(AnswerStatus.FOUND, (sys.argv[1].encode(),), name, 300, False)
message = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.process_time()
verdict = asyncio.run(DkimVerifier(Resolver(), PublicSuffixes(())).verify(message, datetime.now(UTC)))
print(verdict.status, time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_built_to_cost_much_costs_little(name: str) -> None:
    """Under three seconds of processor time and 100 MB, five signatures included: all of them are good."""
    assert MAX_SIGNATURES == 5
    message = HOSTILE[name]
    fields = [b"x%d" % n for n in range(150)] + [b"from"]
    # What is in the header is signed by nobody: it is hashed all the same.
    message_signed = message if message.startswith(MAIL) else MAIL
    once = signed_otherwise(message_signed, fields=fields)
    field = once[: len(once) - len(message_signed)]
    if name == "a signature of blanks":
        field = b"DKIM-Signature: v=1; b" + b"\r\n " * 4000 + b"x\r\n"
    done = subprocess.run([sys.executable, "-c", HOW, KEY], input=field * 5 + message, capture_output=True, check=True)
    status, seconds, kilobytes = done.stdout.split()
    assert float(seconds) < 3, status
    assert int(kilobytes) < 100 * 1024, status


def test_the_list_of_the_system(tmp_path: object) -> None:
    """Debian's package publicsuffix; without it the rule is narrower."""
    assert not load_public_suffixes(SYSTEM_LIST.parent / "nothing")
    if not SYSTEM_LIST.exists():
        pytest.skip("the package publicsuffix is not installed")
    suffixes = load_public_suffixes()
    assert suffixes.organizational_domain("a.b.example.co.uk") == "example.co.uk"  # type: ignore[arg-type]
