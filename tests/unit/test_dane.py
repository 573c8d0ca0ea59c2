"""Usable TLSA records, and chains held against them (RFC 6698, RFC 7671, RFC 7672)."""

import hashlib
import warnings
from collections.abc import Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.dane import MAX_TLSA_RECORDS, TlsaRecord, usable_tlsa
from stsguard.core.danechain import DaneMatch, match_chain, subject_public_key_info
from stsguard.core.errors import CertificateInvalid
from stsguard.names import Domain
from tests.unit.chains import NOW, Made, make, raw_dns_names, raw_extension, tlsa

MX = Domain("mx.example.com")
RSA_KEY = rsa.generate_private_key(65537, 2048)
ROOT = make("root", ca=True)
INTERMEDIATE = make("intermediate", issuer=ROOT, ca=True)
LEAF = make("leaf", issuer=INTERMEDIATE, names=["mx.example.com"])
SHA256, SHA512 = b"1" * 32, b"2" * 64


def good(*records: TlsaRecord) -> None:
    assert usable_tlsa(records) == records


def bad(*records: TlsaRecord) -> None:
    assert usable_tlsa(records) == ()


@pytest.mark.parametrize("usage", [2, 3])
@pytest.mark.parametrize("selector", [0, 1])
def test_rfc7672_3_1_dane_ta_and_dane_ee_are_usable(usage: int, selector: int) -> None:
    good(TlsaRecord(usage, selector, 1, SHA256))
    good(TlsaRecord(usage, selector, 2, SHA512))
    good(tlsa(usage, selector, 0, LEAF))


@pytest.mark.parametrize("usage", [0, 1, 4, 255])
def test_rfc7672_3_1_3_other_usages_are_unusable(usage: int) -> None:
    bad(TlsaRecord(usage, 1, 1, SHA256))


def test_rfc7671_9_malformed_records_are_unusable() -> None:
    bad(TlsaRecord(3, 2, 1, SHA256))  # unknown selector
    bad(TlsaRecord(3, 1, 3, SHA256))  # unknown digest
    bad(TlsaRecord(3, 1, 1, SHA512))  # the other digest's length
    bad(TlsaRecord(3, 1, 2, SHA256))
    bad(TlsaRecord(3, 1, 1, SHA256[:-1]))
    bad(TlsaRecord(3, 1, 1, b""))
    bad(TlsaRecord(3, 1, 0, b""))
    bad(TlsaRecord(3, 0, 0, b""))


def test_rfc6698_4_1_full_data_has_to_be_a_certificate_or_a_key() -> None:
    bad(TlsaRecord(3, 0, 0, LEAF.spki))
    bad(TlsaRecord(3, 1, 0, LEAF.der))
    bad(TlsaRecord(3, 0, 0, LEAF.der + b"\0"))
    bad(TlsaRecord(3, 1, 0, LEAF.spki + b"\0"))
    bad(TlsaRecord(2, 0, 0, LEAF.der[:-1]))


def test_a_certificate_with_an_unreadable_key_is_unusable() -> None:
    # The curve's identifier changed to one that does not exist.
    curve = bytes.fromhex("06082a8648ce3d030107")
    assert LEAF.der.count(curve) == 1
    bad(TlsaRecord(3, 0, 0, LEAF.der.replace(curve, curve[:-1] + b"\x6f")))


def test_rfc7671_9_the_strongest_digest_of_a_usage_and_selector_counts() -> None:
    weak, strong, full = TlsaRecord(3, 1, 1, SHA256), TlsaRecord(3, 1, 2, SHA512), tlsa(3, 1, 0, LEAF)
    assert usable_tlsa([weak, strong]) == (strong,)
    assert usable_tlsa([weak, full, strong]) == (full, strong)
    assert usable_tlsa([weak, full]) == (weak, full)  # Full(0) is no digest and drives out none
    assert usable_tlsa([weak, TlsaRecord(3, 0, 2, SHA512)]) == (weak, TlsaRecord(3, 0, 2, SHA512))
    assert usable_tlsa([weak, TlsaRecord(2, 1, 2, SHA512)]) == (weak, TlsaRecord(2, 1, 2, SHA512))
    assert usable_tlsa([weak, TlsaRecord(3, 1, 2, SHA512[:-1])]) == (weak,)  # agility comes after the unusable


