"""What `stsguard domain list`, `show` and `history` tell: from the database, daemon or not."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stsguard.app.database_work import with_stores
from stsguard.config.model import Config
from stsguard.core.findings import SeenFinding
from stsguard.core.hosted import CertificateState, HistoryEvent, HostedDomain, PolicyFetchRow
from stsguard.core.rollout_steps import Step, next_step
from stsguard.names import Domain

if TYPE_CHECKING:
    from stsguard.app.export import Exported
    from stsguard.core.hand_certificate import HandCertificate
    from stsguard.store.stores import Stores

T = TypeVar("T")
FETCH_DAYS = 90  # as long as they are kept
TOP = 10


@dataclass(frozen=True, slots=True)
class Listed:
    """A domain in the list, with its open findings."""

    domain: HostedDomain
    step: Step
    findings: tuple[SeenFinding, ...]
    inspected_at: datetime | None


@dataclass(frozen=True, slots=True)
class Fetches:
    """Who fetched a policy in the last 90 days: those who did most, most first. `days` counts days with any."""

    total: int
    days: int
    last_day: str
    networks: tuple[tuple[str, int], ...]
    user_agents: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """All that is known of a domain. `findings` are open ones and those that went, latest first; `by_hand` is the
    certificate that the operator has put there, or has to."""

    domain: HostedDomain
    step: Step
    now: datetime
    findings: tuple[SeenFinding, ...]
    inspected_at: datetime | None
    certificate: CertificateState | None
    by_hand: "HandCertificate | None"
    fetches: Fetches
    aliases: tuple[Domain, ...]


def list_domains(config: Config, *, retired: bool) -> list[Listed]:
    """All domains in order of their names, retired ones only if asked for.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    async def work(stores: "Stores") -> list[Listed]:
        domains = await stores.domains.load_domains()
        findings: dict[Domain, list[SeenFinding]] = {}
        for name, seen in await stores.findings.load_findings(only_open=True):
            findings.setdefault(name, []).append(seen)
        inspected = await stores.findings.load_inspection_times()
        return [
            Listed(
                domain,
                _step(config, domain),
                tuple(findings.get(domain.policy_domain, ())),
                inspected.get(domain.policy_domain),
            )
            for domain in domains
            if retired or domain.stage.value != "retired"
        ]

    return _with_stores(config, work)


def show_domain(config: Config, policy_domain: Domain) -> Shown | None:
    """All that is known of one domain; None where it is not hosted.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    from stsguard.app.certificates import hand_certificates
    from stsguard.inbound.hand_certificates import look_at

    by_hand = hand_certificates(config)

    async def work(stores: "Stores") -> Shown | None:
        domain = await stores.domains.load_domain(policy_domain)
        if domain is None:
            return None
        now = _now()
        findings = await stores.findings.load_findings(policy_domain)
        inspected: Mapping[Domain, datetime] = await stores.findings.load_inspection_times(policy_domain)
        states = await stores.certificates.load_certificate_states()
        since = (now - timedelta(days=FETCH_DAYS)).date()
        fetches = await stores.policy_fetches.load_policy_fetches(policy_domain, since)
        others = await stores.domains.load_domains()
        return Shown(
            domain,
            _step(config, domain),
            now,
            tuple(seen for _, seen in findings),
            inspected.get(policy_domain),
            next((state for state in states if state.policy_host == domain.policy_host), None),
            look_at(by_hand, domain.policy_host, now) if by_hand is not None else None,
            _sum_up(fetches),
            tuple(each.policy_domain for each in others if each.alias_of == policy_domain),
        )

    return _with_stores(config, work)


def load_history(config: Config, policy_domain: Domain) -> Sequence[HistoryEvent] | None:
    """What happened to a domain, oldest first; None where it is not hosted.

    Raises:
        StoreUnavailable: the database can't be read.
    """

    async def work(stores: "Stores") -> Sequence[HistoryEvent] | None:
        if await stores.domains.load_domain(policy_domain) is None:
            return None
        return await stores.domains.load_history(policy_domain)

    return _with_stores(config, work)


def export_all(config: Config, directory: Path) -> "list[Exported]":
    """Write the policies of all domains below `directory`; what came of each.

    Raises:
        ExportFailed: a file can't be written.
        StoreUnavailable: the database can't be read.
    """
    from stsguard.app.export import export_domains

    async def work(stores: "Stores") -> "list[Exported]":
        return list(export_domains(await stores.domains.load_domains(), directory))

    return _with_stores(config, work)


def _sum_up(rows: Sequence[PolicyFetchRow]) -> Fetches:
    networks: Counter[str] = Counter()
    agents: Counter[str] = Counter()
    for row in rows:
        networks[row.network] += row.fetches
        agents[row.user_agent] += row.fetches
    days = {row.day for row in rows}
    return Fetches(
        total=networks.total(),
        days=len(days),
        last_day=max(days, default=""),
        networks=tuple(networks.most_common(TOP)),
        user_agents=tuple(agents.most_common(TOP)),
    )


def _step(config: Config, domain: HostedDomain) -> Step:
    return next_step(domain, _now(), max_age_cap=config.policy_host.max_age_cap_seconds)


def _now() -> datetime:
    from stsguard.adapters.clock import SystemClock

    return SystemClock().now()


def _with_stores(config: Config, work: Callable[["Stores"], Awaitable[T]]) -> T:
    from stsguard.log import set_up

    set_up(level="error", form="text")
    return with_stores(config, work)
