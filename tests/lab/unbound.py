"""A real validating resolver (unbound) over zones that are really signed, on loopback and nowhere else."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.dnssec
import dns.dnssectypes
import dns.exception
import dns.message
import dns.name
import dns.node
import dns.query
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ed25519
from dns.rdtypes.ANY.DNSKEY import DNSKEY

SOA = "@ 300 IN SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 60\n@ 300 IN NS ns.invalid.\n"


def is_installed() -> bool:
    """Whether unbound can be run here."""
    return shutil.which("unbound", path="/usr/sbin:/usr/bin:/usr/local/sbin") is not None


@dataclass
class SignedRoot:
    """A signed root zone with signed, unsigned and badly signed zones below it, each one file in `directory`.

    Zones are given by name without the final dot; what `write` leaves out of `signed` has no DS at the root.
    """

    directory: Path
    _key: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)

    def write(self, signed: Mapping[str, str], unsigned: Mapping[str, str], expired: Mapping[str, str]) -> Path:
        """Write the zones and a configuration for unbound that listens nowhere yet; its path."""
        delegations = "".join(f"{name}. 300 IN NS ns.invalid.\n" for name in (*signed, *unsigned, *expired))
        root = dns.zone.from_text(SOA + delegations, ".", relativize=False)
        for name, text in {**signed, **expired}.items():
            zone = self._signed_zone(name + ".", text, expired=name in expired)
            self._write(zone)
            ds = dns.dnssec.make_ds(zone.origin or dns.name.root, self._dnskey(), "SHA256")
            root.find_rdataset(zone.origin or dns.name.root, "DS", create=True).add(ds, 300)
        for name, text in unsigned.items():
            self._write(dns.zone.from_text(SOA + text, name + ".", relativize=False))
        self._sign(root, expired=False)
        self._write(root)
        trust_anchor = self.directory / "root.key"
        trust_anchor.write_text(f". 300 IN DNSKEY {self._dnskey().to_text()}\n")
        return self._write_configuration((".", *(f"{name}." for name in (*signed, *unsigned, *expired))), trust_anchor)

    def _dnskey(self) -> DNSKEY:
        return dns.dnssec.make_dnskey(self._key.public_key(), dns.dnssectypes.Algorithm.ED25519, flags=257)

    def _signed_zone(self, name: str, text: str, *, expired: bool) -> dns.zone.Zone:
        zone = dns.zone.from_text(SOA + text, name, relativize=False)
        self._sign(zone, expired=expired)
        return zone

    def _sign(self, zone: dns.zone.Zone, *, expired: bool) -> None:
        now = datetime.now(UTC)
        dns.dnssec.sign_zone(
            zone,
            keys=[(self._key, self._dnskey())],
            add_dnskey=True,
            dnskey_ttl=300,
            inception=now - timedelta(days=30),
            expiration=now - timedelta(days=20) if expired else now + timedelta(days=30),
        )

    def _write(self, zone: dns.zone.Zone) -> None:
        zone.to_file(str(self._file_of(str(zone.origin))), relativize=False, want_origin=True)

    def _file_of(self, name: str) -> Path:
        return self.directory / f"{name.strip('.') or 'root'}.zone"

    def _write_configuration(self, names: tuple[str, ...], trust_anchor: Path) -> Path:
        lines = [
            "server:",
            *(f"  {option}" for option in SERVER_OPTIONS),
            f'  directory: "{self.directory}"',
            f'  trust-anchor-file: "{trust_anchor}"',
        ]
        for name in names:
            lines += [
                "auth-zone:",
                f'  name: "{name}"',
                f'  zonefile: "{self._file_of(name)}"',
                "  for-upstream: yes",
                "  for-downstream: no",
                "  fallback-enabled: no",
            ]
        path = self.directory / "unbound.conf"
        path.write_text("\n".join(lines) + "\n")
        return path


SERVER_OPTIONS = (
    'username: ""',
    'chroot: ""',
    'pidfile: ""',
    "use-syslog: no",
    "do-daemonize: no",
    "num-threads: 1",
    "ede: yes",
    "do-not-query-localhost: no",
    "local-zone: test. nodefault",
    "local-zone: invalid. nodefault",
    'module-config: "validator iterator"',
)


@contextmanager
def run_unbound(configuration: Path) -> Iterator[tuple[str, int]]:
    """Run unbound with `configuration` on a free port of 127.0.0.1 until the end of the block."""
    for _ in range(10):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            address: tuple[str, int] = sock.getsockname()
        started = configuration.with_suffix(f".{address[1]}")
        listen = f"server:\n  interface: {address[0]}\n  port: {address[1]}\n"
        started.write_text(configuration.read_text() + listen)
        log_file = started.with_suffix(".log")
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                ["unbound", "-d", "-p", "-c", str(started)],
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/sbin:/usr/bin:/usr/local/sbin"},
            )
        try:
            if _answers(process, address):
                yield address
                return
        finally:
            process.terminate()
            process.wait(30)
    raise RuntimeError(f"unbound did not start: {log_file.read_text()[-2000:]}")


def _answers(process: subprocess.Popen[bytes], address: tuple[str, int]) -> bool:
    """Wait until it answers; False where it ended, its port being taken meanwhile."""
    query = dns.message.make_query(".", "SOA")
    give_up_at = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < give_up_at:
        try:
            dns.query.udp(query, address[0], port=address[1], timeout=0.5)
        except (dns.exception.DNSException, OSError):
            continue
        return True
    return False
