"""From what came in to what is stored: the reports in it, how each counts, and why the rest is none.

Nothing that came in is ever dropped here: what can't be read becomes a refusal with its reason, beside the octets. Who
vouches for a report is decided by the signature of the mail that it is in (RFC 8460 §3); a report in a message that was
forwarded is in another mail than the one that is signed, so nobody vouches for it.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stsguard.core.arrival import SpoolEntry, Via
from stsguard.core.dkim_verdict import MAX_REASON_LENGTH, DkimVerdict
from stsguard.core.errors import ReportInvalid
from stsguard.core.mime import begins_as_mail
from stsguard.core.other_files import description
from stsguard.core.received_mail import MailHeader, ReportPart, find_reports
from stsguard.core.received_record import (
    MailFacts,
    ReceivedDocument,
    ReceivedIntake,
    Signer,
    Standing,
    intake_key,
)
from stsguard.core.received_report import ReceivedReport, ReceivedWarning, WarningCode
from stsguard.core.tlsrpt_report_received import MAX_DETAILS, MAX_POLICIES, parse_received
from stsguard.core.unpack import DEFAULT_LIMITS, Limits, unpack
from stsguard.core.vouching import doubt
from stsguard.names import MAX_NAME_OCTETS, Domain, NameInvalid

NO_REPORT = "no report in the mail"
NO_MAIL = "neither a mail nor a report"
MAX_DOCUMENTS = 50  # of all parts and archives of one intake; RFC 8460 §5.3 has one report in a mail
MAX_ROWS = MAX_POLICIES + MAX_DETAILS  # policies and details of all its reports: so the largest single one fits
_COMPRESSION = 1  # nearly all of it is base64 of gzip: a better level takes longer and saves nothing


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """What is taken in, and what counts.

    `ours` are our domains, each with all names below it: a DANE report names the MX host (RFC 8460 §1.1). None where
    all are taken for ours. `trust_https` lets posted reports count, `trust_files` those that are given as a file.
    """

    limits: Limits = field(default=DEFAULT_LIMITS)
    ours: frozenset[str] | None = None
    trust_https: bool = False
    trust_files: bool = False

    def is_foreign(self, domain: str) -> bool:
        """Whether a policy of that domain is none of ours; empty text is no domain."""
        if self.ours is None:
            return False
        while domain and domain not in self.ours:
            domain = domain.partition(".")[2]
        return not domain


@dataclass(frozen=True, slots=True)
class _Source:
    """One file that may hold reports: of a mail a part, else the whole."""

    octets: bytes
    media_type: str
    label: str
    standing: Standing
    reporter: str
    organization: str
    report_domain: str
    report_domain_signed: bool
    warnings: tuple[ReceivedWarning, ...]


@dataclass(slots=True)
class _Room:
    """What may still be taken of one intake. Bounds of one file or report alone would let a mail of ten archives with
    twenty reports each become gigabytes of rows, and anybody may send one."""

    octets: int
    documents: int = MAX_DOCUMENTS
    rows: int = MAX_ROWS

    def take_octets(self, number: int) -> None:
        """Raises `ReportInvalid` where there is no room for another report of so many octets."""
        if not self.documents:
            raise ReportInvalid(f"left out: {MAX_DOCUMENTS} reports are taken of what comes in at once")
        if number > self.octets:
            raise ReportInvalid("left out: with what came beside it, it has more bytes unpacked than are taken")
        self.documents -= 1
        self.octets -= number

    def take_rows(self, report: ReceivedReport) -> None:
        """Raises `ReportInvalid` where there is no room for the policies and failure-details of `report`."""
        number = len(report.policies) + sum(len(policy.details) for policy in report.policies)
        if number > self.rows:
            text = f"left out: {number} policies and failure-details, and {MAX_ROWS} are taken of what comes in at once"
            raise ReportInvalid(text)
        self.rows -= number


def take_in(entry: SpoolEntry, verdict: DkimVerdict, rules: IntakeRules) -> ReceivedIntake:
    """What is to be stored of `entry`. `verdict` is on the mail; for what is none it does not matter.

    Nothing is ever raised, whatever is in the octets.
    """
    arrival, octets = entry.arrival, entry.octets
    mail, signer, kind = MailFacts(), Signer(), "mail"
    refusals: list[str] = []
    sources: Sequence[_Source]
    if arrival.is_mail:
        verdict, signer = _vouched(octets, verdict)
        mail, sources = _of_mail(octets, verdict, refusals)
    else:
        standing, kind = _unsigned_standing(arrival.via, rules)
        sources = [_Source(octets, arrival.media_type, "", standing, "", "", "", False, ())]
    room = _Room(max(rules.limits.max_decompressed, rules.limits.max_compressed))
    documents = [found for source in sources for found in _documents(source, entry, rules, room, refusals)]
    return ReceivedIntake(
        key=intake_key(octets, kind=kind),
        arrival=arrival,
        raw=zlib.compress(octets, _COMPRESSION),
        raw_length=len(octets),
        signer=signer,
        mail=mail,
        documents=tuple(documents),
        refusals=tuple(refusals),
    )


def refused(entry: SpoolEntry, reason: str) -> ReceivedIntake:
    """What is to be stored of an entry of which nothing else can be: the octets, and why. Read anew, it is another."""
    return ReceivedIntake(
        key=intake_key(entry.octets, kind="refused"),
        arrival=entry.arrival,
        raw=zlib.compress(entry.octets, _COMPRESSION),
        raw_length=len(entry.octets),
        signer=Signer(),
        mail=MailFacts(),
        documents=(),
        refusals=(reason,),
    )


def _unsigned_standing(via: Via, rules: IntakeRules) -> tuple[Standing, str]:
    """How a report counts that came without a mail, and the kind of its key."""
    if via is Via.HTTPS:
        return (Standing.COUNTED if rules.trust_https else Standing.UNVOUCHED), "https"
    return (Standing.COUNTED, "vouched file") if rules.trust_files else (Standing.UNVOUCHED, "file")


def _vouched(octets: bytes, verdict: DkimVerdict) -> tuple[DkimVerdict, Signer]:
    """The verdict as it counts for what is read in the mail, and what is told of it."""
    reason = doubt(octets, content_type_signed=verdict.content_type_signed) if verdict.counts else ""
    if reason:
        verdict = replace(verdict, from_aligned=False, reason=reason[:MAX_REASON_LENGTH])
    return verdict, Signer(
        status=verdict.status.value,
        domain=str(verdict.domain or ""),
        selector=verdict.selector,
        reason=verdict.reason,
        aligned=verdict.counts,
    )


def _of_mail(octets: bytes, verdict: DkimVerdict, refusals: list[str]) -> tuple[MailFacts, Sequence[_Source]]:
    try:
        found = find_reports(octets)
    except ReportInvalid as exc:
        refusals.append(str(exc))
        return MailFacts(), ()
    if not found.parts:
        refusals.append(NO_REPORT if begins_as_mail(octets) else f"{NO_MAIL}: {description(octets)}")
    return _facts(found.header), [_of_part(part, verdict, found.warnings) for part in found.parts]


def _facts(header: MailHeader) -> MailFacts:
    return MailFacts(header.from_address, header.subject, header.message_id, header.submitter, header.date)


def _of_part(part: ReportPart, verdict: DkimVerdict, warnings: tuple[ReceivedWarning, ...]) -> _Source:
    vouched = verdict.counts and not part.forwarded
    return _Source(
        octets=part.content,
        media_type=part.media_type,
        label=part.name or part.media_type,
        standing=Standing.COUNTED if vouched else Standing.UNSIGNED,
        reporter=str(verdict.domain or "") if vouched else "",
        organization=str(verdict.organization or "") if vouched else "",
        report_domain=part.header.report_domain,
        report_domain_signed=vouched and verdict.report_domain_signed,
        warnings=warnings,
    )


def _documents(
    source: _Source, entry: SpoolEntry, rules: IntakeRules, room: _Room, refusals: list[str]
) -> Sequence[ReceivedDocument]:
    label = f"{source.label}: " if source.label else ""
    try:
        unpacked = unpack(source.octets, rules.limits, media_type=source.media_type)
    except ReportInvalid as exc:
        refusals.append(f"{label}{exc}")
        return ()
    found = []
    for document in unpacked.documents:
        try:
            room.take_octets(len(document))
            report = parse_received(document, now=entry.arrival.received_at)
            room.take_rows(report)
        except ReportInvalid as exc:
            refusals.append(f"{label}{exc}")
            continue
        except Exception as exc:  # noqa: BLE001 (what we fail on must not cost the other reports beside it)
            refusals.append(f"{label}stsguard failed on it: {type(exc).__name__}: {str(exc)[:100]}")
            continue
        domains, told = _domains(report, source)
        found.append(
            ReceivedDocument(
                report=report,
                content_hash=hashlib.sha256(document).digest(),
                packing=unpacked.how.value,
                standing=source.standing,
                reporter=source.reporter or _self_named(report, source.standing),
                organization=source.organization,
                domains=domains,
                foreign=tuple(map(rules.is_foreign, domains)),
                warnings=(*source.warnings, *unpacked.warnings, *told),
            )
        )
    return found


def _self_named(report: ReceivedReport, standing: Standing) -> str:
    """Who a report without a signature says it is from, where that is believed: the domain in contact-info, or the
    organisation's name."""
    if standing is not Standing.COUNTED:
        return ""
    named = _domain(report.contact_info.rpartition("@")[2])
    return named or report.organization_name.strip()[:MAX_NAME_OCTETS] or "unknown"


