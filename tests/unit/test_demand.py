"""Decisions: made once, kept by TTL, renewed while in use, made anew when what they rest on changes."""

import asyncio
from ipaddress import ip_address

import pytest

from stsguard.core.dane import MxRecord
from stsguard.core.errors import FetchReason, ResultType
from stsguard.core.mxcheck import CertificateFacts, MxProbe
from stsguard.core.overrides import parse_overrides
from stsguard.core.policycache import Downgrade
from stsguard.core.tlspolicy import NO_PERMITTED_HOST, Row
from stsguard.discovery import demand, policies, supervisor
from stsguard.discovery.destination import Demand, Destination
from stsguard.names import Domain
from tests.unit.fakes import START, TLSA, World, virtual

NAME = Domain("example.com")
MX = Domain("mx.example.com")


def destination(world: World, name: str = NAME, port: int = 25) -> Destination:
    return world.demands.destination(Domain(name), port)


@virtual
async def test_one_decision_however_many_ask(world: World) -> None:
    world.publish(NAME)
    await world.start()
    world.resolver.held["MX"] = asyncio.Event()
    asking = [asyncio.create_task(world.ask(NAME)) for _ in range(200)]
    await asyncio.sleep(1)
    world.resolver.held["MX"].set()
    found = await asyncio.gather(*asking)
    assert len({id(one) for one in found}) == 1
    assert world.resolver.count("MX") == 1


@pytest.mark.parametrize("last", ["TXT", "MX"])
@virtual
async def test_whatever_comes_last_a_new_domain_is_decided_once(world: World, last: str) -> None:
    world.publish(NAME)
    await world.start()
    made: list[Demand] = []
    world.demands.on_decided = lambda _destination, demand: made.append(demand)
    world.resolver.held[last] = asyncio.Event()
    asking = asyncio.create_task(world.reply(NAME))
    await asyncio.sleep(1)
    world.resolver.held[last].set()
    assert await asking == "secure"
    await asyncio.sleep(1)
    assert len(made) == 1


@virtual
async def test_rfc8461_5_1_a_pending_decision_changes_by_itself_when_the_fetch_lands(world: World) -> None:
    world.publish(NAME)
    await world.start()
    world.fetcher.held = asyncio.Event()
    assert await world.reply(NAME) == "notfound"
    world.fetcher.held.set()
    await asyncio.sleep(1)
    made = world.demands.latest(destination(world))
    assert made is not None
    assert made.decision.reply == "secure"
    assert destination(world).expires_at > world.clock.monotonic()


@virtual
async def test_a_policy_that_lands_while_the_mx_hosts_are_looked_up_counts(world: World) -> None:
    world.publish(NAME)
    await world.start()
    world.fetcher.held = asyncio.Event()
    world.resolver.held["MX"] = asyncio.Event()
    asking = asyncio.create_task(world.reply(NAME))
    await asyncio.sleep(11)  # by now the policy is PENDING
    world.fetcher.held.set()
    await asyncio.sleep(1)
    world.resolver.held["MX"].set()
    assert await asking == "secure"


@virtual
async def test_the_name_of_a_domain_is_kept_once_and_as_a_plain_string(world: World) -> None:
    first = Domain("first.example")
    world.publish(NAME)
    world.publish(first)
    await world.start()
    await world.cache.fetch(first, "1")  # known before anybody asks
    for name in (NAME, first, Domain("none.example")):
        await world.ask(name)
    for name in (NAME, first):
        await world.cache.fetch(name, "2")
        assert world.cache._entries[name].name is destination(world, name).name
    keys = [*world.cache._entries, *world.cache._negative]
    kept = {name: destination(world, name).name for name in keys}
    assert all(type(key) is str and key is kept[key] for key in keys)
    assert len(keys) == 3


@pytest.mark.parametrize(("ttl", "life"), [(0, 30), (5, 30), (200, 200), (900, 900), (86_400, 900)])
@virtual
async def test_a_reply_lives_by_the_least_ttl_from_30_s_to_15_min(world: World, ttl: int, life: int) -> None:
    world.publish(NAME)
    world.resolver.give("MX", NAME, MxRecord(10, MX), ttl=ttl, secure=False)
    world.resolver.give("A", MX, ip_address("192.0.2.1"), ttl=90_000, secure=False)
    await world.start()
    await world.ask(NAME)
    assert destination(world).expires_at - destination(world).decided_at == pytest.approx(life)


@virtual
async def test_rfc8461_3_2_no_reply_outlives_its_policy(world: World) -> None:
    world.publish(NAME, max_age=100)
    await world.start()
    await world.ask(NAME)
    world.fetcher.policies[NAME] = FetchReason.TIMEOUT
    entry = world.cache.entry(NAME)
    assert entry is not None
    await asyncio.sleep(entry.expires_at - world.clock.monotonic() - 0.5)
    assert await world.reply(NAME) == "secure"
    assert destination(world).expires_at <= entry.expires_at
    await asyncio.sleep(0.5)
    assert await world.reply(NAME) == "notfound"


