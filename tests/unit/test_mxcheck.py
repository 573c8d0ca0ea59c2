"""What a certificate and a session with an MX host mean (RFC 8461 §4, RFC 8460 §4.3.1, RFC 6125)."""

import warnings
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.certificate_reader import MAX_NAMES_LENGTH, certificate_facts
from stsguard.core.errors import CertificateInvalid, ResultType
from stsguard.core.mxcheck import (
    MAX_UNTRUSTED_NAMES,
    CertificateFacts,
    Finding,
    Judgement,
    LeftOut,
    MxProbe,
    MxVerdict,
    TlsSession,
    agree,
    bounded,
    certificate_holds,
    dns_id_matches,
    judge,
    merge,
    names_to_leave_out,
    postfix_would_match,
)
from stsguard.names import Domain
from tests.unit.chains import NOW, make, raw_dns_names, raw_extension

MX = Domain("mx.example.com")
OTHER = Domain("mx2.example.com")
FOREIGN = Domain("mail.example.net")


def facts(*dns_names: str, cn: str | tuple[str, ...] = ()) -> CertificateFacts:
    common_names = (cn,) if isinstance(cn, str) else cn
    return CertificateFacts(
        subject="CN=x",
        issuer="CN=ca",
        common_name=common_names[0] if common_names else None,
        dns_names=dns_names,
        not_before=NOW,
        not_after=NOW,
        sha256="00",
        common_names=common_names,
    )


# Reading a certificate


def test_the_facts_are_those_of_the_certificate() -> None:
    authority = make("Some CA", ca=True)
    made = make(["first.example", "Second.example"], issuer=authority, names=["MX.Example.COM", "*.example.net"])
    found = certificate_facts(made.der)
    assert found.subject == "CN=Second.example,CN=first.example"
    assert found.issuer == "CN=Some CA"
    assert found.common_name == "first.example"
    assert found.common_names == ("first.example", "second.example")
    assert found.dns_names == ("mx.example.com", "*.example.net")
    assert (found.not_before, found.not_after) == (NOW - timedelta(days=1), NOW + timedelta(days=30))
    assert len(bytes.fromhex(found.sha256)) == 32


def test_a_certificate_may_have_no_names_at_all() -> None:
    found = certificate_facts(make().der)
    assert (found.subject, found.common_name, found.common_names, found.dns_names) == ("", None, (), ())


def test_only_dns_names_of_the_san_count() -> None:
    address = x509.SubjectAlternativeName([x509.RFC822Name("mx.example.com"), x509.IPAddress(ip_address("192.0.2.1"))])
    found = certificate_facts(make("mx.example.com", extensions=[(address, False)]).der)
    assert found.dns_names == ()
    assert postfix_would_match(found, MX)  # OpenSSL looks for a dNSName alone before it goes on to the CN


def test_hostile_text_is_kept_as_it_is_or_cut() -> None:
    made = make("x" * 64, extensions=[raw_dns_names(b"", b"mx.example.com\0.evil.example", "MX.Ä".encode())])
    found = certificate_facts(made.der)
    assert found.dns_names == ("", "mx.example.com\0.evil.example", "MX.Ä")
    assert certificate_facts(make("a\x1b[2J\nb").der).subject == "CN=a\ufffd[2J\ufffdb"
    long = certificate_facts(make(["y" * 60] * 10).der)
    assert len(long.subject) == 200
    assert long.subject.endswith("…")


def test_the_kelvin_sign_is_no_letter_k() -> None:
    found = certificate_facts(make("x", extensions=[raw_dns_names("mx.ban\u212a.example".encode())]).der)
    assert not certificate_holds(found, Domain("mx.bank.example"))
    assert not dns_id_matches("mx.ban\u212a.example", Domain("mx.bank.example"))


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x00",
        make("x").der[:-1],
        make("x").der + b"\0",
        make("x", extensions=[raw_extension("2.5.29.17", b"\xff")]).der,
        make("x", extensions=[raw_extension("2.5.29.17", b"\x30\x02\xa3\x00")]).der,  # an x400Address
        make("x", extensions=[raw_dns_names(b"\xff.example")]).der,  # not UTF-8, let alone ASCII
    ],
)
def test_what_cannot_be_read_is_the_documented_error(der: bytes) -> None:
    with pytest.raises(CertificateInvalid, match="can't be read"):
        certificate_facts(der)


