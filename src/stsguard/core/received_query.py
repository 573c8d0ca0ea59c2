"""Asking for the reports that others sent: what is wanted, in what groups they are shown, and what is found.

Groups are apart from each other: a report is in exactly one of them, and only `COUNTED` is ever added up (RFC 8460 §3).
All text in what is found is a stranger's: bounded, and to be escaped by whoever prints it.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple

from stsguard.core.received_record import Standing

_PAGE_KEY = re.compile(r"(\d{4}-\d\d-\d\d)\.(\d{1,18})", re.ASCII)


class Group(StrEnum):
    """How a stored report is shown."""

    COUNTED = "counted"
    UNSIGNED = "unsigned"  # by mail, without a valid signature of its sender
    UNVOUCHED = "unvouched"  # posted or given as a file: nothing says from whom it is
    CONFLICT = "conflict"  # another content of a report that is there already
    FOREIGN = "foreign"  # of no domain of ours, whoever signed it


def group_of(standing: str, *, conflict: bool, foreign: bool) -> Group:
    """The one group that a stored report is in."""
    if foreign:
        return Group.FOREIGN
    if standing != Standing.COUNTED:
        return Group(standing)
    return Group.CONFLICT if conflict else Group.COUNTED


class PageKey(NamedTuple):
    """Where a report stands in a list: the UTC day of the report, and its number."""

    day: str
    report: int

    def __str__(self) -> str:
        return f"{self.day}.{self.report}"

    @classmethod
    def parse(cls, text: str) -> "PageKey | None":
        """The key that is written so; None where it is none."""
        found = _PAGE_KEY.fullmatch(text)
        return cls(found[1], int(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which reports are asked for. None: all of them. Days are UTC days of the reports, both ends included.

    `result_type` and `mx_hostname` are of one failure-detail; with `policy_domain` it is a detail of that domain.
    """

    group: Group | None = Group.COUNTED
    policy_domain: str | None = None
    reporter: str | None = None
    since: date | None = None
    until: date | None = None
    result_type: str | None = None
    mx_hostname: str | None = None

    @property
    def of_details(self) -> bool:
        """Whether details choose."""
        return self.result_type is not None or self.mx_hostname is not None


@dataclass(frozen=True, slots=True)
class ReportLine:
    """A report in a list. Sessions are those of the policies asked for, and in `COUNTED` of our domains alone.

    `policy_domain` and `policy_type` are the first of `domains` and `policy_types` different ones.
    """

    key: PageKey
    group: Group
    reporter: str
    organization_name: str
    report_id: str
    policy_domain: str
    domains: int
    policy_type: str
    policy_types: int
    successes: int
    failures: int
    warnings: int
    duplicates: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class IntakeRow:
    """What came in at once, as it is told of. `sent_at` None: its header has no date that can be read."""

    intake: int
    received_at: datetime
    via: str
    recipient: str
    client: str
    media_type: str
    from_address: str
    submitter: str
    subject: str
    message_id: str
    sent_at: datetime | None
    dkim_status: str
    dkim_domain: str
    dkim_selector: str
    dkim_reason: str
    aligned: bool
    refusals: tuple[str, ...]
    raw_length: int
    parsed_by: str


@dataclass(frozen=True, slots=True)
class DetailRow:
    """One of failure-details. `result_type` and `mx_hostname` are what it is counted as, the texts what was written."""

    result_type: str
    result_type_text: str
    mx_hostname: str
    receiving_mx_hostname: str
    receiving_mx_helo: str
    receiving_ip: str
    sending_mta_ip: str
    additional_information: str
    failure_reason_code: str
    sessions: int


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One of a report's policies. `foreign`: its domain is not ours, and it does not count."""

    number: int
    policy_domain: str
    policy_domain_text: str
    policy_type: str
    policy_type_text: str
    foreign: bool
    policy_strings: tuple[str, ...]
    mx_hosts: tuple[str, ...]
    successes: int
    failures: int
    warnings: tuple[tuple[str, str, int], ...]
    details: tuple[DetailRow, ...]


@dataclass(frozen=True, slots=True)
class FoundReport:
    """A stored report with all that was read of it. Warnings are code, text and number of times."""

    key: PageKey
    group: Group
    report_key: bytes
    identity: bytes
    intake: IntakeRow
    reporter: str
    organization_name: str
    contact_info: str
    report_id: str
    start_at: datetime
    end_at: datetime
    packing: str
    duplicates: int
    last_duplicate_at: datetime | None
    warnings: tuple[tuple[str, str, int], ...]
    policies: tuple[PolicyRow, ...]


@dataclass(frozen=True, slots=True)
class DaySum:
    """Sessions of a day. `successes` None where failures alone were asked for."""

    day: str
    successes: int | None
    failures: int


@dataclass(frozen=True, slots=True)
class NamedSum:
    """Sessions by a name. `successes` None where that has none: failure-details tell of failures alone."""

    name: str
    successes: int | None
    failures: int


@dataclass(frozen=True, slots=True)
class ApartSum:
    """Of a group that is not counted: reports, and the sessions that they tell of."""

    group: Group
    reports: int
    sessions: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What counts, added up. Lists are the largest first, those of days the latest first; `more` says by the list's
    name how many others there are."""

    successes: int | None
    failures: int
    days: tuple[DaySum, ...]
    policy_domains: tuple[NamedSum, ...]
    reporters: tuple[NamedSum, ...]
    policy_types: tuple[NamedSum, ...]
    result_types: tuple[NamedSum, ...]
    mx_hostnames: tuple[NamedSum, ...]
    more: dict[str, int]
    apart: tuple[ApartSum, ...]
    refused: int
