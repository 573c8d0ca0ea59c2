"""Received reports for tests: values as the intake makes them."""

import hashlib
import io
import json
import zipfile
import zlib
from datetime import UTC, datetime
from typing import Any

from stsguard.core.arrival import Arrival, Via
from stsguard.core.received_record import (
    MailFacts,
    ReceivedDocument,
    ReceivedIntake,
    Signer,
    Standing,
    intake_key,
)
from stsguard.core.tlsrpt_report_received import parse_received

NOW = datetime(2026, 3, 2, 3, 10, 6, 654321, tzinfo=UTC)


def policy(
    domain: str = "a.example", successes: int = 5, failures: int = 0, *details: dict[str, object], kind: str = "sts"
) -> dict[str, Any]:
    """One of `policies`, as JSON has it."""
    return {
        "policy": {"policy-type": kind, "policy-domain": domain, "policy-string": ["version: STSv1"], "mx-host": ["*"]},
        "summary": {"total-successful-session-count": successes, "total-failure-session-count": failures},
        "failure-details": list(details),
    }


def detail(result_type: str = "certificate-expired", sessions: int = 1, mx: str = "mx1.a.example") -> dict[str, object]:
    """One of `failure-details`."""
    return {"result-type": result_type, "failed-session-count": sessions, "receiving-mx-hostname": mx}


def report_json(*policies: dict[str, Any], report_id: str = "r1", day: str = "2026-03-01") -> bytes:
    """A report's JSON."""
    return json.dumps(
        {
            "organization-name": "Sender Inc.",
            "date-range": {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"},
            "contact-info": "tls@sender.example",
            "report-id": report_id,
            "policies": list(policies) or [policy()],
        }
    ).encode()


def archive_of(*contents: bytes) -> bytes:
    """A zip archive of these files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number}.json", content)
    return file.getvalue()


def document(
    content: bytes | None = None,
    *,
    standing: Standing = Standing.COUNTED,
    reporter: str = "sender.example",
    foreign: tuple[str, ...] = (),
    organization: str = "",
) -> ReceivedDocument:
    """A report to store; `foreign` names the domains that are not ours."""
    octets = report_json() if content is None else content
    report = parse_received(octets)
    domains = tuple(str(each.policy_domain or "") for each in report.policies)
    return ReceivedDocument(
        report=report,
        content_hash=hashlib.sha256(octets).digest(),
        packing="gzip",
        standing=standing,
        reporter=reporter if standing is Standing.COUNTED else "",
        domains=domains,
        foreign=tuple(domain in foreign for domain in domains),
        organization=organization,
    )


def intake(
    *documents: ReceivedDocument,
    octets: bytes = b"a mail",
    refusals: tuple[str, ...] = (),
    received_at: datetime = NOW,
    signer: Signer | None = None,
) -> ReceivedIntake:
    """What came in at once."""
    return ReceivedIntake(
        key=intake_key(octets, kind="mail"),
        arrival=Arrival(Via.MILTER, received_at, "tls@a.example", "192.0.2.1"),
        raw=zlib.compress(octets),
        raw_length=len(octets),
        signer=signer or Signer("pass", "sender.example", "s1", "", aligned=True),
        mail=MailFacts("noreply@sender.example", "Report\0 Domain: \udcff", "m@sender.example", "sender.example", NOW),
        documents=documents,
        refusals=refusals,
    )
