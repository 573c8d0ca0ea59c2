"""The keeper of certificates: what is due, in which order, and that no fault and no clock makes it ask too often."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stsguard.core.certificate_schedule import read_times
from stsguard.core.errors import CertificateFailed, CertificateFault
from stsguard.core.hosted import AcmeChallenge, CertificateState
from stsguard.discovery.health import PartState
from stsguard.inbound.certificates import CertificateKeeper, CertificateSettings
from stsguard.inbound.order_pace import OrderPace
from stsguard.names import Domain
from tests.unit.certificate_store import CertificateValues
from tests.unit.fakes import START, Clock, World, virtual

A, B = Domain("mta-sts.a.example"), Domain("mta-sts.b.example")
HOUR, DAY = 3600.0, 86_400.0
LIFETIME = timedelta(days=90)
KEY = ec.generate_private_key(ec.SECP256R1())
DOWN = CertificateFailed("the CA can't be reached", None, CertificateFault.CA)


class Site:
    """A CA, files and names as values. `fails` is what the next orders meet, by host or for all (None)."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.store = CertificateValues()
        self.hosts = [A]
        self.files: dict[Domain, bytes] = {}
        self.by_hand: set[Domain] = set()
        self.locked = False
        self.ordered: list[tuple[Domain, float]] = []
        self.proven: list[tuple[Domain, float]] = []
        self.fails: dict[Domain | None, CertificateFailed] = {}
        self.astray: set[Domain] = set()
        self.ca_clock = clock.now  # the CA's own, which never jumps where a test says so
        self.renewals: dict[Domain, datetime] = {}
        self.hang = asyncio.Event()
        self.hang.set()
        self.unwritable = False

    # ports.CertificateAuthority
    async def order(
        self, host: Domain, kind: str, present: Callable[[AcmeChallenge], Awaitable[None]]
    ) -> tuple[bytes, bytes]:
        self.ordered.append((host, self.clock.elapsed))
        await present(AcmeChallenge(kind, host, "token", "content", self.clock.now() + timedelta(hours=1)))
        await self.hang.wait()
        await asyncio.sleep(1)
        failure = self.fails.get(host) or self.fails.get(None)
        if failure is not None:
            raise failure
        return b"", self.issue(self.ca_clock())

    async def renewal_time(self, pem: bytes) -> datetime | None:
        return next((self.renewals.get(host) for host, each in self.files.items() if each == pem), None)

    def issue(self, now: datetime) -> bytes:
        name, serial = x509.Name([]), x509.random_serial_number()
        builder = x509.CertificateBuilder(name, name, KEY.public_key(), serial, now, now + LIFETIME)
        return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    # ports.CertificateKeyFiles
    @contextmanager
    def lock(self) -> Iterator[bool]:
        if self.unwritable:
            raise PermissionError("read-only")
        yield not self.locked

    def is_by_hand(self, host: Domain) -> bool:
        return host in self.by_hand

    def load(self, host: Domain) -> bytes | None:
        return self.files.get(host)

    def save(self, host: Domain, key_pem: bytes, chain_pem: bytes) -> None:
        self.files[host] = key_pem + chain_pem

    # ports.ReachProver
    async def prove(self, challenge: AcmeChallenge) -> None:
        assert self.store.challenges[challenge.kind, challenge.token] == challenge
        self.proven.append((challenge.host, self.clock.elapsed))
        if challenge.host in self.astray:
            raise CertificateFailed(f"{challenge.host} does not lead here")

    def keeper(self, challenge: str = "http-01", node: str = "one") -> CertificateKeeper:
        return CertificateKeeper(
            CertificateSettings(challenge=challenge, node=node, round_seconds=120),
            policy_hosts=lambda: self.hosts,
            store=self.store,
            authority=self,
            files=self,
            reach=self,
            clock=self.clock,
            pace=OrderPace(self.clock.monotonic, lambda: 0.0),
            random=lambda: 0.5,
        )

    async def keep(self, seconds: float, *keepers: CertificateKeeper) -> CertificateKeeper:
        """Have them run that long, and end them as a kill does."""
        running = keepers or (self.keeper(),)
        tasks = [asyncio.ensure_future(keeper.run()) for keeper in running]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        return running[0]

    def state(self, host: Domain = A) -> CertificateState:
        return self.store.states[host]