def test_records_count_once_and_are_bounded() -> None:
    record = TlsaRecord(3, 1, 1, SHA256)
    assert usable_tlsa([record, record]) == (record,)
    many = [TlsaRecord(3, 1, 1, number.to_bytes(32, "big")) for number in range(MAX_TLSA_RECORDS + 10)]
    assert usable_tlsa(many) == tuple(many[:MAX_TLSA_RECORDS])


def test_odd_certificates_in_records_cause_no_warning() -> None:
    odd = negative_serial(LEAF)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good(TlsaRecord(3, 0, 0, odd))


def negative_serial(made: Made) -> bytes:
    """The certificate with a serial number below zero, its signature broken by that."""
    der = bytearray(made.der)
    serial = der.index(made.certificate.serial_number.to_bytes(20, "big").lstrip(b"\0"))
    der[serial] |= 0x80
    return bytes(der)


def chain(*made: Made) -> list[bytes]:
    return [one.der for one in made]


def matched(records: Sequence[TlsaRecord], presented: Sequence[bytes], *names: Domain, days: float = 0) -> DaneMatch:
    assert usable_tlsa(records) == tuple(records)
    return match_chain(records, presented, names or (MX,), NOW + timedelta(days=days))


# DANE-EE(3)


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching_type", [0, 1, 2])
def test_rfc7672_3_1_1_dane_ee_matches_the_leaf_and_no_other(selector: int, matching_type: int) -> None:
    assert matched([tlsa(3, selector, matching_type, LEAF)], chain(LEAF, INTERMEDIATE)) is DaneMatch.DANE_EE
    assert matched([tlsa(3, selector, matching_type, INTERMEDIATE)], chain(LEAF, INTERMEDIATE)) is DaneMatch.NO_MATCH


def test_rfc7672_3_1_1_dane_ee_ignores_dates() -> None:
    assert matched([tlsa(3, 1, 1, LEAF)], chain(LEAF), days=4000) is DaneMatch.DANE_EE
    assert matched([tlsa(3, 1, 1, LEAF)], chain(LEAF), days=-4000) is DaneMatch.DANE_EE


def test_rfc7672_3_2_1_dane_ee_ignores_names() -> None:
    assert matched([tlsa(3, 1, 1, LEAF)], chain(LEAF), Domain("other.example.net")) is DaneMatch.DANE_EE


def test_dane_ee_ignores_who_signed_and_for_what() -> None:
    client = make("x", extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)])
    assert matched([tlsa(3, 0, 1, client)], chain(client)) is DaneMatch.DANE_EE
    unreadable = make("x", extensions=[raw_extension("2.5.29.17", b"\xff")])
    assert matched([tlsa(3, 1, 1, unreadable)], chain(unreadable)) is DaneMatch.DANE_EE


def test_any_of_several_records_is_enough() -> None:
    other = make("other")
    assert matched([tlsa(3, 1, 1, other), tlsa(3, 1, 1, LEAF)], chain(LEAF)) is DaneMatch.DANE_EE
    assert matched([tlsa(2, 0, 1, other), tlsa(3, 1, 1, LEAF)], chain(LEAF)) is DaneMatch.DANE_EE
    assert matched([tlsa(3, 1, 1, other), tlsa(2, 0, 1, ROOT)], chain(LEAF, INTERMEDIATE, ROOT)) is DaneMatch.DANE_TA


def test_only_the_first_two_outcomes_authenticate() -> None:
    assert [outcome for outcome in DaneMatch if outcome.authenticated] == [DaneMatch.DANE_EE, DaneMatch.DANE_TA]


