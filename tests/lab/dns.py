"""The lab's DNS: a real authoritative server (NSD) over really signed zones, and a real validating resolver (Unbound).

A third, tiny server of our own answers for names that are delegated to it: SERVFAIL, or nothing. The resolver listens
on 127.0.0.1:53 of the namespace and trusts the lab's root key and no other.
"""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode

from tests.lab.namespace import LAB, LIMIT_SECONDS, LabFailed, Namespace, Program
from tests.lab.zones import (
    BOGUS_NAME,
    FAULTY_SERVER,
    NAME_SERVER,
    SIGNED_ZONES,
    UNSIGNED_ZONES,
    Key,
    Zones,
    absolute,
    break_signatures,
)

Condition = Callable[[], Awaitable[bool]]

RESOLVER = "127.0.0.1"
PROGRAMS = ("nsd", "nsd-control", "unbound", "unbound-control", "ldns-keygen", "ldns-signzone")
_DIRECTORY = LAB / "dns"
_NSD = f"""
server:
    ip-address: {NAME_SERVER}
    username: root
    chroot: ""
    zonesdir: "{_DIRECTORY}"
    database: "{_DIRECTORY}/nsd.db"
    pidfile: "{_DIRECTORY}/nsd.pid"
    xfrdfile: "{_DIRECTORY}/xfrd.state"
    xfrdir: "{_DIRECTORY}"
    zonelistfile: "{_DIRECTORY}/zone.list"
    logfile: "{_DIRECTORY}/nsd.log"
    rrl-ratelimit: 0
remote-control:
    control-enable: yes
    control-interface: "{_DIRECTORY}/nsd.sock"
"""
_UNBOUND = f"""
server:
    interface: {RESOLVER}
    username: ""
    chroot: ""
    directory: "{_DIRECTORY}"
    pidfile: "{_DIRECTORY}/unbound.pid"
    use-syslog: no
    logfile: "{_DIRECTORY}/unbound.log"
    val-log-level: 2
    module-config: "validator iterator"
    root-hints: "{_DIRECTORY}/hints"
    trust-anchor-file: "{_DIRECTORY}/anchor"
    local-zone: "test." nodefault
    do-ip6: no
    qname-minimisation: no
    aggressive-nsec: no
    infra-host-ttl: 1
    num-threads: 1
remote-control:
    control-enable: yes
    control-use-cert: no
    control-interface: "{_DIRECTORY}/unbound.sock"
"""


