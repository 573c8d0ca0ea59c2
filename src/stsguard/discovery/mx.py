"""The MX hosts of a next hop, with their addresses and TLSA records (RFC 7672 §2.2; RFC 5321 §5.1; RFC 7505).

Evidence only: nothing is decided here. Every host is looked up by itself and all at once, so that one broken host
costs its own time and no other's standing. Nothing is cached: the reply that is made of it has its own lifetime.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from stsguard.core.dane import (
    Answer,
    AnswerStatus,
    MxEvidence,
    MxHost,
    MxLookupFailure,
    MxRecord,
    TlsaStatus,
    usable_tlsa,
)
from stsguard.core.errors import LookupFailed
from stsguard.discovery.lookups import Waited, tell
from stsguard.discovery.supervisor import caught
from stsguard.names import Domain, NameInvalid
from stsguard.ports import IPAddress, Resolver

_Found = tuple[MxHost, int]  # and the least TTL in seconds behind it

MAX_TTL_SECONDS = 2**31 - 1  # RFC 2181 §8
MAX_MX_HOSTS = 50  # Postfix tries 5 addresses in all by default; hosts beyond are not offered to it either


def _both_families() -> bool:
    return False


async def lookup_mx_evidence(
    resolver: Resolver, next_hop: Domain, port: int, one_family: Callable[[], bool] = _both_families
) -> MxEvidence | MxLookupFailure:
    """As `MxLookup`."""
    found: Waited[MxEvidence | MxLookupFailure] = Waited()
    MxLookup(resolver, next_hop, port, one_family, found.set).begin()
    return await found.future


class MxLookup:
    """The look-up of all MX hosts of a next hop in order of preference, TLSA asked for at `port` (RFC 7672 §2.2.3).

    `one_family` says, when the MX records are known, whether it is enough to know that a host has an address: nobody
    is going to verify the hosts where there is neither DANE nor a policy, and their AAAA records decide nothing then.
    Where the MX records are secure there may be DANE, and both are asked for at once.

    Without MX records the domain itself is the one host (RFC 5321 §5.1), also where the name does not exist: then it
    has no address. A single MX of "." accepts no mail (RFC 7505 §3).

    `done` is told of what was found, or of a fault of ours; it raises nothing. Nearly every domain has MX hosts with
    insecure addresses and no more to be asked for: that takes no task.
    """

    __slots__ = ("_answer", "_done", "_found", "_left", "_next_hop", "_one_family", "_port", "_resolver")

    def __init__(
        self,
        resolver: Resolver,
        next_hop: Domain,
        port: int,
        one_family: Callable[[], bool],
        done: Callable[[MxEvidence | MxLookupFailure | BaseException], object],
    ) -> None:
        self._resolver = resolver
        self._port = port
        self._one_family = one_family
        self._done = done
        self._next_hop = next_hop
        self._answer: Answer[MxRecord] | None = None
        self._found: list[_Found | None] = []  # in the order of preference
        self._left = 0  # of them that are not known yet

    def begin(self) -> None:
        """Begin to look them up."""
        tell(self._resolver.lookup_mx(self._next_hop), self._mx_answered)

    def _mx_answered(self, answer: Answer[MxRecord] | BaseException) -> None:
        if isinstance(answer, LookupFailed):
            self._done(MxLookupFailure(answer.reason, str(answer)))
        elif isinstance(answer, BaseException):
            self._done(answer)
        elif (fault := caught("decision", self._look_up_hosts, answer)) is not None:
            self._done(fault)

    def _look_up_hosts(self, answer: Answer[MxRecord]) -> None:
        self._answer = answer
        if answer.status is not AnswerStatus.FOUND:
            hosts = [(self._next_hop, 0)]
        else:
            hosts = _usable_records(answer.records)[:MAX_MX_HOSTS]
            if not hosts and all(record.mx_hostname is None for record in answer.records):
                self._done(MxEvidence((), answer.secure, answer.ttl, null_mx=True))
                return
        lookup: Callable[[Domain], Awaitable[Answer[IPAddress]]] = self._resolver.lookup_addresses
        if not answer.secure and self._one_family():
            lookup = self._resolver.lookup_some_addresses
        self._left = len(hosts)
        self._found = [None] * len(hosts)
        for index, (name, preference) in enumerate(hosts):
            # RFC 7672 §2.2.2: addresses first, or the TLSA look-ups of some load balancers would make mail wait.
            tell(lookup(name), partial(self._addresses_answered, index, name, preference))

    def _addresses_answered(
        self, index: int, name: Domain, preference: int, addresses: Answer[IPAddress] | BaseException
    ) -> None:
        if isinstance(addresses, Answer):
            if addresses.records and not addresses.secure and addresses.canonical_name == name:
                # RFC 7672 §2.2.2: no TLSA look-up for insecure addresses.
                host = MxHost(name, preference, TlsaStatus.ABSENT, addresses.records)
                self._host_found(index, (host, addresses.ttl))
                return
            tell(
                _lookup_tlsa(self._resolver, name, preference, self._port, addresses), partial(self._host_found, index)
            )
        elif isinstance(addresses, LookupFailed):
            self._host_found(index, (MxHost(name, preference, TlsaStatus.FAILED, detail=str(addresses)), 0))
        else:
            self._host_found(index, addresses)

    def _host_found(self, index: int, found: "_Found | BaseException") -> None:
        if isinstance(found, BaseException):
            self._left = 0  # whatever the others bring
            self._done(found)
            return
        self._found[index] = found
        self._left -= 1
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        answer = self._answer
        assert answer is not None  # noqa: S101 (the hosts come from it)
        implicit = answer.status is not AnswerStatus.FOUND
        # A denial without SOA has no TTL of its own; the addresses' then bounds the evidence alone.
        least = answer.ttl if answer.ttl or not implicit else MAX_TTL_SECONDS
        hosts: list[MxHost] = []
        for found in self._found:
            assert found is not None  # noqa: S101 (none is left)
            host, ttl = found
            hosts.append(host)
            least = min(least, ttl)
        self._done(MxEvidence(tuple(hosts), answer.secure, least, implicit=implicit))


def _usable_records(records: Sequence[MxRecord]) -> list[tuple[Domain, int]]:
    if len(records) == 1 and records[0].mx_hostname is not None:
        return [(records[0].mx_hostname, records[0].preference)]
    best: dict[Domain, int] = {}
    for record in records:
        if record.mx_hostname is not None:
            best[record.mx_hostname] = min(record.preference, best.get(record.mx_hostname, record.preference))
    return sorted(best.items(), key=lambda item: (item[1], item[0]))


async def _lookup_tlsa(
    resolver: Resolver, name: Domain, preference: int, port: int, addresses: Answer[IPAddress]
) -> _Found:
    """One MX host and the least TTL behind it. A failed look-up is a status of that host alone (RFC 7672 §2.1.2)."""
    ttl = addresses.ttl
    if not addresses.records:
        return MxHost(name, preference, TlsaStatus.UNREACHABLE, detail=addresses.status.value), ttl
    try:
        bases = await _tlsa_base_domains(resolver, name, addresses.canonical_name, addresses.secure)
    except LookupFailed as exc:
        return MxHost(name, preference, TlsaStatus.FAILED, detail=str(exc)), 0
    for base in bases:
        try:
            tlsa_name = base.child(f"_{port}", "_tcp")
        except NameInvalid:
            continue  # so long a name that none can exist below it
        try:
            answer = await resolver.lookup_tlsa(tlsa_name)
        except LookupFailed as exc:
            failed = TlsaStatus.FAILED
            return MxHost(name, preference, failed, tlsa_base_domain=base, detail=str(exc), tlsa_failure=exc.reason), 0
        ttl = min(ttl, answer.ttl) if answer.ttl else ttl
        # RFC 7672 §2.2.3: the first candidate to yield a secure TLSA RRset is the TLSA base domain.
        if answer.secure and answer.records:
            usable = usable_tlsa(answer.records)
            status = TlsaStatus.USABLE if usable else TlsaStatus.UNUSABLE
            return MxHost(name, preference, status, addresses.records, usable, base), ttl
    return MxHost(name, preference, TlsaStatus.ABSENT, addresses.records), ttl


async def _tlsa_base_domains(resolver: Resolver, name: Domain, canonical: Domain, secure: bool) -> list[Domain]:
    """The candidates for the TLSA base domain, in order (RFC 7672 §2.2.2)."""
    if secure:
        return [name] if canonical == name else [canonical, name]
    # §2.2.2: no TLSA look-up for insecure addresses, but for an alias whose own CNAME record is secure.
    if canonical != name and await resolver.lookup_cname_secure(name):
        return [name]
    return []
