"""What is taken of one intake is bounded as a whole, whatever it is made of, and what is left out is told."""

import base64

from stsguard.core.arrival import MAIL, Arrival, SpoolEntry, Via
from stsguard.core.dkim_verdict import UNSIGNED
from stsguard.core.received_record import ReceivedIntake
from stsguard.core.taking_in import MAX_DOCUMENTS, MAX_ROWS, IntakeRules, take_in
from stsguard.core.tlsrpt_report_received import MAX_DETAILS, MAX_POLICIES
from stsguard.core.unpack import Limits
from tests.received import NOW, archive_of, detail, policy, report_json

RULES = IntakeRules()


def taken(octets: bytes, rules: IntakeRules = RULES, media_type: str = MAIL) -> ReceivedIntake:
    return take_in(SpoolEntry(Arrival(Via.FILE, NOW, media_type=media_type), octets), UNSIGNED, rules)


def mail_of(*files: bytes) -> bytes:
    """A mail with these archives."""
    parts = [
        b"--b\r\nContent-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(file)
        for file in files
    ]
    head = b'From: x@sender.example\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
    return head + b"\r\n".join(parts) + b"\r\n--b--\r\n"


def test_row_bomb_of_many_archives_is_bounded_as_a_whole() -> None:
    details = [detail(sessions=1) for _ in range(MAX_DETAILS // 3)]
    bomb = report_json(policy("a.example", 0, len(details), *details))
    intake = taken(mail_of(*[archive_of(*[bomb] * 20)] * 10))
    rows = sum(1 + len(each.details) for found in intake.documents for each in found.report.policies)
    assert 0 < rows <= MAX_ROWS
    assert len(intake.documents) + len(intake.refusals) == 200
    assert all(text.startswith("application/zip: left out: ") for text in intake.refusals)
    assert any(f"failure-details, and {MAX_ROWS} are taken" in text for text in intake.refusals)


def test_largest_single_report_fits() -> None:
    details = [detail() for _ in range(MAX_DETAILS)]
    many = report_json(policy("a.example", 0, MAX_DETAILS, *details), *[policy()] * (MAX_POLICIES - 1))
    intake = taken(many, media_type="application/tlsrpt+json")
    assert (len(intake.documents), intake.refusals) == (1, ())


def test_reports_of_one_intake_are_bounded_in_number() -> None:
    intake = taken(mail_of(*[archive_of(*[report_json()] * 20)] * 3))
    assert (len(intake.documents), len(intake.refusals)) == (MAX_DOCUMENTS, 60 - MAX_DOCUMENTS)


def test_octets_of_one_intake_are_bounded_unpacked() -> None:
    content = report_json()
    rules = IntakeRules(Limits(max_compressed=2 * len(content), max_decompressed=2 * len(content)))
    intake = taken(mail_of(*[archive_of(content)] * 3), rules=rules)
    assert len(intake.documents) == 2
    assert intake.refusals == (
        "application/zip: left out: with what came beside it, it has more bytes unpacked than are taken",
    )