def test_no_chain_and_no_record_match_nothing() -> None:
    assert match_chain([tlsa(3, 1, 1, LEAF)], [], [MX], NOW) is DaneMatch.NO_MATCH
    assert match_chain([], chain(LEAF), [MX], NOW) is DaneMatch.NO_MATCH


# DANE-TA(2)


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching_type", [0, 1, 2])
def test_rfc7672_3_1_2_dane_ta_matches_a_certificate_above_the_leaf(selector: int, matching_type: int) -> None:
    presented = chain(LEAF, INTERMEDIATE, ROOT)
    assert matched([tlsa(2, selector, matching_type, ROOT)], presented) is DaneMatch.DANE_TA
    assert matched([tlsa(2, selector, matching_type, INTERMEDIATE)], presented) is DaneMatch.DANE_TA
    assert matched([tlsa(2, selector, matching_type, make("other", ca=True))], presented) is DaneMatch.NO_MATCH


def test_rfc7672_3_1_2_the_anchor_has_to_be_presented() -> None:
    assert matched([tlsa(2, 0, 1, ROOT)], chain(LEAF, INTERMEDIATE)) is DaneMatch.NO_MATCH
    assert matched([tlsa(2, 0, 1, ROOT)], chain(LEAF, ROOT)) is DaneMatch.NO_MATCH  # the one between is missing


def test_rfc7671_5_2_2_a_full_certificate_in_dns_need_not_be_presented() -> None:
    assert matched([tlsa(2, 0, 0, ROOT)], chain(LEAF, INTERMEDIATE)) is DaneMatch.DANE_TA


def test_the_order_of_the_chain_and_strangers_in_it_do_not_matter() -> None:
    stranger = make("stranger", ca=True)
    junk = b"\x30\x03\x02\x01\x05"
    presented = [LEAF.der, ROOT.der, junk, stranger.der, LEAF.der, ROOT.der, INTERMEDIATE.der]
    assert matched([tlsa(2, 0, 1, ROOT)], presented) is DaneMatch.DANE_TA
    assert matched([tlsa(2, 0, 1, stranger)], presented) is DaneMatch.NO_MATCH  # presented, but nobody's issuer


def test_a_leaf_is_no_anchor_of_itself() -> None:
    alone = make("alone", names=["mx.example.com"], ca=True)
    assert matched([tlsa(2, 0, 1, alone)], chain(alone)) is DaneMatch.NO_MATCH


def test_an_issuer_of_the_same_name_with_another_key_is_no_issuer() -> None:
    impostor = make("intermediate", issuer=ROOT, ca=True)
    assert matched([tlsa(2, 0, 1, ROOT)], chain(LEAF, impostor, ROOT)) is DaneMatch.NO_MATCH


def test_certificates_that_sign_each_other_end() -> None:
    key_a, key_b = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    a_self, b_self = make("a", key=key_a, ca=True), make("b", key=key_b, ca=True)
    a, b = make("a", key=key_a, issuer=b_self, ca=True), make("b", key=key_b, issuer=a_self, ca=True)
    leaf = make("leaf", issuer=a, names=[MX])
    assert matched([tlsa(2, 0, 1, ROOT)], chain(leaf, a, b)) is DaneMatch.NO_MATCH
    assert matched([tlsa(2, 0, 1, b)], chain(leaf, a, b)) is DaneMatch.DANE_TA


def test_of_several_ways_to_an_anchor_one_good_one_is_enough() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    expired = make("cross", key=key, issuer=ROOT, ca=True, days=(-20, -10))
    valid = make("cross", key=key, issuer=ROOT, ca=True)
    leaf = make("leaf", issuer=valid, names=[MX])
    records = [tlsa(2, 1, 1, make("cross", key=key))]
    assert matched(records, chain(leaf, expired, valid)) is DaneMatch.DANE_TA


