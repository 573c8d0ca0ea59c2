"""What a row of the report table is made of: what a scenario's sessions are reported as, by what is heard of them."""

import re
from dataclasses import dataclass

from tests.lab.reports import Heard

_REFRESHES = re.compile(r"(sts-[a-z-]+) x\d+")


@dataclass(frozen=True, slots=True)
class ReportCase:
    """One row, in the form of `tests.lab.reports`.

    Attributes:
        alone: what Postfix 3.10 reports by itself.
        reported: what we report by its log.
        by_datagram: the same by datagrams alone; as `reported` where empty.
        or_by_datagram: what that may be as well, where a kill may lose its last second.
        on_37: by the log of 3.7; as `reported` where empty.
        refreshed: how often the policy was tried meanwhile depends on how soon a failed session has its id checked.
        mx_host: the MX host whose own report says the same under DANE (RFC 8460 §1.1), or a name below it.
        of_mx_host: what that report says where it is not the same.
        varied: whether it is carried out with connections and TLS sessions reused as well.
        why: why there is nothing to report.
    """

    scenario: str
    alone: str
    reported: str
    by_datagram: str = ""
    or_by_datagram: tuple[str, ...] = ()
    on_37: str = ""
    refreshed: bool = False
    mx_host: str = ""
    of_mx_host: str = ""
    varied: bool = False
    why: str = ""

    def agrees(self, reported: str, heard: Heard) -> bool:
        """Whether this is what the report has to say."""
        if self.refreshed:
            reported = _REFRESHES.sub(r"\1", reported)
        return reported in self.expected(heard)

    def expected(self, heard: Heard) -> tuple[str, ...]:
        """What the report may say: one text, but after a kill."""
        if not heard.by_log:
            first = self.by_datagram or self.reported
            return (first, *self.or_by_datagram)
        return ((self.on_37 or self.reported) if heard.version.is_37 else self.reported,)

    def agrees_for_mx_host(self, reported: str, heard: Heard) -> bool:
        """Whether this is what the MX host's own report has to say."""
        return reported == self.of_mx_host if self.of_mx_host else self.agrees(reported, heard)


def row(
    scenario: str,
    alone: str,
    reported: str,
    *,
    by_datagram: str = "",
    on_37: str = "",
    refreshed: bool = False,
    mx_host: str = "",
    varied: bool = False,
    why: str = "",
) -> ReportCase:
    """A row in which Postfix alone says something else, or nothing at all."""
    return ReportCase(
        scenario,
        alone,
        reported,
        by_datagram=by_datagram,
        on_37=on_37,
        refreshed=refreshed,
        mx_host=mx_host,
        varied=varied,
        why=why,
    )


def same(
    scenario: str,
    reported: str,
    *,
    or_by_datagram: tuple[str, ...] = (),
    mx_host: str = "",
    of_mx_host: str = "",
    varied: bool = False,
) -> ReportCase:
    """A row in which Postfix alone says it as well."""
    return ReportCase(
        scenario,
        reported,
        reported,
        or_by_datagram=or_by_datagram,
        mx_host=mx_host,
        of_mx_host=of_mx_host,
        varied=varied,
    )
