"""What cached domains cost in memory: bench/memory.py runs this as `python -m bench.cached_domains COUNT…`.

The parts are the daemon's, from the socketmap protocol to the policy cache; only DNS, HTTPS and MX hosts are stand-ins
that answer at once, or a million domains would take hours. Each domain has a policy of its own, parsed from its own
octets, an MX host and an address of its own. It prints the memory of the process in KiB at each count, none first.
"""

import asyncio
import gc
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

from stsguard.adapters.clock import SystemClock
from stsguard.app.latency import prefer_latency
from stsguard.core import netstring
from stsguard.core.dane import Answer, AnswerStatus, MxRecord, TlsaRecord
from stsguard.core.mtasts import Policy, parse_policy
from stsguard.core.mxcheck import MxProbe
from stsguard.discovery.demand import Demands
from stsguard.discovery.policies import PolicyCache
from stsguard.discovery.tending import PolicyTender
from stsguard.discovery.verification import MxVerifier
from stsguard.log import set_up
from stsguard.names import Domain
from stsguard.outbound.lookup import LookupProtocol, LookupService
from stsguard.outbound.replies import ReplyCache
from stsguard.store.nothing import NoStore

TTL = 3600
IN_FLIGHT = 100
POLICY = "version: STSv1\r\nmode: enforce\r\nmx: mx.{0}\r\nmax_age: 604800\r\n"


def _found(name: Domain, record: object) -> Answer[object]:
    return Answer(AnswerStatus.FOUND, (record,), name, TTL, secure=False)


class StandInDns:
    """Every domain has the record of a policy and one MX host."""

    async def lookup_txt(self, name: Domain) -> Answer[bytes]:
        """The record of a policy."""
        return cast("Answer[bytes]", _found(name, b"v=STSv1; id=1;"))

    async def lookup_mx(self, name: Domain) -> Answer[MxRecord]:
        """One MX host."""
        return cast("Answer[MxRecord]", _found(name, MxRecord(10, Domain(f"mx.{name}"))))

    async def lookup_some_addresses(self, name: Domain) -> Answer[IPv4Address]:
        """As below."""
        return await self.lookup_addresses(name)

    async def lookup_addresses(self, name: Domain) -> Answer[IPv4Address]:
        """One address, of its own."""
        address = IPv4Address(0x0A000000 + int(name.split(".")[1][1:]))
        return cast("Answer[IPv4Address]", _found(name, address))

    async def lookup_tlsa(self, name: Domain) -> Answer[TlsaRecord]:
        """Never asked: nothing is secure here."""
        raise NotImplementedError

    async def lookup_cname_secure(self, name: Domain) -> bool:
        """Never asked."""
        raise NotImplementedError


class StandInHttps:
    """Every policy host serves the policy of its domain."""

    async def fetch(self, policy_domain: Domain) -> Policy:
        """Its policy."""
        return parse_policy(POLICY.format(policy_domain).encode())


class NoProber:
    """No MX host is probed here; which are to be is remembered all the same."""

    async def probe(self, *_: object, **__: object) -> MxProbe:
        """Never asked."""
        raise NotImplementedError


class Client:
    """A transport that counts the replies."""

    def __init__(self) -> None:
        self.replies = 0
        self.done = asyncio.Event()

    def write(self, data: bytes) -> None:
        """Count what was answered."""
        assert data.count(b"OK secure") == data.count(b",")
        self.replies += data.count(b"OK secure")
        if self.replies >= IN_FLIGHT:
            self.done.set()

    def is_closing(self) -> bool:
        """It never is."""
        return False


def resident() -> int:
    """The memory of this process in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def _fill(service: LookupService, start: int, count: int) -> None:
    for first in range(start, count, IN_FLIGHT):
        client, protocol = Client(), LookupProtocol(service)
        protocol.connection_made(cast(asyncio.Transport, client))
        names = (b"policy d%d.test" % number for number in range(first, first + IN_FLIGHT))
        protocol.data_received(b"".join(map(netstring.encode, names)))
        async with asyncio.timeout(60):
            await client.done.wait()
        protocol.connection_lost(None)


async def _measure(counts: list[int]) -> None:
    clock, dns, store, size = SystemClock(), StandInDns(), NoStore(), counts[-1] + 1
    verifier = MxVerifier(NoProber(), clock, enabled=True, random=lambda: 0.5)
    cache = PolicyCache(
        resolver=dns,
        fetcher=StandInHttps(),
        store=store,
        clock=clock,
        random=lambda: 0.5,
        size=size,
        id_check_seconds=300.0,
    )
    tender = PolicyTender(cache, resolver=dns, store=store)
    demands = Demands(
        resolver=dns, cache=cache, tender=tender, verifier=verifier, clock=clock, wait_seconds=10.0, size=size
    )
    service = LookupService(demands, ReplyCache(demands, observe=False), clock.monotonic)
    cache.store_tried.set()
    saving = asyncio.create_task(cache.saver.run())
    gc.collect()
    print(0, resident(), flush=True)
    before = 0
    for count in counts:
        await _fill(service, before, count)
        before = count
        gc.collect()
        print(count, resident(), flush=True)
    saving.cancel()


def main() -> None:
    """Fill and print."""
    import uvloop

    set_up(level="error", form="text")
    prefer_latency()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(sorted(map(int, sys.argv[1:]))))


if __name__ == "__main__":
    main()
