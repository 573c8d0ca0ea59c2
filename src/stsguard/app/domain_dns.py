"""What `stsguard domain dns` tells: the exact records of a domain beside what is published now."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from stsguard.app.certificates import caa_value
from stsguard.app.domain_work import DomainWork, with_work
from stsguard.app.inspecting import build_inspector
from stsguard.config.model import Config
from stsguard.core.errors import LookupFailed
from stsguard.core.hosted import HostedDomain
from stsguard.core.hosted_records import CaaWanted, HostAddresses, WantedRecord, hosted_records
from stsguard.core.rollout_steps import Step, next_step
from stsguard.names import Domain


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a domain, in the order in which they are made. `caa_problem` is empty, or says why there is no
    CAA record to show."""

    domain: HostedDomain
    records: tuple[WantedRecord, ...]
    step: Step
    now: datetime
    caa_problem: str


def look_at_records(config: Config, policy_domain: Domain) -> Records:
    """Look at all records of a domain now.

    Raises:
        TransitionRefused: it is not hosted.
        StoreUnavailable: the database can't be used.
    """

    async def work(work: DomainWork) -> Records:
        domain = await work.load(policy_domain)
        value, problem = _caa(config)
        inspection, addresses, caa = await asyncio.gather(
            build_inspector(config, work.parts).inspect(policy_domain, mx=False),
            _addresses(work, domain.policy_host),
            _caa_published(work, domain.policy_host),
        )
        now = work.now()
        records = hosted_records(
            domain,
            inspection,
            addresses,
            CaaWanted(value, caa),
            now,
            ruas=config.policy_host.rua,
            record_ttl=config.policy_host.record_ttl_seconds,
        )
        step = next_step(domain, now, max_age_cap=config.policy_host.max_age_cap_seconds)
        return Records(domain, records, step, now, problem)

    return with_work(config, work)


def _caa(config: Config) -> tuple[str | None, str]:
    if config.policy_host.certificate_dir is None or config.policy_host.acme_directory is None:
        return None, "certificates are not got by ACME here"
    try:
        value = caa_value(config)
    except (OSError, ValueError) as exc:
        return None, f"the ACME account can't be read: {exc}"
    return value, "" if value else "there is no ACME account yet; the first certificate makes one"


async def _addresses(work: DomainWork, policy_host: Domain) -> HostAddresses:
    try:
        answer = await work.parts.resolver.lookup_addresses(policy_host)
    except LookupFailed as exc:
        return HostAddresses(problem=str(exc))
    cname = answer.canonical_name if answer.canonical_name != policy_host else None
    return HostAddresses(published=answer.records, cname=cname)


async def _caa_published(work: DomainWork, policy_host: Domain) -> tuple[str, ...]:
    try:
        return await work.parts.resolver.lookup_caa(policy_host)
    except LookupFailed:
        return ()