@pytest.mark.parametrize("days", [-2, 31])
def test_rfc7671_5_2_dane_ta_minds_the_dates_below_the_anchor(days: float) -> None:
    long_lived = make("root", ca=True, days=(-4000, 4000))
    leaf = make("leaf", issuer=long_lived, names=[MX])
    assert matched([tlsa(2, 0, 1, long_lived)], chain(leaf, long_lived), days=days) is DaneMatch.OUT_OF_DATE


def test_an_anchors_own_dates_count_only_where_it_signed_itself() -> None:
    expired = make("expired", issuer=ROOT, ca=True, days=(-20, -10))
    leaf = make("leaf", issuer=expired, names=[MX])
    assert matched([tlsa(2, 0, 1, expired)], chain(leaf, expired, ROOT)) is DaneMatch.DANE_TA
    assert matched([tlsa(2, 0, 1, ROOT)], chain(leaf, expired, ROOT)) is DaneMatch.OUT_OF_DATE
    expired_root = make("old root", ca=True, days=(-20, -10))
    leaf = make("leaf", issuer=expired_root, names=[MX])
    assert matched([tlsa(2, 0, 1, expired_root)], chain(leaf, expired_root)) is DaneMatch.OUT_OF_DATE


def test_rfc7672_3_2_2_dane_ta_checks_names_against_every_reference_identifier() -> None:
    records, presented = [tlsa(2, 0, 1, ROOT)], chain(LEAF, INTERMEDIATE, ROOT)
    next_hop = Domain("example.com")
    assert matched(records, presented, next_hop, MX) is DaneMatch.DANE_TA
    assert matched(records, presented, next_hop) is DaneMatch.NAME_MISMATCH
    assert match_chain(records, presented, [], NOW) is DaneMatch.NAME_MISMATCH


@pytest.mark.parametrize(
    ("common_name", "names", "outcome"),
    [
        ("mx.example.com", [], DaneMatch.DANE_TA),  # the CN where there is no DNS-ID
        ("mx.example.com", ["other.example.com"], DaneMatch.NAME_MISMATCH),  # and only then
        ("x", ["*.example.com"], DaneMatch.DANE_TA),
        ("*.example.com", [], DaneMatch.DANE_TA),
        ("x", ["m*.example.com"], DaneMatch.NAME_MISMATCH),
        ("x", ["*.com"], DaneMatch.NAME_MISMATCH),
    ],
)
def test_rfc7672_3_2_3_reference_identifier_matching(common_name: str, names: list[str], outcome: DaneMatch) -> None:
    leaf = make(common_name, issuer=ROOT, names=names)
    assert matched([tlsa(2, 0, 1, ROOT)], chain(leaf, ROOT)) is outcome


def key_usage(*, key_cert_sign: bool) -> tuple[x509.ExtensionType, bool]:
    others = dict.fromkeys(
        ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"], True
    )
    return x509.KeyUsage(
        **others, key_cert_sign=key_cert_sign, crl_sign=False, encipher_only=False, decipher_only=False
    ), True


def extended(*usages: x509.ObjectIdentifier) -> tuple[x509.ExtensionType, bool]:
    return x509.ExtendedKeyUsage(usages), False


CA_CASES = {
    "no basicConstraints": (make("ca", basic_constraints=False), DaneMatch.CHAIN_INVALID),
    "not a CA": (make("ca", ca=False), DaneMatch.CHAIN_INVALID),
    "may not sign certificates": (
        make("ca", ca=True, extensions=[key_usage(key_cert_sign=False)]),
        DaneMatch.CHAIN_INVALID,
    ),
    "may sign certificates": (make("ca", ca=True, extensions=[key_usage(key_cert_sign=True)]), DaneMatch.DANE_TA),
    "for clients only": (
        make("ca", ca=True, extensions=[extended(ExtendedKeyUsageOID.CLIENT_AUTH)]),
        DaneMatch.CHAIN_INVALID,
    ),
    "for servers": (make("ca", ca=True, extensions=[extended(ExtendedKeyUsageOID.SERVER_AUTH)]), DaneMatch.DANE_TA),
    "unreadable extension": (make("ca", ca=True, extensions=[raw_extension("2.5.29.17", b"\xff")]), DaneMatch.NO_MATCH),
}


