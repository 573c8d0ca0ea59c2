"""What a report holds (RFC 8460 §4.4), as values."""

from dataclasses import dataclass
from datetime import datetime

from stsguard.core.session import AppliedPolicy, FailureDetail
from stsguard.names import Domain


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One element of `policies`: a policy, its summary, and its failure-details with their failed-session-count."""

    policy: AppliedPolicy
    successes: int
    failures: int
    details: tuple[tuple[FailureDetail, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """An aggregate report. `start_at` and `end_at` are aware UTC, both within the day reported of.

    `contact` is an addr-spec with the domain in A-labels. Without `policies` a report says nothing and is not sent.
    """

    organization: str
    contact: str
    report_id: str
    start_at: datetime
    end_at: datetime
    policies: tuple[PolicyResult, ...] = ()

    @property
    def submitter(self) -> Domain:
        """The domain of contact-info: TLS-Report-Submitter, and `sender` of the file name (RFC 8460 §5.1, §5.3).

        Raises:
            NameInvalid: contact-info has no domain, which `build_report` and `parse_report` do not let pass.
        """
        return contact_domain(self.contact)

    @property
    def successes(self) -> int:
        """The successful sessions under all policies."""
        return sum(result.successes for result in self.policies)

    @property
    def failures(self) -> int:
        """The failed sessions under all policies."""
        return sum(result.failures for result in self.policies)


def contact_domain(contact: str) -> Domain:
    """The domain of an addr-spec.

    Raises:
        NameInvalid: there is none.
    """
    return Domain.parse(contact.rpartition("@")[2])
