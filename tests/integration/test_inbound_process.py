"""`stsguard inbound` as a process: serving by one process and by several, changes, faults, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stsguard.app.database_work import opened_stores
from stsguard.core.hosted import AcmeChallenge, HostedDomain
from stsguard.core.mtasts import Mode
from stsguard.names import Domain
from stsguard.store.stores import Stores
from tests.integration.policy_hosting import PATH, parse, put_certificate, request
from tests.lab.ca import ThrowAwayCA
from tests.unit.hosting import hosted

STSGUARD = Path(sys.executable).with_name("stsguard")
LIMIT_SECONDS = 60.0
HOST = "mta-sts.a.example"
T = TypeVar("T")


class Inbound:
    """One run of the daemon in `directory`; each request has a connection of its own."""

    def __init__(self, directory: Path, **policy_host: object) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.ca = ThrowAwayCA(directory / "ca")
        put_certificate(self.ca, directory / "certificates", HOST)
        self.port, self.http_port = unused_ports()
        values = {
            "listen": [f"inet:127.0.0.1:{self.port}"],
            "http_listen": [f"inet:127.0.0.1:{self.http_port}"],
            "acme_directory": "",
            **policy_host,
        }
        lines = ["[policy_host]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        (directory / "stsguard.toml").write_text("\n".join(lines) + "\n")
        self._options = ["--config", str(directory / "stsguard.toml"), "--state-dir", str(directory)]

    def start(self, **more: Any) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([STSGUARD, "inbound", *self._options], stderr=log, **more)

    def ask(self, path: str = PATH, *, tls: bool = True) -> tuple[int, dict[str, str], bytes]:
        with socket.create_connection(("127.0.0.1", self.port if tls else self.http_port), 20) as sock:
            if not tls:
                return self._exchange(sock, path)
            with self.ca.client_context().wrap_socket(sock, server_hostname=HOST) as secure:
                return self._exchange(secure, path)

    def _exchange(self, sock: socket.socket, path: str) -> tuple[int, dict[str, str], bytes]:
        sock.sendall(request(path, HOST))
        found = b""
        while octets := sock.recv(65_536):
            found += octets
        return parse(found)

    def status(self) -> dict[str, Any]:
        done = subprocess.run(
            [STSGUARD, "status", "--json", *self._options], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode in (0, 1), done.stderr
        found = json.loads(done.stdout)["inbound"]
        assert isinstance(found, dict)
        return found

    def wait_for_log(self, text: str) -> str:
        self.wait(lambda: text in self.log.read_text())
        return self.log.read_text()

    def wait(self, condition: Callable[[], bool], seconds: float = LIMIT_SECONDS) -> None:
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def stored(self, work: Callable[[Stores], Awaitable[T]]) -> T:
        """What `work` gives with the stores of the daemon's database, as a command has them."""

        async def run() -> T:
            async with opened_stores(f"sqlite:///{self.directory}/stsguard.db") as stores:
                return await work(stores)

        return asyncio.run(run())

    def save(self, domain: HostedDomain) -> None:
        async def work(stores: Stores) -> None:
            stored = await stores.domains.load_domain(domain.policy_domain)
            versions = domain.versions
            if stored is not None:
                changed = replace(domain.current, number=stored.current.number + 1)
                versions = (*stored.versions, changed)
            revision = 0 if stored is None else stored.revision
            assert await stores.domains.save_domain(replace(domain, versions=versions, revision=revision), ())

        self.stored(work)


def unused_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@contextmanager
def inbound(directory: Path, **policy_host: object) -> Iterator[Inbound]:
    """The daemon, started, with the domain a.example."""
    daemon = Inbound(directory, **policy_host)
    daemon.start()
    try:
        daemon.wait_for_log(" serves policies ")
        daemon.save(hosted("a.example"))
        daemon.wait(lambda: daemon.ask()[0] == 200)
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()