@virtual
async def test_ordered_once_proven_first_and_renewed_at_two_thirds(world: World) -> None:
    site = Site(world.clock)
    keeper = await site.keep(59 * DAY)
    assert [host for host, _ in site.ordered] == [host for host, _ in site.proven] == [A]
    assert (site.state().failures, site.state().last_error) == (0, "")
    assert site.state().renew_at == read_times(site.files[A]).renew_at
    assert site.store.challenges == {}
    assert keeper.health().state is PartState.OK
    await site.keep(5 * DAY)
    assert len(site.ordered) == 2
    assert 60 * DAY <= site.ordered[1][1] <= 63 * DAY + HOUR


@virtual
async def test_a_name_that_leads_elsewhere_costs_the_ca_nothing_and_is_looked_at_again(world: World) -> None:
    site = Site(world.clock)
    site.astray.add(A)
    keeper = await site.keep(DAY)
    assert site.ordered == []
    assert 70 < len(site.proven) < 110  # every 15 minutes in the end
    assert "does not lead here" in site.state().last_error
    assert (keeper.health().state, site.state().failures) == (PartState.LIMITED, len(site.proven))
    site.astray.clear()
    await site.keep(HOUR)
    assert len(site.ordered) == 1


@virtual
async def test_tls_alpn_01_is_proven_by_tls(world: World) -> None:
    site = Site(world.clock)
    await site.keep(HOUR, site.keeper("tls-alpn-01"))
    assert len(site.ordered) == 1


@virtual
async def test_a_ca_that_is_down_for_a_day_is_not_hammered_and_found_within_the_hour(world: World) -> None:
    site = Site(world.clock)
    site.hosts = [Domain(f"mta-sts.d{number}.example") for number in range(100)]
    site.fails[None] = DOWN
    keeper = site.keeper()
    task = asyncio.create_task(keeper.run())
    await asyncio.sleep(DAY)
    assert len(site.ordered) < 40
    assert keeper.health().detail == str(DOWN)
    assert all(state.failures <= 1 for state in site.store.states.values())
    site.fails.clear()
    await asyncio.sleep(3 * HOUR + 600)
    task.cancel()
    assert len(site.files) == 100
    assert keeper.health().state is PartState.OK


@virtual
async def test_a_host_that_the_ca_refuses_is_tried_less_and_less_and_holds_nobody_up(world: World) -> None:
    site = Site(world.clock)
    site.hosts = [A, B]
    site.fails[A] = CertificateFailed("the CA answers caa: forbidden")
    await site.keep(DAY)
    assert 8 <= [host for host, _ in site.ordered].count(A) <= 14
    assert B in site.files
    assert site.state().last_error == "the CA answers caa: forbidden"


@virtual
async def test_a_rate_limit_is_kept_over_a_restart(world: World) -> None:
    site = Site(world.clock)
    site.fails[A] = CertificateFailed("rateLimited", 30 * HOUR, CertificateFault.RATE_LIMIT)
    await site.keep(HOUR)
    await site.keep(28 * HOUR)
    assert len(site.ordered) == 1
    site.fails.clear()
    await site.keep(2 * HOUR)
    assert A in site.files


