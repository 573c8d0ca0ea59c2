"""A site for `stsguard domain`: a database, a nameserver, and a Policy Host of before, all on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from stsguard.app.database_work import opened_stores
from stsguard.cli.main import main
from stsguard.store.stores import Stores
from tests.lab.ca import ThrowAwayCA
from tests.lab.fetching import response
from tests.lab.https_server import HttpsServer, say
from tests.lab.nameserver import Nameserver, zone

NAME = "a.example"
ENFORCING = b"version: STSv1\r\nmode: enforce\r\nmx: mx1.a.example\r\nmx: *.old.example\r\nmax_age: 604800\r\n"
MX = ("a.example. 300 IN MX 10 mx1.a.example.", "a.example. 300 IN MX 20 mx2.a.example.")
RECORD = '_mta-sts.a.example. 600 IN TXT "v=STSv1; id=20200101000000;"'
HOST = "mta-sts.a.example. 60 IN A 127.0.0.1"


@dataclass(slots=True)
class Site:
    """The site; `publish` replaces what DNS has."""

    directory: Path
    nameserver: Nameserver
    config: Path
    more: list[str] = field(default_factory=list)

    def publish(self, *records: str) -> None:
        """Have exactly these records in DNS."""
        self.nameserver.handler = zone(*records)

    async def run(self, *arguments: str) -> Result:
        """`stsguard domain …`."""
        command = ["domain", arguments[0], "--config", str(self.config), *arguments[1:]]
        return await asyncio.to_thread(lambda: CliRunner().invoke(main, command))

    async def ok(self, *arguments: str) -> str:
        """What the command prints, which has to succeed."""
        done = await self.run(*arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    async def json(self, *arguments: str) -> Any:
        """The same as data."""
        return json.loads(await self.ok(*arguments, "--json"))

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Stores]:
        """The stores of its database."""
        async with opened_stores(f"sqlite:///{self.directory}/stsguard.db") as stores:
            yield stores


@asynccontextmanager
async def hosting_site(directory: Path, *records: str, policy: bytes | None = None) -> AsyncIterator[Site]:
    """A site whose DNS has `records`; with `policy` the Policy Host of a.example serves it."""
    ca = ThrowAwayCA(directory)
    async with AsyncExitStack() as stack:
        nameserver = await stack.enter_async_context(Nameserver(zone(*records)))
        port = 1
        if policy is not None:
            context = ca.issue([f"mta-sts.{NAME}"]).server_context()
            server = await stack.enter_async_context(HttpsServer(say(response(policy)), context))
            port = server.port
        config = directory / "stsguard.toml"
        host, dns_port = nameserver.address
        config.write_text(
            f'[store]\nurl = "sqlite:///{directory}/stsguard.db"\n'
            f'[dns]\nnameservers = ["{host}:{dns_port}"]\ntimeout = "5s"\n'
            f'[network]\nca_file = "{ca.ca_file}"\nallow_private_addresses = true\n'
            f'[policy_fetch]\nport = {port}\ntimeout = "5s"\nwait = "5s"\n'
        )
        yield Site(directory, nameserver, config)
