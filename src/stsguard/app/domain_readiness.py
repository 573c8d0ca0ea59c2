"""What `stsguard domain readiness` and `mode DOMAIN enforce` do: look at the domain from outside now, and decide."""

from dataclasses import dataclass
from datetime import datetime

from stsguard.app.domain_commands import Changed, changed_result
from stsguard.app.domain_work import DomainWork, with_work
from stsguard.app.inspecting import build_inspector
from stsguard.config.model import Config
from stsguard.core.errors import TransitionRefused
from stsguard.core.hosted import HostedDomain
from stsguard.core.inspection import Inspection
from stsguard.core.readiness import Readiness, assess
from stsguard.core.rollout import enforce
from stsguard.names import Domain


@dataclass(frozen=True, slots=True)
class Assessed:
    """A domain, what was seen of it from outside just now, and whether that lets it enforce."""

    domain: HostedDomain
    inspection: Inspection
    readiness: Readiness
    now: datetime


def assess_domain(config: Config, policy_domain: Domain) -> Assessed:
    """Inspect the domain now and assess it.

    Raises:
        TransitionRefused: it is not hosted.
        StoreUnavailable: the database can't be used.
    """

    async def work(work: DomainWork) -> Assessed:
        domain = await work.load(policy_domain)
        inspection = await build_inspector(config, work.parts).inspect(policy_domain)
        now = work.now()
        return Assessed(domain, inspection, assess(domain, inspection, now), now)

    return with_work(config, work)


def enforce_domain(config: Config, assessed: Assessed, *, forced: str) -> Changed:
    """Bring the domain to enforce, on what was assessed: nothing else may have changed since.

    Raises:
        TransitionRefused: it is not ready, or was changed meanwhile.
        StoreUnavailable: the database can't be used.
    """
    name = assessed.domain.policy_domain

    async def work(work: DomainWork) -> Changed:
        ids, now = await work.dns_ids(name), work.now()
        first = config.policy_host.first_max_age_seconds
        changed, event = enforce(
            assessed.domain, assessed.readiness, now, first_max_age=first, dns_ids=ids, forced=forced
        )
        saved = await work.stores.domains.save_domain(changed, [event])
        if saved is None:
            raise TransitionRefused(f"{name} was changed by another process meanwhile; look again and repeat this")
        return changed_result(work, saved, now, before=assessed.domain)

    return with_work(config, work)