@virtual
async def test_a_decision_in_use_is_renewed_ahead_of_time(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await world.ask(NAME)
    for _ in range(60):
        before = world.resolver.count("MX")
        found = destination(world)
        found.last_used = world.clock.monotonic()
        assert found.expires_at > world.clock.monotonic()
        await world.ask(NAME)
        assert world.resolver.count("MX") == before  # never in the foreground
        await asyncio.sleep(20)
    assert world.resolver.count("MX") >= 4


@virtual
async def test_a_decision_that_nobody_uses_is_not_renewed(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await world.ask(NAME)
    await asyncio.sleep(1000)
    before = world.resolver.count("MX")
    await asyncio.sleep(3600)
    assert world.resolver.count("MX") == before


@virtual
async def test_a_failed_mx_lookup_is_temp_and_looked_up_again_soon(world: World) -> None:
    world.publish(NAME)
    world.resolver.fail("MX", NAME)
    await world.start()
    assert await world.reply(NAME) == "temp"
    world.publish(NAME)
    await asyncio.sleep(31)
    assert await world.reply(NAME) == "secure"


# --- what changes a decision ---------------------------------------------------------------------


@virtual
async def test_overrides_that_are_read_anew_decide_anew(world: World) -> None:
    world.publish(NAME)
    await world.start()
    assert await world.reply(NAME) == "secure"
    steps: list[tuple[dict[str, object], str]] = [
        ({NAME: {"exempt": True}}, "notfound"),
        ({NAME: {"policy": "encrypt"}}, "verbatim"),
        ({".com": {"policy": "may"}}, "verbatim"),
        ({}, "secure"),
    ]
    for tables, reply in steps:
        world.demands.overrides = parse_overrides(tables)
        world.demands.redecide_all()
        assert await world.reply(NAME) == reply


@virtual
async def test_an_override_needs_no_lookup(world: World) -> None:
    await world.start()
    world.demands.overrides = parse_overrides({NAME: {"policy": "encrypt"}})
    assert await world.reply(NAME) == "verbatim"
    assert world.resolver.asked == []


@virtual
async def test_an_override_that_comes_while_it_is_decided_counts(world: World) -> None:
    world.publish(NAME)
    await world.start()
    world.resolver.held["MX"] = asyncio.Event()
    asking = asyncio.create_task(world.reply(NAME))
    await asyncio.sleep(1)
    world.demands.overrides = parse_overrides({NAME: {"policy": "encrypt"}})
    world.demands.redecide_all()
    world.resolver.held["MX"].set()
    assert await asking == "verbatim"


@virtual
async def test_trust_in_the_resolver_that_goes_while_evidence_is_gathered_has_it_gathered_anew(world: World) -> None:
    world.publish(NAME, "", secure=True)
    world.resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    await world.start()
    world.resolver.held["TLSA"] = asyncio.Event()
    asking = asyncio.create_task(world.reply(NAME))
    await asyncio.sleep(1)
    world.publish(NAME, "", secure=False)  # from now on nothing is secure
    world.demands.redecide_all()
    world.resolver.held["TLSA"].set()
    assert await asking == "notfound"


@virtual
async def test_where_postfix_cannot_do_dane_every_domain_counts_as_one_without_tlsa(world: World) -> None:
    world.publish(NAME, "", secure=True)
    world.resolver.give("TLSA", f"_25._tcp.{MX}", TLSA)
    await world.start()
    assert await world.reply(NAME) == "dane"
    world.demands.postfix_can_dane = False
    world.demands.redecide_all()
    assert await world.reply(NAME) == "notfound"


def failing(name: str) -> MxProbe:
    """A trusted certificate with a CN and no SAN: Postfix would accept it, RFC 8461 §4.2 does not."""
    facts = CertificateFacts(f"CN={name}", "CN=ca", name, (), START, START, "ab" * 32, (name,))
    mismatch = ResultType.CERTIFICATE_HOST_MISMATCH
    return MxProbe(Domain(name), ip_address("192.0.2.1"), START, True, True, mismatch, "x", False, None, facts)


@virtual
async def test_rfc8461_4_1_a_confirmed_verdict_decides_anew_without_a_lookup(world: World) -> None:
    world.publish(NAME)
    await world.start()
    verifying = asyncio.create_task(world.verifier.run())
    world.prober.found[MX] = failing(MX)
    assert await world.reply(NAME) == "secure"
    before = world.resolver.count("MX")
    await asyncio.sleep(150)
    made = world.demands.latest(destination(world))
    assert made is not None
    assert made.decision.match_names == (NO_PERMITTED_HOST,)
    assert world.resolver.count("MX") == before
    verifying.cancel()


@virtual
async def test_a_verdict_on_a_host_of_many_decides_few_at_once_and_the_others_when_asked(world: World) -> None:
    names = [f"d{number}.example" for number in range(demand.REDECIDED_AT_ONCE + 50)]
    await world.start()
    for name in names:
        world.publish(name, mx=["mx.example.com"])
        world.resolver.give("MX", name, MxRecord(10, MX), secure=False)
    world.resolver.give("A", MX, ip_address("192.0.2.1"), secure=False)
    await asyncio.gather(*(world.ask(name) for name in names))
    world.prober.found[MX] = failing(MX)
    await world.verifier.probe_now(world.demands.latest(destination(world, names[0])).mx.hosts)  # type: ignore[union-attr]  # a domain with evidence
    before, looked_up = sum(demand.decisions.values.values()), len(world.resolver.asked)
    await world.verifier.probe_now(world.demands.latest(destination(world, names[0])).mx.hosts)  # type: ignore[union-attr]
    assert sum(demand.decisions.values.values()) - before == demand.REDECIDED_AT_ONCE
    for name in names:
        assert (await world.ask(name)).decision.match_names == (NO_PERMITTED_HOST,)
    assert sum(demand.decisions.values.values()) - before == len(names)
    assert len(world.resolver.asked) == looked_up


@pytest.mark.parametrize("mx_hostname", [NAME, MX, "mx.deep.example.com", "mx.example.org", "notexample.com"])
@virtual
async def test_a_verdict_finds_its_destinations_whatever_the_host_is_called(world: World, mx_hostname: str) -> None:
    for name in (NAME, "other.example"):
        world.publish(name, mx=[mx_hostname])
    world.resolver.give("MX", NAME, MxRecord(10, Domain(mx_hostname)), secure=False)
    world.resolver.give("A", mx_hostname, ip_address("192.0.2.1"), secure=False)
    await world.start()
    for name in (NAME, "other.example"):
        await world.ask(name)
        await world.ask(name, 587)
    world.prober.found[mx_hostname] = failing(Domain(mx_hostname))
    for _ in range(2):  # the second confirms the first
        await world.verifier.probe_now(world.demands.latest(destination(world)).mx.hosts)  # type: ignore[union-attr]  # a domain with evidence
    for port in (25, 587):
        assert world.demands.latest(destination(world, NAME, port)).decision.left_out == (mx_hostname,)  # type: ignore[union-attr]
    assert bool(world.demands._by_mx_hostname) == (not f".{mx_hostname}".endswith(f".{NAME}"))
    for port in (25, 587):
        world.demands.forget(destination(world, NAME, port))
    assert not world.demands._served_by(Domain(mx_hostname))
    assert not world.demands._by_mx_hostname


@virtual
async def test_rfc8461_4_1_mx_hosts_that_the_policy_does_not_permit_are_noted_once(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await world.ask(NAME)
    before = policies.downgrades_seen.value(Downgrade.MX_NOT_PERMITTED.value)
    world.resolver.give("MX", NAME, MxRecord(10, Domain("mx.attacker.test")), secure=False)
    world.resolver.give("A", "mx.attacker.test", ip_address("192.0.2.2"), secure=False)
    replies = await world.keep_asking(NAME, 3600)
    assert policies.downgrades_seen.value(Downgrade.MX_NOT_PERMITTED.value) == before + 1
    assert set(replies) == {"secure"}
    made = world.demands.latest(destination(world))
    assert made is not None
    assert made.decision.delivers_nothing


@virtual
async def test_each_port_is_a_destination_and_both_follow_the_policy(world: World) -> None:
    world.publish(NAME)
    await world.start()
    assert [await world.reply(NAME), await world.reply(NAME, 587)] == ["secure", "secure"]
    world.publish(NAME, "none", record_id="2")
    await world.cache.fetch(NAME, "2")
    made = [world.demands.latest(destination(world, NAME, port)) for port in (25, 587)]
    assert [one.decision.row for one in made if one] == [Row.NO_TLSA_NOT_ENFORCE] * 2


# --- the store, failures, bounds -----------------------------------------------------------------


@virtual
async def test_store_unreadable_is_temp_and_recovers_by_itself(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await world.ask(NAME)
    world.store.broken = True
    world.fetcher.policies[NAME] = FetchReason.CONNECT_FAILED
    await world.restart()
    assert await world.reply(NAME) == "temp"
    world.store.broken = False
    await world.until(lambda: world.tender.loaded, 30)
    assert await world.reply(NAME) == "secure"


@virtual
async def test_a_delayed_fetch_while_the_store_is_unreadable_is_temp(world: World) -> None:
    world.publish(NAME)
    world.store.broken = True
    await world.start()
    world.fetcher.held = asyncio.Event()
    assert await world.reply(NAME) == "temp"


@virtual
async def test_a_fault_of_ours_fails_that_domain_alone_and_the_next_look_tries_again(world: World) -> None:
    world.publish(NAME)
    world.publish("other.example")
    world.resolver.crash("MX", NAME)
    await world.start()
    before = sum(supervisor.crashes.values.values())
    with pytest.raises(ZeroDivisionError):
        await world.ask(NAME)
    assert sum(supervisor.crashes.values.values()) == before + 1
    assert await world.reply("other.example") == "secure"
    world.publish(NAME)
    assert await world.reply(NAME) == "secure"


@virtual
async def test_a_fault_of_ours_in_a_renewal_leaves_the_loop_and_the_slots(world: World) -> None:
    await world.start()
    names = [f"d{number}.example" for number in range(2 * demand.RENEWAL_CONCURRENCY)]
    for name in names:
        world.publish(name)
        await world.ask(name)
        world.resolver.crash("MX", name)
    for _ in range(3):
        for name in names:
            destination(world, name).last_used = world.clock.monotonic()
        await asyncio.sleep(400)
    world.publish(NAME)
    await world.ask(NAME)
    before = world.resolver.count("MX", NAME)
    destination(world).last_used = world.clock.monotonic()
    await asyncio.sleep(400)
    assert world.resolver.count("MX", NAME) > before


@virtual
async def test_a_flood_of_other_domains_keeps_everything_bounded_and_the_policies(world: World) -> None:
    world.size = 200
    world.build()
    for number in range(20):
        world.publish(f"d{number}.example")
    await world.start()
    for number in range(20):
        await world.ask(f"d{number}.example")
    for number in range(0, 10_000, 50):
        await asyncio.gather(*(world.ask(f"x{number + one}.test", 25 + one % 3) for one in range(50)))
    assert len(world.demands) <= 200
    assert len(world.demands._renewals) <= 200
    assert len(world.demands._other_ports) <= 200
    assert len(world.demands._by_mx_hostname) <= 20
    assert len(world.cache) == 20
    world.fetcher.policies.clear()
    for number in range(20):
        assert await world.reply(f"d{number}.example") == "secure"


@virtual
async def test_the_last_use_of_a_policy_outlives_its_destination(world: World) -> None:
    world.publish(NAME)
    await world.start()
    await world.ask(NAME)
    await world.let_pass(86_400)
    await world.ask(NAME)
    used = world.clock.monotonic()
    world.demands.forget(destination(world))
    entry = world.cache.entry(NAME)
    assert entry is not None
    assert world.cache.last_used(entry) == used


@virtual
async def test_a_destination_forgotten_while_it_is_decided_leaves_nothing_behind(world: World) -> None:
    world.publish(NAME)
    await world.start()
    world.resolver.held["MX"] = asyncio.Event()
    asking = asyncio.create_task(world.reply(NAME))
    await asyncio.sleep(1)
    world.demands.forget(destination(world))
    world.resolver.held["MX"].set()
    assert await asking == "secure"
    assert len(world.demands) == 0
    assert not world.demands._by_mx_hostname


@pytest.mark.parametrize(
    ("mode", "secure", "override", "one_family"),
    [
        ("", False, "", True),
        ("", True, "", False),  # there may be DANE
        ("enforce", False, "", False),  # the hosts are verified
        ("testing", False, "", False),
        ("", False, "override", False),
    ],
)
@virtual
async def test_one_address_of_a_host_is_enough_where_nobody_verifies_it(
    world: World, mode: str, secure: bool, override: str, one_family: bool
) -> None:
    world.publish(NAME, mode, secure=secure)
    if override:
        world.demands.overrides = parse_overrides({NAME: {"enforce": True, "mx": [MX]}})
    await world.start()
    world.resolver.held["MX"] = asyncio.Event()
    asking = asyncio.create_task(world.ask(NAME))
    await asyncio.sleep(1)  # the record is known before the MX hosts
    world.resolver.held["MX"].set()
    await asking
    assert world.resolver.one_family == ([MX] if one_family else [])


@virtual
async def test_as_long_as_there_may_be_a_policy_all_addresses_are_asked_for(world: World) -> None:
    world.publish(NAME, "")
    await world.start()
    world.resolver.held["TXT"] = asyncio.Event()
    asking = asyncio.create_task(world.ask(NAME))
    await asyncio.sleep(1)
    world.resolver.held["TXT"].set()
    await asking
    assert world.resolver.one_family == []
