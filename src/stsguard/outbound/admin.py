"""What the admin socket answers: health, metrics, and what the commands ask of the running daemon."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stsguard.core.dane import MxEvidence
from stsguard.core.socketmap import KeyKind, NextHop, parse_next_hop
from stsguard.core.tlspolicy import StsStatus
from stsguard.discovery.demand import Demands
from stsguard.discovery.describe import (
    Plain,
    plain_demand,
    plain_entry,
    plain_negative,
    plain_verification,
)
from stsguard.discovery.explain import Known, explain
from stsguard.discovery.forecast import would_defer
from stsguard.discovery.health import Health
from stsguard.discovery.mx import lookup_mx_evidence
from stsguard.discovery.policies import PolicyCache
from stsguard.discovery.record import lookup_record
from stsguard.discovery.tending import PolicyTender
from stsguard.discovery.verification import MxVerifier
from stsguard.names import Domain
from stsguard.ports import Clock, PolicyFetcher, Resolver

DEFAULT_ROWS = 1000
MAX_ROWS = 1_000_000
STATE_SECONDS = 60.0
MAX_WARMED = 200
ROWS_AT_ONCE = 30  # between two of these look-ups have their turn


class Request(Protocol):
    """An HTTP request, as the server adapter gives it."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Result:
    """What a route gives: plain data with a status, or text."""

    status: int
    content: Plain | bytes


class BadRequest(Exception):
    """The request can't be done as it is put; the message is for the admin."""


Route = Callable[[Mapping[str, str]], Awaitable[Result]]


