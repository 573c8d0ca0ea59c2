"""Our own domains, what is wrong with them, who fetched their policies, and their certificates: the ports
`DomainStore`, `FindingStore`, `PolicyFetchStore` and `CertificateStore` on SQLite or PostgreSQL.

Rows that can't be read are reported and left out of lists. Leases are measured by the clocks of the nodes: they have
to be longer than these differ.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from stsguard.core.errors import StoreUnavailable
from stsguard.core.findings import HostingFinding, SeenFinding
from stsguard.core.hosted import AcmeChallenge, CertificateState, HistoryEvent, HostedDomain, PolicyFetchRow
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.store.access import DatabaseAccess

if TYPE_CHECKING:
    from stsguard.store.rows import Readable
    from stsguard.store.tables import Tables

log = logger(__name__)
rows_invalid = Counter(
    "store_hosting_invalid_total",
    "Stored domains, findings and certificates that could not be read; they are left out.",
)

T = TypeVar("T")
DELETED_AT_ONCE = 5000  # a transaction that other writes wait for


class _Store:
    """A store in a database that other stores use as well: opening and closing this one opens and closes it for all.
    Every method raises `StoreUnavailable` where the database can't be used."""

    def __init__(self, database: str | DatabaseAccess) -> None:
        self._access = DatabaseAccess(database) if isinstance(database, str) else database

    async def open(self) -> None:
        """Open the database, or look again whether it can be opened; no effect on an open one.

        Raises:
            StoreUnavailable: with what is wrong with it and what to do. It may be tried again at any time.
        """
        await self._access.open()

    async def close(self) -> None:
        """Write what was asked for before, and close the database. One that hangs is left behind."""
        await self._access.close()

    async def _list(self, call: "Callable[[Tables], Readable[T]]") -> Sequence[T]:
        return _reported(await self._access.scan(call))

    async def _delete(self, delete_some: "Callable[[Tables], int]") -> int:
        """Delete in short transactions, between which others write; how many rows."""
        number = 0
        while some := await self._access.write(delete_some):
            number += some
            if some < DELETED_AT_ONCE:
                break
        return number


def _reported(found: "Readable[T]") -> Sequence[T]:
    for reason in found.invalid:
        rows_invalid.inc()
        outcome(log, logging.ERROR, "stored row can't be read", reason=reason)
    return found.values


class DomainStoreSql(_Store):
    """Our own domains with all versions of their policies."""

    async def revision(self) -> int:
        """The number of the last change to any domain, growing; cheap, for several times a second."""
        return await self._access.read(lambda tables: tables.domains.revision())

    async def load_domain(self, policy_domain: Domain) -> HostedDomain | None:
        """The domain, retired or not; None where it is not hosted.

        Raises:
            StoreUnavailable: it can't be read, or what is stored is no domain.
        """
        found = await self._access.scan(lambda tables: tables.domains.load(policy_domain))
        for reason in found.invalid:
            raise StoreUnavailable(f"what is stored can't be read: {reason}")
        return found.values[0] if found.values else None

    async def load_domains(self, after_revision: int = 0) -> Sequence[HostedDomain]:
        """All domains changed after that revision, in order of their names; retired ones included."""
        return await self._list(lambda tables: tables.domains.load_changed(after_revision))

    async def save_domain(self, domain: HostedDomain, events: Sequence[HistoryEvent]) -> HostedDomain | None:
        """Write `domain` with its versions and add `events` to its history, if it is stored with the revision that
        `domain` has (0: not at all); the domain with its new revision. None where another process was first: load it,
        decide anew, and save that.

        Raises:
            ValueError: a stored version would be lost, or anything but its times be changed: a bug of the caller's,
                of which nothing is written.
        """
        return await self._access.write(lambda tables: tables.domains.save(domain, events))

    async def load_history(self, policy_domain: Domain) -> Sequence[HistoryEvent]:
        """What happened to it, oldest first."""
        return await self._list(lambda tables: tables.domains.load_history(policy_domain))


