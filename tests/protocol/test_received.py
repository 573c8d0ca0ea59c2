"""Reports as senders write them, each a file in received/: what is read of it, and what is said about it.

received/README.md says which sender each shape was seen from.
"""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stsguard.core.errors import ReportInvalid
from stsguard.core.received_mail import find_reports
from stsguard.core.received_report import ReceivedReport, ReceivedWarning
from stsguard.core.tlsrpt_report_received import parse_received
from stsguard.core.unpack import unpack

FILES = Path(__file__).parent / "received"
NOW = datetime(2026, 3, 9, tzinfo=UTC)

# File, successful+failed sessions of each report in it, and the codes of its warnings with how often each was there
# if more than once; or "refused", and why.
SHAPES = [
    ("additional-info-uri.json", "10+1", "draft-key"),
    ("application-json.eml", "10+0", "not-multipart-report media-type"),
    ("bare-lf.eml", "10+0", ""),
    ("base64-cut.eml", "10+0", "base64"),
    ("base64-rubbish.eml", "10+0", "base64"),
    ("base64-said-wrongly.eml", "10+0", "transfer-encoding"),
    ("base64-unsaid.eml", "10+0", "transfer-encoding"),
    ("bom-utf16.json", "10+0", "not-utf8"),
    ("bom-utf8.json", "10+0", "byte-order-mark"),
    ("boundary-missing.eml", "10+0", "boundary"),
    ("boundary-wrong.eml", "10+0", "boundary"),
    ("contact-missing.json", "10+0", "missing-key"),
    ("content-type-missing.eml", "10+0", "not-multipart-report media-type"),
    ("count-missing.json", "90+0", "missing-key*2 policy-type-unknown"),
    ("count-true.json", "0+0", "wrong-type"),
    ("counts-as-strings.json", "10+2", "count-as-text*3"),
    ("counts-float.json", "12+2", "count-form*2"),
    ("counts-huge.json", "0+0", "count-range"),
    ("counts-negative.json", "0+0", "count-range"),
    ("date-invalid.eml", "10+0", ""),
    ("dates-24-00.json", "10+0", "date-form"),
    ("dates-end-missing.json", "10+0", "missing-key"),
    ("dates-fraction.json", "10+0", ""),
    ("dates-future.json", "10+0", "in-the-future"),
    ("dates-leap-second.json", "10+0", "date-form"),
    ("dates-no-seconds.json", "10+0", "date-without-zone*2 date-form*2"),
    ("dates-reversed.json", "10+0", "dates-reversed"),
    ("dates-start-unreadable.json", "10+0", "date-unreadable"),
    ("dates-weekly.json", "10+0", "not-one-day"),
    ("dates-zone.json", "10+0", ""),
    ("details-null.json", "10+0", "null-value"),
    ("domain-is-address.json", "10+0", "domain-unreadable"),
    ("domain-null.json", "10+0", "null-value"),
    ("domain-u-label.json", "10+0", "domain-form"),
    ("domain-upper-case-dot.json", "10+0", "domain-form"),
    ("draft-00-root-policy.json", "5326+303", "draft-key object-for-array draft-key*3 string-for-array*2"),
    ("draft-root-policy-array.json", "4+0", "draft-key"),
    ("duplicate-keys.json", "10+0", "duplicate-key"),
    ("encoded-subject.eml", "10+0", ""),
    ("end-missing.eml", "10+0", "boundary"),
    ("failures-from-details.json", "9+7", "missing-key"),
    ("failures-unexplained.json", "99+102", "failures-unexplained"),
    ("file-name-rfc2231.eml", "10+0", ""),
    ("followed.json.gz", "10+0", "trailing-data"),
    ("forwarded-whole.eml", "10+0", "forwarded"),
    ("forwarded.eml", "10+0", "forwarded"),
    ("gateway-banner.eml", "10+0", ""),
    ("google-2020.json", "343+0", ""),
    ("google-2022-cr.json", "3+0", "line-end"),
    ("google-2024-empty-ip.json", "48+2", "empty-value"),
    ("google-2026.json", "4523+2", ""),
    ("google.eml", "10+0", ""),
    ("gzip-is-json.eml", "10+0", "media-type"),
    ("halon-json.eml", "10+0", "parameter-form"),
    ("halon-string.json", "1+0", "string-for-array"),
    ("json-in-string-policies.json", "8+0", "json-in-string"),
    ("json-in-string-whole.json", "10+0", "json-in-string"),
    ("keys-unknown.json", "10+0", "unknown-key unknown-key"),
    ("keys-with-underscores.json", "10+0", "key-spelling key-spelling"),
    ("latin-1.json", "10+0", "not-utf8"),
    ("mac.zip", "10+0", ""),
    ("mailru-2024.json", "0+1", "sums-differ"),
    ("mailru-third-part.eml", "10+0", ""),
    ("mbox.eml", "10+0", ""),
    ("microsoft-2023-no-zone.json", "10+0", "date-without-zone*2"),
    ("microsoft-2024-tlsa-json.json", "14+0", "json-in-string"),
    ("microsoft-2025-empty-domain.json", "10+0", "json-in-string"),
    ("microsoft-fetch-error.json", "0+4", ""),
    ("microsoft-html.eml", "10+0", ""),
    ("mox-empty-texts.json", "6+1", "empty-value*3"),
    ("mx-host-both-keys.json", "10+0", "both-keys"),
    ("mx-host-pattern.json", "10+0", "draft-key"),
    ("nan.json", "0+0", "not-a-number"),
    ("nested-multipart.eml", "10+0", "not-multipart-report"),
    ("no-multipart-json.eml", "10+0", "not-multipart-report"),
    ("no-multipart.eml", "10+0", "not-multipart-report"),
    ("octet-stream.eml", "10+0", "not-multipart-report media-type"),
    ("one-bad-detail.json", "10+3", "wrong-type"),
    ("one-bad-policy.json", "6+1", "wrong-type wrong-type object-for-array"),
    ("organization-missing.json", "10+0", "missing-key"),
    ("organization-non-ascii.json", "10+0", ""),
    ("padded.json.gz", "10+0", ""),
    ("plain.json.gz", "10+0", ""),
    ("plain.zip", "10+0", ""),
    ("policies-empty.json", "0+0", "no-policies"),
    ("policies-missing.json", "0+0", "no-policies"),
    ("policies-one-object.json", "4+0", "object-for-array"),
    ("policy-string-plain.json", "10+0", "string-for-array"),
    ("policy-type-null.json", "10+0", "null-value"),
    ("policy-type-unknown.json", "10+0", "policy-type-unknown"),
    ("policy-type-upper-case.json", "10+0", "policy-type-spelling"),
    ("raw-newline-in-string.json", "10+0", "control-character"),
    ("refused-crc.json.gz", "refused", "broken gzip: Error -3 while decompressing data: incorrect data check"),
    ("refused-cut-off.json", "refused", "not JSON: Expecting value in line 1, column 448"),
    ("refused-cut-off.zip", "refused", "broken zip: cut off"),
    ("refused-deep.json", "refused", "nested more than 32 deep"),
    ("refused-empty.json", "refused", "neither JSON, gzip nor zip: it is empty"),
    ("refused-gzip-in-zip.zip", "refused", "packed twice"),
    ("refused-half.json.gz", "refused", "not JSON: Unterminated string starting at in line 1, column 155"),
    ("refused-html.json", "refused", "neither JSON, gzip nor zip: it is an HTML page"),
    ("refused-no-dates.json", "refused", "date-range: neither '' nor '' is a date"),
    ("refused-no-report.eml", "refused", "no report in the mail"),
    ("refused-not-a-report.json", "refused", "JSON, but no TLS report: it has neither policies nor a date-range"),
    ("refused-nothing.zip", "refused", "no report in the zip archive"),
    ("refused-number-array.json", "refused", "JSON, but no TLS report: an array, where one is an object"),
    (
        "refused-single-quotes.json",
        "refused",
        "not JSON: Expecting property name enclosed in double quotes in line 1, column 2",
    ),
    ("refused-twice.json.gz", "refused", "packed twice"),
    ("refused-vacation.eml", "refused", "no report in the mail"),
    ("report-id-missing.json", "10+0", "missing-key"),
    ("report-in-array.json", "10+0", "array-for-value"),
    ("report-type-missing.eml", "10+0", "report-type"),
    ("result-type-spelling.json", "10+1", "result-type-spelling"),
    ("result-type-unknown.json", "10+1", "result-type-unknown address-form"),
    ("rfc8460-appendix-b.json", "5326+303", "string-for-array"),
    ("stalwart-hourly.json", "10+0", "null-value not-one-day"),
    ("stalwart-null-contact.json", "2+0", "null-value"),
    ("stored.zip", "10+0", ""),
    ("summary-missing.json", "0+0", "missing-key"),
    ("sums-differ.json", "10+5", "sums-differ"),
    ("text-control.json", "10+0", "control-character"),
    ("text-long.json", "10+1", "text-cut"),
    ("text-null.json", "10+1", "null-value wrong-type"),
    ("tlsrpt-reporter-no-domain.json", "1+0", "missing-key"),
    ("tlsrpt-x-gzip.eml", "10+0", "media-type"),
    ("trailer-lost.json.gz", "10+0", "cut-off"),
    ("trailing-data.json", "10+0", "trailing-data"),
    ("trailing-nul.json", "10+0", "trailing-data"),
    ("transfer-encoding-unknown.eml", "10+0", "transfer-encoding"),
    ("two-attachments.eml", "10+0 10+0", "several-reports"),
    ("two-members.json.gz", "10+0", ""),
    ("two-reports.zip", "10+0 10+0", "several-files"),
    ("utf16-json.eml", "10+0", "not-utf8"),
    ("utf16-no-bom.json", "10+0", "not-utf8"),
    ("x-gzip.eml", "10+0", "media-type"),
    ("zip.eml", "10+0", "media-type"),
]