def test_one_process_from_start_to_end(tmp_path: Path) -> None:
    with inbound(tmp_path) as daemon:
        assert b"mode: testing\r\n" in daemon.ask()[2]
        began = time.monotonic()
        daemon.save(hosted("a.example", mode=Mode.ENFORCE))
        daemon.wait(lambda: b"mode: enforce\r\n" in daemon.ask()[2])
        assert time.monotonic() - began < 5  # the commit and a process of the store included
        found = daemon.status()
        assert (found["status"], found["domains"], found["workers"]) == ("ok", 1, [])
        daemon.process.terminate()
        assert daemon.process.wait(LIMIT_SECONDS) == 0
        log = daemon.log.read_text()
        assert "stopping signal=SIGTERM" in log
        assert "Traceback" not in log
        assert "warning" not in log

        async def counted(stores: Stores) -> int:
            rows = await stores.policy_fetches.load_policy_fetches(Domain("a.example"), date(2000, 1, 1))
            return sum(row.fetches for row in rows if row.network == "127.0.0.0/24")

        assert daemon.stored(counted) >= 3


def workers_of(daemon: Inbound) -> set[int]:
    return set(daemon.status()["workers"])


def test_every_worker_serves_a_change_within_a_second(tmp_path: Path) -> None:
    with inbound(tmp_path, workers=3) as daemon:
        assert len(workers_of(daemon)) == 3
        daemon.wait(lambda: all(daemon.ask()[0] == 200 for _ in range(30)))
        daemon.save(hosted("a.example", mode=Mode.ENFORCE))
        time.sleep(1.0)  # the promise itself: from here on nobody may serve the old text
        assert all(b"mode: enforce\r\n" in daemon.ask()[2] for _ in range(60))


def test_a_killed_worker_is_started_again_and_the_others_serve(tmp_path: Path) -> None:
    with inbound(tmp_path, workers=2) as daemon:
        before = workers_of(daemon)
        os.kill(min(before), signal.SIGKILL)
        assert all(daemon.ask()[0] == 200 for _ in range(20))
        daemon.wait_for_log("a process that serves policies has ended, starting it again status=-9")
        daemon.wait(lambda: len(workers_of(daemon)) == 2)
        assert len(workers_of(daemon) - before) == 1
        assert daemon.status()["status"] == "ok"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_daemon(tmp_path: Path, signum: signal.Signals) -> None:
    with inbound(tmp_path, workers=2) as daemon:
        workers = workers_of(daemon)
        daemon.process.send_signal(signum)
        daemon.process.wait(LIMIT_SECONDS)
        limit = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < limit
            time.sleep(0.02)


def rename_table(directory: Path, old: str, new: str) -> None:
    with closing(sqlite3.connect(directory / "stsguard.db", timeout=30)) as database:
        database.execute(f"ALTER TABLE {old} RENAME TO {new}")


def test_the_database_may_go_while_serving(tmp_path: Path) -> None:
    with inbound(tmp_path) as daemon:
        rename_table(tmp_path, "hosting_revision", "hidden")
        daemon.wait_for_log("our domains can't be read, serving what was read before")
        assert daemon.ask()[0] == 200
        assert daemon.status()["parts"]["policies"]["state"] == "failed"
        rename_table(tmp_path, "hidden", "hosting_revision")
        daemon.wait_for_log("our domains can be read again")
        daemon.save(hosted("a.example", mode=Mode.ENFORCE))
        daemon.wait(lambda: b"mode: enforce\r\n" in daemon.ask()[2])
        assert daemon.status()["status"] == "ok"


def test_a_start_without_a_database_says_so_and_tries_again(tmp_path: Path) -> None:
    daemon = Inbound(tmp_path)
    (tmp_path / "stsguard.db").mkdir()
    daemon.start()
    try:
        log = daemon.wait_for_log(" serves policies ")
        assert "error our domains can't be read, serving what was read before" in log
        assert daemon.ask()[0] == 503
        (tmp_path / "stsguard.db").rmdir()
        daemon.wait_for_log("our domains can be read again")
        assert daemon.ask()[0] == 404
    finally:
        daemon.process.kill()
        daemon.process.wait()


