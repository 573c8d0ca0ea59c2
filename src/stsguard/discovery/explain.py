"""Every step of a look-up with its time: the same discovery as always, through a resolver and a fetcher that take
notes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from stsguard.core.dane import Answer, MxEvidence, MxHost, MxRecord, TlsaRecord
from stsguard.core.errors import PolicyFetchFailed, StsguardError
from stsguard.core.mtasts import Policy
from stsguard.core.mxcheck import MxVerdict
from stsguard.core.overrides import Override
from stsguard.core.policycache import StoredPolicy
from stsguard.core.tlspolicy import StsState, StsStatus, decide
from stsguard.discovery.destination import Demand
from stsguard.discovery.mx import lookup_mx_evidence
from stsguard.discovery.record import RecordLookup, lookup_record
from stsguard.names import Domain
from stsguard.ports import Clock, IPAddress, PolicyFetcher, Resolver

T = TypeVar("T")


@dataclass(slots=True)
class Trace:
    """The steps taken so far as plain data: `step`, `subject`, `outcome`, `at_ms` (its start), `ms` (its duration)."""

    steps: list[dict[str, object]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    async def note(self, step: str, subject: str, work: Awaitable[T], describe: Callable[[T], str]) -> T:
        """Do `work` and note it with its outcome, also when it fails."""
        begun = time.perf_counter()
        outcome = "cancelled"
        try:
            result = await work
            outcome = describe(result)
        except StsguardError as exc:
            outcome = f"failed: {exc}"
            raise
        finally:
            self.add(step, subject, outcome, begun)
        return result

    def add(self, step: str, subject: str, outcome: str, begun: float) -> None:
        """Note a step that began at `begun` (time.perf_counter) and ends now."""
        now = time.perf_counter()
        self.steps.append(
            {
                "at_ms": round((begun - self.started) * 1000, 1),
                "ms": round((now - begun) * 1000, 1),
                "step": step,
                "subject": subject,
                "outcome": outcome,
            }
        )


def _answer(answer: Answer[T], show: Callable[[Sequence[T]], str]) -> str:
    secure = "secure" if answer.secure else "insecure"
    if not answer.records:
        return f"{answer.status.value}, {secure}, ttl {answer.ttl}"
    return f"{show(answer.records)}, {secure}, ttl {answer.ttl}"


class TracingResolver:
    """A `ports.Resolver` that notes every look-up of another."""

    def __init__(self, inner: Resolver, trace: Trace) -> None:
        self._inner = inner
        self._trace = trace

    async def lookup_txt(self, name: Domain) -> Answer[bytes]:
        """TXT, noted."""

        def show(records: Sequence[bytes]) -> str:
            return " | ".join(ascii(record.decode("latin-1"))[:120] for record in records)

        return await self._trace.note("TXT", name, self._inner.lookup_txt(name), lambda a: _answer(a, show))

    async def lookup_mx(self, name: Domain) -> Answer[MxRecord]:
        """MX, noted."""

        def show(records: Sequence[MxRecord]) -> str:
            return ", ".join(f"{record.preference} {record.mx_hostname or '.'}" for record in records)

        return await self._trace.note("MX", name, self._inner.lookup_mx(name), lambda a: _answer(a, show))

    async def lookup_some_addresses(self, name: Domain) -> Answer[IPAddress]:
        """Both families: whoever wants it explained wants to see all."""
        return await self.lookup_addresses(name)

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        """A and AAAA, noted as one step."""

        def show(records: Sequence[IPAddress]) -> str:
            return ", ".join(str(record) for record in records)

        return await self._trace.note("A/AAAA", name, self._inner.lookup_addresses(name), lambda a: _answer(a, show))

    async def lookup_tlsa(self, name: Domain) -> Answer[TlsaRecord]:
        """TLSA, noted."""

        def show(records: Sequence[TlsaRecord]) -> str:
            return ", ".join(f"{r.usage} {r.selector} {r.matching_type} {r.data.hex()[:16]}…" for r in records)

        return await self._trace.note("TLSA", name, self._inner.lookup_tlsa(name), lambda a: _answer(a, show))

    async def lookup_cname_secure(self, name: Domain) -> bool:
        """The CNAME's own status, noted."""
        work = self._inner.lookup_cname_secure(name)
        return await self._trace.note("CNAME", name, work, lambda secure: "secure" if secure else "insecure")


class TracingFetcher:
    """A `ports.PolicyFetcher` that notes every fetch of another."""

    def __init__(self, inner: PolicyFetcher, trace: Trace) -> None:
        self._inner = inner
        self._trace = trace

    async def fetch(self, policy_domain: Domain) -> Policy:
        """The fetch, noted."""

        def show(policy: Policy) -> str:
            patterns = " ".join(str(pattern) for pattern in policy.mx_patterns)
            warnings = "".join(f"; warning: {warning}" for warning in policy.warnings)
            return f"mode {policy.mode.value}, max_age {policy.max_age}, mx {patterns}{warnings}"

        work = self._inner.fetch(policy_domain)
        return await self._trace.note("policy", f"https://mta-sts.{policy_domain}", work, show)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known beforehand: the policy cached for the domain, its override, our own verification of MX hosts."""

    cached: StoredPolicy | None
    override: Override | None
    postfix_can_dane: bool
    verdicts: Callable[[Sequence[MxHost]], Mapping[Domain, MxVerdict]]


async def explain(
    next_hop: Domain, port: int, *, resolver: Resolver, fetcher: PolicyFetcher, clock: Clock, known: Known
) -> tuple[Demand, Trace]:
    """Look everything up anew and decide, with every step noted. Nothing that is cached is changed by it."""
    trace = Trace()
    traced = TracingResolver(resolver, trace)
    found, mx = await asyncio.gather(lookup_record(traced, next_hop), lookup_mx_evidence(traced, next_hop, port))
    if known.cached is not None:
        sts = StsState(StsStatus.IN_FORCE, known.cached.policy, _compare(known.cached, found))
        trace.add("cached policy", next_hop, sts.detail, time.perf_counter())
    elif found.record is None:
        sts = StsState(StsStatus.ABSENT, detail=found.detail, lookup_failed=found.failed)
    else:
        try:
            sts = StsState(StsStatus.IN_FORCE, await TracingFetcher(fetcher, trace).fetch(next_hop))
        except PolicyFetchFailed as exc:
            sts = StsState(StsStatus.UNAVAILABLE, detail=f"record id {found.record.record_id}, but {exc}")
    hosts = mx.hosts if isinstance(mx, MxEvidence) else ()
    begun = time.perf_counter()
    decision = decide(
        mx,
        sts,
        override=known.override,
        port=port,
        postfix_can_dane=known.postfix_can_dane,
        verdicts=known.verdicts(hosts),
    )
    trace.add("decision", next_hop, f"{decision.row.text} -> {decision.reply.value} ({decision.row.section})", begun)
    return Demand(mx, sts, known.override, decision, clock.now()), trace


def _compare(cached: StoredPolicy, found: RecordLookup) -> str:
    policy = cached.policy
    text = f"mode {policy.mode.value}, id {cached.record_id}, fetched {cached.fetched_at:%Y-%m-%d %H:%M} UTC"
    if found.record is None:
        return f"{text}; applied until it expires although there is {found.detail}"
    return text if found.record.record_id == cached.record_id else f"{text}; the record has a new id, to be fetched"
