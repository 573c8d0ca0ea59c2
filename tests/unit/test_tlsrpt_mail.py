"""Reports as mail: the form of RFC 8460 §5.3, and the addresses of mailto URIs (RFC 6068)."""

import gzip
import re
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.session import AppliedPolicy, PolicyType
from stsguard.core.tlsrpt_mail import MAX_ADDRESSES, build_mail, mailto_addresses, message_id
from stsguard.core.tlsrpt_report import Report, compress, filename, to_json
from stsguard.names import Domain
from tests.reports import DOMAIN, EXPIRED, STS, TLSA, report, reports, row
from tests.strategies import relaxed

REPORT = report(row(STS, 5326, 303, {EXPIRED: 303}), row(TLSA, 12))
URI = "mailto:reports@example.net"
AT = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)
LONG = Domain(".".join(["a" * 60] * 4))


def mail(built: Report = REPORT, *to: str, domain: Domain = DOMAIN, packed: bytes | None = None) -> bytes:
    return build_mail(
        built,
        to or ("reports@example.net",),
        report_domain=domain,
        sender="noreply@mail.example.com",
        message_id=message_id(built, URI),
        at=AT,
        packed=packed,
    )


def parsed(octets: bytes) -> EmailMessage:
    message = message_from_bytes(octets, policy=policy.SMTP)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    assert not any(part.defects for part in message.walk())
    return message


def header_of(octets: bytes) -> bytes:
    return octets.partition(b"\r\n\r\n")[0]


def test_rfc8460_5_3_the_header() -> None:
    message = parsed(mail())
    assert message["From"] == "noreply@mail.example.com"
    assert message["To"] == "reports@example.net"
    assert message["TLS-Report-Domain"] == "example.net"
    assert message["TLS-Report-Submitter"] == "mail.example.com"
    assert message["MIME-Version"] == "1.0"
    assert message["Message-ID"] == f"<{message_id(REPORT, URI)}>"
    assert message["Date"] == "Sun, 22 Nov 2026 03:04:05 +0000"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "tlsrpt"


def test_rfc8689_5_tls_required_no() -> None:
    assert b"\r\nTLS-Required: No\r\n" in mail()


def test_rfc8460_5_3_the_subject() -> None:
    fields = re.split(rb"\r\n(?![ \t])", header_of(mail()))
    [subject] = [field for field in fields if field.startswith(b"Subject:")]
    # tlsrpt-subject with FWS = ([*WSP CRLF] 1*WSP)
    fws = rb"(?:[ \t]*\r\n)?[ \t]+"
    word = rb"[A-Za-z0-9.+_-]+"
    form = fws.join(
        [rb"Subject: Report", rb"Domain:", word, rb"Submitter:", word, rb"Report-ID:", rb"<%s@%s>" % (word, word)]
    )
    assert re.fullmatch(form, subject)
    assert b"\r\n" in subject
    assert parsed(mail())["Subject"] == (
        f"Report Domain: example.net Submitter: mail.example.com Report-ID: <{REPORT.report_id}@mail.example.com>"
    )


def test_rfc8460_5_3_the_parts() -> None:
    text, attachment = parsed(mail()).iter_parts()
    assert text.get_content_type() == "text/plain"
    assert attachment.get_content_type() == "application/tlsrpt+gzip"
    assert attachment["Content-Transfer-Encoding"] == "base64"
    assert attachment.get_content_disposition() == "attachment"
    assert attachment.get_filename() == filename(REPORT, DOMAIN)
    content = attachment.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert gzip.decompress(content) == to_json(REPORT)


def test_the_text_says_what_it_is() -> None:
    text = next(parsed(mail()).iter_parts()).get_content()
    for line in (
        "  Example Inc.",
        "  example.net",
        "Period:               2026-11-21 00:00:00 to 2026-11-21 23:59:59 UTC",
        "Successful sessions:  5338",
        "Failed sessions:      303",
        f"Report-ID:            {REPORT.report_id}",
        "Contact:              tlsrpt@mail.example.com",
        "Policy sts of example.net:",
        "  5326 successful, 303 failed",
        "  certificate-expired: 303",
        "Policy tlsa of mx.example.net:",
    ):
        assert line in text.splitlines()


