"""TXT records as the authoritative servers have them, past every cache: `ports.Authority` (RFC 1034 §4.2).

A sender's resolver may ask any of a zone's servers at any of its addresses, so each of them is asked here, and what one
says never stands for another. The zone and its servers are found through the configured resolver. An alias (RFC 8461
§3.1 allows `_mta-sts` to be one) is followed to the servers of the zone that it leads to.

Left out on purpose: servers that only the parent zone names, DNSSEC (a sender's resolver validates, not we), and more
than MAX_ADDRESSES addresses: zones with more are served by anycast networks whose servers are alike.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import dns.name

from stsguard.adapters.authority.asking import DNS_PORT, Asked, ask_for_txt, has_route
from stsguard.adapters.authority.zone import ZoneResolver, find_zone
from stsguard.core.addresses import AddressGuard, IPAddress
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.core.inspection import RecordAt
from stsguard.metrics import Counter
from stsguard.names import Domain, NameInvalid

ASKED = Counter("authoritative_queries", "Authoritative servers asked for a TXT record, by what came of it.", "outcome")

MAX_SERVERS = 32  # NS records of a zone; the root has 13
MAX_ADDRESSES = 64  # of all servers together
MAX_ALIASES = 8  # CNAMEs from one zone into the next
TIMEOUT_SECONDS = 10.0  # for one address


@dataclass(frozen=True, slots=True)
class _Server:
    """One address of a server; None for a server of which none can be asked, and why."""

    name: str
    address: IPAddress | None
    problem: str = ""

    def __str__(self) -> str:
        return self.name if self.address is None else f"{self.name} [{self.address}]"


class AuthoritativeServers:
    """Implements `ports.Authority`.

    Args:
        resolver: finds the zone, its servers and their addresses.
        guard: decides which of those addresses may be asked.
        timeout_seconds: for each address, repetition and TCP included.
        port: another than 53 is for tests.
        concurrency: addresses asked at the same time.
    """

    def __init__(
        self,
        resolver: ZoneResolver,
        guard: AddressGuard,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        port: int = DNS_PORT,
        concurrency: int = 32,
    ) -> None:
        self._resolver = resolver
        self._guard = guard
        self._timeout = timeout_seconds
        self._port = port
        self._slots = asyncio.Semaphore(concurrency)

    async def lookup_txt_everywhere(self, name: Domain) -> Sequence[RecordAt]:
        """The TXT records at `name` at each authoritative server, or why that server gave no answer.

        Raises:
            LookupFailed: the servers themselves can't be found.
        """
        return await self._lookup(dns.name.from_text(name), ())

    async def _lookup(self, owner: dns.name.Name, aliases: tuple[dns.name.Name, ...]) -> Sequence[RecordAt]:
        zone = await find_zone(self._resolver, owner)
        servers = _reachable(await self._servers(zone.servers[:MAX_SERVERS]))[:MAX_ADDRESSES]
        asked = await asyncio.gather(*(self._ask(server, owner) for server in servers))
        told: list[RecordAt] = []
        by_target: dict[dns.name.Name, list[tuple[_Server, Asked]]] = {}
        for server, answer in zip(servers, asked, strict=True):
            if answer.alias is None:
                told.append(RecordAt(str(server), answer.texts, answer.ttl, answer.problem))
            else:
                by_target.setdefault(answer.alias, []).append((server, answer))
        for target, sources in by_target.items():
            told += await self._follow(target, sources, (*aliases, owner))
        return told

    async def _follow(
        self, target: dns.name.Name, sources: Sequence[tuple[_Server, Asked]], aliases: tuple[dns.name.Name, ...]
    ) -> Sequence[RecordAt]:
        """What the servers of the alias's target have; its failure is one of the servers that led there."""
        ttl = min(answer.ttl for _, answer in sources)
        try:
            if target in aliases or len(aliases) > MAX_ALIASES:
                raise LookupFailed(LookupReason.CNAME_LOOP, target.to_text(omit_final_dot=True))
            found = await self._lookup(target, aliases)
        except LookupFailed as exc:
            problem = f"an alias that leads nowhere: {exc}"
            return [RecordAt(str(server), (), 0, problem) for server, _ in sources]
        return [replace(each, ttl=min(each.ttl, ttl)) for each in found]

    async def _servers(self, names: Sequence[dns.name.Name]) -> Sequence[_Server]:
        found = await asyncio.gather(*map(self._addresses, names))
        return [server for servers in found for server in servers]

    async def _addresses(self, name: dns.name.Name) -> Sequence[_Server]:
        text = name.to_text(omit_final_dot=True)
        try:
            answer = await self._resolver.lookup_addresses(Domain.parse(text))
        except (LookupFailed, NameInvalid) as exc:
            return [_Server(text, None, f"its addresses can't be found: {exc}")]
        if not answer.records:
            return [_Server(text, None, "this name server has no address")]
        return [
            _Server(text, address, f"not asked: {refusal}" if (refusal := self._guard.refusal(address)) else "")
            for address in answer.records
        ]

    async def _ask(self, server: _Server, owner: dns.name.Name) -> Asked:
        if server.address is None or server.problem:
            return Asked(problem=server.problem)
        async with self._slots:
            answer = await ask_for_txt(server.address, self._port, owner, timeout_seconds=self._timeout)
        ASKED.inc("failed" if answer.problem else "answered")
        return answer


def _reachable(servers: Iterable[_Server]) -> list[_Server]:
    """`servers` without the addresses of a family for which this machine has no route, as long as others are left:
    that is no fault of theirs."""
    servers = list(servers)
    routed = [each for each in servers if each.address is None or each.problem or has_route(each.address)]
    return routed if any(each.address is not None for each in routed) else servers
