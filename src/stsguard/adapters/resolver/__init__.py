"""DNS look-ups through the configured resolver: `ports.Resolver` over UDP and TCP (RFC 7672 §2.1, RFC 2308).

A stub: the nameservers recurse and validate, we believe their AD bit where the operator's set-up deserves it
(`validation`), and keep apart what the standards keep apart: an answer, a denial, a failure.

Left out on purpose: search lists (a name is a whole name), a cache (discovery has one), DNS over TLS or HTTPS, and
cutting record sets that are too large: a left-out MX, TLSA or TXT record might be the one that demands more
security, so such a look-up fails. Only addresses are cut, since no decision depends on the one left out.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from stsguard.adapters.resolver.exchange import UNASKED, Outcome, Unasked, describe, exchange
from stsguard.adapters.resolver.lookup import Lookup
from stsguard.adapters.resolver.plain import (
    AAAA,
    AUTHENTIC_FLAG,
    CAA,
    CNAME,
    MX,
    NOERROR,
    REFUSED,
    SERVFAIL,
    TLSA,
    TXT,
    A,
    PlainAnswer,
    PlainFailure,
    Question,
    encode_question,
    make_question,
    make_root_question,
    type_name,
)
from stsguard.adapters.resolver.reader import Reader
from stsguard.adapters.resolver.slots import Slots
from stsguard.adapters.resolver.udp import Nameserver, UdpQueries
from stsguard.core.dane import Answer, AnswerStatus, MxRecord, TlsaRecord
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.metrics import Counter
from stsguard.names import Domain, NameInvalid

if TYPE_CHECKING:
    import dns.message
    import dns.name

QUERIES = Counter("dns_queries", "DNS queries to one nameserver, by what came of them.", "outcome")

ANSWERED = QUERIES.tally("answered")

MAX_MX_RECORDS = 100
MAX_TLSA_RECORDS = 100
MAX_TXT_RECORDS = 20
MAX_TXT_OCTETS = 4096
MAX_ADDRESSES = 25  # of each family; Postfix tries five, we probe and fetch from fewer
FEW_RECORDS = 10  # less than any limit
SILENT_SECONDS = 60.0  # a nameserver that did not answer is asked last for so long

IPAddress = IPv4Address | IPv6Address

Answered: TypeAlias = "PlainAnswer | dns.message.Message"  # whose RCODE is NOERROR or NXDOMAIN

_REASONS = {SERVFAIL: LookupReason.SERVFAIL, REFUSED: LookupReason.REFUSED}
_LIMITS = {
    TXT: MAX_TXT_RECORDS,
    MX: MAX_MX_RECORDS,
    TLSA: MAX_TLSA_RECORDS,
}

# What to tell when several nameservers failed differently: whoever answered knows more than whoever did not.
_TELLING = (
    LookupReason.SERVFAIL,
    LookupReason.REFUSED,
    LookupReason.MALFORMED,
    LookupReason.TIMEOUT,
    LookupReason.UNREACHABLE,
)


@dataclass(frozen=True, slots=True)
class Look:
    """What an answer shows of the nameserver: whether it has AD set, and whether there were records and no denial."""

    authentic: bool
    has_records: bool


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
        self._first_try = min(timeout_seconds, try_timeout_seconds)
        self._reader = Reader()
        self._udp = {server: UdpQueries(server, self._reader.read) for server in self._nameservers}
        self._first = self._udp[self._nameservers[0]]
        self._slots = Slots(concurrency)
        self._going_on: set[asyncio.Task[Answer[Any]]] = set()
        self._silent_until: dict[Nameserver, float] = {}

    def lookup_txt(self, name: Domain) -> Lookup[Answer[bytes]]:
        """TXT records, each with its strings joined without blanks (RFC 8461 §3.1).

        Raises:
            LookupFailed: for every way to fail, more than 20 records or one of more than 4 KiB included.
        """
        return self._start(name, TXT)

    def lookup_mx(self, name: Domain) -> Lookup[Answer[MxRecord]]:
        """MX records as published, null MX included (RFC 7505).

        Raises:
            LookupFailed: for every way to fail, more than 100 records included.
        """
        return self._start(name, MX)

    def lookup_some_addresses(self, name: Domain) -> Lookup[Answer[IPAddress]]:
        """As `lookup_addresses`, but AAAA is asked for only where A leaves something open: no address, or a secure
        answer. That is the short way of nearly every MX host without a policy.

        Raises:
            LookupFailed: either look-up failed and the other gave no address.
        """
        return self._start(name, A, one_family=True)

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        """A and AAAA records together, at most 25 of each.

        Raises:
            LookupFailed: either look-up failed and the other gave no address.
        """
        # Both are under way before either is waited for.
        asked = [self._start(name, rdtype) for rdtype in (A, AAAA)]
        try:
            return _both_families([await _or_failure(lookup) for lookup in asked])
        finally:
            for lookup in asked:
                lookup.cancel()

    async def lookup_tlsa(self, name: Domain) -> Answer[TlsaRecord]:
        """TLSA records at `name`, which carries its port and protocol labels already.

        Raises:
            LookupFailed: for every way to fail, more than 100 records included. The reason is BOGUS also where the
                nameserver does not say so: it withholds the answer, and gives it to who wants no validation.
        """
        try:
            return await self._start(name, TLSA)
        except LookupFailed as exc:
            if exc.reason is LookupReason.SERVFAIL and await self._is_withheld(name, TLSA):
                raise LookupFailed(LookupReason.BOGUS, exc.question, "answered with CD set only") from exc
            raise

    async def lookup_cname_secure(self, name: Domain) -> bool:
        """Whether the CNAME record at `name` itself is secure (RFC 7672 §2.1.3).

        A secure denial counts as well: what is asked is whether the zone of `name` is signed.

        Raises:
            LookupFailed: for every way to fail.
        """
        return (await self._lookup(name, CNAME)).secure

    async def lookup_caa(self, name: Domain) -> tuple[str, ...]:
        """The CAA records at `name` in their master file form (RFC 8659 §4), for people; none of a parent's.

        Raises:
            LookupFailed: for every way to fail.
        """
        response = await self.lookup_raw(name, CAA)
        found = [rdata for rrset in response.answer if rrset.rdtype == CAA for rdata in rrset]
        return tuple(rdata.to_text() for rdata in found[:MAX_TXT_RECORDS])

    async def lookup_raw(self, name: str, rdtype: int) -> "dns.message.Message":
        """The response of the first nameserver that answers, its CNAMEs not followed.

        Raises:
            LookupFailed: for every way to fail.
        """
        await self._reader.load()
        from stsguard.adapters.resolver.interpreted import question_of  # noqa: PLC0415 (see there)
        from stsguard.adapters.resolver.records import to_wire_name  # noqa: PLC0415

        owner = to_wire_name(name, f"{name} {type_name(rdtype)}")
        question = replace(question_of(owner, rdtype), plain=False)
        response = await self._query(question, asyncio.get_running_loop().time() + self._timeout)
        assert not isinstance(response, PlainAnswer)  # noqa: S101 (asked for by plain=False)
        return response

    async def look(self, name: str, rdtype: int) -> Look:
        """What the first nameserver that answers shows of itself by its answer; "." is the root.

        Raises:
            LookupFailed: for every way to fail.
        """
        question = _question_of_text(name, rdtype)
        response = await self._query(question, asyncio.get_running_loop().time() + self._timeout)
        if isinstance(response, PlainAnswer):
            return Look(response.authentic, bool(response.records))
        return Look(bool(response.flags & AUTHENTIC_FLAG), response.rcode() == NOERROR and bool(response.answer))

    async def _is_withheld(self, name: Domain, rdtype: int) -> bool:
        """Whether a nameserver answers with CD set, by which it leaves validation to us (RFC 4035 §3.2.2)."""
        question = replace(_question(name, rdtype), checking_disabled=True)
        for nameserver in self._nameservers:
            try:
                await self._ask(question, nameserver, self._try_timeout)
            except LookupFailed:
                continue
            return True
        return False

    def _start(self, name: Domain, rdtype: int, *, one_family: bool = False) -> Lookup[Answer[Any]]:
        """A look-up that is under way when this returns.

        A plain answer from the first nameserver completes it without a task; anything else is gone on with in one.
        """
        wire = encode_question(name, rdtype)
        lookup: Lookup[Answer[Any]] = Lookup(name, rdtype, wire, self._first_try, self._arrived)
        lookup.one_family = one_family
        silent = self._silent_until and self._nameservers[0] in self._silent_until
        if silent or not wire or not self._slots.take():
            self._go_on(lookup, UNASKED)
        else:
            self._first.send(lookup)
        return lookup

    def _arrived(self, lookup: Lookup[Answer[Any]], outcome: Outcome) -> None:
        self._slots.release()
        if lookup.outcome is not None:
            return  # nobody waits any longer
        if type(outcome) is not PlainAnswer or (outcome.records and not _is_within_limits(outcome, lookup.rdtype)):
            self._go_on(lookup, outcome)
            return
        ANSWERED.count += 1
        secure = outcome.authentic and self.trust_ad
        answer: Answer[Any] = Answer(outcome.status, outcome.records, lookup.name, outcome.ttl, secure)
        if lookup.one_family and (secure or not outcome.records):
            self._work_on(lookup, self._with_other_family(lookup.name, answer))
        else:
            lookup.settle(answer)

    def _go_on(self, lookup: Lookup[Answer[Any]], outcome: "Outcome | Unasked") -> None:
        name, rdtype = lookup.name, lookup.rdtype
        # Where the query could not be sent, no time has gone by; to ask the loop for it costs a system call.
        tried_until = lookup.deadline or asyncio.get_running_loop().time() + lookup.timeout_seconds
        deadline = tried_until - lookup.timeout_seconds + self._timeout
        work = self._lookup(name, rdtype, deadline, outcome)
        self._work_on(lookup, self._one_family(name, work) if lookup.one_family else work)

    def _work_on(self, lookup: Lookup[Answer[Any]], work: Coroutine[Any, Any, Answer[Any]]) -> None:
        task = lookup.task = asyncio.create_task(work, name=f"look up {lookup.name}")
        self._going_on.add(task)
        task.add_done_callback(partial(_landed, lookup))
        task.add_done_callback(self._going_on.discard)

    async def _one_family(self, name: Domain, work: Awaitable[Answer[Any]]) -> Answer[IPAddress]:
        return await self._with_other_family(name, await _or_failure(work))

    async def _with_other_family(self, name: Domain, found: Answer[IPAddress] | LookupFailed) -> Answer[IPAddress]:
        """What A gave, where it leaves nothing open, else with what AAAA gives."""
        if isinstance(found, Answer) and found.status is AnswerStatus.FOUND and not found.secure:
            return _cut(found)
        return _both_families([found, await _or_failure(self._start(name, AAAA))])

    async def _lookup(
        self,
        name: Domain,
        rdtype: int,
        deadline: float | None = None,
        outcome: "Outcome | Unasked" = UNASKED,
    ) -> Answer[Any]:
        """What there is at `name`, or where its CNAMEs lead to; `outcome` of the query that was sent already."""
        question = _question(name, rdtype)
        text = describe(question)
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self._timeout
        response = await self._query(question, deadline, outcome)
        if isinstance(response, PlainAnswer):
            secure = response.authentic and self.trust_ad
            answer: Answer[Any] = Answer(response.status, response.records, name, response.ttl, secure)
        else:
            answer = await self._follow(name, rdtype, response, deadline, text)
        _check_count(answer.records, rdtype, text)
        if rdtype == TXT and any(len(octets) > MAX_TXT_OCTETS for octets in answer.records):
            raise LookupFailed(LookupReason.MALFORMED, text, f"a record of more than {MAX_TXT_OCTETS} octets")
        return answer

    async def _follow(
        self, name: Domain, rdtype: int, response: Answered, deadline: float, question: str
    ) -> Answer[Any]:
        """Follow the CNAMEs from `name` to the end, over as many responses as the nameserver makes of them."""
        # There since the first response was read by it.
        from stsguard.adapters.resolver.answer import MAX_ALIASES  # noqa: PLC0415
        from stsguard.adapters.resolver.interpreted import question_of, read_step  # noqa: PLC0415
        from stsguard.adapters.resolver.records import to_domain, to_wire_name  # noqa: PLC0415

        owner = to_wire_name(name, question)
        chain: set[dns.name.Name] = {owner}
        ttls: list[int] = []
        secure = self.trust_ad
        while True:
            step = read_step(response, owner, rdtype, question)
            # RFC 7672 §2.1.3: one insecure CNAME makes all that follows insecure.
            secure = secure and step.authentic
            ttls.append(step.ttl_seconds)
            if not chain.isdisjoint(step.aliases) or len(chain) + len(step.aliases) > MAX_ALIASES + 1:
                raise LookupFailed(LookupReason.CNAME_LOOP, question)
            chain.update(step.aliases)
            owner = step.owner
            if step.status is not None:
                canonical_name = to_domain(owner, question) if len(chain) > 1 else name
                return Answer(step.status, step.records, canonical_name, min(ttls), secure)
            response = await self._query(question_of(owner, rdtype), deadline)

    async def _query(self, question: Question, deadline: float, outcome: "Outcome | Unasked" = UNASKED) -> Answered:
        """The first response that answers, from the nameservers in turn, again and again until `deadline`; `outcome`
        is that of the first nameserver where it has been asked already."""
        loop = asyncio.get_running_loop()
        failure: LookupFailed | None = None
        candidates = list(self._nameservers)
        if outcome is UNASKED:
            candidates.sort(key=lambda server: self._silent_until.get(server, 0.0) > loop.time())
        while candidates:
            for nameserver in tuple(candidates):
                try:
                    left = max(0.0, deadline - loop.time())
                    return await self._ask(question, nameserver, min(left, self._try_timeout), outcome)
                except LookupFailed as exc:
                    if exc.reason is LookupReason.BOGUS:
                        # Final: the next nameserver might not validate, and hand out what this one withholds.
                        raise
                    if failure is None or _TELLING.index(exc.reason) <= _TELLING.index(failure.reason):
                        failure = exc
                    if exc.reason is not LookupReason.TIMEOUT:
                        candidates.remove(nameserver)  # asking again would give the same
                outcome = UNASKED
                if loop.time() >= deadline:
                    raise failure
        raise failure or LookupFailed(LookupReason.UNREACHABLE, question.name, "no nameserver")

    async def _ask(
        self, question: Question, nameserver: Nameserver, timeout_seconds: float, outcome: "Outcome | Unasked" = UNASKED
    ) -> Answered:
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        await self._wait_for_slot(question, timeout_seconds)
        left = max(0.0, timeout_seconds - (loop.time() - begun_at))
        try:
            udp = self._udp[nameserver]
            response = await exchange(question, udp, self._reader, timeout_seconds=left, first=outcome)
            where = f"{nameserver[0]} port {nameserver[1]}"
            if isinstance(response, PlainFailure):
                raise LookupFailed(
                    _REASONS[response.rcode], describe(question), f"{where}, {_REASONS[response.rcode].name}"
                )
            if not isinstance(response, PlainAnswer):
                from stsguard.adapters.resolver.answer import check_rcode  # noqa: PLC0415 (see `interpreted`)

                check_rcode(response, describe(question), where)
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

    async def _wait_for_slot(self, question: Question, timeout_seconds: float) -> None:
        try:
            await self._slots.wait(timeout_seconds)
        except TimeoutError as exc:
            QUERIES.inc("overload")
            raise LookupFailed(LookupReason.TIMEOUT, describe(question), "too many queries under way") from exc


def _question(name: Domain, rdtype: int) -> Question:
    question = make_question(name, rdtype)
    if question is None:
        raise LookupFailed(LookupReason.MALFORMED, f"{name} {type_name(rdtype)}", "no name for the DNS")
    return question


def _question_of_text(name: str, rdtype: int) -> Question:
    if name == ".":
        return make_root_question(rdtype)
    try:
        return _question(Domain.parse(name), rdtype)
    except NameInvalid as exc:
        raise LookupFailed(
            LookupReason.MALFORMED, f"{name} {type_name(rdtype)}", f"no name for the DNS: {exc}"
        ) from exc


async def _or_failure(work: Awaitable[Answer[Any]]) -> Answer[Any] | LookupFailed:
    try:
        return await work
    except LookupFailed as exc:
        return exc


def _landed(lookup: Lookup[Answer[Any]], task: "asyncio.Task[Answer[Any]]") -> None:
    """Whoever waits gets a fault of ours as well, or the end of the task."""
    lookup.settle(asyncio.CancelledError() if task.cancelled() else task.exception() or task.result())


def _is_within_limits(answer: PlainAnswer, rdtype: int) -> bool:
    """Whether no limit can be exceeded; where one may be, it is checked in the long way."""
    if len(answer.records) > FEW_RECORDS:
        return False
    return rdtype != TXT or all(len(cast(bytes, text)) <= MAX_TXT_OCTETS for text in answer.records)


def _cut(answer: Answer[IPAddress]) -> Answer[IPAddress]:
    return answer if len(answer.records) <= MAX_ADDRESSES else replace(answer, records=answer.records[:MAX_ADDRESSES])


def _both_families(results: Sequence[Answer[IPAddress] | LookupFailed]) -> Answer[IPAddress]:
    answers = [result for result in results if isinstance(result, Answer)]
    with_address = [found for found in answers if found.status is AnswerStatus.FOUND]
    for result in results:
        if isinstance(result, LookupFailed) and not with_address:
            raise result
    # Both answers come from one zone. The one that failed does not make the other insecure: whoever can suppress it
    # could switch DANE off (RFC 7672 §2.2.2).
    secure = all(found.secure for found in answers)
    if not with_address:
        # RFC 8020 §2: a name that has any record exists, so NXDOMAIN needs both.
        missing = all(found.status is AnswerStatus.NXDOMAIN for found in answers)
        status = AnswerStatus.NXDOMAIN if missing else AnswerStatus.NODATA
        return Answer(status, (), answers[0].canonical_name, min(found.ttl for found in answers), secure)
    addresses = [address for found in with_address for address in found.records[:MAX_ADDRESSES]]
    ttl = min(found.ttl for found in with_address)
    return Answer(AnswerStatus.FOUND, tuple(addresses), with_address[0].canonical_name, ttl, secure)


def _check_count(records: Sequence[object], rdtype: int, question: str) -> None:
    limit = _LIMITS.get(rdtype)
    if limit is not None and len(records) > limit:
        raise LookupFailed(LookupReason.MALFORMED, question, f"{len(records)} records where {limit} are accepted")