@pytest.mark.parametrize("case", CA_CASES)
def test_rfc5280_4_2_1_an_issuer_has_to_be_a_ca_for_servers(case: str) -> None:
    authority, outcome = CA_CASES[case]
    leaf = make("leaf", issuer=authority, names=[MX])
    assert matched([tlsa(2, 0, 1, authority)], chain(leaf, authority)) is outcome


@pytest.mark.parametrize(
    ("usage", "outcome"),
    [
        (ExtendedKeyUsageOID.SERVER_AUTH, DaneMatch.DANE_TA),
        (ExtendedKeyUsageOID.CLIENT_AUTH, DaneMatch.CHAIN_INVALID),
        (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, DaneMatch.CHAIN_INVALID),  # OpenSSL's reading
    ],
)
def test_rfc5280_4_2_1_12_the_leaf_has_to_be_for_servers(usage: x509.ObjectIdentifier, outcome: DaneMatch) -> None:
    leaf = make("leaf", issuer=ROOT, names=[MX], extensions=[extended(usage)])
    assert matched([tlsa(2, 0, 1, ROOT)], chain(leaf, ROOT)) is outcome


def test_rfc7671_5_2_1_the_anchors_path_length_applies() -> None:
    short = make("short", ca=True, path_length=0)
    between = make("between", issuer=short, ca=True)
    assert matched([tlsa(2, 0, 1, short)], chain(make("l", issuer=short, names=[MX]), short)) is DaneMatch.DANE_TA
    leaf = make("l", issuer=between, names=[MX])
    assert matched([tlsa(2, 0, 1, short)], chain(leaf, between, short)) is DaneMatch.CHAIN_INVALID
    # A self-issued certificate (a new key of the same CA) does not count (RFC 5280 §4.2.1.9).
    renewed = make("short", issuer=short, ca=True)
    leaf = make("l", issuer=renewed, names=[MX])
    assert matched([tlsa(2, 0, 1, short)], chain(leaf, renewed, short)) is DaneMatch.DANE_TA


@pytest.mark.parametrize(
    ("permitted", "excluded", "outcome"),
    [
        (["example.com"], None, DaneMatch.DANE_TA),
        (["MX.example.com"], None, DaneMatch.DANE_TA),
        ([".example.com"], None, DaneMatch.DANE_TA),
        ([""], None, DaneMatch.DANE_TA),
        (["example.net", "example.com"], None, DaneMatch.DANE_TA),
        (["example.net"], None, DaneMatch.CHAIN_INVALID),
        (["ample.com"], None, DaneMatch.CHAIN_INVALID),
        (None, ["example.com"], DaneMatch.CHAIN_INVALID),
        (None, ["example.net"], DaneMatch.DANE_TA),
        (["com"], ["mx.example.com"], DaneMatch.CHAIN_INVALID),
    ],
)
def test_rfc5280_4_2_1_10_name_constraints_of_a_ca_apply(
    permitted: list[str] | None, excluded: list[str] | None, outcome: DaneMatch
) -> None:
    def subtrees(names: list[str] | None) -> list[x509.GeneralName] | None:
        return [x509.DNSName(name) for name in names] if names else None

    constraints = x509.NameConstraints(subtrees(permitted), subtrees(excluded))
    authority = make("ca", ca=True, extensions=[(constraints, True)])
    leaf = make("leaf", issuer=authority, names=[MX])
    assert matched([tlsa(2, 0, 1, authority)], chain(leaf, authority)) is outcome


