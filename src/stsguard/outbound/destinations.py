"""Who asks for reports: the TLSRPT record of a domain, and of the MX hosts that serve it (RFC 8460 §3)."""

import logging
from collections.abc import Sequence

from cachetools import LRUCache

from stsguard.core.dane import AnswerStatus
from stsguard.core.errors import LookupFailed, RecordInvalid
from stsguard.core.session import CounterRow
from stsguard.core.tlsrpt_record import select_tlsrpt_record
from stsguard.log import logger, outcome
from stsguard.names import Domain
from stsguard.ports import Resolver

log = logger(__name__)

MAX_RUAS = 10  # a record could name hundreds, each a request of ours to somebody
REMEMBERED = 20_000


class Destinations:
    """Looks TLSRPT records up, remembering the last ones for the length of a round."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._known: LRUCache[Domain, tuple[str, ...]] = LRUCache(REMEMBERED)

    def forget(self) -> None:
        """Look every record up anew from now on."""
        self._known.clear()

    async def ruas(self, report_domain: Domain, *, fresh: bool = False) -> tuple[str, ...] | None:
        """Where reports on `report_domain` go, each URI once: none where nobody asks; None where it can't be known
        now. `fresh` looks up whatever is remembered."""
        if not fresh and report_domain in self._known:
            return self._known[report_domain]
        try:
            found = await self._lookup(report_domain)
        except LookupFailed as exc:
            outcome(log, logging.WARNING, "TLSRPT record not to be had", policy_domain=report_domain, reason=exc)
            return None
        self._known[report_domain] = found
        return found

    async def _lookup(self, report_domain: Domain) -> tuple[str, ...]:
        try:
            answer = await self._resolver.lookup_txt(report_domain.child("_smtp", "_tls"))
        except ValueError:  # a name so long that no record fits below it
            return ()
        if answer.status is not AnswerStatus.FOUND:
            return ()
        try:
            record = select_tlsrpt_record(answer.records)
        except RecordInvalid as exc:
            # RFC 8460 §3: not exactly one record, or none that parses: the domain does not take part.
            outcome(log, logging.INFO, "TLSRPT record unusable", policy_domain=report_domain, reason=exc)
            return ()
        return tuple(dict.fromkeys(record.ruas))[:MAX_RUAS] if record else ()

    async def without_doubles(self, report_domain: Domain, rows: Sequence[CounterRow]) -> list[CounterRow]:
        """`rows` without the sessions of an MX host that its operator hears of already, as the recipient's own
        report goes to the same place."""
        own = await self.ruas(report_domain)
        kept = []
        for row in rows:
            if row.for_mx_host and row.recipient_domain != report_domain:
                theirs = await self.ruas(row.recipient_domain)
                if own and theirs and set(own) & set(theirs):
                    continue
            kept.append(row)
        return kept
