"""A site that takes reports in: a configuration in a directory, the keys of senders in a nameserver, the commands."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from stsguard.store.database import open_database
from tests.lab.nameserver import Handler, Nameserver, zone
from tests.report_mail import KEY_NAME, key_record

STSGUARD = Path(sys.executable).with_name("stsguard")
LIMIT_SECONDS = 120.0


def keys() -> Handler:
    """Answers the key of `report_mail.SENDER`."""
    return zone(f'{KEY_NAME}. 300 IN TXT "{key_record()}"')


@contextmanager
def nameserver(handler: Handler) -> Iterator[Nameserver]:
    """A nameserver with an event loop in a thread of its own."""
    loop, server, stop = asyncio.new_event_loop(), Nameserver(handler), asyncio.Event()
    ready = threading.Event()

    async def serve() -> None:
        async with server:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@dataclass(frozen=True, slots=True)
class IntakeSite:
    """One site; all of it is below `directory`."""

    directory: Path
    url: str

    @property
    def options(self) -> list[str]:
        """The options of every command."""
        return ["--config", str(self.directory / "stsguard.toml"), "--state-dir", str(self.directory)]

    @property
    def spool(self) -> Path:
        """Where what came in lies."""
        return self.directory / "spool"

    def ingest(self, *arguments: object, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run `stsguard ingest`."""
        command = [str(STSGUARD), "ingest", *self.options, *map(str, arguments)]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=LIMIT_SECONDS, check=False)

    def take_in(self, *arguments: object, code: int = 0) -> dict[str, Any]:
        """Run it with --json: what became of everything."""
        done = self.ingest("--json", *arguments)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def make_database(self) -> None:
        """Make an empty one."""
        open_database(self.url).close()

    def rows(self, table: Any) -> list[dict[str, Any]]:
        """All rows of a table."""
        database = open_database(self.url)
        try:
            with database.alchemy.scanning() as connection:
                query = select(table).order_by(*table.primary_key.columns)
                return [dict(row._mapping) for row in connection.execute(query)]
        finally:
            database.close()


@contextmanager
def intake_site(
    directory: Path, *, url: str = "", handler: Handler | None = None, **intake: object
) -> Iterator[IntakeSite]:
    """A site whose [intake] has these values."""
    directory.mkdir(exist_ok=True)
    with nameserver(handler or keys()) as server:
        host, port = server.address
        lines = [
            f'[dns]\nnameservers = ["{host}:{port}"]\ndnssec = "no"\ntimeout = "2s"',
            *([f"[store]\nurl = {json.dumps(url)}"] if url else []),
            "[intake]",
            *(f"{key} = {json.dumps(value)}" for key, value in intake.items()),
        ]
        (directory / "stsguard.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield IntakeSite(directory, url or f"sqlite:///{directory}/stsguard.db")


def maildir(directory: Path, mails: list[bytes]) -> Path:
    """A Maildir with these as new."""
    for name in ("cur", "new", "tmp"):
        (directory / name).mkdir(parents=True)
    for number, mail in enumerate(mails):
        (directory / "new" / f"{1772420000 + number}.M{number}.host").write_bytes(mail.replace(b"\r\n", b"\n"))
    return directory
