"""A real authoritative server that takes dynamic updates (Knot DNS), on addresses of loopback, and a resolver over it.

Several servers of one zone listen at the same port, each at an address of its own, as they do at port 53 outside.
"""

import base64
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from tests.lab.unbound import SERVER_OPTIONS

KEY_NAME = "stsguard.example.test"
SECRET = base64.b64encode(b"thirty-two octets of a test key!").decode()
OTHER_SECRET = base64.b64encode(b"thirty-two octets of another key").decode()
LIMIT_SECONDS = 60

_CONFIGURATION = """
server:
    rundir: "{directory}"
    listen: [{listen}]
log:
  - target: stderr
    any: info
database:
    storage: "{directory}"
key:
  - id: {key}
    algorithm: hmac-sha256
    secret: {secret}
  - id: powerless.example.test
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: update
    key: {key}
    action: update
    update-type: [{types}]
template:
  - id: default
    storage: "{directory}"
    acl: update
    zonefile-sync: -1
    journal-content: all
    semantic-checks: off
zone:
"""


def is_installed() -> bool:
    """Whether Knot and unbound can be run here."""
    return all(shutil.which(name, path="/usr/sbin:/usr/bin") for name in ("knotd", "unbound"))


@dataclass(frozen=True, slots=True)
class Knot:
    """A server that runs: where it listens, and its process."""

    addresses: tuple[str, ...]
    port: int
    process: subprocess.Popen[bytes]

    def ask(self, name: str, rdtype: str) -> list[str]:
        """What it has, as text, without ID and time to live."""
        query = dns.message.make_query(name, rdtype)
        answer = dns.query.tcp(query, self.addresses[0], port=self.port, timeout=10)
        return sorted(rdata.to_text() for rrset in answer.answer for rdata in rrset)


def free_port(addresses: Sequence[str]) -> int:
    """A port that nobody has, by UDP and TCP, at any of the addresses."""
    for _ in range(100):
        with ExitStack() as stack:
            port = 0
            try:
                for address in addresses:
                    family = socket.AF_INET6 if ":" in address else socket.AF_INET
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        sock = stack.enter_context(socket.socket(family, kind))
                        sock.bind((address, port))
                        port = sock.getsockname()[1]
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free at all of these addresses")


def knot_configuration(
    directory: Path,
    addresses: Sequence[str],
    port: int,
    zones: Mapping[str, str],
    outside: Callable[[Path], Path] = lambda path: path,
    *,
    types: str = "TXT, CNAME",
) -> str:
    """The configuration of a server that works in `directory`; the zones are written there, which is `outside` here.
    `types` are those that an update may change."""
    text = _CONFIGURATION.format(
        directory=directory,
        types=types,
        listen=", ".join(f"{address}@{port}" for address in addresses),
        key=KEY_NAME,
        secret=SECRET,
    )
    for name, records in zones.items():
        outside(directory / f"{name}.zone").write_text(f"$ORIGIN {name}.\n{records}")
        text += f'  - domain: {name}\n    file: "{directory}/{name}.zone"\n'
    return text if zones else text.removesuffix("zone:\n")


@contextmanager
def run_knot(
    directory: Path, addresses: Sequence[str], port: int, zones: Mapping[str, str], *, fake_time: str = ""
) -> Iterator[Knot]:
    """Serve `zones` (records by the zone's name without the final dot) at these addresses until the end of the block.

    `fake_time` is how far its clock is off, as faketime(1) has it.
    """
    directory.mkdir(parents=True)
    configuration = directory / "knot.conf"
    configuration.write_text(knot_configuration(directory, addresses, port, zones))
    command = ["knotd", "-c", str(configuration)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["faketime", "-f", fake_time, *command] if fake_time else command,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/sbin:/usr/bin"},
        )
    try:
        _wait_until_it_answers(process, addresses[0], port, directory / "log")
        yield Knot(tuple(addresses), port, process)
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str, port: int, log: Path) -> None:
    query = dns.message.make_query("id.server.", "TXT", "CH")
    give_up_at = time.monotonic() + LIMIT_SECONDS
    while process.poll() is None and time.monotonic() < give_up_at:
        try:
            dns.query.udp(query, address, port=port, timeout=0.5)
        except (dns.exception.DNSException, OSError):
            time.sleep(0.02)  # it is being started; its port is not open yet
            continue
        return
    raise RuntimeError(f"knotd does not answer: {log.read_text()[-2000:]}")


def resolver_configuration(directory: Path, zones: Mapping[str, tuple[str, int]]) -> Path:
    """A configuration for unbound that asks the server given for each zone, and remembers nothing."""
    directory.mkdir(parents=True)
    options = [option for option in SERVER_OPTIONS if not option.startswith("module-config")]
    lines = ["server:", *(f"  {option}" for option in options)]
    lines += [f'  directory: "{directory}"', '  module-config: "iterator"', "  cache-max-ttl: 0"]
    lines += ["  cache-max-negative-ttl: 0", "  infra-host-ttl: 1", "  outbound-msg-retry: 2"]
    # Whatever is served nowhere fails at once: the server refuses the root, which it does not serve.
    for name, (address, port) in {**zones, ".": next(iter(zones.values()))}.items():
        lines += ["stub-zone:", f'  name: "{name}"', f"  stub-addr: {address}@{port}", "  stub-prime: no"]
    path = directory / "unbound.conf"
    path.write_text("\n".join(lines) + "\n")
    return path