def test_too_many_names_are_the_documented_error() -> None:
    many = ["a" * 63 + ".example"] * (MAX_NAMES_LENGTH // 71 + 1)
    with pytest.raises(CertificateInvalid, match="longer than"):
        certificate_facts(make("x", names=many).der)
    assert len(certificate_facts(make("x", names=many[2:]).der).dns_names) == len(many) - 2


def test_an_unreadable_subject_does_not_hide_the_san() -> None:
    made = make("subject", names=["mx.example.com"])
    # The CN's text becomes UTF-8 that is none; it stands there twice, as subject and as issuer.
    found = certificate_facts(made.der.replace(b"subject", b"\xffubject"))
    assert found.subject == found.issuer == "(unreadable)"
    assert found.common_names == ()
    assert found.dns_names == ("mx.example.com",)


def test_odd_certificates_cause_no_warning() -> None:
    made = make("x")
    der = bytearray(made.der)
    der[der.index(made.certificate.serial_number.to_bytes(20, "big").lstrip(b"\0"))] |= 0x80
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certificate_facts(bytes(der))


GOOD = make("mx.example.com", names=["mx.example.com", "*.example.net"]).der


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_octets_are_facts_or_the_documented_error(changes: list[tuple[int, int]]) -> None:
    der = bytearray(GOOD)
    for position, octet in changes:
        der[position] = octet
    try:
        found = certificate_facts(bytes(der))
    except CertificateInvalid:
        return
    assert isinstance(found.subject, str)
    assert found.not_before.tzinfo is not None


# Names


@pytest.mark.parametrize(
    ("dns_name", "host", "matches"),
    [
        ("mx.example.com", "mx.example.com", True),
        ("MX.Example.Com", "mx.example.com", True),
        ("mx.example.com", "mx2.example.com", False),
        ("example.com", "mx.example.com", False),
        ("mx.example.com", "example.com", False),
        ("mx.example.com.", "mx.example.com", False),
        ("*.example.com", "mx.example.com", True),  # RFC 8461 §4.1's own examples
        ("*.example.com", "example.com", False),
        ("*.example.com", "foo.bar.example.com", False),
        ("*.example.com", "xn--mx-xka.example.com", True),
        ("*.example.com", "_mx.example.com", False),  # a wildcard stands for letters, digits and hyphens
        ("*.bar.example.com", "foo.bar.example.com", True),
        ("m*.example.com", "mx.example.com", False),
        ("*x.example.com", "mx.example.com", False),
        ("*", "mx", False),
        ("*.com", "example.com", False),  # as in OpenSSL
        ("*.*.com", "mx.example.com", False),
        ("mx.*.com", "mx.example.com", False),
        ("**.example.com", "mx.example.com", False),
        ("*..example.com", "mx.example.com", False),
        ("*.-a.example", "mx.-a.example", False),
        ("*.example.com\n", "mx.example.com", False),
        ("", "mx.example.com", False),
        ("mx.example.com\0", "mx.example.com", False),
    ],
)
def test_rfc8461_4_1_a_wildcard_is_the_whole_left_most_label(dns_name: str, host: str, matches: bool) -> None:
    assert dns_id_matches(dns_name, Domain(host)) is matches


@pytest.mark.parametrize(
    ("certificate", "holds", "postfix"),
    [
        (facts("mx.example.com"), True, True),
        (facts("*.example.com"), True, True),
        (facts("mx2.example.com"), False, False),
        (facts("mx2.example.com", cn="mx.example.com"), False, False),  # a SAN puts the CN out of use
        (facts("", cn="mx.example.com"), False, False),  # even one of no use itself
        (facts(cn="mx.example.com"), False, True),
        (facts(cn="*.example.com"), False, True),
        (facts(cn=("a.example", "mx.example.com")), False, True),  # OpenSSL takes any CN
        (replace(facts(cn="mx.example.com"), common_names=()), False, True),
        (facts(cn="mx2.example.com"), False, False),
        (facts(), False, False),
    ],
)
def test_rfc8461_4_2_the_san_alone_counts_but_postfix_takes_a_cn(
    certificate: CertificateFacts, holds: bool, postfix: bool
) -> None:
    assert certificate_holds(certificate, MX) is holds
    assert postfix_would_match(certificate, MX) is postfix


# Sessions


@pytest.mark.parametrize(
    ("session", "judgement"),
    [
        (TlsSession(starttls=False), Judgement(ResultType.STARTTLS_NOT_SUPPORTED, "", False)),
        (
            TlsSession(starttls=False, refusal="STARTTLS-refused-454"),
            Judgement(ResultType.STARTTLS_NOT_SUPPORTED, "STARTTLS-refused-454", False),
        ),
        (
            TlsSession(starttls=True, handshake_error="tls-handshake-failure"),
            Judgement(ResultType.VALIDATION_FAILURE, "tls-handshake-failure", False),
        ),
        (
            TlsSession(starttls=True, verify_code=10, certificate=facts("mx.example.com")),
            Judgement(ResultType.CERTIFICATE_EXPIRED, "certificate_has_expired", False),
        ),
        (
            TlsSession(starttls=True, verify_code=9),
            Judgement(ResultType.CERTIFICATE_NOT_TRUSTED, "certificate_is_not_yet_valid", False),
        ),
        (
            TlsSession(starttls=True, verify_code=18),
            Judgement(ResultType.CERTIFICATE_NOT_TRUSTED, "self-signed_certificate", False),
        ),
        (
            TlsSession(starttls=True, verify_code=20),
            Judgement(ResultType.CERTIFICATE_NOT_TRUSTED, "unable_to_get_local_issuer_certificate", False),
        ),
        (
            TlsSession(starttls=True, verify_code=9999),
            Judgement(ResultType.CERTIFICATE_NOT_TRUSTED, "X509_V_ERR_9999", False),
        ),
        (
            TlsSession(starttls=True, certificate=None),
            Judgement(ResultType.VALIDATION_FAILURE, "certificate-unreadable", True),
        ),
        (TlsSession(starttls=True, certificate=facts("mx.example.com")), Judgement(None, "", True)),
        (
            TlsSession(starttls=True, certificate=facts("mx2.example.com")),
            Judgement(ResultType.CERTIFICATE_HOST_MISMATCH, "", True),
        ),
        (
            TlsSession(starttls=True, certificate=facts(cn="mx.example.com")),
            Judgement(ResultType.CERTIFICATE_HOST_MISMATCH, "no-subjectAltName-dNSName", True),
        ),
    ],
)
def test_rfc8460_4_3_1_result_types(session: TlsSession, judgement: Judgement) -> None:
    assert judge(session, MX) == judgement


def test_of_an_untrusted_certificate_few_names_are_kept() -> None:
    many = facts(*(f"a{number}.example" for number in range(200)), cn=("c.example",) * 200)
    assert bounded(many, trusted=True) is many
    cut = bounded(many, trusted=False)
    assert len(cut.dns_names) == len(cut.common_names) == MAX_UNTRUSTED_NAMES
    few = facts("a.example")
    assert bounded(few, trusted=False) is few


# Verdicts


def probe(
    certificate: CertificateFacts | None = None,
    *,
    result_type: ResultType | None = None,
    trusted: bool = True,
    inconclusive: bool = False,
    minutes: float = 0,
    mx_hostname: Domain = MX,
) -> MxProbe:
    return MxProbe(
        mx_hostname=mx_hostname,
        address=ip_address("192.0.2.1"),
        at=NOW + timedelta(minutes=minutes),
        tls=not inconclusive,
        trusted=trusted and not inconclusive,
        result_type=result_type,
        failure_reason_code="",
        inconclusive=inconclusive,
        dane_matched=None,
        certificate=certificate,
    )


VALID = probe(facts("mx.example.com"))
MISMATCH = probe(facts("mx2.example.com"), result_type=ResultType.CERTIFICATE_HOST_MISMATCH)
UNTRUSTED = probe(facts("mx.example.com"), result_type=ResultType.CERTIFICATE_NOT_TRUSTED, trusted=False)
NO_STARTTLS = probe(result_type=ResultType.STARTTLS_NOT_SUPPORTED, trusted=False)
INCONCLUSIVE = probe(inconclusive=True, minutes=5)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (VALID, VALID, True),
        (VALID, replace(VALID, certificate=replace(facts("mx.example.com"), sha256="ff")), True),
        (MISMATCH, replace(MISMATCH, at=NOW + timedelta(hours=1)), True),
        (MISMATCH, replace(MISMATCH, certificate=facts("mx3.example.com")), False),
        (MISMATCH, replace(MISMATCH, certificate=facts(cn="mx2.example.com")), False),
        (MISMATCH, replace(MISMATCH, certificate=None), False),
        (UNTRUSTED, replace(UNTRUSTED, certificate=facts("other.example")), True),  # nobody vouches for the names
        (UNTRUSTED, replace(UNTRUSTED, certificate=None), True),
        (NO_STARTTLS, NO_STARTTLS, True),
        (NO_STARTTLS, UNTRUSTED, False),
        (VALID, MISMATCH, False),
    ],
)
def test_probes_agree_on_the_result_and_the_names(first: MxProbe, second: MxProbe, expected: bool) -> None:
    assert agree(first, second) is expected


