"""Whom a received report is from: what its DKIM signatures are worth (RFC 8460 §3, RFC 6376 §6, RFC 7489 §3.1.1).

RFC 8460 §3: a report MUST be signed by the reporting domain, and one without a valid signature MUST be ignored. So the
reporter is d= of the valid signature, and From and TLS-Report-Submitter count only where they belong to the same
organisation: mail.ru signs as corp.mail.ru, others by a name of their mail servers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from stsguard.core.public_suffix import PublicSuffixes
from stsguard.names import Domain, NameInvalid

MAX_REASON_LENGTH = 200


class DkimStatus(StrEnum):
    """What came of verification, in the words of RFC 8601 §2.7.1."""

    NONE = "none"
    FAIL = "fail"
    PASS = "pass"  # noqa: S105 (no password)
    TEMPORARY = "temperror"  # a key could not be looked up: to be verified again


@dataclass(frozen=True, slots=True)
class SignatureResult:
    """What came of one signature. `domain` is d=, None where it can't be read; `reason` is empty where it is valid;
    `content_type_signed` and `report_domain_signed` say whether h= has Content-Type, and TLS-Report-Domain."""

    status: DkimStatus
    domain: Domain | None
    selector: str
    reason: str = ""
    content_type_signed: bool = False
    report_domain_signed: bool = False


@dataclass(frozen=True, slots=True)
class DkimVerdict:
    """What is to be believed of a report's origin.

    `organization` is the organisational domain of d=, None where there is none. `domain` (d=) and `selector` (s=) are
    those of the signature that decided, None and empty where there is none. `content_type_signed` says whether that
    signature covers Content-Type, and with it where the parts begin, `report_domain_signed` whether it covers
    TLS-Report-Domain. `submitter_aligned` is None where the mail has no
    TLS-Report-Submitter. `reason` is one line of at most `MAX_REASON_LENGTH` characters, empty only where all is well.
    """

    status: DkimStatus
    domain: Domain | None
    selector: str
    reason: str
    from_aligned: bool
    submitter_aligned: bool | None
    organization: Domain | None = field(default=None, compare=False)
    content_type_signed: bool = False
    report_domain_signed: bool = False

    @property
    def reporter(self) -> Domain | None:
        """Who vouches for the report; None where nobody does."""
        return self.domain if self.status is DkimStatus.PASS else None

    @property
    def counts(self) -> bool:
        """Whether the report counts: a valid signature of the organisation that it says it is from (RFC 8460 §3)."""
        return self.status is DkimStatus.PASS and self.from_aligned and self.submitter_aligned is not False


UNSIGNED = DkimVerdict(DkimStatus.NONE, None, "", "the mail has no DKIM signature", False, None)


def decide_verdict(
    results: Sequence[SignatureResult], from_address: str, submitter: str, suffixes: PublicSuffixes
) -> DkimVerdict:
    """The verdict on a mail with these signatures, in their order.

    `from_address` is the one address in From, `submitter` the value of TLS-Report-Submitter; empty where there is none.
    """
    if not results:
        return UNSIGNED
    verdicts = [_verdict(result, from_address, submitter, suffixes) for result in results]
    return max(verdicts, key=_rank)  # of equals the first


def _rank(verdict: DkimVerdict) -> int:
    """A valid signature counts over any other (RFC 6376 §6.1); that of a service provider, aligned with nothing, does
    not spare the wait for one that may be."""
    aligned = verdict.from_aligned and verdict.submitter_aligned is not False
    match verdict.status:
        case DkimStatus.PASS:
            return (6 if verdict.content_type_signed else 5) if aligned else 3
        case DkimStatus.TEMPORARY:
            return 4 if aligned else 2
        case DkimStatus.FAIL:
            return 1
        case DkimStatus.NONE:
            return 0
        case _:
            assert_never(verdict.status)


def _verdict(result: SignatureResult, from_address: str, submitter: str, suffixes: PublicSuffixes) -> DkimVerdict:
    from_aligned = _is_aligned(result.domain, from_address.rpartition("@")[2], suffixes)
    submitter_aligned = _is_aligned(result.domain, submitter, suffixes) if submitter else None
    reason = result.reason
    if result.status is DkimStatus.PASS and not from_aligned:
        reason = f"signed by {result.domain}, which is not the organisation in From"
    elif result.status is DkimStatus.PASS and submitter_aligned is False:
        reason = f"signed by {result.domain}, which is not the organisation in TLS-Report-Submitter"
    bounded = reason if len(reason) <= MAX_REASON_LENGTH else reason[: MAX_REASON_LENGTH - 3] + "..."
    organization = suffixes.organizational_domain(result.domain) if result.domain is not None else None
    return DkimVerdict(
        result.status,
        result.domain,
        result.selector,
        bounded,
        from_aligned,
        submitter_aligned,
        organization,
        result.content_type_signed,
        result.report_domain_signed,
    )


def _is_aligned(domain: Domain | None, text: str, suffixes: PublicSuffixes) -> bool:
    try:
        return domain is not None and suffixes.is_aligned(domain, Domain.parse(text.strip()))
    except NameInvalid:
        return False