def read(path: Path) -> tuple[list[ReceivedReport], list[ReceivedWarning]]:
    """The reports in a file, and all that is said of them."""
    data = path.read_bytes()
    warnings: list[ReceivedWarning] = []
    parts = [(data, "")]
    if path.suffix == ".eml":
        mail = find_reports(data)
        warnings += mail.warnings
        parts = [(part.content, part.media_type) for part in mail.parts]
        if not parts:
            raise ReportInvalid("no report in the mail")
    reports = []
    for content, media_type in parts:
        unpacked = unpack(content, media_type=media_type)
        warnings += unpacked.warnings
        reports += [parse_received(document, now=NOW) for document in unpacked.documents]
    return reports, warnings + [warning for report in reports for warning in report.all_warnings()]


@pytest.mark.parametrize(("name", "counts", "told"), SHAPES, ids=[row[0] for row in SHAPES])
def test_shape(name: str, counts: str, told: str) -> None:
    if counts == "refused":
        with pytest.raises(ReportInvalid) as refusal:
            read(FILES / name)
        assert told in str(refusal.value)
        return
    reports, warnings = read(FILES / name)
    assert " ".join(f"{report.successes}+{report.failures}" for report in reports) == counts
    assert " ".join(w.code + (f"*{w.times}" if w.times > 1 else "") for w in warnings) == told
    assert all(warning.text for warning in warnings)


