"""The milter's client and the admin socket of the outbound daemon: POST /warm, and a daemon that is not well."""

import asyncio
import socket
from pathlib import Path
from threading import Thread

import pytest

from stsguard.adapters import outbound_daemon
from stsguard.adapters.outbound_daemon import OutboundDaemon
from stsguard.core.errors import DaemonSilent
from stsguard.names import Domain
from tests.integration.lookup_client import until
from tests.integration.test_admin import NAME, admin_socket


async def test_domains_are_looked_up_afterwards(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        await asyncio.to_thread(OutboundDaemon(at.path).warm, [NAME, "b.example:587", "[c.example]"])
        await until(lambda: at.world.demands.known(Domain(NAME), 25) is not None)
        await until(lambda: at.world.demands.known(Domain("b.example"), 587) is not None)


@pytest.mark.parametrize("query", ["", "?domains=", "?domains=" + ",".join(["a.example"] * 201)])
async def test_a_bad_request_is_told_why(tmp_path: Path, query: str) -> None:
    async with admin_socket(tmp_path) as at:
        status, content = await at.json(f"/warm{query}", method="POST")
        assert status == 400
        assert "1 to 200 next hops" in content["error"]


async def test_a_daemon_that_refuses(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        with pytest.raises(DaemonSilent, match="status 400"):
            await asyncio.to_thread(OutboundDaemon(at.path).warm, [])


def test_a_daemon_that_is_not_there(tmp_path: Path) -> None:
    for where in (tmp_path / "admin.sock", ("127.0.0.1", 1)):
        with pytest.raises(DaemonSilent, match="no answer from stsguard outbound"):
            OutboundDaemon(where).warm([NAME])


def test_a_daemon_that_hangs_and_one_that_speaks_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound_daemon, "TIMEOUT_SECONDS", 0.2)
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)
        with pytest.raises(DaemonSilent, match="timed out"):
            OutboundDaemon(path).warm([NAME])
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)

        def answer() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(65_536)
                accepted.sendall(b"220 mail.example ESMTP\r\n")

        answering = Thread(target=answer)
        answering.start()
        with pytest.raises(DaemonSilent, match="220 mail"):
            OutboundDaemon(path).warm([NAME])
        answering.join()
