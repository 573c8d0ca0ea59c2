"""Our own domains as values, and the store that keeps them as one."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime

from stsguard.core.errors import StoreUnavailable
from stsguard.core.hosted import (
    AcmeChallenge,
    CertificateState,
    HistoryEvent,
    HostedDomain,
    PolicyFetchRow,
    PolicyVersion,
    Stage,
)
from stsguard.core.mtasts import Mode, MxPattern
from stsguard.names import Domain
from tests.unit.fakes import START


def hosted(
    name: str, *, mode: Mode = Mode.TESTING, stage: Stage = Stage.TESTING, max_age: int = 86_400
) -> HostedDomain:
    """A domain with one version and an MX host."""
    mx = (MxPattern.parse("mx.example.net"),)
    version = PolicyVersion(1, "20260301T000000Z", mode, max_age, mx, START, "added")
    return HostedDomain(Domain(name), stage, START, START, (version,))


class HostingStore:
    """`ports.DomainStore`, `PolicyFetchStore` and `CertificateStore` over lists. `problem` set: everything fails."""

    def __init__(self, *domains: HostedDomain) -> None:
        self.problem: str | None = None
        self.domains: dict[Domain, HostedDomain] = {}
        self.fetches: list[PolicyFetchRow] = []
        self.challenges: list[AcmeChallenge] = []
        self.deleted_before: list[date] = []
        self.loads: list[int] = []
        self.at = 0
        for domain in domains:
            self.put(domain)

    def put(self, domain: HostedDomain) -> None:
        self.at += 1
        self.domains[domain.policy_domain] = replace(domain, revision=self.at)

    def _check(self) -> None:
        if self.problem is not None:
            raise StoreUnavailable(self.problem)

    async def open(self) -> None:
        self._check()

    async def revision(self) -> int:
        self._check()
        return self.at

    async def load_domain(self, policy_domain: Domain) -> HostedDomain | None:
        self._check()
        return self.domains.get(policy_domain)

    async def load_domains(self, after_revision: int = 0) -> Sequence[HostedDomain]:
        self._check()
        self.loads.append(after_revision)
        return [domain for _, domain in sorted(self.domains.items()) if domain.revision > after_revision]

    async def save_domain(self, domain: HostedDomain, events: Sequence[HistoryEvent]) -> HostedDomain | None:
        self._check()
        self.put(domain)
        return self.domains[domain.policy_domain]

    async def load_history(self, policy_domain: Domain) -> Sequence[HistoryEvent]:
        self._check()
        return ()

    async def add_policy_fetches(self, rows: Sequence[PolicyFetchRow]) -> None:
        self._check()
        self.fetches += rows

    async def load_policy_fetches(self, policy_domain: Domain, since: date) -> Sequence[PolicyFetchRow]:
        self._check()
        return [row for row in self.fetches if row.policy_domain == policy_domain and row.day >= since.isoformat()]

    async def delete_policy_fetches(self, before: date) -> int:
        self._check()
        self.deleted_before.append(before)
        return 0

    async def load_challenge(self, kind: str, token: str, now: datetime) -> AcmeChallenge | None:
        self._check()
        return next((each for each in self.challenges if (each.kind, each.token) == (kind, token)), None)

    async def load_challenges(self, now: datetime) -> Sequence[AcmeChallenge]:
        self._check()
        return self.challenges

    async def save_challenge(self, challenge: AcmeChallenge) -> None:
        self.challenges.append(challenge)

    async def delete_challenge(self, kind: str, token: str) -> None:
        self.challenges = [each for each in self.challenges if (each.kind, each.token) != (kind, token)]

    async def load_certificate_states(self) -> Sequence[CertificateState]:
        return ()

    async def save_certificate_state(self, state: CertificateState) -> None:
        raise NotImplementedError

    async def claim_certificate(self, policy_host: Domain, node: str, now: datetime, lease_seconds: float) -> bool:
        return False
