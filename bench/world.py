"""A small Internet for discovery, in a network of its own: DNS by unbound, policies over HTTPS by nginx.

Each domain with a policy has its own Policy Host name and certificate, as in the world outside; MX hosts have addresses
and nobody answers there. `enter` starts the program anew with a network and mounts that nobody else sees, where
/etc/resolv.conf names the resolver of this world, since peers ask that whatever they are told.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

INSIDE = "STSGUARD_BENCH_WORLD"
PROGRAMS = ("unshare", "ip", "mount", "unbound", "nginx")
START_SECONDS = 30.0
MAX_SERVERS = 5000


def missing() -> str:
    """What this machine lacks for such a world; empty where it has all."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"{', '.join(lacking)} missing"
    return "" if os.geteuid() == 0 else "root needed"


def enter(bench: str, *, smoke: bool) -> bool:
    """True inside the network of its own; outside, run this bench there and say False when it is done."""
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return True
    command = ["unshare", "--net", "--mount", sys.executable, "-m", "bench", bench, *(["--smoke"] if smoke else [])]
    subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=True)
    return False


class World:
    """`with_policy` domains d0.test …, and as many without any below n0.test …, below `directory`."""

    def __init__(self, directory: Path, count: int, ttl: int = 300) -> None:
        self.directory = directory
        self.count = count
        self.ttl = ttl
        self.ca_file = directory / "ca.pem"

    @contextmanager
    def running(self) -> Iterator[None]:
        """DNS and HTTPS are up."""
        self._write_zone()
        self._write_certificates()
        resolv_conf = self.directory / "resolv.conf"
        resolv_conf.write_text("nameserver 127.0.0.1\n", encoding="ascii")
        subprocess.run(["mount", "--bind", str(resolv_conf), "/etc/resolv.conf"], check=True)
        processes = [subprocess.Popen(self._unbound()), subprocess.Popen(self._nginx())]
        try:
            self._wait()
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=20)

    def _write_zone(self) -> None:
        lines = [f"$TTL {self.ttl}", "test. IN SOA ns.test. hostmaster.test. 1 3600 600 86400 300"]
        lines += ["test. IN NS ns.test."]
        lines += ["ns.test. IN A 127.0.0.1"]
        for number in range(self.count):
            for kind in "dn":
                name = f"{kind}{number}.test."
                lines += [f"{name} IN MX 10 mx.{name}", f"mx.{name} IN A 127.0.0.1"]
            name = f"d{number}.test."
            lines += [f'_mta-sts.{name} IN TXT "v=STSv1; id=1;"', f"mta-sts.{name} IN A 127.0.0.1"]
        (self.directory / "test.zone").write_text("\n".join(lines) + "\n", encoding="ascii")

    def _unbound(self) -> list[str]:
        config = self.directory / "unbound.conf"
        config.write_text(
            f"""server:
  interface: 127.0.0.1
  access-control: 127.0.0.0/8 allow
  username: ""
  chroot: ""
  directory: "{self.directory}"
  pidfile: ""
  do-daemonize: no
  use-syslog: no
  verbosity: 0
  log-servfail: no
  logfile: "{self.directory}/unbound.log"
  module-config: "iterator"
  local-zone: "test." nodefault
  so-rcvbuf: 1m
auth-zone:
  name: "test."
  zonefile: "{self.directory}/test.zone"
  for-upstream: no
  for-downstream: yes
remote-control:
  control-enable: no
""",
            encoding="ascii",
        )
        return ["unbound", "-c", str(config)]

    def _nginx(self) -> list[str]:
        config = self.directory / "nginx.conf"
        config.write_text(
            f"""daemon off;
worker_processes 2;
pid {self.directory}/nginx.pid;
error_log {self.directory}/nginx.log error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  ssl_protocols TLSv1.2 TLSv1.3;
  server_names_hash_max_size 32768;
  map $ssl_server_name $policy_domain {{ ~^mta-sts\\.(?<name>.+)$ $name; }}
  ssl_certificate_key {self.directory}/key.pem;
{self._servers()}}}
""",
            encoding="ascii",
        )
        return ["nginx", "-c", str(config), "-p", str(self.directory)]

    def _servers(self) -> str:
        """A server for each Policy Host, with its certificate in memory, since nginx takes longer to read one than for
        all else of a connection; more than it should hold are read from their files at each handshake."""
        hosts = [f"mta-sts.d{number}.test" for number in range(self.count)]
        if self.count > MAX_SERVERS:
            hosts = ["$ssl_server_name"]
        policy = "version: STSv1\\r\\nmode: enforce\\r\\nmx: mx.$policy_domain\\r\\nmax_age: 604800\\r\\n"
        listen, location = "127.0.0.1:443 ssl", "location = /.well-known/mta-sts.txt"
        return "".join(
            f"""  server {{
    listen {listen}{" backlog=4096" if index == 0 else ""};
    server_name {"_" if "$" in host else host};
    ssl_certificate {self.directory}/certificates/{host}.pem;
    {location} {{ default_type text/plain; return 200 "{policy}"; }}
  }}
"""
            for index, host in enumerate(hosts)
        )

    def _write_certificates(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        (self.directory / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bench CA")])
        now = datetime.now(UTC)

        def certificate(subject: x509.Name, extension: x509.ExtensionType) -> bytes:
            builder = x509.CertificateBuilder(
                issuer, subject, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=2)
            )
            signed = builder.add_extension(extension, critical=False).sign(key, hashes.SHA256())
            return signed.public_bytes(serialization.Encoding.PEM)

        self.ca_file.write_bytes(certificate(issuer, x509.BasicConstraints(ca=True, path_length=None)))
        directory = self.directory / "certificates"
        directory.mkdir()
        for number in range(self.count):
            host = f"mta-sts.d{number}.test"
            names = x509.SubjectAlternativeName([x509.DNSName(host)])
            (directory / f"{host}.pem").write_bytes(certificate(x509.Name([]), names))

    def _wait(self) -> None:
        from dns import message, query

        deadline = time.monotonic() + START_SECONDS
        question = message.make_query(f"mx.n{self.count - 1}.test.", "A")
        while True:
            try:
                if query.udp(question, "127.0.0.1", timeout=0.5).answer:
                    break
            except Exception:  # noqa: BLE001 (whatever a server that starts does)
                time.sleep(0.05)
            assert time.monotonic() < deadline, "the nameserver does not start"
        while not (self.directory / "nginx.pid").exists():
            assert time.monotonic() < deadline, "the policy hosts do not start"
            time.sleep(0.05)