@virtual
async def test_a_clock_set_forward_makes_no_storm_and_is_told_of(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(world.clock)
    site.hosts = [Domain(f"mta-sts.d{number}.example") for number in range(200)]
    site.files = {host: site.issue(START) for host in site.hosts}
    true_time, start = world.clock, START
    site.ca_clock = lambda: start + timedelta(seconds=true_time.elapsed)
    keeper = site.keeper()
    task = asyncio.create_task(keeper.run())
    await asyncio.sleep(DAY)
    assert site.ordered == []
    world.clock.jump(83 * DAY)
    await asyncio.sleep(HOUR)
    assert 50 < len(site.ordered) <= 60
    assert "the clock of this machine is wrong" in caplog.text
    assert keeper.health().state is PartState.FAILED  # six days are left by that clock
    await asyncio.sleep(10 * HOUR)
    assert len(site.ordered) == 200  # each once
    world.clock.jump(-83 * DAY)
    await asyncio.sleep(DAY)
    assert len(site.ordered) == 200
    task.cancel()


@virtual
async def test_a_clock_set_back_hides_no_expiry(world: World) -> None:
    site = Site(world.clock)
    site.files[A] = site.issue(START)
    start, true_time = START, world.clock
    site.ca_clock = lambda: start + timedelta(seconds=true_time.elapsed)
    task = asyncio.create_task(site.keeper().run())
    await asyncio.sleep(DAY)
    world.clock.jump(-400 * DAY)
    await asyncio.sleep(58 * DAY)
    assert site.ordered == []
    await asyncio.sleep(5 * DAY)
    task.cancel()
    assert len(site.ordered) == 1


@virtual
async def test_a_pause_that_a_wrong_clock_wrote_counts_for_nothing(world: World) -> None:
    site = Site(world.clock)
    later = START + timedelta(days=3650)
    site.store.states[A] = CertificateState(A, None, None, None, 3, later, "of another time")
    await site.keep(HOUR)
    assert len(site.ordered) == 1


@virtual
async def test_killed_during_an_order_the_next_start_goes_on_and_never_in_haste(world: World) -> None:
    site = Site(world.clock)
    site.hang.clear()
    for _ in range(20):  # a crash loop
        await site.keep(30)
    assert len(site.ordered) <= 5
    assert "came to no end" in site.state().last_error
    site.hang.set()
    await site.keep(20 * 60)
    assert A in site.files
    assert site.state().failures == 0


@virtual
async def test_killed_during_a_first_order_the_next_start_does_not_wait(world: World) -> None:
    site = Site(world.clock)
    site.hang.clear()
    await site.keep(10)
    assert len(site.ordered) == 1
    site.hang.set()
    await site.keep(10)
    assert A in site.files


@virtual
async def test_of_two_nodes_one_orders_and_of_two_processes_one_works(world: World) -> None:
    site = Site(world.clock)
    site.hosts = [A, B]
    await site.keep(HOUR, site.keeper(node="one"), site.keeper(node="two"))
    assert sorted(host for host, _ in site.ordered) == [A, B]
    other = Site(world.clock)
    other.locked = True
    await other.keep(HOUR)
    assert other.ordered == []


@virtual
async def test_what_is_by_hand_is_left_alone_and_what_is_no_longer_served_forgotten(world: World) -> None:
    site = Site(world.clock)
    site.hosts, site.by_hand = [A, B], {A}
    keeper = await site.keep(HOUR)
    assert [host for host, _ in site.ordered] == [B]
    assert keeper.health().detail == "1 certificates by ACME"
    site.hosts = []
    keeper = await site.keep(100 * DAY)
    assert len(site.ordered) == 1
    assert keeper.health().detail == "0 certificates by ACME"


@virtual
async def test_the_ca_may_ask_for_an_earlier_renewal(world: World) -> None:
    site = Site(world.clock)
    site.files[A] = site.issue(START)
    site.renewals[A] = START + timedelta(days=10)
    await site.keep(10 * DAY + 2 * HOUR)
    assert len(site.ordered) == 1
    assert site.ordered[0][1] >= 10 * DAY


@virtual
async def test_the_certificate_that_ends_first_comes_first(world: World) -> None:
    site = Site(world.clock)
    hosts = [Domain(f"mta-sts.d{number}.example") for number in range(6)]
    site.hosts = hosts
    site.files = {host: site.issue(START - timedelta(days=80 - number)) for number, host in enumerate(hosts[1:])}
    await site.keep(HOUR)
    assert [host for host, _ in site.ordered] == [*hosts[1:], hosts[0]]


@virtual
async def test_what_ends_soon_is_an_error_and_fails_health(world: World, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(world.clock)
    site.files[A] = site.issue(START - timedelta(days=85))
    site.fails[None] = CertificateFailed("no")
    keeper = await site.keep(HOUR)
    assert keeper.health().state is PartState.FAILED
    assert keeper.health().detail.startswith(f"{A}: valid until ")
    assert {record.levelname for record in caplog.records} == {"ERROR"}


@virtual
async def test_without_the_database_or_the_directory_nothing_is_ordered(world: World) -> None:
    site = Site(world.clock)
    site.store.down = True
    await site.keep(HOUR)
    site.store.down, site.unwritable = False, True
    await site.keep(HOUR)
    assert site.ordered == []
    site.unwritable = False
    keeper = site.keeper()
    task = asyncio.create_task(keeper.run())
    await asyncio.sleep(1)
    site.store.down = True
    site.hosts = [A, B]
    await asyncio.sleep(HOUR)
    site.store.down = False
    await asyncio.sleep(HOUR)
    task.cancel()
    assert site.files.keys() == {A, B}


@virtual
async def test_a_file_that_can_not_be_read_is_replaced(world: World) -> None:
    site = Site(world.clock)
    site.files[A] = b"half"
    await site.keep(HOUR)
    assert len(site.ordered) == 1
    assert read_times(site.files[A])
