"""Our own domains in the lab: the authoritative server of their zone, a CA, `stsguard inbound`, and two that fetch.

Knot is delegated the zone and takes signed updates; Pebble issues certificates after it has fetched its challenge;
`stsguard outbound` and postfix-mta-sts-resolver (from PyPI) ask for the policies as any sender would. All but Pebble
and the lab's resolver run on a clock that a test moves: they are killed by SIGKILL, and start again days later.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess, run
from typing import Any

import dns.rdatatype

from tests.lab.daemon import EXECUTABLE, Stsguard, toml
from tests.lab.knot import KEY_NAME, SECRET, knot_configuration
from tests.lab.lab import Lab
from tests.lab.namespace import LAB, NETWORKS, LabFailed, Program
from tests.lab.pebble import Pebble, set_up_pebble

ZONE = "hosted.plain.test"
AUTHORITY = "192.0.2.55"
POLICY_HOST = "192.0.2.60"
DIRECTORY = LAB / "hosting"
RESOLVER_PACKAGES = ("postfix-mta-sts-resolver==1.5.1", "setuptools<80")
INSTALL = Path(__file__).parents[1] / "tools/install-in-venv.sh"
LIBFAKETIME = ("/usr/lib", "*/faketime/libfaketime.so.1")
LIMIT_SECONDS = 60.0
PAUSE_SECONDS = 0.25
LOG_SHOWN = 6_000


def what_is_missing() -> str:
    """What this machine lacks for it; empty where it has all."""
    lacking = [
        name for name in ("knotd", "pebble") if run(["which", name], capture_output=True, check=False).returncode
    ]
    if not _libfaketime():
        lacking.append("libfaketime")
    return f"{', '.join(lacking)} missing" if lacking else ""


def _libfaketime() -> str:
    return str(next(Path(LIBFAKETIME[0]).glob(LIBFAKETIME[1]), ""))


def ahead(time: str) -> dict[str, str]:
    """The environment of a program whose clock is ahead by that, as faketime(1) writes it: `3d`, `26h`."""
    return {"LD_PRELOAD": _libfaketime(), "FAKETIME": f"+{time}", "FAKETIME_DONT_RESET": "1"}


class Hosting:
    """The programs, in a lab that runs. `days` is how far their clock is ahead."""

    def __init__(self, lab: Lab, mx_hosts: dict[str, str], resolver: Path | None) -> None:
        """`mx_hosts` are the addresses of the zone's MX hosts by their first label, `resolver` is the program of
        postfix-mta-sts-resolver."""
        self._lab = lab
        self._resolver = resolver
        self._mx_hosts = mx_hosts
        self.days = 0
        self._pebble: Pebble | None = None
        self._programs: dict[str, Program] = {}
        self._pebble_program: Program | None = None
        self.outbound: Stsguard | None = None

    @property
    def config_file(self) -> Path:
        """The configuration of `stsguard inbound`, inside the lab."""
        return DIRECTORY / "stsguard.toml"

    async def start(self) -> None:
        """Start everything, and return when all of it answers."""
        self._outside(DIRECTORY).mkdir()
        await self._delegate()
        await self._start_pebble()
        self._write_knot()
        self._write_inbound()
        self._write_resolver()
        bundle = DIRECTORY / "bundle.pem"
        self.outbound = Stsguard(
            self._lab.namespace,
            "hosted",
            port=8499,
            queues=(),
            ca_file=bundle,
            settings={"lookup": {"id_check": "1m", "postfix_dane": "no"}, "log": {"level": "info"}},
        )
        await self._start_programs()

    async def days_later(self, days: int) -> None:
        """Kill all of it, and start it again so many days later."""
        await self.kill()
        self.days += days
        await self._start_programs()

    async def kill(self) -> None:
        """`kill -9` for everything that has our clock."""
        programs, self._programs = self._programs, {}
        for program in programs.values():
            await asyncio.to_thread(program.kill)
        if self.outbound is not None:
            await self.outbound.kill()

    async def kill_inbound(self) -> None:
        """`kill -9` for the policy host, which starts again at once."""
        await asyncio.to_thread(self._programs.pop("inbound").kill)
        await self._spawn("inbound", [str(EXECUTABLE), "inbound", "--config", str(self.config_file)])

    async def stop(self) -> None:
        """End everything."""
        await self.kill()
        if self._pebble_program is not None:
            await asyncio.to_thread(self._pebble_program.kill)

    async def domain(self, *arguments: str, check: bool = True) -> CompletedProcess[str]:
        """`stsguard domain ARGUMENTS…` at the present moment of our clock.

        Raises:
            LabFailed: it failed, unless `check` is false.
        """
        command = [str(EXECUTABLE), "domain", arguments[0], "--config", str(self.config_file), *arguments[1:]]

        def carry_out() -> CompletedProcess[str]:
            return self._lab.namespace.run(command, check=False, environment=self.environment)

        await self._lab.dns.flush()
        done = await asyncio.to_thread(carry_out)
        if check and done.returncode:
            raise LabFailed(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}")
        return done

    async def show(self, policy_domain: str) -> Any:
        """`stsguard domain show --json`."""
        return json.loads((await self.domain("show", policy_domain, "--json")).stdout)

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it holds, asking DNS anew each time.

        Raises:
            LabFailed: it does not, in time; the message has the logs.
        """
        limit = time.monotonic() + LIMIT_SECONDS
        while not await holds():
            if time.monotonic() > limit:
                raise LabFailed(f"not after {LIMIT_SECONDS:.0f} s: {what}\n{self.log()}")
            await asyncio.sleep(PAUSE_SECONDS)
            await self._lab.dns.flush()

    async def ours(self, policy_domain: str) -> str:
        """What `stsguard outbound` answers Postfix."""
        assert self.outbound is not None
        return await self.outbound.lookup(policy_domain)

    async def resolver(self, policy_domain: str) -> str:
        """What postfix-mta-sts-resolver answers Postfix."""
        request = f"policy {policy_domain}".encode()
        reader, writer = await asyncio.open_unix_connection(self._outside(DIRECTORY / "resolver.sock"))
        try:
            writer.write(b"%d:%s," % (len(request), request))
            async with asyncio.timeout(LIMIT_SECONDS):
                length = int((await reader.readuntil(b":"))[:-1])
                return (await reader.readexactly(length + 1))[:-1].decode()
        finally:
            writer.close()

    async def publish(self, owner: str, record_type: str, *data: str) -> None:
        """What the admin of the zone does by hand: replace an RRset."""
        lines = [f"server {AUTHORITY} 53", f"zone {ZONE}.", f"del {owner}. {record_type}"]
        lines += [f"add {owner}. 60 {record_type} {record}" for record in data]
        text = "\n".join([*lines, "send", ""])
        key = f"hmac-sha256:{KEY_NAME}:{SECRET}"

        def update() -> None:
            self._lab.namespace.run(["knsupdate", "-y", key], input_text=text, environment=self.environment)

        await asyncio.to_thread(update)
        await self._lab.dns.flush()

    async def curl(self, url: str) -> CompletedProcess[str]:
        """curl, which knows the CA, from inside the lab."""
        bundle = str(DIRECTORY / "bundle.pem")
        command = ["curl", "--silent", "--show-error", "--include", "--cacert", bundle, url]
        return await asyncio.to_thread(lambda: self._lab.namespace.run(command, check=False))

    async def texts(self, name: str) -> list[str]:
        """The TXT records of a name, as the resolver has them."""
        answer = await self._lab.dns.lookup(name, "TXT")
        return [
            b"".join(rdata.strings).decode("ascii", "replace")
            for rrset in answer.answer
            for rdata in rrset
            if rdata.rdtype == dns.rdatatype.TXT
        ]

    async def issuer(self, host: str) -> str:
        """Who issued the certificate that `host` presents, in OpenSSL's words."""
        command = ["openssl", "s_client", "-connect", f"{POLICY_HOST}:443", "-servername", host]
        done = await asyncio.to_thread(lambda: self._lab.namespace.run(command, check=False))
        return next((line for line in done.stdout.splitlines() if line.startswith("issuer=")), "")

    def log(self) -> str:
        """What the programs wrote, the end of it."""
        files = sorted(self._outside(DIRECTORY).glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-LOG_SHOWN:]}" for file in files)

    @property
    def environment(self) -> dict[str, str]:
        """The clock, and whom to trust."""
        trusted = {"SSL_CERT_FILE": str(DIRECTORY / "bundle.pem")}
        return {**trusted, **ahead(f"{self.days}d")}

    def _outside(self, inside: Path) -> Path:
        return self._lab.outside(inside)

    async def _delegate(self) -> None:
        self._lab.dns.zones.put(ZONE, "NS", f"ns.{ZONE}.")
        self._lab.dns.zones.put(f"ns.{ZONE}", "A", AUTHORITY)
        await self._lab.dns.publish()

    async def _start_pebble(self) -> None:
        directory = self._outside(DIRECTORY / "pebble")
        directory.mkdir()
        pebble = set_up_pebble(directory, ("127.0.0.1", 53), http_port=80, tls_port=443)
        config = pebble.write_config(DIRECTORY / "pebble")
        with (self._outside(DIRECTORY) / "pebble.log").open("ab") as log:
            self._pebble_program = self._lab.namespace.spawn(
                ["pebble", "-config", str(config), "-dnsserver", "127.0.0.1:53"], log, environment=pebble.environment()
            )
        async with asyncio.timeout(LIMIT_SECONDS):
            while not (root := await self._pebble_root(pebble)):  # noqa: ASYNC110 (a process that starts)
                await asyncio.sleep(PAUSE_SECONDS)
        own = self._lab.certificates.ca_file.read_text()
        (self._outside(DIRECTORY) / "bundle.pem").write_text(own + root)
        self._pebble = pebble

    async def _pebble_root(self, pebble: Pebble) -> str:
        url = f"https://127.0.0.1:{pebble.management_port}/roots/0"
        command = ["curl", "--silent", "--fail", "--insecure", url]
        done = await asyncio.to_thread(lambda: self._lab.namespace.run(command, check=False))
        return done.stdout if done.returncode == 0 else ""

    def _write_knot(self) -> None:
        directory = DIRECTORY / "knot"
        self._outside(directory).mkdir()
        records = [
            f"@ 60 SOA ns hostmaster 1 3600 600 86400 60\n@ 60 NS ns\nns 60 A {AUTHORITY}\n",
            *(f"{label} 60 A {address}\n" for label, address in self._mx_hosts.items()),
        ]
        text = knot_configuration(
            directory, [AUTHORITY], 53, {ZONE: "".join(records)}, self._outside, types="TXT, A, MX"
        )
        (self._outside(directory) / "knot.conf").write_text(text)

    def _write_inbound(self) -> None:
        assert self._pebble is not None
        key_file = DIRECTORY / "tsig.key"
        with os.fdopen(os.open(self._outside(key_file), os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(SECRET)
        text = toml(
            {
                "store": {"url": f"sqlite:///{DIRECTORY}/stsguard.db"},
                "dns": {"nameservers": ["127.0.0.1:53"], "dnssec": "no"},
                "network": {
                    "ca_file": str(DIRECTORY / "bundle.pem"),
                    "allow_private_addresses": [str(network) for network in NETWORKS],
                },
                "policy_host": {
                    "listen": [f"inet:{POLICY_HOST}:443"],
                    "http_listen": [f"inet:{POLICY_HOST}:80"],
                    "certificate_dir": str(DIRECTORY / "certificates"),
                    "acme_directory": self._pebble.directory_url,
                    "acme_ca_file": str(
                        DIRECTORY / "pebble" / self._pebble.ca_file.relative_to(self._pebble.directory)
                    ),
                    "rua": [f"mailto:tlsrpt@{ZONE}"],
                    "record_ttl": "1m",
                    "inspect_every": "1m",
                },
                "dns_update": {
                    "server": f"{AUTHORITY}:53",
                    "zone": ZONE,
                    "tsig_name": KEY_NAME,
                    "tsig_key_file": str(key_file),
                },
                "admin": {"inbound_listen": f"unix:{DIRECTORY}/inbound.sock"},
            }
        )
        self._outside(self.config_file).write_text(text)

    def _write_resolver(self) -> None:
        (self._outside(DIRECTORY) / "resolver.yml").write_text(
            f'path: "{DIRECTORY}/resolver.sock"\nmode: 0666\ncache_grace: 1\n'
            "cache:\n  type: internal\n  options:\n    cache_size: 1000\n"
            "default_zone:\n  strict_testing: false\n  timeout: 10\n"
        )

    async def _start_programs(self) -> None:
        await self._spawn("knot", ["knotd", "-c", str(DIRECTORY / "knot/knot.conf")])
        await self._spawn("inbound", [str(EXECUTABLE), "inbound", "--config", str(self.config_file)])
        await self._until_listening(POLICY_HOST, 443)  # outbound does not soon ask again whoever did not answer
        assert self.outbound is not None
        self.outbound.environment = self.environment
        await self.outbound.start()
        if self._resolver is None:
            return
        self._outside(DIRECTORY / "resolver.sock").unlink(missing_ok=True)
        await self._spawn("resolver", [str(self._resolver), "-c", str(DIRECTORY / "resolver.yml")])
        async with asyncio.timeout(LIMIT_SECONDS):
            while not self._outside(DIRECTORY / "resolver.sock").exists():  # noqa: ASYNC110 (the same)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _until_listening(self, address: str, port: int) -> None:
        limit = time.monotonic() + LIMIT_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection(address, port)
            except OSError as exc:
                if time.monotonic() > limit:
                    raise LabFailed(f"nobody listens at {address} port {port}\n{self.log()}") from exc
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    async def _spawn(self, name: str, command: list[str]) -> None:
        with (self._outside(DIRECTORY) / f"{name}.log").open("ab") as log:
            self._programs[name] = await asyncio.to_thread(
                lambda: self._lab.namespace.spawn(command, log, environment=self.environment)
            )


def installed_resolver() -> Path:
    """The program of postfix-mta-sts-resolver, installed if need be: not from inside a lab, which has no network."""
    done = run(
        [str(INSTALL), "postfix-mta-sts-resolver", *RESOLVER_PACKAGES], capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip()) / "bin/mta-sts-daemon"


def mx_records(*labels: str) -> Iterator[str]:
    """The MX records of a domain of the zone, the first label preferred."""
    for number, label in enumerate(labels, 1):
        yield f"{number}0 {label}.{ZONE}."
