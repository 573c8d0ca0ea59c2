"""DNS, addresses, inspections and the database as values, for the steward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from stsguard.core.errors import LookupFailed, LookupReason, StoreUnavailable, UpdateFailed
from stsguard.core.findings import HostingFinding, SeenFinding
from stsguard.core.hosted import HistoryEvent, HostedDomain, PolicyVersion
from stsguard.core.inspection import Inspection, MxSeen, RecordAt
from stsguard.names import Domain
from tests.unit.fakes import Clock
from tests.unit.lives import inspection, policy_at, probe, record_at


@dataclass
class Domains:
    """`ports.DomainStore`. `race` is done once, as if by another process, right before the next save."""

    stored: dict[Domain, HostedDomain] = field(default_factory=dict)
    history: list[HistoryEvent] = field(default_factory=list)
    problem: str | None = None
    save_problem: str | None = None
    race: HostedDomain | None = None
    at: int = 0

    def check(self) -> None:
        if self.problem is not None:
            raise StoreUnavailable(self.problem)

    def put(self, domain: HostedDomain) -> HostedDomain:
        self.at += 1
        self.stored[domain.policy_domain] = replace(domain, revision=self.at)
        return self.stored[domain.policy_domain]

    async def revision(self) -> int:
        self.check()
        return self.at

    async def load_domain(self, policy_domain: Domain) -> HostedDomain | None:
        self.check()
        return self.stored.get(policy_domain)

    async def load_domains(self, after_revision: int = 0) -> Sequence[HostedDomain]:
        self.check()
        return [domain for _, domain in sorted(self.stored.items()) if domain.revision > after_revision]

    async def save_domain(self, domain: HostedDomain, events: Sequence[HistoryEvent]) -> HostedDomain | None:
        self.check()
        if self.save_problem is not None:
            raise StoreUnavailable(self.save_problem)
        if self.race is not None:
            race, self.race = self.race, None
            self.put(race)
        stored = self.stored.get(domain.policy_domain)
        if (stored.revision if stored else 0) != domain.revision:
            return None
        self.history += events
        return self.put(domain)

    async def load_history(self, policy_domain: Domain) -> Sequence[HistoryEvent]:
        return self.history


@dataclass
class World:
    """`ports.Authority`, `RecordPublisher`, `Inspector` and `FindingStore` over the state of DNS and of one address.

    `served` None: the address serves what is stored, as the policy host does. `records` by name.
    """

    clock: Clock
    domains: Domains
    records: dict[Domain, str] = field(default_factory=dict)
    ttl: int = 300
    served: PolicyVersion | None = None
    down: bool = False
    dns_problem: bool = False
    silent_server: bool = False
    update_problem: str | None = None
    mx_fails: bool = False
    seen: list[SeenFinding] = field(default_factory=list)
    inspected: bool = True

    async def lookup_txt_everywhere(self, name: Domain) -> Sequence[RecordAt]:
        if self.dns_problem:
            raise LookupFailed(LookupReason.TIMEOUT, f"{name} NS")
        text = self.records.get(name)
        found = [replace(record_at(*([text] if text else [])), ttl=self.ttl)]
        return [*found, record_at(problem="timeout")] if self.silent_server else found

    async def publish_txt(self, name: Domain, text: str, ttl_seconds: int) -> None:
        if self.update_problem is not None:
            raise UpdateFailed(True, self.update_problem)
        self.records[name] = text

    async def remove_txt(self, name: Domain) -> None:
        if self.update_problem is not None:
            raise UpdateFailed(True, self.update_problem)
        self.records.pop(name, None)

    async def inspect(self, policy_domain: Domain, *, mx: bool = True) -> Inspection:
        domain = self.domains.stored[policy_domain]
        good = inspection(domain, self.clock.now())
        served = replace(policy_at(self.served or domain.current), not_after=self.clock.now() + timedelta(days=60))
        if self.down:
            served = replace(served, policy=None, problem="connection refused", reason="connection-refused")
        records = tuple(await self.lookup_txt_everywhere(policy_domain.child("_mta-sts")))
        hosts = good.mx_hosts if mx else ()
        if mx and self.mx_fails:
            hosts = (MxSeen(hosts[0].mx_hostname, 10, (replace(probe(), inconclusive=True, tls=False),)),)
        return replace(good, policies=(served,), sts_records=records, mx_hosts=hosts)

    async def save_findings(
        self, policy_domain: Domain, findings: Sequence[HostingFinding], now: datetime
    ) -> tuple[Sequence[SeenFinding], Sequence[SeenFinding]]:
        raise NotImplementedError

    async def load_findings(
        self, policy_domain: Domain | None = None, *, only_open: bool = False
    ) -> Sequence[tuple[Domain, SeenFinding]]:
        return [(policy_domain or Domain("example.com"), seen) for seen in self.seen]

    async def load_inspection_times(self, policy_domain: Domain | None = None) -> Mapping[Domain, datetime]:
        return {policy_domain or Domain("example.com"): self.clock.now()} if self.inspected else {}

    async def delete_findings(self, gone_before: datetime) -> int:
        raise NotImplementedError
