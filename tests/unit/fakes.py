"""The outside world as values: what it answers, whether it fails or hangs, and what it was asked.

`virtual` runs an async test on a loop whose time is the fake clock: a wait takes no time, and moves the clock.
"""

import asyncio
import inspect
import selectors
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, TypeVar

from stsguard.core.dane import Answer, AnswerStatus, MxRecord, TlsaRecord
from stsguard.core.errors import FetchReason, LookupFailed, LookupReason, PolicyFetchFailed, StoreUnavailable
from stsguard.core.mtasts import Policy, parse_policy
from stsguard.core.mxcheck import MxProbe
from stsguard.core.policycache import StoredPolicy
from stsguard.discovery.demand import Demands
from stsguard.discovery.destination import Demand
from stsguard.discovery.policies import PolicyCache
from stsguard.discovery.tending import PolicyTender
from stsguard.discovery.verification import MxVerifier
from stsguard.names import Domain
from stsguard.ports import IPAddress

T = TypeVar("T")
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = 86_400.0
TEN_YEARS = 3650 * DAY
TLSA = TlsaRecord(3, 1, 1, b"\x01" * 32)


class Clock:
    """The wall and the monotonic clock, moved by hand or by a virtual loop; `jump` moves the wall alone."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self.elapsed = 0.0
        self.jumped = 0.0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.elapsed + self.jumped)

    def monotonic(self) -> float:
        return 5000.0 + self.elapsed

    def advance(self, seconds: float) -> None:
        self.elapsed += seconds

    def jump(self, seconds: float) -> None:
        self.jumped += seconds


class _Selector(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "the test waits for something that nothing will bring about"
        self._clock.advance(max(0.0, timeout))
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: where it would, the clock is moved."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(_Selector(clock))
        self.clock = clock

    def time(self) -> float:
        return self.clock.monotonic()


def _anew(fault: BaseException) -> BaseException:
    """The fault as it is raised each time: an object of its own."""
    return LookupFailed(fault.reason, fault.question) if isinstance(fault, LookupFailed) else copy(fault)


@dataclass
class FakeResolver:
    """Answers by (type, name); whatever is not there does not exist. `held` types wait until the event is set."""

    answers: dict[tuple[str, str], Answer[Any] | BaseException] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    cname_secure: dict[str, bool] = field(default_factory=dict)
    one_family: list[str] = field(default_factory=list)  # names of which one address was enough

    def give(self, kind: str, name: str, *records: object, ttl: int = 300, secure: bool = True, at: str = "") -> None:
        status = AnswerStatus.FOUND if records else AnswerStatus.NODATA
        self.answers[kind, name] = Answer(status, records, Domain(at or name), ttl, secure)

    def deny(self, kind: str, name: str, *, nxdomain: bool = False, ttl: int = 300, secure: bool = True) -> None:
        status = AnswerStatus.NXDOMAIN if nxdomain else AnswerStatus.NODATA
        self.answers[kind, name] = Answer(status, (), Domain(name), ttl, secure)

    def fail(self, kind: str, name: str, reason: LookupReason = LookupReason.SERVFAIL) -> None:
        self.answers[kind, name] = LookupFailed(reason, f"{name} {kind}")

    def crash(self, kind: str, name: str) -> None:
        self.answers[kind, name] = ZeroDivisionError("a bug in the resolver")

    def count(self, kind: str, name: str | None = None) -> int:
        return sum(1 for asked in self.asked if asked[0] == kind and name in (None, asked[1]))

    async def _answer(self, kind: str, name: str) -> Answer[Any]:
        self.asked.append((kind, name))
        if kind in self.held:
            await self.held[kind].wait()
        found = self.answers.get((kind, name), Answer(AnswerStatus.NXDOMAIN, (), Domain(name), 300, secure=True))
        if isinstance(found, BaseException):
            raise _anew(found)
        return found

    async def lookup_txt(self, name: Domain) -> Answer[bytes]:
        return await self._answer("TXT", name)

    async def lookup_mx(self, name: Domain) -> Answer[MxRecord]:
        return await self._answer("MX", name)

    async def lookup_some_addresses(self, name: Domain) -> Answer[IPAddress]:
        self.one_family.append(name)
        return await self.lookup_addresses(name)

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        return await self._answer("A", name)

    async def lookup_tlsa(self, name: Domain) -> Answer[TlsaRecord]:
        return await self._answer("TLSA", name)

    async def lookup_cname_secure(self, name: Domain) -> bool:
        self.asked.append(("CNAME", name))
        return self.cname_secure[name]


@dataclass
class FakeFetcher:
    """Policies, or why there is none, by policy domain. Fetches are held while `held` is an unset event."""

    policies: dict[str, Policy | FetchReason | BaseException] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    held: asyncio.Event | None = None
    running: int = 0
    most: int = 0

    async def fetch(self, policy_domain: Domain) -> Policy:
        self.fetched.append(policy_domain)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.held is not None:
                await self.held.wait()
        finally:
            self.running -= 1
        found = self.policies.get(policy_domain, FetchReason.CONNECT_FAILED)
        if isinstance(found, FetchReason):
            raise PolicyFetchFailed(found, "as the test has it")
        if isinstance(found, BaseException):
            raise _anew(found)
        return found


@dataclass
class FakeStore:
    """Policies in memory. `broken` fails every call, `hangs` lets none return; `calls` counts by method."""

    rows: dict[str, StoredPolicy] = field(default_factory=dict)
    broken: bool = False
    hangs: bool = False
    early: bool = False
    shared: bool = False
    invalid: set[str] = field(default_factory=set)
    crash: BaseException | None = None
    calls: Counter[str] = field(default_factory=Counter)

    async def _call(self, name: str) -> None:
        self.calls[name] += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.crash is not None:
            raise _anew(self.crash)
        if self.broken:
            raise StoreUnavailable("the disk is gone")
        await asyncio.sleep(0)

    async def open_early(self) -> bool:
        return self.early

    async def open(self) -> None:
        await self._call("open")

    async def close(self) -> None:
        self.calls["close"] += 1

    async def load_policy(self, policy_domain: Domain) -> StoredPolicy | None:
        await self._call("load_policy")
        return self.rows.get(policy_domain)

    async def load_policies(self, after: Domain | None, limit: int) -> Sequence[StoredPolicy]:
        await self._call("load_policies")
        names = sorted(name for name in self.rows if after is None or name > after)
        return [self.rows[name] for name in names[:limit]]

    def may_hold_more(self, policy_domain: Domain) -> bool:
        return self.shared or policy_domain in self.invalid

    async def save_policies(self, policies: Sequence[StoredPolicy]) -> None:
        await self._call("save_policies")
        self.rows.update({stored.policy_domain: stored for stored in policies})

    async def forget_policies(self, policy_domains: Sequence[Domain]) -> None:
        await self._call("forget_policies")
        for name in policy_domains:
            self.rows.pop(name, None)


@dataclass
class FakeProber:
    """Finds what it is given, by MX host; nothing of a host that it was not given."""

    found: dict[str, MxProbe] = field(default_factory=dict)
    probed: list[str] = field(default_factory=list)

    async def probe(
        self,
        mx_hostname: Domain,
        address: IPAddress,
        tlsa: Sequence[TlsaRecord],
        *,
        reference_identifiers: Sequence[Domain] = (),
    ) -> MxProbe:
        self.probed.append(mx_hostname)
        known = self.found.get(mx_hostname)
        if known is not None:
            return replace(known, address=address)
        return MxProbe(mx_hostname, address, START, False, False, None, "", True, None, None)


def policy(mode: str = "enforce", max_age: int = 604_800, mx: Sequence[str] = ("mx.{}",), name: str = "") -> Policy:
    """A policy; `{}` in an mx stands for `name`."""
    lines = ["version: STSv1", f"mode: {mode}", f"max_age: {max_age}", *(f"mx: {text.format(name)}" for text in mx)]
    return parse_policy("\n".join(lines).encode())


class World:
    """All parts of discovery over fakes. `restart` builds them anew over the same outside world."""

    def __init__(self, clock: Clock, *, size: int = 1000) -> None:
        self.clock = clock
        self.resolver = FakeResolver()
        self.fetcher = FakeFetcher()
        self.store = FakeStore()
        self.prober = FakeProber()
        self.size = size
        self.wait_seconds = 10.0
        self.random = 0.5
        self.build()

    def build(self) -> None:
        self.cache = PolicyCache(
            resolver=self.resolver,
            fetcher=self.fetcher,
            store=self.store,
            clock=self.clock,
            random=lambda: self.random,
            size=self.size,
            id_check_seconds=300.0,
        )
        self.tender = PolicyTender(self.cache, resolver=self.resolver, store=self.store)
        self.verifier = MxVerifier(self.prober, self.clock, enabled=True, random=lambda: self.random)
        self.demands = Demands(
            resolver=self.resolver,
            cache=self.cache,
            tender=self.tender,
            verifier=self.verifier,
            clock=self.clock,
            wait_seconds=self.wait_seconds,
            size=self.size,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Run the background loops, and wait until the store was tried."""
        self.tasks = [asyncio.create_task(self.tender.run()), asyncio.create_task(self.demands.run())]
        await asyncio.sleep(0.1)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.cache.close()

    async def restart(self, *, down_seconds: float = 0.0) -> None:
        """As after kill -9: only what is in the store is left."""
        await self.stop()
        self.clock.advance(down_seconds)
        self.build()
        await self.start()

    def publish(
        self,
        name: str,
        mode: str = "enforce",
        *,
        max_age: int = 604_800,
        record_id: str = "1",
        mx: Sequence[str] = ("mx.{}",),
        secure: bool = False,
    ) -> None:
        """A domain with one MX host, and a policy of that mode; "" for none."""
        self.resolver.give("MX", name, MxRecord(10, Domain(f"mx.{name}")), secure=secure)
        self.resolver.give("A", f"mx.{name}", ip_address("192.0.2.1"), secure=secure)
        if mode:
            self.announce(name, record_id)
            self.fetcher.policies[name] = policy(mode, max_age, mx, name)

    def announce(self, name: str, record_id: str) -> None:
        self.resolver.give("TXT", f"_mta-sts.{name}", f"v=STSv1; id={record_id};".encode())

    async def ask(self, name: str, port: int = 25) -> Demand:
        return await self.demands.demand(self.demands.destination(Domain(name), port))

    async def reply(self, name: str, port: int = 25) -> str:
        return (await self.ask(name, port)).decision.reply.value

    async def until(self, condition: Callable[[], bool], limit_seconds: float = 60.0) -> None:
        """Let time pass until `condition` holds."""
        end = self.clock.monotonic() + limit_seconds
        while not condition():
            assert self.clock.monotonic() < end, "it did not come about in time"
            await asyncio.sleep(0.25)

    async def keep_asking(self, name: str, seconds: float, every: float = 60.0) -> Counter[str]:
        """Ask again and again, as mail that keeps coming does; the replies counted."""
        replies: Counter[str] = Counter()
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            replies[await self.reply(name)] += 1
            await self.let_pass(every, every)
        return replies

    async def let_pass(self, seconds: float, step_seconds: float = 120.0) -> None:
        """Let much time pass, with a turn of the background loops in each step only."""
        end = self.clock.monotonic() + seconds
        while (left := end - self.clock.monotonic()) > 0:
            self.clock.advance(max(0.0, min(step_seconds, left) - 2.0))
            await asyncio.sleep(min(2.0, end - self.clock.monotonic()))


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """An async test of `world` (and fixtures) as one that pytest runs, in virtual time."""

    def run(**arguments: object) -> None:
        clock = Clock()

        async def main() -> None:
            world = World(clock)
            try:
                await test(world, **arguments)
            finally:
                await world.stop()

        with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
            runner.run(main())

    signature = inspect.signature(test)
    run.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]  # pytest reads it
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return run


def counts(counter: Any) -> "defaultdict[tuple[str, ...], int]":
    """A copy of a counter's values, to compare with later."""
    return defaultdict(int, counter.values)
