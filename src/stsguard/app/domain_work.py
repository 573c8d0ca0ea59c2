"""What `stsguard domain` works with: the database, and what DNS and the Policy Host say now.

A change is decided on what is stored and saved only if nobody was first, else it is decided anew. The daemon need not
run; where it does, it serves the change within a second.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from stsguard.app.database_work import require_database
from stsguard.config.model import Config
from stsguard.core.dane import AnswerStatus
from stsguard.core.errors import LookupFailed, OurFault, PolicyFetchFailed, StoreUnavailable, TransitionRefused
from stsguard.core.hosted import HistoryEvent, HostedDomain
from stsguard.core.hosted_checks import parked_patterns
from stsguard.core.mtasts import MxPattern, mx_permitted
from stsguard.core.rollout import LivePolicy
from stsguard.core.rollout_plan import DnsMx
from stsguard.discovery.record import lookup_record
from stsguard.names import Domain

if TYPE_CHECKING:
    from stsguard.app.parts import Parts
    from stsguard.store.stores import Stores

T = TypeVar("T")
ATTEMPTS = 5  # to save a change while others change the same domain
Change = tuple[HostedDomain, HistoryEvent]


class CouldNotCheck(OurFault):
    """What a change depends on can't be looked at now; nothing is changed. The message says what and why."""


@dataclass(frozen=True, slots=True)
class DomainWork:
    """One command's view: the stores, and the parts that look up and fetch."""

    config: Config
    stores: "Stores"
    parts: "Parts"

    def now(self) -> datetime:
        """The clock that all dates of this command are by."""
        return self.parts.clock.now()

    async def load(self, policy_domain: Domain) -> HostedDomain:
        """The domain, retired or not.

        Raises:
            TransitionRefused: it is not hosted here.
            StoreUnavailable: the database can't be read.
        """
        domain = await self.stores.domains.load_domain(policy_domain)
        if domain is None:
            raise TransitionRefused(f"{policy_domain} is not hosted here; stsguard domain add {policy_domain} adds it")
        return domain

    async def change(self, policy_domain: Domain, decide: Callable[[HostedDomain], Change]) -> HostedDomain:
        """Load the domain, decide, and save what was decided; the domain as it is stored then.

        Raises:
            TransitionRefused: by `decide`, or the domain is not hosted.
            StoreUnavailable: the database can't be used, or others kept changing the domain.
        """
        for _ in range(ATTEMPTS):
            changed, event = decide(await self.load(policy_domain))
            saved = await self.stores.domains.save_domain(changed, [event])
            if saved is not None:
                return saved
        raise StoreUnavailable(f"other processes keep changing {policy_domain}; nothing was changed, try again")

    async def dns_ids(self, policy_domain: Domain) -> tuple[str, ...]:
        """The ids in DNS now, to which a new one must be later. A failed look-up gives none: ids are of the time of
        day, and later than all that were ever ours."""
        record = (await lookup_record(self.parts.resolver, policy_domain)).record
        return (record.record_id,) if record else ()

    async def live_policy(self, policy_domain: Domain, *, forced: bool) -> LivePolicy:
        """What the domain has in DNS and at its Policy Host now, as a sender finds it.

        Raises:
            CouldNotCheck: DNS can't be asked; or there is a record, and its policy can't be fetched (not if `forced`).
        """
        found = await lookup_record(self.parts.resolver, policy_domain)
        if found.failed:
            useless = "; --force does not help here, since the MX hosts can't be seen either" if forced else ""
            raise CouldNotCheck(
                f"the record of {policy_domain} can't be looked up: {found.detail}; nothing is changed{useless}"
            )
        record_id = found.record.record_id if found.record else None
        try:
            policy = await self.parts.fetcher.fetch(policy_domain)
        except PolicyFetchFailed as exc:
            if record_id is not None and not forced:
                raise CouldNotCheck(
                    f"{policy_domain} has a record with id {record_id}, but its policy can't be fetched ({exc}): "
                    "senders may hold one that enforces, and what is served here must not be weaker. Let the old host "
                    "serve it until the domain is added, or give --force REASON to begin with testing all the same"
                ) from exc
            policy = None
        return LivePolicy(policy, record_id, found.ttl if record_id else 0)

    async def dns_mx(self, policy_domain: Domain) -> "MxInDns":
        """The MX hosts in DNS now; a failed look-up is a value."""
        try:
            answer = await self.parts.resolver.lookup_mx(policy_domain)
        except LookupFailed as exc:
            return MxInDns((), 0, problem=str(exc))
        if answer.status is not AnswerStatus.FOUND:
            return MxInDns((policy_domain,), answer.ttl, implicit=True)  # RFC 5321 §5.1
        hosts = tuple(dict.fromkeys(record.mx_hostname for record in answer.records if record.mx_hostname))
        return MxInDns(hosts, answer.ttl, null_mx=not hosts)


@dataclass(frozen=True, slots=True)
class MxInDns:
    """The MX hosts of a domain in DNS. `implicit`: there are no MX records, so it is the domain itself. `problem` is
    empty, or says why nothing is known."""

    hosts: tuple[Domain, ...]
    ttl: int
    problem: str = ""
    implicit: bool = False
    null_mx: bool = False

    def patterns(self, policy_domain: Domain) -> tuple[MxPattern, ...]:
        """The `mx` of a policy that permits exactly these hosts.

        Raises:
            CouldNotCheck: they are not known.
        """
        if self.problem:
            raise CouldNotCheck(f"the MX records of {policy_domain} can't be looked up: {self.problem}")
        if self.null_mx:
            return parked_patterns(policy_domain)
        return tuple(MxPattern(host, wildcard=False) for host in self.hosts)

    def warnings(self, policy_domain: Domain, patterns: tuple[MxPattern, ...]) -> tuple[str, ...]:
        """What is amiss between these hosts and the `mx` of a policy."""
        if self.problem:
            return (f"the MX records can't be looked up, so nobody checked --mx against them: {self.problem}",)
        found = []
        if self.implicit:
            found.append(f"{policy_domain} has no MX records: senders deliver to {policy_domain} itself")
        uncovered = [host for host in self.hosts if not mx_permitted(patterns, host)]
        if uncovered and len(uncovered) == len(self.hosts):
            found.append(
                f"no mx of the policy permits any host in DNS MX ({', '.join(uncovered)}): enforced, no mail would "
                "arrive at all"
            )
        elif uncovered:
            found.append(f"no mx of the policy permits {', '.join(uncovered)}: enforced, no mail would arrive there")
        return tuple(found)

    def for_plan(self, unused_since: dict[MxPattern, datetime]) -> DnsMx:
        """The same as a plan takes it."""
        return DnsMx(self.hosts, self.ttl, unused_since, known=not self.problem)


def with_work(config: Config, work: Callable[[DomainWork], Awaitable[T]], *, make_database: bool = False) -> T:
    """What `work` returns, with everything opened for it and closed again; the database has to be there, unless
    `make_database`.

    Raises:
        StoreUnavailable: the database can't be used.
    """
    from stsguard.app.parts import build_parts
    from stsguard.log import set_up
    from stsguard.store.nothing import NoStore
    from stsguard.store.stores import open_stores

    set_up(level="error", form="text")
    if not make_database:
        require_database(config)

    async def run() -> T:
        stores = open_stores(config.store.url)
        parts = build_parts(config, NoStore())
        await stores.domains.open()
        try:
            return await work(DomainWork(config, stores, parts))
        finally:
            await parts.cache.close()
            await stores.domains.close()

    return asyncio.run(run())