def test_each_file_is_in_the_table_and_there_are_enough() -> None:
    names = {path.name for path in FILES.iterdir()} - {"README.md"}
    assert names == {row[0] for row in SHAPES}
    assert len(names) >= 60


def test_what_tolerance_makes_of_the_values() -> None:
    def only(name: str) -> ReceivedReport:
        (report,), _ = read(FILES / name)
        return report

    tlsa = ("3 1 1 " + "AB" * 32, "3 1 1 " + "CD" * 32)
    sts = ("version: STSv1", "mode: enforce", "mx: mx1.example.com", "max_age: 604800")
    assert only("microsoft-2024-tlsa-json.json").policies[0].policy_strings == tlsa
    assert only("google-2022-cr.json").policies[0].policy_strings == sts
    assert only("policy-string-plain.json").policies[0].policy_strings == sts
    assert only("mx-host-pattern.json").policies[0].mx_hosts == ("*.example.com",)
    assert only("mx-host-both-keys.json").policies[0].mx_hosts == ("mx1.example.com",)
    assert only("rfc8460-appendix-b.json").policies[0].mx_hosts == ("*.mail.example.com",)
    assert only("additional-info-uri.json").policies[0].details[0].additional_information.endswith("/why")
    assert only("domain-u-label.json").policies[0].policy_domain == "xn--bcher-kva.example"
    assert only("domain-is-address.json").policies[0].policy_domain is None
    assert only("duplicate-keys.json").report_id == "first"
    assert only("microsoft-2023-no-zone.json").start_at == datetime(2026, 3, 1, tzinfo=UTC)
    assert only("dates-24-00.json").end_at == datetime(2026, 3, 2, tzinfo=UTC)
    assert only("dates-zone.json").day == datetime(2026, 3, 1, tzinfo=UTC).date()
    assert [policy.successes for policy in only("one-bad-policy.json").policies] == [1, 0, 2, 0, 3]
    assert only("latin-1.json").organization_name == "B\ufffdcher"
    assert only("text-control.json").organization_name == "a\ufffdb\ufffdc\x1b[31m"


def test_headers_of_mails() -> None:
    google = find_reports((FILES / "google.eml").read_bytes())
    assert google.header.from_address == "noreply@sender.example"
    assert google.header.subject_report_id == "2026.03.01T00.00.00Z+example.com@sender.example"
    assert (google.header.report_domain, google.header.submitter) == ("example.com", "sender.example")
    assert google.header.message_id == "1@sender.example"
    assert google.header.date == datetime(2026, 3, 2, 10, 10, 6, tzinfo=UTC)
    assert google.parts[0].name == "sender.example!example.com!1772323200!1772409599!001.json.gz"
    assert not google.parts[0].forwarded
    assert find_reports((FILES / "date-invalid.eml").read_bytes()).header.date is None
    assert find_reports((FILES / "encoded-subject.eml").read_bytes()).header.subject_report_id == "x@sender.example"
    mailru = find_reports((FILES / "mailru-third-part.eml").read_bytes())
    assert mailru.header.from_address == "tls@corp.sender.example"
    assert mailru.header.subject_report_id == "x@sender.example"
    renamed = find_reports((FILES / "file-name-rfc2231.eml").read_bytes())
    assert renamed.parts[0].name == "sender.example!example.com!1772323200!1772409599.json.gz"
    forwarded = find_reports((FILES / "forwarded.eml").read_bytes())
    assert forwarded.header.from_address == "postmaster@example.com"
    assert forwarded.parts[0].forwarded
    assert forwarded.parts[0].header.submitter == "sender.example"
