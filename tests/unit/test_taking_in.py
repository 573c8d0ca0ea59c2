"""From what came in to what is stored: how each report counts, and why the rest is none."""

import gzip
import io
import json
import re
import zipfile
import zlib
from dataclasses import replace
from datetime import datetime

import pytest

from stsguard.core import taking_in
from stsguard.core.arrival import Arrival, SpoolEntry, Via
from stsguard.core.dkim_verdict import UNSIGNED, DkimStatus, DkimVerdict
from stsguard.core.received_mail import MAX_MESSAGE_BYTES
from stsguard.core.received_record import ReceivedIntake, Signer, Standing
from stsguard.core.received_report import ReceivedReport, WarningCode
from stsguard.core.taking_in import NO_REPORT, IntakeRules, refused, take_in
from stsguard.core.tlsrpt_report_received import parse_received
from stsguard.core.unpack import Limits
from stsguard.names import Domain
from tests.received import NOW, policy, report_json
from tests.report_mail import report_mail

PASS = DkimVerdict(DkimStatus.PASS, Domain("sender.example"), "s1", "", True, True)
RULES = IntakeRules()


def taken(octets: bytes, verdict: DkimVerdict = PASS, rules: IntakeRules = RULES, **arrival: object) -> ReceivedIntake:
    return take_in(SpoolEntry(Arrival(Via.MILTER, NOW, **arrival), octets), verdict, rules)  # type: ignore[arg-type] # as named


def posted(octets: bytes, via: Via = Via.HTTPS, rules: IntakeRules = RULES) -> ReceivedIntake:
    arrival = Arrival(via, NOW, media_type="application/tlsrpt+json" if via is Via.HTTPS else "")
    return take_in(SpoolEntry(arrival, octets), UNSIGNED, rules)


def test_signed_mail_counts_for_its_signer() -> None:
    mail = report_mail(subject="Report Domain: a.example")
    intake = taken(mail)
    (document,) = intake.documents
    assert (document.standing, document.reporter, document.packing) == (Standing.COUNTED, "sender.example", "gzip")
    assert (document.domains, document.foreign) == (("a.example",), (False,))
    assert (zlib.decompress(intake.raw), intake.raw_length) == (mail, len(mail))
    assert intake.signer == Signer("pass", "sender.example", "s1", "", aligned=True)
    assert (intake.mail.from_address, intake.mail.submitter) == ("noreply@sender.example", "sender.example")
    assert intake.refusals == ()


@pytest.mark.parametrize(
    "verdict",
    [
        UNSIGNED,
        replace(PASS, status=DkimStatus.FAIL, reason="the body has been changed"),
        replace(PASS, status=DkimStatus.TEMPORARY),
        replace(PASS, from_aligned=False),
        replace(PASS, submitter_aligned=False),
    ],
)
def test_rfc8460_3_mail_without_a_valid_aligned_signature_does_not_count(verdict: DkimVerdict) -> None:
    intake = taken(report_mail(), verdict)
    assert [(each.standing, each.reporter) for each in intake.documents] == [(Standing.UNSIGNED, "")]
    assert not intake.signer.aligned
    assert intake.signer.status == verdict.status.value


def test_rfc6376_8_15_a_mail_whose_structure_is_not_signed_does_not_count() -> None:
    intake = taken(
        b"Content-Type: multipart/mixed; boundary=b1\r\n" + report_mail(), replace(PASS, content_type_signed=True)
    )
    assert [(each.standing, each.reporter) for each in intake.documents] == [(Standing.UNSIGNED, "")]
    assert (intake.signer.status, intake.signer.aligned) == ("pass", False)
    assert "Content-Type twice" in intake.signer.reason


def test_forwarded_report_is_vouched_for_by_nobody() -> None:
    outer = b"From: me@sender.example\r\nContent-Type: message/rfc822\r\n\r\n" + report_mail()
    assert [each.standing for each in taken(outer).documents] == [Standing.UNSIGNED]


@pytest.mark.parametrize(
    ("octets", "reasons"),
    [
        (b"Subject: hello\r\n\r\nhow are you\r\n", (NO_REPORT,)),
        (b"", ("neither a mail nor a report: it is empty",)),
        (
            report_mail(b"{}"),
            ("application/tlsrpt.gzip: JSON, but no TLS report: it has neither policies nor a date-range",),
        ),
        (report_mail().replace(b"H4sI", b"H4sI/"), ("application/tlsrpt.gzip: broken gzip: .*",)),
        (b"x" * (MAX_MESSAGE_BYTES + 1), ("a mail of .* bytes, and .* are looked at",)),
    ],
)
def test_what_is_no_report_is_refused_with_its_reason_and_kept(octets: bytes, reasons: tuple[str, ...]) -> None:
    intake = taken(octets)
    assert intake.documents == ()
    assert len(intake.refusals) == len(reasons)
    for found, reason in zip(intake.refusals, reasons, strict=True):
        assert re.fullmatch(reason, found)
    assert zlib.decompress(intake.raw) == octets


def test_one_bad_file_in_an_archive_loses_no_other() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.json", report_json())
        archive.writestr("b.json", "{}")
    intake = posted(file.getvalue(), Via.FILE)
    assert [each.packing for each in intake.documents] == ["zip"]
    assert len(intake.refusals) == 1