def _domains(report: ReceivedReport, source: _Source) -> tuple[tuple[str, ...], tuple[ReceivedWarning, ...]]:
    """The domain that each policy counts under. Where one names none (tlsrpt-reporter for no-policy-found), it is the
    one that all others name, else the one of TLS-Report-Domain (RFC 8460 §5.3), with a warning where that field is not
    signed: whoever had the mail in his hands could have written it."""
    named = {str(policy.policy_domain) for policy in report.policies if policy.policy_domain}
    other = next(iter(named)) if len(named) == 1 else ""
    otherwise = other or _domain(source.report_domain)
    nameless = sum(not policy.policy_domain for policy in report.policies)
    told: tuple[ReceivedWarning, ...] = ()
    if nameless and otherwise and not other and not source.report_domain_signed:
        who = "a policy names no domain and is" if nameless == 1 else f"{nameless} policies name no domain and are"
        text = f"{who} taken for {otherwise} by TLS-Report-Domain, which no signature covers"
        told = (ReceivedWarning(WarningCode.DOMAIN_FROM_HEADER, text),)
    return tuple(str(policy.policy_domain or otherwise) for policy in report.policies), told


def _domain(text: str) -> str:
    try:
        return str(Domain.parse(text.strip()))
    except NameInvalid:
        return ""
