"""`stsguard milter` as a process: what keeps it from starting, and how it ends."""

import asyncio
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.lookup_client import until

COMMAND = [sys.executable, "-m", "stsguard", "milter"]


def write(directory: Path, text: str) -> Path:
    config = directory / "stsguard.toml"
    config.write_text(text)
    return config


def test_a_socket_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"inet:127.0.0.1:{taken.getsockname()[1]}"
        config = write(tmp_path, f'[milter]\nsocket = "{address}"\n')
        command = [*COMMAND, "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"can't start: can't listen at {address}: another program listens there" in done.stderr


@pytest.mark.parametrize("mode", ["0660", "0666"])
async def test_its_unix_socket_is_for_whom_the_configuration_says(tmp_path: Path, mode: str) -> None:
    path, spool, log = tmp_path / "milter.sock", tmp_path / "spool", tmp_path / "log"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    text = f'[intake]\naddresses = ["a@example.net"]\nspool = "{spool}"\n'
    config = write(tmp_path, f'{text}[milter]\nsocket = "unix:{path}"\nsocket_mode = "{mode}"\nsocket_group = "0"\n')
    with log.open("wb") as output:
        running = await asyncio.create_subprocess_exec(*COMMAND, "--config", str(config), stderr=output)
    await until(lambda: "is Postfix's milter" in log.read_text() or running.returncode is not None)
    assert running.returncode is None, log.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    assert spool.is_dir()
    reader, writer = await asyncio.open_unix_connection(str(path))
    # SMFIC_OPTNEG of version 6, all actions, all steps: it speaks the protocol.
    writer.write(bytes.fromhex("0000000d4f00000006000001ff001fffff"))
    assert (await reader.readexactly(5))[4:] == b"O"
    config.write_text(config.read_text() + "warm = false\n")
    running.send_signal(signal.SIGHUP)
    await until(lambda: "a restart applies it changed=milter.warm" in log.read_text())
    running.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        await reader.read()
        assert await running.wait() == 0
    writer.close()