def test_name_constraints_on_other_kinds_of_names_do_not_apply() -> None:
    constraints = x509.NameConstraints([x509.RFC822Name("example.net")], None)
    authority = make("ca", ca=True, extensions=[(constraints, True)])
    leaf = make("leaf", issuer=authority, names=[MX])
    assert matched([tlsa(2, 0, 1, authority)], chain(leaf, authority)) is DaneMatch.DANE_TA


BARE_KEYS = {
    "ECDSA": make("ca", ca=True),
    "Ed25519": make("ca", ca=True, key=ed25519.Ed25519PrivateKey.generate()),
    "RSA": make("ca", ca=True, key=RSA_KEY),
}


@pytest.mark.parametrize("kind", BARE_KEYS)
def test_rfc7671_5_2_3_a_bare_key_may_have_signed_the_topmost_certificate(kind: str) -> None:
    authority = BARE_KEYS[kind]
    leaf = make("leaf", issuer=authority, names=[MX])
    assert matched([tlsa(2, 1, 0, authority)], chain(leaf)) is DaneMatch.DANE_TA
    between = make("between", issuer=authority, ca=True)
    below = make("leaf", issuer=between, names=[MX])
    assert matched([tlsa(2, 1, 0, authority)], chain(below, between)) is DaneMatch.DANE_TA
    for other in ({"ECDSA": make("ca", ca=True), **BARE_KEYS}[name] for name in BARE_KEYS if name != kind):
        assert matched([tlsa(2, 1, 0, other)], chain(leaf)) is DaneMatch.NO_MATCH


def test_a_bare_key_of_the_same_kind_that_did_not_sign_is_no_match() -> None:
    assert matched([tlsa(2, 1, 0, make("root", ca=True))], chain(LEAF, INTERMEDIATE)) is DaneMatch.NO_MATCH


def test_a_bare_key_may_have_signed_with_pss() -> None:
    authority = BARE_KEYS["RSA"]
    leaf = make("leaf", issuer=authority, names=[MX], pss=True)
    assert matched([tlsa(2, 1, 0, authority)], chain(leaf)) is DaneMatch.DANE_TA


def test_rfc7671_5_2_3_below_a_bare_key_every_date_counts() -> None:
    between = make("between", issuer=ROOT, ca=True, days=(-20, -10))
    leaf = make("leaf", issuer=between, names=[MX])
    assert matched([tlsa(2, 1, 0, ROOT)], chain(leaf, between)) is DaneMatch.OUT_OF_DATE


def test_a_bare_key_of_a_kind_that_signs_no_certificate_is_no_match() -> None:
    key = x25519.X25519PrivateKey.generate().public_key()
    data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert matched([TlsaRecord(2, 1, 0, data)], chain(LEAF)) is DaneMatch.NO_MATCH


@pytest.mark.parametrize(
    "leaf",
    [
        b"\x30\x03\x02\x01\x05",
        make("leaf", issuer=ROOT, extensions=[raw_extension("2.5.29.17", b"\xff")]).der,
        make("leaf", issuer=ROOT, names=["a" * 60 + ".example"] * 600).der,
    ],
)
def test_a_leaf_that_cannot_be_read_is_not_authenticated_by_an_anchor(leaf: bytes) -> None:
    assert matched([tlsa(2, 0, 1, ROOT)], [leaf, ROOT.der]) is DaneMatch.CHAIN_INVALID


def test_a_long_chain_is_cut() -> None:
    made = [make("root", ca=True)]
    for number in range(20):
        made.append(make(f"ca{number}", issuer=made[-1], ca=True))
    leaf = make("leaf", issuer=made[-1], names=[MX])
    presented = chain(leaf, *reversed(made))
    assert matched([tlsa(2, 0, 1, made[15])], presented) is DaneMatch.DANE_TA
    assert matched([tlsa(2, 0, 1, made[0])], presented) is DaneMatch.NO_MATCH


# The public key, octet for octet


