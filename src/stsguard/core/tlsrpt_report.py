"""Our reports: from the day's counters to JSON, gzip and file name (RFC 8460 §4, §5.1, §5.2, with erratum 6241).

`tlsrpt_report_merge` says what of the counters a report states, `tlsrpt_report_reader` reads one strictly.
`tlsrpt_report.schema.json` beside this file describes the same form, written from the RFC. Left out on purpose: reading
what other senders write.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

from stsguard.core.errors import ReportInvalid
from stsguard.core.session import CounterRow, FailureDetail
from stsguard.core.tlsrpt_report_merge import MAX_DETAILS, merge
from stsguard.core.tlsrpt_report_model import PolicyResult, Report, contact_domain
from stsguard.core.tlsrpt_report_reader import MAX_REPORT_BYTES, Reading, parse_report, read_report
from stsguard.names import Domain, NameInvalid

__all__ = [
    "MAX_DETAILS",
    "MAX_REPORT_BYTES",
    "MEDIA_TYPE_GZIP",
    "MEDIA_TYPE_JSON",
    "PolicyResult",
    "Reading",
    "Report",
    "build_report",
    "compress",
    "decompress",
    "filename",
    "parse_report",
    "read_report",
    "report_id",
    "to_json",
]

MEDIA_TYPE_JSON = "application/tlsrpt+json"  # RFC 8460 §6.4
MEDIA_TYPE_GZIP = "application/tlsrpt+gzip"  # RFC 8460 §6.5

_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")
_ID_OCTETS = 10  # 80 bits: two reports of one day never share an id by chance


def build_report(
    *, organization: str, contact: str, day: date, report_id: str, counters: Iterable[CounterRow]
) -> Report:
    """The report of one report domain on one UTC day, from its counters alone.

    Equal policies and equal details are merged, whatever rows they come from. At most `MAX_DETAILS` details are listed
    in all; one detail of each policy says how many sessions the others have.

    Raises:
        NameInvalid: `contact` is no mail address with a domain.
    """
    local_part, at, _ = contact.rpartition("@")
    if not local_part:
        raise NameInvalid("contact-info has to be a mail address", contact)
    # RFC 8460 §4.4: "a full UTC day, 00:00-24:00", which §4.1 says as well. 24:00 can't be written by RFC 3339 §5.6
    # (time-hour is 00-23), and 00:00 of the next day would belong to two days: appendix B ends at 23:59:59, and so do
    # the reports of Google and Microsoft (seen from 2020 to 2026).
    start_at = datetime.combine(day, time(), UTC)
    return Report(
        organization=organization,
        contact=f"{local_part}{at}{contact_domain(contact)}",
        report_id=report_id,
        start_at=start_at,
        end_at=start_at + timedelta(days=1, seconds=-1),
        policies=merge(counters),
    )


def report_id(day: date, report_domain: Domain, salt: str) -> str:
    """A report-id, the same for the same arguments: a dot-atom (RFC 5322 §3.2.3), so it fits `Report-ID:` as well.

    `salt` tells apart those who report for one organisation without one database.
    """
    digest = hashlib.sha256("\0".join((day.isoformat(), report_domain, salt)).encode()).digest()
    return f"{day:%Y%m%d}.{digest[:_ID_OCTETS].hex()}"


def to_json(report: Report) -> bytes:
    """The report in I-JSON (RFC 7493), compact. Optional keys without a value are left out."""
    whole = {
        "organization-name": report.organization,
        "date-range": {
            "start-datetime": f"{report.start_at:%Y-%m-%dT%H:%M:%SZ}",
            "end-datetime": f"{report.end_at:%Y-%m-%dT%H:%M:%SZ}",
        },
        "contact-info": report.contact,
        "report-id": report.report_id,
        "policies": [_policy_object(result) for result in report.policies],
    }
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def compress(report_json: bytes) -> bytes:
    """gzip without a time or a name, so that every attempt at delivery sends the same octets (RFC 8460 §5.2)."""
    return gzip.compress(report_json, mtime=0)


def decompress(packed: bytes) -> bytes:
    """What is in one gzip member, up to a bound.

    Raises:
        ReportInvalid: it is none, it is cut off, it holds more than `MAX_REPORT_BYTES`, or something follows it.
    """
    unpacking = zlib.decompressobj(wbits=31)
    try:
        data = unpacking.decompress(packed, MAX_REPORT_BYTES)
    except zlib.error as exc:
        raise ReportInvalid(f"not gzip: {exc}") from exc
    if unpacking.unconsumed_tail:
        raise ReportInvalid(f"more than {MAX_REPORT_BYTES} bytes, uncompressed")
    if not unpacking.eof:
        raise ReportInvalid("the gzip file is cut off")
    if unpacking.unused_data:
        raise ReportInvalid("something follows the end of the gzip file")
    return data


def filename(report: Report, domain: Domain, *, compressed: bool = True) -> str:
    """The file name of RFC 8460 §5.1; `domain` is the one reported to.

    unique-id is the report-id without what its grammar does not allow.
    """
    parts = (
        report.submitter,
        domain,
        str(int(report.start_at.timestamp())),
        str(int(report.end_at.timestamp())),
        _NOT_ALPHANUMERIC.sub("", report.report_id),
    )
    return "!".join(part for part in parts if part) + (".json.gz" if compressed else ".json")


def _policy_object(result: PolicyResult) -> dict[str, object]:
    policy: dict[str, object] = {"policy-type": result.policy.policy_type.value}
    if result.policy.policy_strings:
        policy["policy-string"] = result.policy.policy_strings
    policy["policy-domain"] = result.policy.policy_domain
    if result.policy.mx_host_patterns:
        policy["mx-host"] = result.policy.mx_host_patterns
    found: dict[str, object] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": result.successes,
            "total-failure-session-count": result.failures,
        },
    }
    if result.details:
        found["failure-details"] = [_detail_object(detail, sessions) for detail, sessions in result.details]
    return found


def _detail_object(detail: FailureDetail, sessions: int) -> dict[str, object]:
    optional = {
        "sending-mta-ip": detail.sending_mta_ip,
        "receiving-mx-hostname": detail.receiving_mx_hostname,
        "receiving-mx-helo": detail.receiving_mx_helo,
        "receiving-ip": detail.receiving_ip,
    }
    described = {
        "additional-information": detail.additional_information,
        "failure-reason-code": detail.failure_reason_code,
    }
    return {
        "result-type": detail.result_type,
        **{key: text for key, text in optional.items() if text},
        "failed-session-count": sessions,
        **{key: text for key, text in described.items() if text},
    }
