"""A TLS session of this MTA, as heard of by datagram or mail log, and what it counts as in a report (RFC 8460 §4).

Values only, shared by those who hear (`core.tlsrpt_event`, `core.postfix_log`), the one who judges (`core.verdict`),
the counters in the store, and the report (`core.tlsrpt_report`). They are tuples: there may be tens of thousands a
second, and frozen dataclasses take several times as long to make, to compare and to hash.
"""

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple

from stsguard.core.errors import ResultType
from stsguard.names import Domain


class PolicyType(StrEnum):
    """policy-type of RFC 8460 §4.4."""

    TLSA = "tlsa"
    STS = "sts"
    NO_POLICY_FOUND = "no-policy-found"


class Seen(StrEnum):
    """What Postfix did in one attempt on one MX host."""

    SUCCESS = "success"  # a TLS session that Postfix accepted at its level, verified or not
    FAILURE = "failure"  # a TLS session, or the attempt at one, that failed for good; `result_type` says how
    PLAINTEXT = "plaintext"  # delivered without TLS, which the level allowed
    MX_NOT_PERMITTED = "mx-not-permitted"  # skipped, since no pattern of the policy matches the MX host
    NO_TLS_POLICY = "no-tls-policy"  # skipped, since our reply was TEMP, or Postfix's own TLSA look-up has failed


class Source(StrEnum):
    """Where an event was heard."""

    DATAGRAM = "datagram"
    LOG = "log"
    OURSELVES = "ourselves"  # our own look-ups: bogus TLSA records, which Postfix never gets to see


class Session(NamedTuple):
    """One attempt on one MX host, as heard. Empty text and None mean that the source did not say.

    `recipient_domain` is the next hop whose TLSRPT record decides (RFC 8460 §3). `policy_type`, `policy_domain` and
    `policy_strings` are what Postfix says it applied, tlsa records as `usage selector type HEX`; None where the source
    (a log before 3.10) does not say. `queue_id` and `process` join log lines. `instance` is the Postfix instance.
    `tls_tried` of PLAINTEXT: TLS with this host failed earlier in the same delivery. `new_connection` False for a
    reused one; a reused TLS connection is no session of its own. `accepted_unverified` of SUCCESS: Postfix found no
    certificate to its liking and went on, so its level was none that verifies.
    `further_details` are failures within the same session beside its own: they are details of the report, counted each
    by itself, and no sessions. A SUCCESS can have them (it came after failures), and a FAILURE whose `result_type` is
    None has none at all: the source said that it failed and not how.
    """

    at: datetime
    source: Source
    instance: str
    seen: Seen
    recipient_domain: Domain
    policy_type: PolicyType | None = None
    policy_domain: Domain | None = None
    policy_strings: tuple[str, ...] = ()
    result_type: ResultType | None = None
    failure_reason_code: str = ""
    sending_mta_ip: str = ""
    receiving_mx_hostname: Domain | None = None
    receiving_mx_helo: str = ""
    receiving_ip: str = ""
    additional_information: str = ""
    port: int = 25
    new_connection: bool = True
    tls_level: str = ""
    further_details: tuple["FailureDetail", ...] = ()
    tls_tried: bool = False
    accepted_unverified: bool = False


class FailureDetail(NamedTuple):
    """failure-details of RFC 8460 §4.4 without the count: equal ones are merged and counted. Empty text is left out."""

    result_type: str
    sending_mta_ip: str = ""
    receiving_mx_hostname: str = ""
    receiving_mx_helo: str = ""
    receiving_ip: str = ""
    additional_information: str = ""
    failure_reason_code: str = ""


class AppliedPolicy(NamedTuple):
    """policy of RFC 8460 §4.4: what was in force for the session. `policy_strings` in the served order."""

    policy_type: PolicyType
    policy_domain: str
    policy_strings: tuple[str, ...] = ()
    mx_host_patterns: tuple[str, ...] = ()


class Count(NamedTuple):
    """What one session adds to the day's counters of `report_domain`, the domain whose TLSRPT record is asked.

    `sessions` is 1, or 0 for a detail that is no session of its own (a policy fetch that failed while a cached policy
    was in force); then `details` have counts of their own. `failed` belongs to the session. `unverified` marks a
    session in testing mode of which nobody knows whether it would have passed. `for_mx_host` marks the second count of
    a DANE session, for the domain of the MX host itself; then `recipient_domain` says whose mail it was, since the
    two reports are one where both go to the same place.
    """

    report_domain: Domain
    recipient_domain: Domain
    policy: AppliedPolicy
    sessions: int
    failed: bool
    details: tuple[FailureDetail, ...] = ()
    unverified: bool = False
    for_mx_host: bool = False


class CounterRow(NamedTuple):
    """What to add to the counters of one UTC day, one report and one policy. Additive, so a number may be negative
    where an earlier count turned out to be another. `recipient_domain` and `for_mx_host` as in `Count`."""

    day: date
    report_domain: Domain
    recipient_domain: Domain
    for_mx_host: bool
    policy: AppliedPolicy
    successes: int
    failures: int
    unverified: int
    details: Mapping[FailureDetail, int]
