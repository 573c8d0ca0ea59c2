"""`stsguard outbound` as a process: what it says at its start, on SIGHUP and at its end, and what without what it
needs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STSGUARD = Path(sys.executable).with_name("stsguard")
LIMIT_SECONDS = 60.0


class Daemon:
    """One run of the daemon in `directory`; `before` stands before its command."""

    def __init__(self, directory: Path, *arguments: str, before: Sequence[str] = ()) -> None:
        self.log = directory / "log"
        self._arguments = ["--config", str(directory / "stsguard.toml"), "--state-dir", str(directory), *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*before, STSGUARD, "outbound", *self._arguments], stderr=log)

    def status(self) -> dict[str, Any]:
        done = subprocess.run(
            [STSGUARD, "status", "--json", *self._arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode in (0, 1), self.log.read_text()
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def wait_for_log(self, text: str) -> str:
        limit = time.monotonic() + LIMIT_SECONDS
        while text not in (log := self.log.read_text()):
            assert time.monotonic() < limit, log
            assert self.process.poll() is None, log
            time.sleep(0.05)
        return log


@contextmanager
def daemon(directory: Path, **sections: dict[str, object]) -> Iterator[Daemon]:
    """The daemon with these sections, asking a resolver that is not there."""
    write(directory, **sections)
    running = Daemon(directory)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def write(directory: Path, **sections: dict[str, object]) -> None:
    configuration: dict[str, dict[str, object]] = {
        "dns": {"nameservers": [f"127.0.0.1:{unused_port()}"]},
        "lookup": {"listen": [f"unix:{directory}/lookup.sock"], "postfix_dane": "yes"},
    }
    for name, section in sections.items():
        configuration.setdefault(name, {}).update(section)
    lines = []
    for name, section in configuration.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
    (directory / "stsguard.toml").write_text("\n".join(lines) + "\n")


def unused_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert isinstance(port, int)
        return port


def test_a_resolver_that_does_not_answer_is_no_good_health(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        log = running.wait_for_log(" answers ")
        assert "error DNS does not work, mail waits until it does" in log
        assert "DANE is possible check=resolver" not in log
        found = running.status()
        assert found["status"] == "failed"
        assert found["parts"]["dns"]["state"] == "failed"
        assert "mail waits" in found["parts"]["dns"]["detail"]


def test_the_start_tells_what_is_configured_and_no_password(tmp_path: Path) -> None:
    url = "postgresql://u:hidden@127.0.0.1:1/x"
    with daemon(tmp_path, store={"url": url}, log={"level": "info"}) as running:
        log = running.wait_for_log(" answers listen=")
        line = next(line for line in log.splitlines() if line.startswith("info configuration "))
        assert f"file={tmp_path}/stsguard.toml" in line
        assert f" lookup.listen=unix:{tmp_path}/lookup.sock lookup.postfix_dane=yes" in line
        assert "dns.timeout=" not in line
        assert "hidden" not in log


def test_sighup_tells_what_only_a_restart_applies(tmp_path: Path) -> None:
    overrides = tmp_path / "overrides.toml"
    overrides.write_text("")
    lookup: dict[str, object] = {"overrides": str(overrides)}
    with daemon(tmp_path, lookup=lookup) as running:
        running.wait_for_log(" answers ")
        overrides.write_text('["a.example"]\nexempt = true\n')
        os.kill(running.process.pid, signal.SIGHUP)
        log = running.wait_for_log("overrides read entries=1")
        assert "restart" not in log
        write(tmp_path, lookup={**lookup, "mode": "observe"}, dns={"timeout": "2s"})
        os.kill(running.process.pid, signal.SIGHUP)
        log = running.wait_for_log("lookup.mode\n")
        # Not store.url and admin.listen, which are --state-dir's and not the file's.
        assert re.search(r"a restart applies it changed=(dns.nameservers,)?dns.timeout,lookup.mode\n", log)
        write(tmp_path, lookup={"modus": "observe"})
        os.kill(running.process.pid, signal.SIGHUP)
        log = running.wait_for_log("[lookup] modus = ")
        assert "error configuration refused, this process goes on with the old one reason=" in log
        write(tmp_path, lookup={**lookup, "mode": "observe"})
        assert running.status()["mode"] == "enforce"


def test_no_socket_to_answer_at_is_no_start(tmp_path: Path) -> None:
    write(tmp_path, lookup={"listen": []})
    running = Daemon(tmp_path)
    assert running.process.wait(LIMIT_SECONDS) == 1
    log = running.log.read_text()
    assert "stsguard outbound can't start: no socket to answer at" in log
    assert "Traceback" not in log


def test_a_store_that_is_not_there_ends_with_no_stack(tmp_path: Path) -> None:
    with daemon(tmp_path, store={"url": f"sqlite:///{tmp_path}/absent/stsguard.db"}) as running:
        running.wait_for_log("store can't be read, serving without it")
        forgotten = subprocess.run(
            [STSGUARD, "cache", "forget", "a.example", "--config", tmp_path / "stsguard.toml", "--state-dir", tmp_path],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert forgotten.returncode == 0, forgotten.stderr
        running.wait_for_log("policies can't be stored, trying again")
        assert "does not exist" in running.status()["parts"]["store"]["detail"]
        running.process.terminate()
        assert running.process.wait(LIMIT_SECONDS) == 0
        log = running.log.read_text()
        assert "error policies can't be stored and end with this process" in log
        assert "stopping signal=SIGTERM" in log
        assert "Traceback" not in log