def test_a_fault_of_ours_on_one_document_loses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(octets: bytes, *, now: datetime) -> ReceivedReport:
        if b"b.example" in octets:
            raise ZeroDivisionError("a bug")
        return parse_received(octets, now=now)

    monkeypatch.setattr(taking_in, "parse_received", faulty)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("b.json", report_json(policy("b.example")))
        archive.writestr("a.json", report_json(policy("a.example")))
    intake = posted(file.getvalue(), Via.FILE)
    assert [each.domains for each in intake.documents] == [("a.example",)]
    assert intake.refusals == ("stsguard failed on it: ZeroDivisionError: a bug",)


def test_limits_are_those_of_the_rules() -> None:
    rules = IntakeRules(Limits(max_decompressed=100))
    assert posted(gzip.compress(report_json()), rules=rules).refusals == ("more than 100 bytes in gzip",)


@pytest.mark.parametrize(
    ("via", "rules", "standing", "reporter"),
    [
        (Via.HTTPS, RULES, Standing.UNVOUCHED, ""),
        (Via.HTTPS, IntakeRules(trust_files=True), Standing.UNVOUCHED, ""),
        (Via.HTTPS, IntakeRules(trust_https=True), Standing.COUNTED, "sender.example"),
        (Via.FILE, IntakeRules(trust_https=True), Standing.UNVOUCHED, ""),
        (Via.FILE, IntakeRules(trust_files=True), Standing.COUNTED, "sender.example"),
        (Via.PIPE, RULES, Standing.UNVOUCHED, ""),
    ],
)
def test_report_without_a_mail_counts_only_where_its_way_is_trusted(
    via: Via, rules: IntakeRules, standing: Standing, reporter: str
) -> None:
    (document,) = posted(report_json(), via, rules).documents
    assert (document.standing, document.reporter) == (standing, reporter)


def test_trusted_report_without_contact_is_its_organisation_s() -> None:
    rules = IntakeRules(trust_https=True)
    for organization, contact, reporter in [("Sender Inc.", "tel:1", "Sender Inc."), ("", "", "unknown")]:
        values = json.loads(report_json()) | {"organization-name": organization, "contact-info": contact}
        (document,) = posted(json.dumps(values).encode(), rules=rules).documents
        assert document.reporter == reporter


def test_same_octets_of_another_standing_are_another_intake() -> None:
    octets = report_json()
    keys = {
        posted(octets).key,
        posted(octets, Via.FILE).key,
        posted(octets, Via.FILE, IntakeRules(trust_files=True)).key,
    }
    entry = SpoolEntry(Arrival(Via.MILTER, NOW), octets)
    assert len({*keys, taken(octets).key, refused(entry, "x").key}) == 5


def test_refused_entry_keeps_its_octets() -> None:
    intake = refused(SpoolEntry(Arrival(Via.MILTER, NOW), b"abc"), "no")
    assert (zlib.decompress(intake.raw), intake.raw_length, intake.refusals) == (b"abc", 3, ("no",))


@pytest.mark.parametrize(
    ("domain", "foreign"),
    [
        ("a.example", False),
        ("mx.a.example", False),  # the TLSA base domain of a DANE policy
        ("xa.example", True),
        ("example", True),
        ("", True),
    ],
)
def test_domain_is_ours_with_all_names_below_it(domain: str, foreign: bool) -> None:
    assert IntakeRules(ours=frozenset({"a.example"})).is_foreign(domain) is foreign
    assert not RULES.is_foreign(domain)


def test_foreign_policies_are_marked_one_by_one() -> None:
    mail = report_mail(report_json(policy("a.example"), policy("z.example")))
    (document,) = taken(mail, rules=IntakeRules(ours=frozenset({"a.example"}))).documents
    assert document.foreign == (False, True)


@pytest.mark.parametrize(
    ("named", "report_domain", "domains"),
    [
        (["", "b.example"], "a.example", ("b.example", "b.example")),  # that of the report's other policies
        ([""], "A.example.", ("a.example",)),  # TLS-Report-Domain
        ([""], "no domain", ("",)),
        (["", "b.example", "c.example"], "a.example", ("a.example", "b.example", "c.example")),
    ],
)
def test_policy_that_names_no_domain_counts_under_that_of_its_report(
    named: list[str], report_domain: str, domains: tuple[str, ...]
) -> None:
    mail = report_mail(report_json(*map(policy, named)), domain=report_domain)
    (document,) = taken(mail).documents
    assert document.domains == domains


@pytest.mark.parametrize(
    ("named", "signed", "told"),
    [
        ([""], False, ["a policy names no domain and is taken for a.example by TLS-Report-Domain, which no signature"]),
        (["", ""], False, ["2 policies name no domain and are taken for a.example by TLS-Report-Domain, which no"]),
        ([""], True, []),
        (["", "b.example"], False, []),  # not asked
    ],
)
def test_domain_of_a_header_field_that_is_not_signed_is_told(named: list[str], signed: bool, told: list[str]) -> None:
    mail = report_mail(report_json(*map(policy, named)))
    verdict = replace(PASS, report_domain_signed=signed)
    (document,) = taken(mail, verdict).documents
    found = [each.text for each in document.warnings if each.code is WarningCode.DOMAIN_FROM_HEADER]
    assert [text[: len(start)] for text, start in zip(found, told, strict=True)] == told


def test_warnings_are_of_mail_file_and_report() -> None:
    mail = report_mail().replace(b"; report-type=tlsrpt", b"")
    (document,) = taken(mail).documents
    assert [each.code.value for each in document.warnings] == ["report-type"]
