"""DNS look-ups through the configured resolver: `ports.Resolver` on dnspython (RFC 7672 §2.1, RFC 2308).

A stub: the nameservers recurse and validate, we believe their AD bit where the operator's set-up deserves it
(`validation`), and keep apart what the standards keep apart: an answer, a denial, a failure.

Left out on purpose: search lists (a name is a whole name), a cache (discovery has one), DNS over TLS or HTTPS, and
cutting record sets that are too large: a left-out MX, TLSA or TXT record might be the one that demands more
security, so such a look-up fails. Only addresses are cut, since no decision depends on the one left out.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype

from stsguard.adapters.resolver.answer import MAX_ALIASES, check_rcode, read_response
from stsguard.adapters.resolver.exchange import Nameserver, describe, exchange, make_query
from stsguard.adapters.resolver.records import to_address, to_domain, to_mx, to_tlsa, to_txt, to_wire_name
from stsguard.core.dane import Answer, AnswerStatus, MxRecord, TlsaRecord
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.metrics import Counter
from stsguard.names import Domain

QUERIES = Counter("dns_queries", "DNS queries to one nameserver, by what came of them.", "outcome")

MAX_MX_RECORDS = 100
MAX_TLSA_RECORDS = 100
MAX_TXT_RECORDS = 20
MAX_TXT_OCTETS = 4096
MAX_ADDRESSES = 25  # of each family; Postfix tries five, we probe and fetch from fewer
SILENT_SECONDS = 60.0  # a nameserver that did not answer is asked last for so long

IPAddress = IPv4Address | IPv6Address
T = TypeVar("T")

# What to tell when several nameservers failed differently: whoever answered knows more than whoever did not.
_TELLING = (
    LookupReason.SERVFAIL,
    LookupReason.REFUSED,
    LookupReason.MALFORMED,
    LookupReason.TIMEOUT,
    LookupReason.UNREACHABLE,
)


@dataclass(frozen=True, slots=True)
class _Found:
    """The end of a CNAME chain, its records still dnspython's."""

    status: AnswerStatus
    records: tuple[dns.rdata.Rdata, ...]
    canonical_name: Domain
    ttl: int
    secure: bool
    question: str


