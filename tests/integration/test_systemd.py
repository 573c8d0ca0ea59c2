"""systemd's protocols, spoken with real sockets and in real processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stsguard.adapters import systemd

PROGRAM = """
import json, os, sys
from stsguard.adapters import systemd
pid = os.environ.get("LISTEN_PID")
if pid == "self":
    os.environ["LISTEN_PID"] = str(os.getpid())
found = [(str(s.getsockname()), s.family.name, name, s.getblocking(), s.get_inheritable(), s.getsockopt(1, 30))
         for s, name in systemd.listen_fds()]
left = sorted(name for name in os.environ if name.startswith("LISTEN_"))
print(json.dumps({"found": found, "left": left, "again": len(systemd.listen_fds())}))
"""


def run_with_descriptors(*sockets: socket.socket, environment: dict[str, str]) -> dict[str, list[object]]:
    """What `listen_fds` finds in a process that has `sockets` as descriptors 3, 4, …"""
    count = len(sockets)
    spare = [os.dup2(sock.fileno(), 100 + index) for index, sock in enumerate(sockets)]
    moves = " ".join(f"{3 + index}<&{100 + index} {100 + index}<&-" for index in range(count))
    try:
        done = subprocess.run(
            ["/bin/bash", "-c", f'exec "$0" -c "$1" {moves}', sys.executable, PROGRAM],
            env={**os.environ, **environment},
            pass_fds=spare,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    finally:
        for descriptor in spare:
            os.close(descriptor)
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.fixture
def tcp() -> "socket.socket":
    return socket.create_server(("127.0.0.1", 0))


def test_listen_fds_takes_what_was_passed_and_nothing_is_left_of_it(tcp: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "lookup.sock")
    with tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        answer = run_with_descriptors(
            tcp, unix, environment={"LISTEN_PID": "self", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "lookup:lookup"}
        )
        assert answer == {
            "found": [
                [str(tcp.getsockname()), "AF_INET", "lookup", False, False, 1],
                [path, "AF_UNIX", "lookup", False, False, 1],
            ],
            "left": [],
            "again": 0,
        }


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"LISTEN_PID": "self", "LISTEN_FDS": "1"}, [""]),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c"}, ["a"]),  # the others are not open
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, []),  # meant for another process
        ({"LISTEN_FDS": "1"}, []),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "x"}, []),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "-1"}, []),
        ({"LISTEN_PID": "self", "LISTEN_FDS": "100000"}, []),
    ],
)
def test_listen_fds_by_environment(tcp: socket.socket, environment: dict[str, str], names: list[str]) -> None:
    with tcp:
        answer = run_with_descriptors(tcp, environment=environment)
    assert [row[2] for row in answer["found"] if isinstance(row, list)] == names
    assert answer["left"] == []


def test_listen_fds_leaves_a_descriptor_that_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    program = PROGRAM + "\nprint(os.read(3, 4).decode(), file=sys.stderr)"
    with (tmp_path / "file").open() as file:
        done = subprocess.run(
            ["/bin/bash", "-c", f'exec "$0" -c "$1" 3<&{file.fileno()}', sys.executable, program],
            env={**os.environ, "LISTEN_PID": "self", "LISTEN_FDS": "1"},
            pass_fds=[file.fileno()],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert json.loads(done.stdout)["found"] == []
    assert done.stderr.strip() == "kept"


@pytest.mark.parametrize("abstract", [False, True])
def test_notify_reaches_path_and_abstract_sockets(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"\0{path}" if abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if abstract else path)
        assert systemd.notify("READY=1", "STATUS=all is\nSTOPPING=1 well")
        assert server.recv(4096) == b"READY=1\nSTATUS=all is STOPPING=1 well"
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert systemd.notify_reloading()
        first, second = server.recv(4096).decode().split("\n")
        assert first == "RELOADING=1"
        assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1", "/nonexistent/notify", "/" + "x" * 200])
def test_notify_where_nobody_listens_does_nothing(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not systemd.notify("READY=1")


def test_notify_never_waits_for_a_full_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        sent = [systemd.notify("WATCHDOG=1") for _ in range(2000)]
    assert sent[0]
    assert not sent[-1]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "self"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog(environment: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(os.getpid()) if value == "self" else value)
    assert systemd.watchdog_seconds() == seconds


def test_systemds_own_activation_is_understood(tmp_path: Path) -> None:
    """systemd-socket-activate(1) hands the socket over as systemd does, when somebody connects."""
    program = shutil.which("systemd-socket-activate")
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("systemd-socket-activate is not installed")
    path = tmp_path / "lookup.sock"
    activator = subprocess.Popen(
        [program, f"--listen={path}", "--fdname=lookup", sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert activator.stderr is not None
        assert "Listening on" in activator.stderr.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            output, errors = activator.communicate(timeout=60)
    finally:
        activator.kill()
        activator.wait()
    assert activator.returncode == 0, errors
    assert json.loads(output)["found"] == [[str(path), "AF_UNIX", "lookup", False, False, 1]]