def test_nothing_probed_is_no_verdict() -> None:
    assert merge(MX, []) is None


@pytest.mark.parametrize(
    ("findings", "rfc_valid", "trusted", "confirmed", "certificates"),
    [
        ([Finding(INCONCLUSIVE, False)], None, False, False, 0),
        ([Finding(VALID, False)], True, True, True, 1),
        ([Finding(MISMATCH, False)], False, True, False, 0),
        ([Finding(MISMATCH, True)], False, True, True, 1),
        ([Finding(UNTRUSTED, True)], False, False, True, 0),
        ([Finding(NO_STARTTLS, True)], False, False, True, 0),
        ([Finding(VALID, True), Finding(INCONCLUSIVE, False)], True, True, True, 1),
        ([Finding(VALID, True), Finding(MISMATCH, False)], False, True, False, 1),
        ([Finding(VALID, True), Finding(MISMATCH, True)], False, True, True, 2),
        ([Finding(VALID, True), Finding(VALID, True)], True, True, True, 1),
        ([Finding(MISMATCH, False), Finding(NO_STARTTLS, True)], False, True, True, 0),
        ([Finding(replace(MISMATCH, certificate=None), True)], False, True, True, 0),
    ],
)
def test_a_verdict_is_as_bad_as_the_worst_address(
    findings: list[Finding], rfc_valid: bool | None, trusted: bool, confirmed: bool, certificates: int
) -> None:
    verdict = merge(MX, findings)
    assert verdict is not None
    assert (verdict.rfc_valid, verdict.trusted, verdict.confirmed) == (rfc_valid, trusted, confirmed)
    assert len(verdict.certificates) == certificates


