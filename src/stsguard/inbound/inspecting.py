"""Looks at a domain of our own from outside, as senders do, and gathers an `Inspection` (RFC 8461 §3, §4, RFC 8460 §3).

Its TXT records at every authoritative server, its policy from every address of the Policy Host, and every MX host over
STARTTLS, all at once. What fails is looked at once more a little later: one bad moment makes no finding, and a sender
that meets one tries again too. Evidence only; `core.findings` judges.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from stsguard.core.dane import MxHost, MxLookupFailure
from stsguard.core.errors import FetchReason, LookupFailed
from stsguard.core.inspection import Inspection, MxSeen, PolicyAt, RecordAt
from stsguard.core.mxcheck import MxProbe
from stsguard.discovery.mx import lookup_mx_evidence
from stsguard.discovery.verification import MxVerifier
from stsguard.names import Domain, NameInvalid
from stsguard.ports import Authority, Clock, PolicyInspector, Resolver

SMTP_PORT = 25
AGAIN_SECONDS = 5.0
TIMEOUT_SECONDS = 180.0  # for each part; a policy fetch may take a minute, and is made twice
MAX_ADDRESSES = 16  # of a Policy Host
MAX_MX_HOSTS = 20
NOT_LOOKED_AT = "not looked at"

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class _Mx:
    """The MX part of an inspection."""

    hosts: tuple[MxSeen, ...] = ()
    problem: str = ""
    null_mx: bool = False
    ttl: int = 0


class Inspector:
    """Gathers inspections.

    Args:
        resolver: finds the addresses of Policy Hosts, and the MX hosts.
        verifier: probes the MX hosts, one connection to an address at a time.
        again_seconds: until what failed is looked at once more.
        timeout_seconds: for each part of an inspection.
    """

    def __init__(
        self,
        resolver: Resolver,
        authority: Authority,
        policies: PolicyInspector,
        verifier: MxVerifier,
        clock: Clock,
        *,
        again_seconds: float = AGAIN_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._resolver = resolver
        self._authority = authority
        self._policies = policies
        self._verifier = verifier
        self._clock = clock
        self._again = again_seconds
        self._timeout = timeout_seconds

    async def inspect(self, policy_domain: Domain, *, mx: bool = True) -> Inspection:
        """All that can be seen of `policy_domain` now; whatever fails is a value. Without `mx` its MX hosts are not
        looked at, and `mx_problem` says so."""
        at = self._clock.now()
        async with asyncio.TaskGroup() as group:
            sts = group.create_task(self._bounded(self._look_up_records(policy_domain, "_mta-sts")))
            tlsrpt = group.create_task(self._bounded(self._look_up_records(policy_domain, "_smtp", "_tls")))
            policies = group.create_task(self._bounded(self._fetch_policies(policy_domain)))
            seen = group.create_task(self._bounded(self._look_at_mx(policy_domain))) if mx else None
        sts_records, sts_problem = _part(sts.result())
        tlsrpt_records, tlsrpt_problem = _part(tlsrpt.result())
        fetched, policies_problem = _part(policies.result())
        mx_part = _Mx(problem=NOT_LOOKED_AT) if seen is None else _mx_part(seen.result())
        return Inspection(
            policy_domain=policy_domain,
            at=at,
            sts_records=sts_records,
            sts_records_problem=sts_problem,
            tlsrpt_records=tlsrpt_records,
            tlsrpt_records_problem=tlsrpt_problem,
            policies=fetched,
            policies_problem=policies_problem,
            mx_hosts=mx_part.hosts,
            mx_problem=mx_part.problem,
            null_mx=mx_part.null_mx,
            mx_ttl=mx_part.ttl,
        )

    async def _bounded(self, part: Awaitable[Part]) -> Part | str:
        """The part, or why there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                return await part
        except TimeoutError:
            return f"not done within {self._timeout:g} s"
        except (LookupFailed, NameInvalid) as exc:
            return str(exc)

    async def _look_up_records(self, policy_domain: Domain, *labels: str) -> tuple[RecordAt, ...]:
        name = policy_domain.child(*labels)
        found = await self._authority.lookup_txt_everywhere(name)
        if not any(record.problem for record in found):
            return tuple(found)
        await asyncio.sleep(self._again)
        return tuple(await self._authority.lookup_txt_everywhere(name))

    async def _fetch_policies(self, policy_domain: Domain) -> tuple[PolicyAt, ...]:
        answer = await self._resolver.lookup_addresses(policy_domain.child("mta-sts"))
        addresses = answer.records[:MAX_ADDRESSES]

        async def fetch(found: PolicyAt) -> PolicyAt:
            if found.policy is not None or found.reason == FetchReason.ADDRESS_REFUSED.code:
                return found
            await asyncio.sleep(self._again)
            return await self._policies.fetch_at(policy_domain, found.address)

        first = await asyncio.gather(*(self._policies.fetch_at(policy_domain, address) for address in addresses))
        return tuple(await asyncio.gather(*map(fetch, first)))

    async def _look_at_mx(self, policy_domain: Domain) -> _Mx:
        evidence = await lookup_mx_evidence(self._resolver, policy_domain, SMTP_PORT)
        if isinstance(evidence, MxLookupFailure):
            return _Mx(problem=evidence.detail)
        if evidence.null_mx:
            return _Mx(null_mx=True, ttl=evidence.ttl)
        if not evidence.hosts:
            return _Mx(problem="no MX record names a host", ttl=evidence.ttl)
        hosts = evidence.hosts[:MAX_MX_HOSTS]
        return _Mx(tuple(await asyncio.gather(*map(self._look_at_host, hosts))), ttl=evidence.ttl)

    async def _look_at_host(self, host: MxHost) -> MxSeen:
        if not host.addresses:
            return MxSeen(host.mx_hostname, host.preference, (), f"it has no address: {host.detail}")
        probes = await self._verifier.probe_now([host])
        if not all(map(_is_good, probes)):
            await asyncio.sleep(self._again)
            probes = await self._verifier.probe_now([host])
        return MxSeen(host.mx_hostname, host.preference, tuple(probes))


def _is_good(probe: MxProbe) -> bool:
    return probe.tls and probe.result_type is None


def _part(result: tuple[Part, ...] | str) -> tuple[tuple[Part, ...], str]:
    return ((), result) if isinstance(result, str) else (result, "")


def _mx_part(result: _Mx | str) -> _Mx:
    return _Mx(problem=result) if isinstance(result, str) else result