class Admin:
    """The routes of the admin socket."""

    def __init__(
        self,
        *,
        demands: Demands,
        cache: PolicyCache,
        tender: PolicyTender,
        verifier: MxVerifier,
        resolver: Resolver,
        fetcher: PolicyFetcher,
        clock: Clock,
        health: Health,
        observe: bool,
        status: Callable[[], Plain],
        warm: Callable[[Sequence[str]], int],
        render_metrics: Callable[[], Awaitable[bytes]],
    ) -> None:
        self._demands = demands
        self._cache = cache
        self._tender = tender
        self._verifier = verifier
        self._resolver = resolver
        self._fetcher = fetcher
        self._clock = clock
        self._health = health
        self._observe = observe
        self._status = status
        self._warm = warm
        self._render_metrics = render_metrics
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/healthz"): self._healthz,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/status"): self._show_status,
            ("GET", "/lookup"): self._lookup,
            ("GET", "/verify"): self._verify,
            ("GET", "/cache"): self._list,
            ("GET", "/cache/show"): self._show,
            ("POST", "/cache/refresh"): self._refresh,
            ("POST", "/cache/forget"): self._forget,
            ("POST", "/warm"): self._warm_domains,
        }

    async def handle(self, request: Request) -> Result:
        """Answer one request; a bad one with its reason."""
        method = "GET" if request.method == "HEAD" else request.method
        route = self._routes.get((method, request.path))
        if route is None:
            known = any(path == request.path for _, path in self._routes)
            return Result(405 if known else 404, {"error": "no such resource, or not by this method"})
        try:
            return await route(request.query)
        except BadRequest as exc:
            return Result(400, {"error": str(exc)})

    async def _healthz(self, _query: Mapping[str, str]) -> Result:
        good, report = self._health.report()
        return Result(200 if good else 503, report)

    async def _metrics(self, _query: Mapping[str, str]) -> Result:
        return Result(200, await self._render_metrics())

    async def _show_status(self, _query: Mapping[str, str]) -> Result:
        good, report = self._health.report()
        figures = {
            "policies": len(self._cache),
            "without_policy": self._cache.negatives,
            "destinations": len(self._demands),
            "unsaved": self._cache.saver.unsaved,
        }
        return Result(200 if good else 503, {**report, **self._status(), "cache": figures})

    async def _warm_domains(self, query: Mapping[str, str]) -> Result:
        """Domains that mail is about to go to: they are decided afterwards, nobody waits for it."""
        keys = [key for key in query.get("domains", "").split(",") if key]
        if not 0 < len(keys) <= MAX_WARMED:
            raise BadRequest(f"give ?domains= with 1 to {MAX_WARMED} next hops, separated by commas")
        return Result(202, {"taken": self._warm(keys)})

    async def _lookup(self, query: Mapping[str, str]) -> Result:
        next_hop = _next_hop(query)
        if next_hop.host is None or next_hop.kind is not KeyKind.DOMAIN:
            return Result(200, {"key": query["domain"], "kind": next_hop.kind.value, **self._without_lookup(next_hop)})
        destination = self._demands.destination(next_hop.host, next_hop.port)
        demand = await self._demands.demand(destination)
        expired = self._demands.find_expired_override(next_hop.host)
        described = plain_demand(
            destination, demand, self._verifier.results, observe=self._observe, expired_override=expired
        )
        described["expires_in"] = int(destination.expires_at - self._clock.monotonic())
        entry = self._cache.entry(next_hop.host)
        if entry is not None:
            described["policy"] = plain_entry(entry, self._clock.monotonic())
        if query.get("explain"):
            known = Known(
                entry.stored(self._clock.now()) if entry else None,
                demand.override,
                self._demands.postfix_can_dane,
                self._verifier.verdicts,
            )
            fresh, trace = await explain(
                next_hop.host,
                next_hop.port,
                resolver=self._resolver,
                fetcher=self._fetcher,
                clock=self._clock,
                known=known,
            )
            described["steps"] = trace.steps
            described["fresh"] = plain_demand(destination, fresh, self._verifier.results, observe=self._observe)
        return Result(200, described)

    def _without_lookup(self, next_hop: NextHop) -> Plain:
        override = self._demands.find_override(next_hop.host) if next_hop.host else None
        if override is not None:
            return {"override": override.key, "note": "an override holds; ask for the name without brackets to see it"}
        if next_hop.kind is KeyKind.INVALID:
            reply = "NOTFOUND " if self._observe else "TEMP the key is no domain name"
            return {"replies": {"policy": reply}, "note": "no name that DNS could hold"}
        return {"replies": {"policy": "NOTFOUND "}, "note": "answered without any look-up (RFC 8461 §3.4)"}

    async def _verify(self, query: Mapping[str, str]) -> Result:
        next_hop = _domain(query)
        evidence = await lookup_mx_evidence(self._resolver, next_hop.host, next_hop.port)
        if not isinstance(evidence, MxEvidence):
            return Result(200, {"domain": next_hop.host, "failed": evidence.detail, "probes": []})
        state = await self._cache.state(next_hop.host, STATE_SECONDS)
        probes = await self._verifier.probe_now(evidence.hosts, next_hops=[next_hop.host])
        return Result(200, plain_verification(next_hop.host, state.state.policy, evidence, probes))

    async def _list(self, query: Mapping[str, str]) -> Result:
        if query.get("would_defer"):
            return Result(200, {"rows": await self._would_defer()})
        limit = _number(query, "limit", DEFAULT_ROWS, MAX_ROWS)
        now = self._clock.monotonic()
        rows: list[Plain] = []
        async for entry in self._cache.entries():
            if len(rows) >= limit:
                break
            rows.append(plain_entry(entry, now))
            if len(rows) % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return Result(200, {"rows": rows, "total": len(self._cache)})

    async def _would_defer(self) -> list[Plain]:
        rows: list[Plain] = []
        count = 0
        async for destination in self._demands.destinations():
            count += 1
            if count % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
            demand = self._demands.latest(destination)
            why = would_defer(demand, self._verifier.results) if demand else None
            if demand is not None and why is not None:
                rows.append(
                    {
                        "domain": destination.next_hop,
                        "port": destination.port,
                        "reply": demand.decision.reply.value,
                        "reason": why,
                    }
                )
        return rows

    async def _show(self, query: Mapping[str, str]) -> Result:
        next_hop = _domain(query)
        now = self._clock.monotonic()
        entry = self._cache.entry(next_hop.host)
        if entry is not None:
            text = list(entry.policy.policy_text)
            return Result(200, {**plain_entry(entry, now), "policy_text": text})
        negative = self._cache.negative(next_hop.host)
        if negative is not None:
            return Result(200, plain_negative(next_hop.host, negative, now))
        return Result(404, {"error": f"nothing is cached for {next_hop.host}"})

    async def _refresh(self, query: Mapping[str, str]) -> Result:
        next_hop = _domain(query)
        entry = self._cache.entry(next_hop.host)
        if entry is None:
            record = await lookup_record(self._resolver, next_hop.host)
            if record.failed:
                return Result(502, {"domain": next_hop.host, "state": "unknown", "detail": record.detail})
            self._cache.forget_negative(next_hop.host)
            state = (await self._cache.state(next_hop.host, STATE_SECONDS)).state
            entry = self._cache.entry(next_hop.host)
            if entry is None:
                told: Plain = {"domain": next_hop.host, "state": state.status.value, "detail": state.detail}
                return Result(200 if state.status is StsStatus.ABSENT else 502, told)
        else:
            entry = await self._tender.tend(entry, force=True)
            if entry.upkeep.failure is not None:
                told = {**plain_entry(entry, self._clock.monotonic()), "detail": str(entry.upkeep.failure)}
                return Result(502, told)
        return Result(200, plain_entry(entry, self._clock.monotonic()))

    async def _forget(self, query: Mapping[str, str]) -> Result:
        next_hop = _domain(query)
        known = self._cache.forget(next_hop.host)
        destination = self._demands.known(next_hop.host, next_hop.port)
        if destination is not None:
            self._demands.forget(destination)
        return Result(200, {"domain": next_hop.host, "forgotten": known or destination is not None})


@dataclass(frozen=True, slots=True)
class _Host:
    host: Domain
    port: int


def _next_hop(query: Mapping[str, str]) -> NextHop:
    if not query.get("domain"):
        raise BadRequest("give ?domain=")
    return parse_next_hop(query["domain"].encode("utf-8"))


def _domain(query: Mapping[str, str]) -> _Host:
    next_hop = _next_hop(query)
    if next_hop.kind is not KeyKind.DOMAIN or next_hop.host is None:
        raise BadRequest(f"{query['domain'][:100]!r} is no domain name")
    return _Host(next_hop.host, next_hop.port)


def _number(query: Mapping[str, str], name: str, default: int, limit: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(limit)) and 0 < int(text) <= limit):
        raise BadRequest(f"{name} must be a number from 1 to {limit}")
    return int(text)