def test_a_verdict_is_as_new_as_its_newest_conclusive_probe() -> None:
    later = replace(VALID, at=NOW + timedelta(minutes=1))
    findings = [Finding(later, True), Finding(VALID, True), Finding(INCONCLUSIVE, False)]
    verdict, unknown = merge(MX, findings), merge(MX, findings[2:])
    assert verdict is not None
    assert verdict.at == later.at
    assert unknown is not None
    assert unknown.at == INCONCLUSIVE.at


# What a reply must not name


def verdict_on(mx_hostname: Domain, *presented: CertificateFacts, confirmed: bool = True) -> MxVerdict:
    """The verdict after trusted chains with these certificates, one an address."""
    findings = [
        Finding(
            probe(
                certificate,
                result_type=None
                if certificate_holds(certificate, mx_hostname)
                else ResultType.CERTIFICATE_HOST_MISMATCH,
                mx_hostname=mx_hostname,
            ),
            confirmed,
        )
        for certificate in presented
    ]
    verdict = merge(mx_hostname, findings)
    assert verdict is not None
    return verdict


def left_out(*verdicts: MxVerdict, permitted: tuple[Domain, ...] = (MX, OTHER)) -> tuple[set[Domain], set[Domain]]:
    found: LeftOut = names_to_leave_out(permitted, {verdict.mx_hostname: verdict for verdict in verdicts})
    return set(found.patterns), set(found.match_names)


