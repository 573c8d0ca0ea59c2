"""Inspections of our own domains through real servers: name servers (Knot DNS) under a real resolver (unbound), Policy
Hosts over TLS at several addresses, MX hosts over STARTTLS."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import pytest

from stsguard.adapters.authority import AuthoritativeServers
from stsguard.adapters.clock import SystemClock
from stsguard.adapters.policy_fetch.inspecting import HttpsPolicyInspector
from stsguard.adapters.resolver import DnsResolver
from stsguard.adapters.smtp_probe import SmtpProber
from stsguard.core.addresses import AddressGuard
from stsguard.core.errors import FetchReason, ResultType
from stsguard.discovery.verification import MxVerifier
from stsguard.inbound.inspecting import NOT_LOOKED_AT, Inspector
from stsguard.names import Domain
from tests.lab import knot, unbound
from tests.lab.ca import ThrowAwayCA
from tests.lab.certificates import CertificateKind, Certificates
from tests.lab.fetching import response
from tests.lab.https_server import HttpsServer, say
from tests.lab.mx_servers import Behaviour, MxServers

NAME_SERVER, POLICY_1, POLICY_2, POLICY_3 = "127.0.0.21", "127.0.0.31", "127.0.0.32", "127.0.0.33"
MX_NETWORK = IPv4Network("127.0.0.40/29")  # .41 good, .42 expired, .43 without STARTTLS, .44 down
ADDRESSES = (NAME_SERVER, POLICY_1, POLICY_2, POLICY_3, *map(str, MX_NETWORK.hosts()))
OLD = b"version: STSv1\r\nmode: testing\r\nmx: mx.hosted.test\r\nmax_age: 86400\r\n"

SOA = f"@ 300 IN SOA ns1 hostmaster 1 3600 600 86400 60\n@ NS ns1\nns1 A {NAME_SERVER}\n"
ZONES = {
    "hosted.test": SOA
    + '_mta-sts 300 TXT "v=STSv1; id=2;"\n_smtp._tls 300 TXT "v=TLSRPTv1; rua=mailto:r@hosted.test"\n'
    + f"mta-sts A {POLICY_1}\nmta-sts A {POLICY_2}\nmta-sts A {POLICY_3}\n"
    + "@ 600 MX 10 mx\n@ 600 MX 20 expired\n@ 600 MX 30 plain\n@ 600 MX 40 down\n@ 600 MX 50 nowhere\n"
    + "mx 600 A 127.0.0.41\nexpired 600 A 127.0.0.42\nplain 600 A 127.0.0.43\ndown 600 A 127.0.0.44\n",
    "parked.test": SOA + "@ MX 0 .\n",
    "implicit.test": SOA + "@ A 127.0.0.41\n",
    "odd.test": SOA + "@ MX 10 \\@.odd\n",
}
HOSTED = Domain("hosted.test")


@dataclass(frozen=True)
class World:
    """The resolver, and the one port of all other servers."""

    resolver: tuple[str, int]
    port: int


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not knot.is_installed():
        pytest.skip("knot or unbound is not installed")
    directory = tmp_path_factory.mktemp("inspecting")
    port = knot.free_port(ADDRESSES)
    with ExitStack() as stack:
        stack.enter_context(knot.run_knot(directory / "knot", [NAME_SERVER], port, ZONES))
        configuration = knot.resolver_configuration(directory / "resolver", dict.fromkeys(ZONES, (NAME_SERVER, port)))
        yield World(stack.enter_context(unbound.run_unbound(configuration)), port)


@pytest.fixture
async def inspector(world: World, tmp_path: Path) -> AsyncIterator[Inspector]:
    port = world.port
    certificates = Certificates(tmp_path / "certificates")
    issued = certificates.issue("mta-sts.hosted.test", CertificateKind.VALID)
    mx_servers = MxServers(certificates, [MX_NETWORK])
    async with AsyncExitStack() as stack:
        for address, body in ((POLICY_1, None), (POLICY_2, OLD)):
            answer = say(response() if body is None else response(body))
            await stack.enter_async_context(HttpsServer(answer, issued.server_context(), address=(address, port)))
        stack.push_async_callback(mx_servers.stop)
        await mx_servers.add("mx.hosted.test", port=port)
        await mx_servers.add("expired.hosted.test", certificate=CertificateKind.EXPIRED, port=port)
        await mx_servers.add("plain.hosted.test", behaviour=Behaviour.NO_STARTTLS, port=port)
        yield make_inspector(world, certificates.ca_file)


def make_inspector(world: World, ca_file: Path, *, timeout_seconds: float = 60) -> Inspector:
    guard, clock = AddressGuard(True), SystemClock()
    asked = DnsResolver([world.resolver], timeout_seconds=20)
    prober = SmtpProber(
        permits=guard.permits, now=clock.now, helo="us.test", port=world.port, timeout_seconds=20, ca_file=ca_file
    )
    return Inspector(
        asked,
        AuthoritativeServers(asked, guard, port=world.port),
        HttpsPolicyInspector(guard, ca_file=ca_file, port=world.port, timeout_seconds=20),
        MxVerifier(prober, clock, enabled=False, random=lambda: 0.5),
        clock,
        again_seconds=0.01,
        timeout_seconds=timeout_seconds,
    )


async def test_all_that_senders_see(inspector: Inspector) -> None:
    seen = await inspector.inspect(HOSTED)
    [record] = seen.sts_records
    assert (record.server, record.texts, record.ttl) == (f"ns1.hosted.test [{NAME_SERVER}]", (b"v=STSv1; id=2;",), 300)
    assert [each.texts for each in seen.tlsrpt_records] == [(b"v=TLSRPTv1; rua=mailto:r@hosted.test",)]
    policies = {str(each.address): each for each in seen.policies}
    assert policies[POLICY_1].policy is not None
    assert policies[POLICY_2].body == OLD
    assert policies[POLICY_3].reason == FetchReason.CONNECTION_REFUSED.code
    assert policies[POLICY_1].not_after is not None
    assert (seen.policies_problem, seen.mx_problem, seen.null_mx) == ("", "", False)
    assert 0 <= seen.mx_ttl <= 600


async def test_rfc8461_4_every_mx_by_starttls(inspector: Inspector) -> None:
    seen = await inspector.inspect(HOSTED)
    hosts = {each.mx_hostname: each for each in seen.mx_hosts}
    assert [each.preference for each in seen.mx_hosts] == [10, 20, 30, 40, 50]
    [good] = hosts[Domain("mx.hosted.test")].probes
    assert (good.tls, good.result_type, good.address) == (True, None, ip_address("127.0.0.41"))
    [expired] = hosts[Domain("expired.hosted.test")].probes
    assert expired.result_type is ResultType.CERTIFICATE_EXPIRED
    [plain] = hosts[Domain("plain.hosted.test")].probes
    assert plain.result_type is ResultType.STARTTLS_NOT_SUPPORTED
    [down] = hosts[Domain("down.hosted.test")].probes
    assert down.inconclusive
    nowhere = hosts[Domain("nowhere.hosted.test")]
    assert (nowhere.probes, nowhere.problem) == ((), "it has no address: nxdomain")


async def test_without_mx(inspector: Inspector) -> None:
    seen = await inspector.inspect(HOSTED, mx=False)
    assert (seen.mx_hosts, seen.mx_problem) == ((), NOT_LOOKED_AT)
    assert len(seen.policies) == 3


async def test_rfc7505_null_mx(inspector: Inspector) -> None:
    seen = await inspector.inspect(Domain("parked.test"))
    assert (seen.null_mx, seen.mx_hosts, seen.mx_problem) == (True, (), "")
    assert [each.texts for each in seen.sts_records] == [()]
    assert (seen.policies, seen.policies_problem) == ((), "")


async def test_rfc5321_5_1_implicit_mx(inspector: Inspector) -> None:
    [host] = (await inspector.inspect(Domain("implicit.test"))).mx_hosts
    assert (host.mx_hostname, host.preference) == (Domain("implicit.test"), 0)
    [probe] = host.probes
    assert probe.result_type is ResultType.CERTIFICATE_HOST_MISMATCH


async def test_names_that_can_t_be_looked_up(inspector: Inspector) -> None:
    seen = await inspector.inspect(Domain("nobody.example"))
    for problem in (seen.sts_records_problem, seen.tlsrpt_records_problem, seen.policies_problem, seen.mx_problem):
        assert "servfail" in problem
    long = await inspector.inspect(Domain(".".join(["a" * 61] * 4)))
    assert long.sts_records_problem == "the name is longer than 253 octets"


async def test_a_part_that_takes_too_long(world: World, tmp_path: Path) -> None:
    ca = ThrowAwayCA(tmp_path)
    seen = await make_inspector(world, ca.ca_file, timeout_seconds=0).inspect(HOSTED)
    assert {seen.sts_records_problem, seen.policies_problem, seen.mx_problem} == {"not done within 0 s"}