def test_the_public_key_is_cut_out_as_it_stands() -> None:
    assert subject_public_key_info(LEAF.der) == LEAF.spki
    large = make("x" * 60, names=["a" * 60 + ".example"] * 200, key=RSA_KEY)
    assert subject_public_key_info(large.der) == large.spki


def element(tag: int, *content: bytes) -> bytes:
    """A DER element of less than 64 KiB."""
    octets = b"".join(content)
    length = bytes((len(octets),)) if len(octets) < 0x80 else b"\x82" + len(octets).to_bytes(2, "big")
    return bytes((tag,)) + length + octets


VERSION_3, SERIAL, EMPTY = bytes.fromhex("a003020102"), bytes.fromhex("020101"), element(0x30)
SIGNATURE = bytes.fromhex("3000030100")


@pytest.mark.parametrize("version", [VERSION_3, b""])  # version 1 has no such field
@pytest.mark.parametrize("size", [3, 100, 300])
def test_the_public_key_is_the_seventh_field_whatever_its_form(version: bytes, size: int) -> None:
    key = element(0x30, b"k" * size)
    der = element(0x30, element(0x30, version, SERIAL, EMPTY, EMPTY, EMPTY, EMPTY, key), SIGNATURE)
    assert subject_public_key_info(der) == key


def test_a_compressed_point_is_not_written_anew() -> None:
    public_key = LEAF.key.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    point = public_key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = LEAF.spki[2 : 4 + LEAF.spki[3]]
    key = element(0x30, algorithm, element(0x03, b"\0", point))
    der = element(0x30, element(0x30, VERSION_3, SERIAL, EMPTY, EMPTY, EMPTY, EMPTY, key), SIGNATURE)
    assert matched([TlsaRecord(3, 1, 1, hashlib.sha256(key).digest())], [der]) is DaneMatch.DANE_EE
    assert matched([tlsa(3, 1, 1, LEAF)], [der]) is DaneMatch.NO_MATCH


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x30\x80\x00\x00",  # the indefinite form is BER, not DER
        b"\x30\x85\x01\x00\x00\x00\x00",
        b"\x30\x82\x01",
        b"\x30\x10\x30\x10",
        b"\x30\x02\x30\x00",
        element(0x30, element(0x30, SERIAL, EMPTY, EMPTY, EMPTY, EMPTY), SIGNATURE),  # no key in what is signed
        LEAF.der[:200],
    ],
)
def test_what_is_no_certificate_has_no_public_key(der: bytes) -> None:
    with pytest.raises(CertificateInvalid):
        subject_public_key_info(der)
    assert match_chain([tlsa(3, 1, 1, LEAF)], [der], [MX], NOW) is DaneMatch.NO_MATCH


@given(st.binary(max_size=300) | st.builds(lambda cut, tail: LEAF.der[:cut] + tail, st.integers(0, 500), st.binary()))
def test_any_octets_are_a_certificate_or_the_documented_error(der: bytes) -> None:
    try:
        key = subject_public_key_info(der)
    except CertificateInvalid:
        return
    assert key in der


@given(st.integers(0, len(LEAF.der) - 1), st.integers(0, 255))
def test_no_change_of_an_octet_makes_a_chain_fail_otherwise_than_by_an_outcome(position: int, octet: int) -> None:
    der = bytearray(LEAF.der)
    der[position] = octet
    outcome = match_chain([tlsa(2, 0, 1, ROOT)], [bytes(der), INTERMEDIATE.der, ROOT.der], [MX], NOW)
    assert outcome.authenticated == (bytes(der) == LEAF.der)


def test_dns_names_with_other_octets_match_nothing() -> None:
    leaf = make("leaf", issuer=ROOT, extensions=[raw_dns_names(b"mx.example.com\0.example.net", b"mx.e\xc3\xa4")])
    assert matched([tlsa(2, 0, 1, ROOT)], chain(leaf, ROOT)) is DaneMatch.NAME_MISMATCH