def test_the_text_does_not_grow_without_end() -> None:
    policies = [AppliedPolicy(PolicyType.TLSA, f"mx{at}.example.net") for at in range(50)]
    text = next(parsed(mail(report(*(row(policy, 1) for policy in policies)))).iter_parts()).get_content()
    assert text.count("Policy tlsa of") == 20
    assert "and 30 more policies" in text


def test_an_organization_in_any_script() -> None:
    built = replace(REPORT, organization="Käse\r\nBcc: x@example.org " + "ß" * 200)
    text = next(parsed(mail(built)).iter_parts())
    assert text.get_content_charset() == "utf-8"
    assert text["Content-Transfer-Encoding"] == "quoted-printable"
    assert "  Käse Bcc: x@example.org ß" in text.get_content()


def test_the_same_octets_for_the_same_arguments() -> None:
    assert mail() == mail() == mail(packed=compress(to_json(REPORT)))


def test_a_report_packed_before_is_sent_as_it_is() -> None:
    attachment = list(parsed(mail(packed=b"\x1f\x8bas stored")).iter_parts())[1]
    assert attachment.get_payload(decode=True) == b"\x1f\x8bas stored"


def test_message_id_is_one_for_each_destination() -> None:
    assert message_id(REPORT, URI) == message_id(REPORT, URI)
    assert message_id(REPORT, URI) != message_id(REPORT, "mailto:other@example.net")
    assert message_id(REPORT, URI).endswith("@mail.example.com")


@pytest.mark.parametrize(
    ("identifier", "written"),
    [
        ("a<b>\r\nc@d", "a-b---c-d"),
        (".a..b.", "a.b"),
        ("...", "report"),
        ("2026-11-21T00:00:00Z_x", "2026-11-21T00-00-00Z_x"),
    ],
)
def test_rfc5322_report_id_is_a_dot_atom_in_the_subject(identifier: str, written: str) -> None:
    assert f"Report-ID: <{written}@mail.example.com>" in parsed(mail(replace(REPORT, report_id=identifier)))["Subject"]


def test_several_recipients() -> None:
    to = [f"reports{at}@long-name-of-a-department.example.net" for at in range(5)]
    assert parsed(mail(REPORT, *to))["To"] == ", ".join(to)


def test_rfc2231_long_file_names_are_continued() -> None:
    octets = mail(domain=LONG)
    assert b'filename*0="' in octets
    attachment = list(parsed(octets).iter_parts())[1]
    assert attachment.get_filename() == filename(REPORT, LONG)


def test_rfc2231_a_short_file_name_is_one_parameter() -> None:
    built = replace(REPORT, contact="a@b.example", report_id="7")
    assert b'\r\n filename="b.example!example.net!1795219200!1795305599!7.json.gz"\r\n' in mail(built)


@given(reports, st.sampled_from([DOMAIN, LONG, Domain("xn--bcher-kva.example")]))
@relaxed
def test_rfc5322_2_1_1_lines_and_characters(built: Report, domain: Domain) -> None:
    octets = mail(built, domain=domain)
    assert octets.isascii()
    assert octets.endswith(b"\r\n")
    for line in octets.split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line
        words = line.split()
        assert len(line) <= 78 or max(map(len, words)) > 30
        assert len(line) < 998
    message = parsed(octets)
    assert message["TLS-Report-Domain"] == domain
    assert list(message.iter_parts())[1].get_filename() == filename(built, domain)


@pytest.mark.parametrize("sender", ["a@example.com\r\nBcc: b@example.org", "", "ä@example.com", " a@example.com"])
def test_nothing_gets_into_the_header(sender: str) -> None:
    with pytest.raises(ValueError, match="From can't hold"):
        build_mail(REPORT, ["a@example.net"], report_domain=DOMAIN, sender=sender, message_id="1@example.com", at=AT)


def test_the_boundary_is_in_no_part() -> None:
    octets = mail()
    boundary = parsed(octets).get_boundary()
    assert boundary is not None
    assert octets.count(boundary.encode()) == 4


