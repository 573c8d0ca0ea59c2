"""The real daemon for a bench: `stsguard outbound` in a process of its own, and what is asked of it."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stsguard.core import netstring

START_SECONDS = 30.0
SETTLE_SECONDS = 5.0
IDLE_SECONDS = 0.01  # of CPU in 0.4 s; less is its timers


def write_config(directory: Path, domains: int) -> Path:
    """A configuration with `domains` overrides, so that look-ups are cached without any network."""
    entries = (
        f'["d{number}.example"]\npolicy = "secure match=mx.d{number}.example servername=hostname"\n'
        for number in range(domains)
    )
    (directory / "overrides.toml").write_text("".join(entries), encoding="utf-8")
    config = directory / "stsguard.toml"
    config.write_text(
        f"""
[store]
url = "sqlite:///{directory}/stsguard.db"
[dns]
nameservers = ["127.0.0.1:1"]
dnssec = "no"
[lookup]
listen = ["unix:{directory}/lookup.sock"]
overrides = "{directory}/overrides.toml"
postfix_dane = "no"
[admin]
listen = "unix:{directory}/admin.sock"
[log]
level = "error"
""",
        encoding="utf-8",
    )
    return config


def write_world_config(directory: Path, ca_file: Path, lookup: str = "") -> Path:
    """A configuration with an empty store for the small Internet of `world`; `lookup` are more lines of [lookup]."""
    for file in directory.glob("stsguard.db*"):
        file.unlink()
    config = directory / "stsguard.toml"
    config.write_text(
        f"""
[store]
url = "sqlite:///{directory}/stsguard.db"
[dns]
nameservers = ["127.0.0.1:53"]
dnssec = "no"
signed_name = "test"
[network]
ca_file = "{ca_file}"
allow_private_addresses = true
[lookup]
listen = ["unix:{directory}/lookup.sock"]
postfix_dane = "no"
{lookup}
[admin]
listen = "unix:{directory}/admin.sock"
[log]
level = "error"
""",
        encoding="utf-8",
    )
    return config


async def ask_all(path: Path, domains: Sequence[str], in_flight: int, expected: bytes) -> None:
    """Ask for each of `domains` once, so many at a time; each reply has to begin as `expected`."""
    left = list(reversed(domains))

    async def work() -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        while left:
            domain = left.pop()
            writer.write(netstring.encode(b"policy " + domain.encode()))
            length = await reader.readuntil(b":")
            reply = await reader.readexactly(int(length[:-1]) + 1)
            assert reply.startswith(expected), f"{domain}: {reply!r}"
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())


def connect(path: Path, deadline: float) -> socket.socket:
    """A connection to `path`, as soon as somebody listens there."""
    while True:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
        else:
            return client


@contextmanager
def running(
    command: list[str], path: Path, environment: dict[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`command` as a process that listens at `path`, ended afterwards; `log` gets what it logs, where that is much."""
    path.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
    with ExitStack() as stack:
        stderr = stack.enter_context(log.open("wb")) if log is not None else None
        process = subprocess.Popen(command, env=environment, stderr=stderr)
    try:
        connect(path, time.monotonic() + START_SECONDS).close()
        yield process
    finally:
        process.terminate()
        process.wait(timeout=20)


def stsguard(config: Path) -> list[str]:
    """The command of the daemon."""
    return [sys.executable, "-m", "stsguard", "outbound", "--config", str(config)]


def cpu_seconds(process: "subprocess.Popen[bytes]") -> float:
    """User and system time of all threads of a process so far, in steps of a nanosecond.

    `/proc/PID/stat` counts clock ticks, of which a short run may not use one.
    """
    # The clock id of a process as clock_getcpuclockid(3) makes it on Linux: Python offers that for threads alone.
    return time.clock_gettime(~process.pid << 3 | 2)


def settle(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a daemon that has just started has nothing left to do, though not for ever."""
    deadline = time.monotonic() + SETTLE_SECONDS
    before = 0.0
    while (now := cpu_seconds(process)) - before > IDLE_SECONDS and time.monotonic() < deadline:
        before = now
        time.sleep(0.4)
