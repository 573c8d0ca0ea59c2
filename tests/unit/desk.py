"""A session intake over the fake world, and what its store adds up to."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from ipaddress import ip_address

from stsguard.core.errors import ResultType, StoreUnavailable
from stsguard.core.mxcheck import MxProbe
from stsguard.core.session import CounterRow, FailureDetail, PolicyType, Seen, Session, Source
from stsguard.names import Domain
from stsguard.outbound.datagrams import read_datagrams
from stsguard.outbound.sessions import SessionIntake
from tests.unit.fakes import START, World

NAME, MX = Domain("a.test"), Domain("mx.a.test")
ADDRESS = "192.0.2.1"
INSTANCE = "postfix"
TODAY = START.date()


@dataclass
class FakeCounterStore:
    """Adds up what it is given; `broken` refuses, and waits for `held` first where that is set."""

    broken: bool = False
    held: asyncio.Event | None = None
    crash: BaseException | None = None
    days: dict[tuple[date, Domain, PolicyType], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    details: Counter[FailureDetail] = field(default_factory=Counter)
    rows: list[CounterRow] = field(default_factory=list)
    positions: dict[str, str] = field(default_factory=dict)
    calls: int = 0

    async def add_counters(self, rows: Sequence[CounterRow], positions: Mapping[str, str]) -> None:
        self.calls += 1
        if self.held is not None:
            await self.held.wait()
        if self.crash is not None:
            raise self.crash
        if self.broken:
            raise StoreUnavailable("the disk is full")
        for row in rows:
            sums = self.days[row.day, row.report_domain, row.policy.policy_type]
            sums.update(successes=row.successes, failures=row.failures, unverified=row.unverified)
            if not row.for_mx_host:
                self.details.update(dict(row.details))
            self.rows.append(row)
        self.positions = {name: text for name, text in {**self.positions, **positions}.items() if text}

    async def load_positions(self) -> Mapping[str, str]:
        return self.positions

    def total(self, name: str = NAME, day: date = TODAY) -> dict[str, int]:
        """The sessions of a domain and day, whatever their policy."""
        whole: Counter[str] = Counter()
        for (found_day, domain, _), sums in self.days.items():
            if (found_day, domain) == (day, name):
                whole.update(sums)
        return {key: value for key, value in whole.items() if value}

    def types(self, name: str = NAME, day: date = TODAY) -> dict[PolicyType, dict[str, int]]:
        """The same by policy type."""
        found = {
            kind: {k: v for k, v in sums.items() if v}
            for (at, of, kind), sums in self.days.items()
            if (at, of) == (day, name)
        }
        return {kind: sums for kind, sums in found.items() if sums}

    def results(self) -> dict[str, int]:
        """The failure details by result-type."""
        found: Counter[str] = Counter()
        for detail, count in self.details.items():
            found[detail.result_type] += count
        return {key: value for key, value in found.items() if value}


class Desk:
    """An intake over a world, with its background work."""

    def __init__(
        self,
        world: World,
        *,
        log: bool = False,
        observe: bool = False,
        own: str = "reports",
        store: FakeCounterStore | None = None,
    ) -> None:
        self.world = world
        self.store = store or FakeCounterStore()
        self.intake = SessionIntake(
            demands=world.demands,
            cache=world.cache,
            tender=world.tender,
            verifier=world.verifier,
            store=self.store,
            clock=world.clock,
            log_instances=[INSTANCE] if log else [],
            observe=observe,
            is_own_report=lambda session: session.instance == own,
        )

    async def start(self) -> None:
        await self.world.start()
        self.world.tasks.append(asyncio.create_task(self.intake.run()))

    def logged(self, *heard: Session) -> None:
        self.intake.sessions(heard)

    def hear(self, datagrams: Iterable[tuple[bytes, int]], at: datetime, instance: str) -> None:
        """As the pump of that instance's socket does."""
        self.intake.heard(read_datagrams(datagrams, at, instance, self.intake.refused))

    def sent(self, *datagrams: bytes, times: int = 1, at: datetime | None = None) -> None:
        self.hear([(each, times) for each in datagrams], at or self.world.clock.now(), INSTANCE)

    async def settle(self) -> None:
        """Let what was counted be written."""
        await asyncio.sleep(2.0)


def datagram(*, code: int = 0, name: str = NAME, mx: str = MX, kind: int = 9, base: str = "") -> bytes:
    policy: dict[str, object] = {
        "policy-type": kind,
        "policy-domain": base or name,
        "t": int(bool(code)),
        "f": int(bool(code)),
    }
    if code:
        policy["failure-details"] = [
            {"c": code, "s": "198.51.100.9", "n": mx, "h": f"250-{mx} at your service\r\n250 STARTTLS", "r": ADDRESS}
        ]
    return json.dumps({"d": name, "policies": [policy]}).encode()


def logged(
    seen: Seen = Seen.SUCCESS, result_type: ResultType | None = None, at: datetime = START, **more: object
) -> Session:
    whole = Session(
        at=at,
        source=Source.LOG,
        instance=INSTANCE,
        seen=seen,
        recipient_domain=NAME,
        result_type=result_type,
        receiving_mx_hostname=MX,
        receiving_ip=ADDRESS,
    )
    return whole._replace(**more)  # type: ignore[arg-type]  # the names and types are the tests' own


FAILED_IN_LOG = logged(Seen.FAILURE, ResultType.CERTIFICATE_EXPIRED, failure_reason_code="certificate_has_expired")
WHOLE_DETAIL = FailureDetail(
    ResultType.CERTIFICATE_EXPIRED, "198.51.100.9", MX, MX, ADDRESS, "", "certificate_has_expired"
)
BARE_DETAIL = FailureDetail(
    ResultType.CERTIFICATE_EXPIRED,
    receiving_mx_hostname=MX,
    receiving_ip=ADDRESS,
    failure_reason_code="certificate_has_expired",
)


def probe(result_type: ResultType | None, at: datetime, *, inconclusive: bool = False) -> MxProbe:
    ok = result_type is None
    return MxProbe(MX, ip_address(ADDRESS), at, True, ok, result_type, "", inconclusive, None, None)


async def desk_in_testing(world: World) -> Desk:
    """A domain in testing mode, looked up, whose MX host nobody has verified."""
    world.publish(NAME, "testing")
    desk = Desk(world, log=True)
    await desk.start()
    await world.ask(NAME)
    return desk


async def plain_desk(world: World, *, log: bool = False, mode: str = "", observe: bool = False) -> Desk:
    world.publish(NAME, mode)
    desk = Desk(world, log=log, observe=observe)
    await desk.start()
    await world.ask(NAME)
    return desk