class DnsResolver:
    """Asks the nameservers in turn; implements `ports.Resolver`.

    Args:
        nameservers: (IP address, port) of each, in the order of preference; at least one.
        timeout_seconds: for one question, all nameservers, repetitions and the wait for a free slot included.
            CNAMEs that the nameserver did not follow are questions of their own, within the same time.
        try_timeout_seconds: for one nameserver, UDP and TCP together; then the next one is asked.
        trust_ad: whether AD means that the answer is secure. Set the attribute once `validation.check_validation`
            has shown that the nameservers validate; until then every answer counts as insecure.
        concurrency: queries under way at the same time, each with a socket.
    """

    def __init__(
        self,
        nameservers: Sequence[Nameserver],
        *,
        timeout_seconds: float = 10.0,
        try_timeout_seconds: float = 3.0,
        trust_ad: bool = False,
        concurrency: int = 256,
    ) -> None:
        self.trust_ad = trust_ad
        self._nameservers = tuple(nameservers)
        self._timeout = timeout_seconds
        self._try_timeout = try_timeout_seconds
        self._slots = asyncio.Semaphore(concurrency)
        self._silent_until: dict[Nameserver, float] = {}

    async def lookup_txt(self, name: Domain) -> Answer[bytes]:
        """TXT records, each with its strings joined without blanks (RFC 8461 §3.1).

        Raises:
            LookupFailed: for every way to fail, more than 20 records or one of more than 4 KiB included.
        """
        found = await self._lookup(name, dns.rdatatype.TXT)
        records = _convert(found, to_txt, MAX_TXT_RECORDS)
        if any(len(text) > MAX_TXT_OCTETS for text in records):
            raise LookupFailed(LookupReason.MALFORMED, found.question, f"a record of more than {MAX_TXT_OCTETS} octets")
        return _answer(found, records)

    async def lookup_mx(self, name: Domain) -> Answer[MxRecord]:
        """MX records as published, null MX included (RFC 7505).

        Raises:
            LookupFailed: for every way to fail, more than 100 records included.
        """
        found = await self._lookup(name, dns.rdatatype.MX)
        return _answer(found, _convert(found, to_mx, MAX_MX_RECORDS))

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        """A and AAAA records together, at most 25 of each.

        Raises:
            LookupFailed: either look-up failed and the other gave no address.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._lookup_or_failure(name, rdtype))
                for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
            ]
        results = [task.result() for task in tasks]
        answers = [result for result in results if isinstance(result, _Found)]
        with_address = [found for found in answers if found.status is AnswerStatus.FOUND]
        for result in results:
            if isinstance(result, LookupFailed) and not with_address:
                raise result
        # Both answers come from one zone. The one that failed does not make the other insecure: whoever can suppress
        # it could switch DANE off (RFC 7672 §2.2.2).
        secure = all(found.secure for found in answers)
        if not with_address:
            # RFC 8020 §2: a name that has any record exists, so NXDOMAIN needs both.
            missing = all(found.status is AnswerStatus.NXDOMAIN for found in answers)
            status = AnswerStatus.NXDOMAIN if missing else AnswerStatus.NODATA
            return Answer(status, (), answers[0].canonical_name, min(found.ttl for found in answers), secure)
        addresses = [to_address(rdata) for found in with_address for rdata in found.records[:MAX_ADDRESSES]]
        ttl = min(found.ttl for found in with_address)
        return Answer(AnswerStatus.FOUND, tuple(addresses), with_address[0].canonical_name, ttl, secure)

    async def lookup_tlsa(self, name: Domain) -> Answer[TlsaRecord]:
        """TLSA records at `name`, which carries its port and protocol labels already.

        Raises:
            LookupFailed: for every way to fail, more than 100 records included. The reason is BOGUS also where the
                nameserver does not say so: it withholds the answer, and gives it to who wants no validation.
        """
        try:
            found = await self._lookup(name, dns.rdatatype.TLSA)
        except LookupFailed as exc:
            if exc.reason is LookupReason.SERVFAIL and await self._is_withheld(name, dns.rdatatype.TLSA):
                raise LookupFailed(LookupReason.BOGUS, exc.question, "answered with CD set only") from exc
            raise
        return _answer(found, _convert(found, to_tlsa, MAX_TLSA_RECORDS))

    async def lookup_cname_secure(self, name: Domain) -> bool:
        """Whether the CNAME record at `name` itself is secure (RFC 7672 §2.1.3).

        A secure denial counts as well: what is asked is whether the zone of `name` is signed.

        Raises:
            LookupFailed: for every way to fail.
        """
        return (await self._lookup(name, dns.rdatatype.CNAME)).secure

    async def lookup_raw(self, name: str, rdtype: dns.rdatatype.RdataType) -> dns.message.Message:
        """The response of the first nameserver that answers, for checks of the nameserver itself.

        Raises:
            LookupFailed: for every way to fail.
        """
        owner = to_wire_name(name, f"{name} {dns.rdatatype.to_text(rdtype)}")
        return await self._query(owner, rdtype, asyncio.get_running_loop().time() + self._timeout)

    async def _is_withheld(self, name: Domain, rdtype: dns.rdatatype.RdataType) -> bool:
        """Whether a nameserver answers with CD set, by which it leaves validation to us (RFC 4035 §3.2.2)."""
        query = make_query(to_wire_name(name, str(name)), rdtype)
        query.flags |= dns.flags.CD
        for nameserver in self._nameservers:
            try:
                await self._ask(query, nameserver, self._try_timeout)
            except LookupFailed:
                continue
            return True
        return False

    async def _lookup_or_failure(self, name: Domain, rdtype: dns.rdatatype.RdataType) -> _Found | LookupFailed:
        try:
            return await self._lookup(name, rdtype)
        except LookupFailed as exc:
            return exc

    async def _lookup(self, name: Domain, rdtype: dns.rdatatype.RdataType) -> _Found:
        """Follow the CNAMEs from `name` to the end, over as many responses as the nameserver makes of them."""
        question = f"{name} {dns.rdatatype.to_text(rdtype)}"
        deadline = asyncio.get_running_loop().time() + self._timeout
        owner = to_wire_name(name, question)
        chain: set[dns.name.Name] = {owner}
        ttls: list[int] = []
        secure = self.trust_ad
        while True:
            step = read_response(await self._query(owner, rdtype, deadline), owner, rdtype, question)
            # RFC 7672 §2.1.3: one insecure CNAME makes all that follows insecure.
            secure = secure and step.authentic
            ttls.append(step.ttl_seconds)
            if not chain.isdisjoint(step.aliases) or len(chain) + len(step.aliases) > MAX_ALIASES + 1:
                raise LookupFailed(LookupReason.CNAME_LOOP, question)
            chain.update(step.aliases)
            owner = step.owner
            if step.status is not None:
                canonical_name = to_domain(owner, question) if len(chain) > 1 else name
                return _Found(step.status, step.records, canonical_name, min(ttls), secure, question)

    async def _query(
        self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, deadline: float
    ) -> dns.message.Message:
        """The first response that answers, from the nameservers in turn, again and again until `deadline`."""
        loop = asyncio.get_running_loop()
        failure = LookupFailed(LookupReason.UNREACHABLE, name.to_text(), "no nameserver")
        candidates = sorted(self._nameservers, key=lambda server: self._silent_until.get(server, 0.0) > loop.time())
        while candidates:
            for nameserver in tuple(candidates):
                try:
                    left = max(0.0, deadline - loop.time())
                    return await self._ask(make_query(name, rdtype), nameserver, min(left, self._try_timeout))
                except LookupFailed as exc:
                    if exc.reason is LookupReason.BOGUS:
                        # Final: the next nameserver might not validate, and hand out what this one withholds.
                        raise
                    if _TELLING.index(exc.reason) <= _TELLING.index(failure.reason):
                        failure = exc
                    if exc.reason is not LookupReason.TIMEOUT:
                        candidates.remove(nameserver)  # asking again would give the same
                if loop.time() >= deadline:
                    raise failure
        raise failure

    async def _ask(
        self, query: dns.message.Message, nameserver: Nameserver, timeout_seconds: float
    ) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._slots.acquire()
        except TimeoutError as exc:
            QUERIES.inc("overload")
            raise LookupFailed(LookupReason.TIMEOUT, describe(query), "too many queries under way") from exc
        try:
            left = max(0.0, timeout_seconds - (loop.time() - begun_at))
            response = await exchange(query, nameserver, timeout_seconds=left)
            check_rcode(response, describe(query), f"{nameserver[0]} port {nameserver[1]}")
        except LookupFailed as exc:
            QUERIES.inc(exc.reason.value)
            if exc.reason in (LookupReason.TIMEOUT, LookupReason.UNREACHABLE):
                self._silent_until[nameserver] = loop.time() + SILENT_SECONDS
            raise
        finally:
            self._slots.release()
        QUERIES.inc("answered")
        self._silent_until.pop(nameserver, None)
        return response


def _answer(found: _Found, records: tuple[T, ...]) -> Answer[T]:
    return Answer(found.status, records, found.canonical_name, found.ttl, found.secure)


def _convert(found: _Found, convert: Callable[[dns.rdata.Rdata], T], limit: int) -> tuple[T, ...]:
    if len(found.records) > limit:
        raise LookupFailed(
            LookupReason.MALFORMED, found.question, f"{len(found.records)} records where {limit} are accepted"
        )
    return tuple(convert(rdata) for rdata in found.records)