class FindingStoreSql(_Store):
    """What is wrong with our own domains, since when and until when."""

    async def save_findings(
        self, policy_domain: Domain, findings: Sequence[HostingFinding], now: datetime
    ) -> tuple[Sequence[SeenFinding], Sequence[SeenFinding]]:
        """Note what an inspection at `now` found: those that came with it, and those that went. One that comes back
        begins anew. Nothing is noted of a domain that is not hosted."""
        return await self._access.write(lambda tables: tables.findings.save(policy_domain, findings, now))

    async def load_findings(
        self, policy_domain: Domain | None = None, *, only_open: bool = False
    ) -> Sequence[tuple[Domain, SeenFinding]]:
        """The findings, gone ones included unless `only_open`, latest first; of one domain or of all."""
        return await self._list(lambda tables: tables.findings.load(policy_domain, only_open=only_open))

    async def load_inspection_times(self, policy_domain: Domain | None = None) -> Mapping[Domain, datetime]:
        """When each domain was inspected last, or that one; without those that never were."""
        return await self._access.scan(lambda tables: tables.findings.inspected(policy_domain))

    async def delete_findings(self, gone_before: datetime) -> int:
        """Delete the findings that went before that; how many."""
        return await self._delete(lambda tables: tables.findings.delete_some(gone_before, DELETED_AT_ONCE))


class PolicyFetchStoreSql(_Store):
    """Who fetched our policies."""

    async def add_policy_fetches(self, rows: Sequence[PolicyFetchRow]) -> None:
        """Add these to what is counted already."""
        await self._access.write(lambda tables: tables.policy_fetches.add(rows))

    async def load_policy_fetches(self, policy_domain: Domain, since: date) -> Sequence[PolicyFetchRow]:
        """What was counted from that UTC day on, latest day first, then those who fetched most."""
        return await self._access.scan(lambda tables: tables.policy_fetches.load(policy_domain, since))

    async def delete_policy_fetches(self, before: date) -> int:
        """Delete what was counted before that day; how many rows."""
        return await self._delete(lambda tables: tables.policy_fetches.delete_some(before, DELETED_AT_ONCE))


class CertificateStoreSql(_Store):
    """The state of certificates and of challenges under way, for every process."""

    async def load_certificate_states(self) -> Sequence[CertificateState]:
        """The states of all Policy Hosts that were ever tried."""
        return await self._list(lambda tables: tables.certificates.load_states())

    async def save_certificate_state(self, state: CertificateState) -> None:
        """Write it in place of what is there, and end the claim of whoever has it."""
        await self._access.write(lambda tables: tables.certificates.save_state(state))

    async def claim_certificate(self, policy_host: Domain, node: str, now: datetime, lease_seconds: float) -> bool:
        """Whether `node` is now the one that orders a certificate for this host, or still is; the claim ends by
        itself."""
        until = now + timedelta(seconds=lease_seconds)
        return await self._access.write(lambda tables: tables.certificates.claim(policy_host, node, now, until))

    async def save_challenge(self, challenge: AcmeChallenge) -> None:
        """Have every process answer it until it expires."""
        await self._access.write(lambda tables: tables.certificates.save_challenge(challenge))

    async def load_challenges(self, now: datetime) -> Sequence[AcmeChallenge]:
        """Those under way; expired ones are deleted."""
        stored = await self._list(lambda tables: tables.certificates.load_challenges())
        under_way = [challenge for challenge in stored if challenge.expires_at > now]
        if len(under_way) < len(stored):
            await self._access.write(lambda tables: tables.certificates.delete_expired(now))
        return under_way

    async def load_challenge(self, kind: str, token: str, now: datetime) -> AcmeChallenge | None:
        """The one under way with this token, which may be anything that a stranger asks for."""
        if not (token.isascii() and token.isprintable()):  # no token (RFC 8555 §8.3), and not every database takes it
            return None
        found = _reported(await self._access.read(lambda tables: tables.certificates.load_challenge(kind, token, now)))
        return found[0] if found else None

    async def delete_challenge(self, kind: str, token: str) -> None:
        """It is over."""
        await self._access.write(lambda tables: tables.certificates.delete_challenge(kind, token))
