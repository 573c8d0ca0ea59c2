"""The MX hosts of a next hop, with their addresses and TLSA records (RFC 7672 §2.2; RFC 5321 §5.1; RFC 7505).

Evidence only: nothing is decided here. Every host is looked up by itself and all at once, so that one broken host
costs its own time and no other's standing. Nothing is cached: the reply that is made of it has its own lifetime.
"""

import asyncio
from collections.abc import Callable, Sequence

from stsguard.core.dane import AnswerStatus, MxEvidence, MxHost, MxLookupFailure, MxRecord, TlsaStatus, usable_tlsa
from stsguard.core.errors import LookupFailed
from stsguard.names import Domain, NameInvalid
from stsguard.ports import Resolver

MAX_MX_HOSTS = 50  # Postfix tries 5 addresses in all by default; hosts beyond are not offered to it either


def _both_families() -> bool:
    return False


async def lookup_mx_evidence(
    resolver: Resolver, next_hop: Domain, port: int, one_family: Callable[[], bool] = _both_families
) -> MxEvidence | MxLookupFailure:
    """All MX hosts of `next_hop` in order of preference, TLSA asked for at `port` (RFC 7672 §2.2.3).

    `one_family` says, when the MX records are known, whether it is enough to know that a host has an address: nobody
    is going to verify the hosts where there is neither DANE nor a policy, and their AAAA records decide nothing then.
    Where the MX records are secure there may be DANE, and both are asked for at once.

    Without MX records the domain itself is the one host (RFC 5321 §5.1), also where the name does not exist: then it
    has no address. A single MX of "." accepts no mail (RFC 7505 §3).
    """
    try:
        answer = await resolver.lookup_mx(next_hop)
    except LookupFailed as exc:
        return MxLookupFailure(exc.reason, str(exc))
    least = not answer.secure and one_family()
    if answer.status is not AnswerStatus.FOUND:
        host, ttl = await _lookup_host(resolver, next_hop, 0, port, one_family=least)
        # A denial without SOA has no TTL of its own; the addresses' then bounds the evidence alone.
        return MxEvidence((host,), answer.secure, min(ttl, answer.ttl or ttl), implicit=True)
    records = _usable_records(answer.records)
    if not records and all(record.mx_hostname is None for record in answer.records):
        return MxEvidence((), answer.secure, answer.ttl, null_mx=True)
    lookups = [
        _lookup_host(resolver, name, preference, port, one_family=least) for name, preference in records[:MAX_MX_HOSTS]
    ]
    # Most domains have one host, which needs no task of its own.
    found = [await lookups[0]] if len(lookups) == 1 else await asyncio.gather(*lookups)
    return MxEvidence(
        hosts=tuple(host for host, _ in found), secure=answer.secure, ttl=min([answer.ttl, *(ttl for _, ttl in found)])
    )


def _usable_records(records: Sequence[MxRecord]) -> list[tuple[Domain, int]]:
    best: dict[Domain, int] = {}
    for record in records:
        if record.mx_hostname is not None:
            best[record.mx_hostname] = min(record.preference, best.get(record.mx_hostname, record.preference))
    return sorted(best.items(), key=lambda item: (item[1], item[0]))


async def _lookup_host(
    resolver: Resolver, name: Domain, preference: int, port: int, *, one_family: bool
) -> tuple[MxHost, int]:
    """One MX host and the least TTL behind it. A failed look-up is a status of that host alone (RFC 7672 §2.1.2)."""
    try:
        # RFC 7672 §2.2.2: addresses first, or the TLSA look-ups of some load balancers would make mail wait.
        addresses = await resolver.lookup_addresses(name, one_family=one_family)
        ttl = addresses.ttl
        if not addresses.records:
            return MxHost(name, preference, TlsaStatus.UNREACHABLE, detail=addresses.status.value), ttl
        bases = await _tlsa_base_domains(resolver, name, addresses.canonical_name, addresses.secure)
        for base in bases:
            try:
                tlsa_name = base.child(f"_{port}", "_tcp")
            except NameInvalid:
                continue  # so long a name that none can exist below it
            try:
                answer = await resolver.lookup_tlsa(tlsa_name)
            except LookupFailed as exc:
                failed = TlsaStatus.FAILED
                return MxHost(
                    name, preference, failed, tlsa_base_domain=base, detail=str(exc), tlsa_failure=exc.reason
                ), 0
            ttl = min(ttl, answer.ttl) if answer.ttl else ttl
            # RFC 7672 §2.2.3: the first candidate to yield a secure TLSA RRset is the TLSA base domain.
            if answer.secure and answer.records:
                usable = usable_tlsa(answer.records)
                status = TlsaStatus.USABLE if usable else TlsaStatus.UNUSABLE
                return MxHost(name, preference, status, addresses.records, usable, base), ttl
    except LookupFailed as exc:
        return MxHost(name, preference, TlsaStatus.FAILED, detail=str(exc)), 0
    return MxHost(name, preference, TlsaStatus.ABSENT, addresses.records), ttl


async def _tlsa_base_domains(resolver: Resolver, name: Domain, canonical: Domain, secure: bool) -> list[Domain]:
    """The candidates for the TLSA base domain, in order (RFC 7672 §2.2.2)."""
    if secure:
        return [name] if canonical == name else [canonical, name]
    # §2.2.2: no TLSA look-up for insecure addresses, but for an alias whose own CNAME record is secure.
    if canonical != name and await resolver.lookup_cname_secure(name):
        return [name]
    return []
