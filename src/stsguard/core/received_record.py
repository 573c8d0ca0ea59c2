"""What is stored of a report that came in: the octets and their origin, what was read from them, and how it counts.

RFC 8460 §3 has reports without a valid signature ignored. They are kept, so that an operator sees them, but nothing is
ever added up from them. What counts is added up once: a report is known by its reporter, report-id, date-range and
each policy domain (§4.4 has the report-id unique; senders are seen that use one for all domains of a day).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from stsguard.core.arrival import Arrival
from stsguard.core.received_report import ReceivedPolicy, ReceivedReport, ReceivedWarning
from stsguard.names import MAX_NAME_OCTETS

MAX_HEADER_TEXT = 500  # of Subject and the like
UNKNOWN_RESULT = "unknown"  # for a result-type that RFC 8460 §4.3 does not have; its text is kept beside it


class Standing(StrEnum):
    """How a report counts."""

    COUNTED = "counted"
    UNSIGNED = "unsigned"  # by mail, without a valid signature of its sender's organisation (RFC 8460 §3)
    UNVOUCHED = "unvouched"  # posted, or given as a file: nothing says from whom it is


class Fate(StrEnum):
    """What became of a report that was to be stored."""

    NEW = "new"
    DUPLICATE = "duplicate"  # the same is stored already; nothing was added up
    CONFLICT = "conflict"  # another one of the same id is stored: kept and marked, and nothing was added up


@dataclass(frozen=True, slots=True)
class Signer:
    """What DKIM says of a mail: `status` in the words of RFC 8601 §2.7.1, empty for what was no mail. `aligned`: d= is
    of the organisation in From and in TLS-Report-Submitter. `reason` is one line, empty where all is well."""

    status: str = ""
    domain: str = ""
    selector: str = ""
    reason: str = ""
    aligned: bool = False


@dataclass(frozen=True, slots=True)
class MailFacts:
    """Of the mail's header: bounded text of a stranger, empty or None where it is not there."""

    from_address: str = ""
    subject: str = ""
    message_id: str = ""
    submitter: str = ""
    sent_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReceivedDocument:
    """A report as it is to be stored.

    `content_hash` is of the JSON as it came. `reporter` is who vouches for it, the domain of the signature (d=); for
    one that nobody vouches for, empty. `domains` has the domain that each policy is counted under, as text: the one
    that the policy names, or what the report makes it be; empty where nothing does. `foreign` says of each policy
    whether that domain is not ours. `warnings` are of the file and the mail, beside those of the report.

    `report_key` is by what it is known as this report, `domain_keys` as what it says of each of its policy domains:
    senders are seen that use one report-id for all domains of a day, and who sends a report once more with one domain
    more says nothing new of the others. `organization` takes the place of the reporter in it: a mail with two
    signatures of one organisation is the same whichever of them is there. How it counts is a part of it: nobody who
    can't sign takes the place of one who can, unless the operator trusts what is posted. `identity` is by what it is
    known as the very same content of this report.
    """

    report: ReceivedReport
    content_hash: bytes
    packing: str
    standing: Standing
    reporter: str
    domains: tuple[str, ...]
    foreign: tuple[bool, ...]
    warnings: tuple[ReceivedWarning, ...] = ()
    organization: str = ""
    report_key: bytes = field(init=False, compare=False)
    domain_keys: tuple[bytes, ...] = field(init=False, compare=False)
    identity: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        report = self.report
        who = (self.standing.value, self.organization or self.reporter, report.report_id)
        key = _hash(*who, report.start_at.isoformat(), report.end_at.isoformat())
        # Those that the report names itself: what stands for one it does not name is in a header field of the mail,
        # which whoever sends it once more may have changed.
        named = sorted({str(policy.policy_domain or "") for policy in report.policies}) or [""]
        object.__setattr__(self, "report_key", key)
        object.__setattr__(self, "domain_keys", tuple(_hash(key.hex(), domain) for domain in named))
        object.__setattr__(self, "identity", identity_of(key, self.content_hash))

    def all_warnings(self) -> Iterator[ReceivedWarning]:
        """Those of mail and file, then those of the report; those of its policies stay with them."""
        yield from self.warnings
        yield from self.report.warnings


@dataclass(frozen=True, slots=True)
class ReceivedIntake:
    """What came in at once: a mail, a posted body or a file, with the reports in it.

    `key` is what tells it from everything else that came in (see `intake_key`). `raw` is zlib's form of the octets,
    `raw_length` their number. `refusals` says of each part that is no report, and of the whole where there is none,
    why; so one of `documents` and `refusals` is never empty.
    """

    key: bytes
    arrival: Arrival
    raw: bytes
    raw_length: int
    signer: Signer
    mail: MailFacts
    documents: tuple[ReceivedDocument, ...]
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SavedIntake:
    """What became of it: `known` where the very same octets were stored before, by the same kind of way; else the fate
    of each of its documents."""

    known: bool
    fates: tuple[Fate, ...] = ()


def intake_key(octets: bytes, *, kind: str) -> bytes:
    """By what the same octets are known when they come once more: after a crash, or from a Maildir that was read
    before. A mail that is sent again has other trace fields. `kind` is what its standing depends on: a posted body
    must not take the place of the same file that somebody vouches for."""
    return hashlib.sha256(kind.encode() + b"\0" + octets).digest()


def identity_of(report_key: bytes, content_hash: bytes) -> bytes:
    """`ReceivedDocument.identity`, of a report that is stored and a text that may be the one it was read from."""
    return _hash(report_key.hex(), content_hash.hex())


def result_type_of(text: str, known: str | None) -> str:
    """The result-type that is counted: a known one, or `UNKNOWN_RESULT`; `text` is empty for none at all."""
    return known or (UNKNOWN_RESULT if text else "")


def mx_hostname_of(text: str) -> str:
    """The MX host that is counted, of receiving-mx-hostname: lower case, no final dot, bounded."""
    return text.strip().lower().rstrip(".")[:MAX_NAME_OCTETS]


def warnings_text(warnings: Iterator[ReceivedWarning] | tuple[ReceivedWarning, ...]) -> str:
    """Warnings as they are stored: JSON, a list of [code, text, times]."""
    return json.dumps([[each.code.value, each.text, each.times] for each in warnings], ensure_ascii=False)


def policy_text(policy: ReceivedPolicy) -> tuple[str, str]:
    """policy-string and mx-host as they are stored: JSON, a list of strings each."""
    return tuple(json.dumps(list(each), ensure_ascii=False) for each in (policy.policy_strings, policy.mx_hosts))  # type: ignore[return-value] # two in, two out


def _hash(*texts: str) -> bytes:
    found = hashlib.sha256()
    for text in texts:
        octets = text.encode("utf-8", "surrogatepass")
        found.update(len(octets).to_bytes(8, "big") + octets)
    return found.digest()