def test_challenges_are_answered_by_any_process(tmp_path: Path) -> None:
    with inbound(tmp_path, workers=2) as daemon:
        soon = datetime.now(UTC) + timedelta(hours=1)

        async def work(stores: Stores) -> None:
            for kind in ("http-01", "reach", "tls-alpn-01"):
                content = "token.thumbprint"
                await stores.certificates.save_challenge(AcmeChallenge(kind, Domain(HOST), "token", content, soon))

        daemon.stored(work)
        assert all(
            daemon.ask("/.well-known/acme-challenge/token", tls=False)[2] == b"token.thumbprint" for _ in range(6)
        )
        assert daemon.ask("/.well-known/stsguard-reach/token")[2] == b"token.thumbprint"
        # RFC 8737 §3: only who asks for acme-tls/1 gets that certificate, and it gets no other.
        asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
        seen = set()
        for protocols in (["acme-tls/1"], ["http/1.1"], ["acme-tls/1", "http/1.1"]):
            asking.set_alpn_protocols(protocols)
            with (
                socket.create_connection(("127.0.0.1", daemon.port), 20) as sock,
                asking.wrap_socket(sock, server_hostname=HOST) as secure,
            ):
                seen.add((secure.selected_alpn_protocol(), secure.getpeercert(binary_form=True)))
        assert [protocol for protocol, _ in seen].count("acme-tls/1") == 1
        assert len({certificate for _, certificate in seen}) == 2


def test_sockets_may_come_from_systemd(tmp_path: Path) -> None:
    daemon = Inbound(tmp_path)
    with socket.create_server(("127.0.0.1", daemon.port)) as https, socket.create_server(("127.0.0.1", 0)) as http:
        daemon.http_port = http.getsockname()[1]
        # The shell has the process id that LISTEN_PID must name, and hands its own over.
        script = f'exec 3<&{https.fileno()} 4<&{http.fileno()}; export LISTEN_PID=$$; exec "$@"'
        environment = {**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "https:http"}
        options = ["inbound", *daemon._options]
        with daemon.log.open("wb") as log:
            daemon.process = subprocess.Popen(
                ["bash", "-c", script, "bash", str(STSGUARD), *options],
                stderr=log,
                env=environment,
                pass_fds=(https.fileno(), http.fileno()),
            )
    try:
        assert 'listen="systemd:https, systemd:http"' in daemon.wait_for_log(" serves policies ")
        daemon.save(hosted("a.example"))
        daemon.wait(lambda: daemon.ask()[0] == 200)
        assert daemon.ask("/x", tls=False)[0] == 404
    finally:
        daemon.process.kill()
        daemon.process.wait()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"listen": [], "http_listen": []}, "no socket to answer at: [policy_host] listen and http_listen are empty"),
        ({"certificate_dir": ""}, "[policy_host] listen needs certificates, and certificate_dir names no directory"),
        ({"listen": ["inet:192.0.2.1:443"]}, "[policy_host] listen: can't listen at inet:192.0.2.1:443"),
        ({"http_listen": ["unix:/nowhere/x.sock"]}, "[policy_host] http_listen: can't listen at unix:/nowhere/x.sock"),
    ],
)
def test_no_start_without_sockets(tmp_path: Path, values: dict[str, object], said: str) -> None:
    daemon = Inbound(tmp_path, **values)
    daemon.start()
    assert daemon.process.wait(LIMIT_SECONDS) == 1
    assert f"stsguard inbound can't start: {said}" in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()


def test_certificates_put_there_by_hand_are_watched(tmp_path: Path) -> None:
    daemon = Inbound(tmp_path)
    for name in ("a.example", "b.example"):
        daemon.save(hosted(name))
    daemon.start()
    try:
        daemon.wait_for_log(" serves policies ")
        part = "certificates by hand"
        daemon.wait(lambda: daemon.status()["parts"][part]["state"] == "failed")
        told = daemon.status()["parts"][part]["detail"]
        assert told.startswith(f"{tmp_path}/certificates/mta-sts.b.example.pem: there is none, and [policy_host] acme_")
        assert "certificate put there by hand needs attention policy_host=mta-sts.b.example" in daemon.log.read_text()
    finally:
        daemon.process.kill()
        daemon.process.wait()


def test_certificates_are_looked_after_where_a_ca_is_configured(tmp_path: Path) -> None:
    with inbound(tmp_path, acme_directory="https://127.0.0.1:1/directory", workers=2) as daemon:
        assert "certificates" in daemon.status()["parts"]
        daemon.process.terminate()
        assert daemon.process.wait(LIMIT_SECONDS) == 0
        assert "Traceback" not in daemon.log.read_text()
