"""The verdict on a mail, given what came of its signatures (RFC 8460 §3, RFC 6376 §6.1)."""

import pytest

from stsguard.core.dkim_verdict import (
    MAX_REASON_LENGTH,
    UNSIGNED,
    DkimStatus,
    DkimVerdict,
    SignatureResult,
    decide_verdict,
)
from stsguard.core.public_suffix import PublicSuffixes
from stsguard.names import Domain

SUFFIXES = PublicSuffixes(["com", "net"])
FROM = "tlsrpt@mail.example.com"


def result(status: DkimStatus, domain: str | None = "example.com", reason: str = "") -> SignatureResult:
    return SignatureResult(status, None if domain is None else Domain(domain), "sel", reason)


def decide(*results: SignatureResult, sender: str = FROM, submitter: str = "example.com") -> DkimVerdict:
    return decide_verdict(results, sender, submitter, SUFFIXES)


PASS, FAIL, TEMPORARY, NONE = DkimStatus.PASS, DkimStatus.FAIL, DkimStatus.TEMPORARY, DkimStatus.NONE


def test_a_mail_without_signature_is_unsigned() -> None:
    assert decide() == UNSIGNED
    assert (UNSIGNED.reporter, UNSIGNED.counts) == (None, False)


def test_the_reporter_is_who_signed() -> None:
    verdict = decide(result(PASS, "corp.example.com"))
    assert verdict == DkimVerdict(PASS, Domain("corp.example.com"), "sel", "", True, True)
    assert (verdict.reporter, verdict.counts) == ("corp.example.com", True)


@pytest.mark.parametrize(
    ("sender", "submitter", "counts", "reason"),
    [
        (FROM, "", True, ""),  # TLS-Report-Submitter is not there: nothing contradicts
        (FROM, "Example.COM. ", True, ""),
        (FROM, "example.net", False, "TLS-Report-Submitter"),
        (FROM, "not a name", False, "TLS-Report-Submitter"),
        ("a@example.net", "example.com", False, "in From"),
        ("", "example.com", False, "in From"),  # none, or several
    ],
)
def test_alignment_with_from_and_submitter(sender: str, submitter: str, counts: bool, reason: str) -> None:
    verdict = decide(result(PASS), sender=sender, submitter=submitter)
    assert verdict.counts is counts
    assert verdict.reporter == "example.com"
    assert reason in verdict.reason
    assert bool(reason) == bool(verdict.reason)


@pytest.mark.parametrize(
    ("results", "chosen"),
    [
        ([result(FAIL), result(PASS)], (PASS, "example.com")),  # RFC 6376 §6.1: one valid signature is enough
        ([result(PASS, "esp.net"), result(PASS)], (PASS, "example.com")),
        ([result(PASS, "esp.net"), result(TEMPORARY)], (TEMPORARY, "example.com")),  # wait: it may be the reporter's
        ([result(TEMPORARY, "esp.net"), result(PASS, "other.net")], (PASS, "other.net")),
        ([result(FAIL), result(TEMPORARY, "esp.net")], (TEMPORARY, "esp.net")),
        ([result(FAIL, None), result(FAIL, "esp.net")], (FAIL, None)),  # of equals the first
        ([result(NONE), result(FAIL, "esp.net")], (FAIL, "esp.net")),
        ([result(NONE)], (NONE, "example.com")),
    ],
)
def test_which_of_several_signatures_decides(
    results: list[SignatureResult], chosen: tuple[DkimStatus, str | None]
) -> None:
    verdict = decide(*results)
    assert (verdict.status, verdict.domain) == chosen


def test_of_two_valid_signatures_the_one_that_covers_content_type_decides() -> None:
    covering = SignatureResult(PASS, Domain("mail.example.com"), "sel", content_type_signed=True)
    verdict = decide(result(PASS), covering)
    assert (verdict.domain, verdict.content_type_signed) == ("mail.example.com", True)


def test_only_a_valid_signature_counts() -> None:
    for status in (FAIL, TEMPORARY, NONE):
        verdict = decide(result(status, reason="why"))
        assert (verdict.reporter, verdict.counts, verdict.reason) == (None, False, "why")


def test_the_reason_is_bounded() -> None:
    assert len(decide(result(FAIL, reason="x" * 5000)).reason) == MAX_REASON_LENGTH