def test_valid_hosts_are_all_named() -> None:
    assert left_out(verdict_on(MX, facts(MX)), verdict_on(OTHER, facts(OTHER, MX))) == (set(), set())
    assert left_out() == (set(), set())


def test_rfc8461_4_2_a_host_with_a_cn_and_no_san_is_left_out() -> None:
    assert left_out(verdict_on(MX, facts(cn=MX))) == ({MX}, {MX})
    assert left_out(verdict_on(MX, facts(cn="*.example.com"))) == ({MX}, {MX, OTHER})


def test_rfc8461_4_2_a_host_with_another_permitted_hosts_certificate_is_left_out() -> None:
    assert left_out(verdict_on(MX, facts(OTHER)), verdict_on(OTHER, facts(OTHER))) == ({MX}, {OTHER})
    assert left_out(verdict_on(MX, facts(cn=OTHER))) == ({MX}, {OTHER})


def test_rfc8461_4_1_a_host_that_is_not_permitted_takes_the_names_it_would_pass_with() -> None:
    assert left_out(verdict_on(FOREIGN, facts(MX))) == (set(), {MX})
    assert left_out(verdict_on(FOREIGN, facts(FOREIGN, "*.example.com"))) == (set(), {MX, OTHER})
    assert left_out(verdict_on(FOREIGN, facts(cn=MX))) == (set(), {MX})


def test_a_certificate_that_postfix_refuses_leaves_nothing_out() -> None:
    assert left_out(verdict_on(MX, facts("wrong.example"))) == (set(), set())
    assert left_out(verdict_on(FOREIGN, facts(FOREIGN))) == (set(), set())  # spoofed, with a certificate of its own


def test_unconfirmed_and_inconclusive_probes_leave_nothing_out() -> None:
    assert left_out(verdict_on(MX, facts(cn=MX), confirmed=False)) == (set(), set())
    assert left_out(verdict_on(FOREIGN, facts(MX), confirmed=False)) == (set(), set())
    unknown = merge(MX, [Finding(INCONCLUSIVE, False)])
    assert unknown is not None
    assert left_out(unknown) == (set(), set())


def test_an_untrusted_chain_leaves_nothing_out() -> None:
    verdict = merge(FOREIGN, [Finding(replace(UNTRUSTED, mx_hostname=FOREIGN), True)])
    assert verdict is not None
    assert left_out(verdict) == (set(), set())


def test_a_good_certificate_that_holds_for_a_foreign_host_needs_no_second_probe() -> None:
    assert left_out(verdict_on(FOREIGN, facts(FOREIGN, MX), confirmed=False)) == (set(), {MX})


def test_one_bad_address_is_enough() -> None:
    assert left_out(verdict_on(MX, facts(MX), facts(cn=MX))) == ({MX}, {MX})


@given(
    st.lists(
        st.tuples(
            st.sampled_from([MX, OTHER, FOREIGN]),
            st.lists(st.sampled_from([MX, OTHER, FOREIGN, "*.example.com", "*.example.net"]), max_size=2),
            st.booleans(),
        ),
        max_size=4,
    )
)
def test_postfix_accepts_no_host_by_a_name_that_is_left(
    hosts: list[tuple[Domain, list[str], bool]],
) -> None:
    presented = {
        host: facts(cn=tuple(names)) if by_common_name else facts(*names) for host, names, by_common_name in hosts
    }
    permitted = (MX, OTHER)
    verdicts = {host: verdict_on(host, certificate) for host, certificate in presented.items()}
    found = names_to_leave_out(permitted, verdicts)
    named = [name for name in permitted if name not in found.match_names and name not in found.patterns]
    for host, certificate in presented.items():
        accepted = any(postfix_would_match(certificate, name) for name in named)
        assert not accepted or (host in permitted and certificate_holds(certificate, host))
