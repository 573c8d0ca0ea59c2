"""What the sessions of scenarios have to be reported as, beside what Postfix alone would have reported.

In the form of `tests.lab.reports`. `reported` is by the mail log of Postfix 3.10. By datagrams alone, and by the log of
3.7, less is seen or Postfix does something else: there the line has a column of its own.
"""

import re
from dataclasses import dataclass

from tests.lab.reports import NOTHING, Heard


@dataclass(frozen=True, slots=True)
class ReportCase:
    """One row. `alone` is what Postfix 3.10 reports by itself; `by_datagram` and `on_37` as `reported` where empty."""

    scenario: str
    alone: str
    reported: str
    by_datagram: str = ""
    on_37: str = ""
    counted_by_time: bool = False  # the number depends on how long the destination is in use
    mx_host_too: bool = False  # under DANE the MX host's own report says the same (RFC 8460 §1.1)

    def agrees(self, reported: str, heard: Heard) -> bool:
        """Whether this is what the report has to say."""
        if self.counted_by_time:
            reported = re.sub(r" x\d+", "", re.sub(r"\d+ failed", "1 failed", reported))
        return reported == self.expected(heard)

    def expected(self, heard: Heard) -> str:
        """What the report has to say."""
        if not heard.by_log:
            return self.by_datagram or self.reported
        return (self.on_37 or self.reported) if heard.version.is_37 else self.reported


REPORT_CASES = (
    ReportCase("enforce-good", "sts: 1 ok", "sts: 1 ok"),
    ReportCase("wildcard-one-label", "sts: 1 ok", "sts: 1 ok"),
    ReportCase("idn-recipient", "sts: 1 ok", "sts: 1 ok"),
    ReportCase("wrong-name", "sts: 1 failed, certificate-host-mismatch", "sts: 1 failed, certificate-host-mismatch"),
    ReportCase("expired", "sts: 1 failed, certificate-expired", "sts: 1 failed, certificate-expired"),
    ReportCase("self-signed", "sts: 1 failed, validation-failure", "sts: 1 failed, validation-failure"),
    ReportCase("no-starttls", "sts: 1 failed, starttls-not-supported", "sts: 1 failed, starttls-not-supported"),
    ReportCase("starttls-454", "sts: 1 failed, starttls-not-supported", "sts: 1 failed, starttls-not-supported"),
    ReportCase("handshake", "sts: 1 failed, validation-failure", "sts: 1 failed, validation-failure"),
    # One failure and one success; the MX host that failed is not delivered to, the next one is.
    ReportCase(
        "first-host-bad", "sts: 1 ok, 1 failed, certificate-expired", "sts: 1 ok, 1 failed, certificate-expired"
    ),
    # Postfix skips a host outside the policy in silence, but for its log. 3.7 contacts it.
    ReportCase(
        "spoofed-mx",
        NOTHING,
        "sts: 1 failed, validation-failure",
        by_datagram=NOTHING,
    ),
    ReportCase(
        "spoofed-mx-beside-good",
        "sts: 1 ok",
        "sts: 1 ok, 1 failed, validation-failure",
        by_datagram="sts: 1 ok",
    ),
    # Postfix verifies nothing in testing mode, and a datagram does not name the MX host of a success: then what Postfix
    # says is counted, as unverified.
    ReportCase(
        "testing-bad-certificate",
        "no-policy-found: 1 ok",
        "sts: 1 failed, certificate-expired",
        by_datagram="sts: 1 ok",
    ),
    ReportCase("testing-no-starttls", NOTHING, "sts: 1 failed, starttls-not-supported", by_datagram=NOTHING),
    ReportCase("none-mode", "no-policy-found: 1 ok", "no-policy-found: 1 ok"),
    ReportCase("no-record", "no-policy-found: 1 ok", "no-policy-found: 1 ok"),
    ReportCase("fetch-certificate-not-trusted", "no-policy-found: 1 ok", "sts: 1 failed, sts-webpki-invalid"),
    ReportCase("override-exempt", "no-policy-found: 1 ok", NOTHING),
    ReportCase(
        "override-enforce",
        "sts: 1 failed, certificate-host-mismatch",
        "sts: 1 failed, certificate-host-mismatch",
    ),
    ReportCase("dane-all-enforce", "tlsa: 1 ok", "tlsa: 1 ok", mx_host_too=True),
    ReportCase(
        "dane-mismatch-enforce",
        "tlsa: 1 failed, certificate-not-trusted",
        "tlsa: 1 failed, certificate-not-trusted",
        mx_host_too=True,
    ),
    ReportCase(
        "tlsa-unusable-no-policy", "tlsa: 1 failed, tlsa-invalid", "tlsa: 1 failed, tlsa-invalid", mx_host_too=True
    ),
    # No connection is made, and Postfix does not say why. Counted with each decision while the destination is in use.
    ReportCase("tlsa-bogus-everywhere", NOTHING, "tlsa: 1 failed, dnssec-invalid", counted_by_time=True),
    ReportCase("tlsa-unusable-enforce", "sts: 1 ok", "sts: 1 ok; tlsa: tlsa-invalid"),
)

BY_SCENARIO = {case.scenario: case for case in REPORT_CASES}