# mailto URIs

ADDRESSES: list[tuple[str, tuple[str, ...]]] = [
    ("mailto:a@example.net", ("a@example.net",)),
    ("MAILTO:a@Example.NET", ("a@example.net",)),
    ("mailto:a@example.net?subject=x&bcc=b@example.org", ("a@example.net",)),  # RFC 6068 §7: ignored
    ("mailto:a@example.net#part", ("a@example.net",)),
    ("mailto:a@example.net?to=b@example.org", ("a@example.net",)),
    ("mailto:tls%21rpt@example.net", ("tls!rpt@example.net",)),  # RFC 8460 §3: %21 within a rua
    ("mailto:tls%2Brpt%25@example.net", ("tls+rpt%@example.net",)),
    ("mailto:a%40b@example.net", ('"a@b"@example.net',)),
    # RFC 6068 §2: %2C belongs to the address ...
    ("mailto:tls%2Crpt@example.net", ('"tls,rpt"@example.net',)),
    ("mailto:%22tls%2Crpt%22@example.net", ('"tls,rpt"@example.net',)),
    # ... but within a rua (RFC 8460 §3) it is the only way to name several.
    ("mailto:a@example.net%2Cb@example.org", ("a@example.net", "b@example.org")),
    ("mailto:a@example.net%2c%20b@example.org", ("a@example.net", "b@example.org")),
    ("mailto:x%2Ca@example.net%2Cb@example.org", ('"x,a"@example.net', "b@example.org")),
    ("mailto:a@example.net,b@example.org", ("a@example.net", "b@example.org")),
    ("mailto:a@example.net,a@EXAMPLE.net", ("a@example.net",)),
    ("mailto:%22not%40me%22@example.org", ('"not@me"@example.org',)),
    ("mailto:%22a%5C%22%2Cb%22@example.org", ('"a\\",b"@example.org',)),
    ("mailto:%22a%20%20b%22@example.org", ('"a  b"@example.org',)),
    ("mailto:a@b%C3%BCcher.example", ()),
    ("mailto:a@xn--bcher-kva.example", ("a@xn--bcher-kva.example",)),
    ("mailto:%C3%A4@example.net", ()),
    ("mailto:a%0D%0ABcc:b@example.org@example.net", ()),
    ("mailto:a%00@example.net", ()),
    ("mailto:a%22@example.net", ()),
    ("mailto:a@[192.0.2.1]", ()),
    ("mailto:a@example..net", ()),
    ("mailto:" + "a" * 65 + "@example.net", ()),
    (f"mailto:{'a' * 20}@{LONG}", ()),
    ("mailto:example.net", ()),
    ("mailto:@example.net", ()),
    ("mailto:%zz@example.net", ("%zz@example.net",)),
    ("mailto:", ()),
    ("mailto:?to=a@example.net", ()),
    ("https://example.net/a@example.net", ()),
    ("a@example.net", ()),
]


@pytest.mark.parametrize(("uri", "addresses"), ADDRESSES, ids=[row[0][:60] for row in ADDRESSES])
def test_rfc6068_addresses_of_a_uri(uri: str, addresses: tuple[str, ...]) -> None:
    assert mailto_addresses(uri) == addresses
    if addresses:
        assert [value.addr_spec for value in parsed(mail(REPORT, *addresses))["To"].addresses] == list(addresses)


def test_one_uri_names_few_addresses() -> None:
    assert len(mailto_addresses("mailto:" + ",".join(f"a{at}@example.net" for at in range(1000)))) == MAX_ADDRESSES
    assert len(mailto_addresses("mailto:" + "%2C".join(f"a{at}@example.net" for at in range(1000)))) == MAX_ADDRESSES


def test_a_long_uri_costs_little() -> None:
    assert mailto_addresses("mailto:" + "%22%2C" * 100_000) == ()


@given(st.text(max_size=60).map("mailto:".__add__))
@relaxed
def test_whatever_a_uri_names_can_stand_in_a_header(uri: str) -> None:
    for address in mailto_addresses(uri):
        assert parsed(mail(REPORT, address))["To"]