class Dns:
    """The running servers. Change `zones`, then `publish`."""

    def __init__(self, namespace: Namespace) -> None:
        self.zones = Zones()
        self._namespace = namespace
        self._published: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        self._delegation_signers: list[str] = []
        self._serial = 0
        self._publishing = asyncio.Lock()
        self._programs: list[Program] = []
        self._faulty: asyncio.DatagramTransport | None = None

    async def start(self) -> None:
        """Make keys, sign and serve the zones as they are now; return when the resolver answers, validated."""
        self._file("").mkdir()
        self.zones.put(BOGUS_NAME, "A", "192.0.2.1")
        self.zones.put("good.signed.test", "A", "192.0.2.1")
        await asyncio.gather(*(asyncio.to_thread(self._make_key, zone) for zone in SIGNED_ZONES))
        patterns = [
            f'zone:\n    name: "{zone}"\n    zonefile: "{_file_name(zone)}"'
            for zone in (*SIGNED_ZONES, *UNSIGNED_ZONES)
        ]
        self._file("nsd.conf").write_text(_NSD + "\n".join(patterns) + "\n")
        self._file("unbound.conf").write_text(_UNBOUND)
        self._file("hints").write_text(f". 3600 IN NS ns.test.\nns.test. 3600 IN A {NAME_SERVER}\n")
        self._file("anchor").write_text("".join(line for line in self._delegation_signers if line.startswith(".")))
        await self._write_changed_zones()
        # AppArmor confines Unbound by its path to /etc/unbound; a copy may read the lab's directory.
        unbound = _DIRECTORY / "unbound"
        shutil.copy(shutil.which("unbound") or "/usr/sbin/unbound", self._namespace.outside(unbound))
        for command in (
            ["nsd", "-d", "-c", str(_DIRECTORY / "nsd.conf")],
            [str(unbound), "-d", "-c", str(_DIRECTORY / "unbound.conf")],
        ):
            with self._file(f"{Path(command[0]).name}.out").open("wb") as output:
                self._programs.append(self._namespace.spawn(command, output))
        loop = asyncio.get_running_loop()
        self._faulty, _ = await loop.create_datagram_endpoint(
            lambda: _FaultyServer(self.zones), local_addr=(FAULTY_SERVER, 53)
        )
        await self._wait_until("the resolver validates", self._validates)

    async def publish(self) -> None:
        """Make the present `zones` known, and forget in the resolver what was known before."""
        async with self._publishing:
            changed = await self._write_changed_zones()
            if changed:
                await asyncio.to_thread(self._control, "nsd-control", "nsd.conf", "reload")
                for zone in changed:
                    await self._wait_until(f"NSD serves the new {zone}", lambda zone=zone: self._serves(zone))  # type: ignore[misc] # bound at once
            await self.flush()

    async def flush(self) -> None:
        """Empty the resolver's cache of all below `test`."""
        await asyncio.to_thread(self._control, "unbound-control", "unbound.conf", "flush_zone", "test.")

    async def lookup(self, name: str, record_type: str, *, limit_seconds: float = 5) -> dns.message.Message:
        """The resolver's answer, with DNSSEC asked for."""
        query = dns.message.make_query(absolute(name), record_type, want_dnssec=True)
        return await dns.asyncquery.udp(query, RESOLVER, timeout=limit_seconds)

    async def stop(self) -> None:
        """Stop the servers."""
        if self._faulty is not None:
            self._faulty.close()
        for program in self._programs:
            program.kill()  # nothing of theirs is kept

    def log(self) -> str:
        """What the servers wrote so far."""
        names = ("nsd.out", "nsd.log", "unbound.out", "unbound.log")
        return "".join(self._file(name).read_text(errors="replace") for name in names if self._file(name).exists())

    def _file(self, name: str) -> Path:
        return self._namespace.outside(_DIRECTORY) / name

    def _make_key(self, zone: str) -> None:
        script = f"cd {_DIRECTORY} && ldns-keygen -a ECDSAP256SHA256 -k -r /dev/urandom {zone}"
        self._keys[zone] = self._namespace.run(["sh", "-c", script]).stdout.strip()
        signer = self._file(f"{self._keys[zone]}.ds").read_text().strip()
        self._delegation_signers.append(f"{signer}\n")

    async def _write_changed_zones(self) -> list[str]:
        self._serial += 1
        bogus = frozenset(self.zones.bogus)
        texts = {}
        for zone in (*SIGNED_ZONES, *UNSIGNED_ZONES):
            # The data decides whether the zone has changed, so it is compared without the serial number.
            content = self.zones.text(zone, 0, self._delegation_signers) + str(sorted(bogus))
            if self._published.get(zone) != content:
                self._published[zone] = content
                texts[zone] = self.zones.text(zone, self._serial, self._delegation_signers)
        await asyncio.gather(*(asyncio.to_thread(self._write_zone, zone, text, bogus) for zone, text in texts.items()))
        return list(texts)

    def _write_zone(self, zone: str, text: str, bogus: frozenset[Key]) -> None:
        file = self._file(_file_name(zone))
        if zone in SIGNED_ZONES:
            unsigned = f"{_file_name(zone)}.unsigned"
            self._file(unsigned).write_text(text)
            script = f"cd {_DIRECTORY} && ldns-signzone -o {zone} -f {unsigned}.signed {unsigned} {self._keys[zone]}"
            self._namespace.run(["sh", "-c", script])
            text = break_signatures(zone, self._file(f"{unsigned}.signed").read_text(), bogus)
        file.write_text(text)

    def _control(self, program: str, configuration: str, *arguments: str) -> None:
        self._namespace.run([program, "-c", _DIRECTORY / configuration, *arguments])

    async def _serves(self, zone: str) -> bool:
        query = dns.message.make_query(zone, "SOA")
        answer = await dns.asyncquery.udp(query, NAME_SERVER, timeout=1)
        return bool(answer.answer) and answer.answer[0][0].serial == self._serial

    async def _validates(self) -> bool:
        good = await self.lookup(".", "DNSKEY", limit_seconds=0.3)
        below = await self.lookup("good.signed.test", "A", limit_seconds=0.3)
        bad = await self.lookup(BOGUS_NAME, "A", limit_seconds=0.3)
        secure = all(dns.flags.AD in dns.flags.Flag(answer.flags) for answer in (good, below))
        return secure and bad.rcode() == dns.rcode.SERVFAIL

    async def _wait_until(self, what: str, holds: Condition) -> None:
        limit = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < limit:
            ended = [program for program in self._programs if not program.running]
            if ended:
                raise LabFailed(f"{ended[0].name} has ended:\n{self.log()}")
            try:
                if await holds():
                    return
            except (OSError, dns.exception.DNSException):
                pass  # not there yet
            await asyncio.sleep(0.01)
        raise LabFailed(f"not after {LIMIT_SECONDS:.0f} s: {what}\n{self.log()}")


class _FaultyServer(asyncio.DatagramProtocol):
    """Answers SERVFAIL to everything, and nothing at all for names that are to time out."""

    def __init__(self, zones: Zones) -> None:
        self._zones = zones
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text().lower()
        if any(f".{name}".endswith(f".{silent}") for silent in self._zones.unanswered):
            return
        answer = dns.message.make_response(query)
        answer.set_rcode(dns.rcode.SERVFAIL)
        assert self._transport is not None
        self._transport.sendto(answer.to_wire(), addr)


def _file_name(zone: str) -> str:
    return f"{zone.rstrip('.') or 'root'}.zone"
