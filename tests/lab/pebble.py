"""A real ACME server, pebble of Debian, on ports of 127.0.0.1: its own CA, its own key authorisation checks."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.lab.ca import ThrowAwayCA

START_SECONDS = 20.0


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


@dataclass
class Pebble:
    """A pebble that is set up; `running` starts it, as often as wanted, with an empty memory each time. `ca_file`
    verifies the ACME server itself, `root` gives what verifies the certificates that it issues."""

    directory: Path
    ca_file: Path
    port: int
    management_port: int
    http_port: int
    tls_port: int
    dns: tuple[str, int]

    @property
    def directory_url(self) -> str:
        return f"https://127.0.0.1:{self.port}/dir"

    @asynccontextmanager
    async def running(self, *, nonce_reject: int = 0, seconds: float = START_SECONDS) -> AsyncIterator[None]:
        """The server, answering, until the end."""
        environment = self.environment(nonce_reject=nonce_reject)
        with (self.directory / "pebble.log").open("ab") as log, self._process(environment, log):
            async with asyncio.timeout(seconds):
                while not await self._answers():  # noqa: ASYNC110 (a process that starts has no event)
                    await asyncio.sleep(0.05)
            yield

    def environment(self, *, nonce_reject: int = 0) -> dict[str, str]:
        """Its variables: no pauses, every authorisation anew."""
        more = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": str(nonce_reject), "PEBBLE_AUTHZREUSE": "0"}
        return {**os.environ, **more}

    def write_config(self, seen_as: Path) -> Path:
        """Write its configuration; the path, where its directory is `seen_as` by the program."""
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management_port}",
            "certificate": str(seen_as / "server.pem"),
            "privateKey": str(seen_as / "server.key"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        }
        (self.directory / "pebble.json").write_text(json.dumps({"pebble": config}))
        return seen_as / "pebble.json"

    async def root(self) -> ssl.SSLContext:
        """A client's context that trusts what this pebble issues."""
        async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(self.ca_file))) as client:
            answer = await client.get(f"https://127.0.0.1:{self.management_port}/roots/0")
        return ssl.create_default_context(cadata=answer.text)

    async def _answers(self) -> bool:
        try:
            await self.root()
        except httpx.TransportError:
            return False
        return True

    @contextmanager
    def _process(self, environment: dict[str, str], log: IO[bytes]) -> Iterator[None]:
        path = self.write_config(self.directory)
        command = ["pebble", "-config", str(path), "-dnsserver", f"{self.dns[0]}:{self.dns[1]}"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def set_up_pebble(directory: Path, dns: tuple[str, int], *, http_port: int, tls_port: int) -> Pebble:
    """A pebble that asks `dns` for names and connects to these ports."""
    if shutil.which("pebble") is None:
        pytest.skip("pebble is not installed")
    ca = ThrowAwayCA(directory / "acme-server-ca")
    issued = ca.issue(["localhost"], addresses=[IPv4Address("127.0.0.1")])
    shutil.copy(issued.chain_file, directory / "server.pem")
    shutil.copy(issued.key_file, directory / "server.key")
    return Pebble(directory, ca.ca_file, free_port(), free_port(), http_port, tls_port, dns)
