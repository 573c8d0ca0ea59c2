"""Authoritative servers asked past every cache: real ones (Knot DNS) that agree, lag, are down or lame, found through a
real resolver (unbound), and scripted ones for what no real one does at will."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_network

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from stsguard.adapters.authority import AuthoritativeServers
from stsguard.adapters.resolver import DnsResolver
from stsguard.core.addresses import AddressGuard
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.core.inspection import RecordAt
from stsguard.names import Domain
from tests.lab import knot, unbound
from tests.lab.nameserver import Handler, Nameserver, respond

ONE, TWO, DOWN, SCRIPTED = "127.0.0.21", "127.0.0.22", "127.0.0.23", "127.0.0.24"
SOA = "@ 300 IN SOA ns1 hostmaster 1 3600 600 86400 60\n"
BOTH = f"{SOA}@ NS ns1\n@ NS ns2\nns1 A {ONE}\nns1 AAAA ::1\nns2 A {TWO}\n"
FIRST = f"{SOA}@ NS ns1\nns1 A {ONE}\n"
MANY = "".join(f'_mta-sts 300 IN TXT "{number:02} {"x" * 180}"\n' for number in range(12))

# The records of each zone at the first server, and at the second where it serves the zone.
ZONES: dict[str, tuple[str, str | None]] = {
    "same.test": (BOTH + '_mta-sts 600 TXT "v=STSv1; " "id=2;"\n', BOTH + '_mta-sts 600 TXT "v=STSv1; id=2;"\n'),
    "lag.test": (BOTH + '_mta-sts 600 TXT "v=STSv1; id=2;"\n', BOTH + '_mta-sts 300 TXT "v=STSv1; id=1;"\n'),
    "gone.test": (BOTH, BOTH + '_mta-sts 600 TXT "v=STSv1; id=1;"\n'),
    "lame.test": (BOTH + '_mta-sts 600 TXT "v=STSv1; id=2;"\n', None),
    "down.test": (FIRST + f"@ NS ns3\nns3 A {DOWN}\n" + '_mta-sts 600 TXT "v=STSv1; id=2;"\n', None),
    "large.test": (FIRST + MANY, None),
    "scripted.test": (f"{SOA}@ NS ns4\nns4 A {SCRIPTED}\n", None),
    "addressless.test": (FIRST + "@ NS ns5\n@ NS ns.missing.test.\n" + '_mta-sts 600 TXT "v=STSv1; id=2;"\n', None),
    "alias.test": (FIRST + "_mta-sts 60 CNAME _mta-sts.customer.lag.test.\n_smtp._tls CNAME nothing.lag.test.\n", None),
    "provider.test": (FIRST + "_mta-sts 60 CNAME _mta-sts.lag.test.\n", None),
    "loop.test": (FIRST + "_mta-sts CNAME _mta-sts.pool.test.\n", None),
    "pool.test": (FIRST + "_mta-sts CNAME _mta-sts.loop.test.\n", None),
    "lost.test": (FIRST + "_mta-sts CNAME _mta-sts.unserved.test.\n", None),
    "delegated.test": (FIRST + "_mta-sts NS ns2.same.test.\n", None),
    "_mta-sts.delegated.test": (f"{SOA}@ NS ns2.same.test.\n", f'{SOA}@ NS ns2.same.test.\n@ TXT "v=STSv1; id=3;"\n'),
    "missing.test": (FIRST, None),
}


@dataclass(frozen=True)
class Servers:
    """The port of all authoritative servers, and the resolver."""

    port: int
    resolver: tuple[str, int]

    def authority(self, *, guard: AddressGuard | None = None, timeout_seconds: float = 20.0) -> AuthoritativeServers:
        resolver = DnsResolver([self.resolver], timeout_seconds=30)
        return AuthoritativeServers(
            resolver, guard or AddressGuard(True), port=self.port, timeout_seconds=timeout_seconds
        )

    async def ask(self, name: str) -> Mapping[str, RecordAt]:
        return {found.server: found for found in await self.authority().lookup_txt_everywhere(Domain(name))}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if not knot.is_installed():
        pytest.skip("knot or unbound is not installed")
    directory = tmp_path_factory.mktemp("authority")
    port = knot.free_port([ONE, TWO, DOWN, SCRIPTED, "::1"])
    second = {name: records for name, (_, records) in ZONES.items() if records is not None}
    asked = {name: (TWO if name.startswith("_mta-sts") else ONE, port) for name in ZONES}
    with ExitStack() as stack:
        first = {name: records for name, (records, _) in ZONES.items() if not name.startswith("_mta-sts")}
        stack.enter_context(knot.run_knot(directory / "one", [ONE, "::1"], port, first))
        stack.enter_context(knot.run_knot(directory / "two", [TWO], port, second))
        configuration = knot.resolver_configuration(directory / "resolver", asked)
        yield Servers(port, stack.enter_context(unbound.run_unbound(configuration)))


async def test_every_server_at_every_address(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.same.test")
    text = (b"v=STSv1; id=2;",)  # RFC 8461 §3.1: strings are joined without blanks
    assert found == {
        name: RecordAt(name, text, 600)
        for name in (f"ns1.same.test [{ONE}]", "ns1.same.test [::1]", f"ns2.same.test [{TWO}]")
    }


async def test_one_that_lags_behind(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.lag.test")
    assert found[f"ns1.lag.test [{ONE}]"] == RecordAt(f"ns1.lag.test [{ONE}]", (b"v=STSv1; id=2;",), 600)
    assert found[f"ns2.lag.test [{TWO}]"] == RecordAt(f"ns2.lag.test [{TWO}]", (b"v=STSv1; id=1;",), 300)


async def test_rfc2308_a_denial_is_an_answer(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.gone.test")
    first, second = f"ns1.gone.test [{ONE}]", f"ns2.gone.test [{TWO}]"
    assert found[first] == RecordAt(first, (), 60)  # NXDOMAIN, the SOA's minimum
    assert found[second].texts == (b"v=STSv1; id=1;",)
    nodata = await servers.ask("same.test")
    assert nodata[f"ns1.same.test [{ONE}]"] == RecordAt(f"ns1.same.test [{ONE}]", (), 60)


async def test_one_that_is_down(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.down.test")
    assert found[f"ns1.down.test [{ONE}]"].texts == (b"v=STSv1; id=2;",)
    assert found[f"ns3.down.test [{DOWN}]"].problem == "it can't be asked: Connection refused"


async def test_rfc1912_2_8_one_that_does_not_serve_the_zone(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.lame.test")
    assert found[f"ns1.lame.test [{ONE}]"].texts == (b"v=STSv1; id=2;",)
    assert found[f"ns2.lame.test [{TWO}]"].problem == "it answers REFUSED: it does not serve this zone"


async def test_rfc7766_truncated_over_udp(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.large.test")
    assert len(found[f"ns1.large.test [{ONE}]"].texts) == 12


async def test_servers_without_address(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.addressless.test")
    assert found[f"ns1.addressless.test [{ONE}]"].texts == (b"v=STSv1; id=2;",)
    assert found["ns5.addressless.test"].problem == "this name server has no address"
    assert found["ns.missing.test"].problem == "this name server has no address"


async def test_rfc8461_3_1_an_alias_is_followed_to_its_own_servers(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.provider.test")
    assert {name: (each.texts, each.ttl) for name, each in found.items()} == {
        f"ns1.lag.test [{ONE}]": ((b"v=STSv1; id=2;",), 60),  # the alias's TTL is less
        "ns1.lag.test [::1]": ((b"v=STSv1; id=2;",), 60),
        f"ns2.lag.test [{TWO}]": ((b"v=STSv1; id=1;",), 60),
    }


async def test_an_alias_to_nothing_is_a_denial(servers: Servers) -> None:
    found = await servers.ask("_smtp._tls.alias.test")
    assert found[f"ns2.lag.test [{TWO}]"] == RecordAt(f"ns2.lag.test [{TWO}]", (), 60)


async def test_aliases_without_end(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.loop.test")
    assert found[f"ns1.pool.test [{ONE}]"].problem.startswith("an alias that leads nowhere: _mta-sts.loop.test: cname")


async def test_an_alias_into_a_zone_that_nobody_serves(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.lost.test")
    assert found[f"ns1.lost.test [{ONE}]"].problem.startswith("an alias that leads nowhere: ")


async def test_a_zone_of_its_own(servers: Servers) -> None:
    found = await servers.ask("_mta-sts.delegated.test")
    assert {name: each.texts for name, each in found.items()} == {f"ns2.same.test [{TWO}]": (b"v=STSv1; id=3;",)}


async def test_servers_that_can_t_be_found(servers: Servers) -> None:
    with pytest.raises(LookupFailed):
        await servers.authority().lookup_txt_everywhere(Domain("_mta-sts.nobody.example"))


async def test_addresses_that_the_guard_refuses(servers: Servers) -> None:
    authority = servers.authority(guard=AddressGuard([ip_network(f"{ONE}/32")]))
    found = {each.server: each for each in await authority.lookup_txt_everywhere(Domain("_mta-sts.same.test"))}
    assert found[f"ns1.same.test [{ONE}]"].texts
    assert found[f"ns2.same.test [{TWO}]"].problem == f"not asked: {TWO} is loopback"


def authoritative(wire: bytes) -> bytes:
    """The same message with AA set."""
    return wire[:2] + bytes([wire[2] | 0x04]) + wire[3:]


TXT = '_mta-sts.scripted.test. 300 IN TXT "v=STSv1; id=4;"'
SOA_RECORD = "scripted.test. 300 IN SOA ns4.scripted.test. h.scripted.test. 1 3600 600 86400 30"


@pytest.mark.parametrize(
    ("handler", "texts", "problem"),
    [
        (lambda query, tcp: [respond(query, TXT)], (), "it is no authoritative server of this zone"),
        (lambda query, tcp: [], (), "no answer within 0.5 s"),
        (lambda query, tcp: [respond(query, rcode=dns.rcode.SERVFAIL)], (), "it answers SERVFAIL"),
        (lambda query, tcp: [b"rubbish"], (), "what it answers can't be read"),
        (lambda query, tcp: [b"rubbish", authoritative(respond(query, TXT))], (b"v=STSv1; id=4;",), ""),
        (lambda query, tcp: [authoritative(respond(query, TXT))] if tcp else [], (b"v=STSv1; id=4;",), ""),
        (lambda query, tcp: [authoritative(respond(query, TXT, truncated=not tcp))], (b"v=STSv1; id=4;",), ""),
        (lambda query, tcp: [authoritative(respond(query, TXT, truncated=True))], (), "what it answers can't be read"),
        (
            lambda query, tcp: [
                respond(query, rcode=dns.rcode.FORMERR) if query.edns >= 0 else authoritative(respond(query, TXT))
            ],
            (b"v=STSv1; id=4;",),
            "",
        ),
        (
            lambda query, tcp: [authoritative(respond(query, *(TXT.replace("id=4", f"id={n}") for n in range(30))))],
            (),
            "more than 20 TXT records",
        ),
    ],
    ids=[
        "lame",
        "silent",
        "servfail",
        "rubbish",
        "forged",
        "only-tcp",
        "truncated",
        "always-truncated",
        "no-edns",
        "many",
    ],
)
async def test_what_one_server_does(servers: Servers, handler: Handler, texts: tuple[bytes, ...], problem: str) -> None:
    async with Nameserver(handler, (SCRIPTED, servers.port)) as server:
        authority = servers.authority(timeout_seconds=0.5)
        [found] = await authority.lookup_txt_everywhere(Domain("_mta-sts.scripted.test"))
    assert found.server == f"ns4.scripted.test [{SCRIPTED}]"
    assert found.texts == texts
    assert found.problem.startswith(problem) if problem else not found.problem
    assert all(not query.flags & 0x0100 for query in server.queries)  # RD


async def test_reason_of_a_zone_without_servers() -> None:
    def handle(query: object, _over_tcp: bool) -> list[bytes]:
        assert isinstance(query, dns.message.Message)
        soa = "zone.test. 300 IN SOA ns.zone.test. h.zone.test. 1 3600 600 86400 30"
        is_apex = query.question[0].name.to_text() == "zone.test." and query.question[0].rdtype == dns.rdatatype.SOA
        return [respond(query, soa) if is_apex else respond(query, authority=[soa])]

    async with Nameserver(handle) as server:
        authority = AuthoritativeServers(DnsResolver([server.address]), AddressGuard(True))
        with pytest.raises(LookupFailed, match="the zone names no server") as caught:
            await authority.lookup_txt_everywhere(Domain("_mta-sts.zone.test"))
    assert caught.value.reason is LookupReason.MALFORMED
