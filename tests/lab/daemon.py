"""`stsguard outbound` in the lab: configured for it, started, asked, stopped, killed, started again."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.lab.namespace import LAB, LIMIT_SECONDS, NETWORKS, LabFailed, Namespace, Program
from tests.lab.zones import BOGUS_NAME

EXECUTABLE = Path(sys.executable).with_name("stsguard")
ASK_LIMIT_SECONDS = 60.0
STORE_SEEN = ("store is read", "store can't be read, serving without it")  # the daemon's own words
LOG_SHOWN = 1_500  # characters of its log in an error message

Value = str | int | bool | list[str]
Settings = Mapping[str, Mapping[str, Value]]
Sessions = Sequence[Mapping[str, str]]


class Stsguard:
    """One daemon with configuration, store and sockets of its own; the store outlives `stop`, `kill` and `start`."""

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        *,
        port: int,
        queues: Sequence[Path],
        ca_file: Path,
        overrides: str = "",
        settings: Settings | None = None,
        sessions: Sessions = (),
        label: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Describe it; nothing runs before `start`.

        Args:
            name: names its directory, and its socket in each of `queues`.
            port: of 127.0.0.1, where it answers as well.
            queues: Postfix queue directories; a chrooted smtp(8) sees `stsguard/NAME.sock` in its own.
            ca_file: what it trusts, inside the lab.
            overrides: the text of the override file.
            settings: more configuration by section; it wins.
            sessions: its [[sessions]]; without any it hears of none.
            label: names its directory as well, where others of its name serve other queues.
            environment: more variables; may be changed between two starts.
        """
        self._namespace = namespace
        self.name = name
        self.port = port
        self.directory = LAB / f"stsguard-{label}{name}"
        self._sockets = [queue / "stsguard" / f"{name}.sock" for queue in queues]
        self._ca_file = ca_file
        self._overrides = overrides
        self._settings = settings or {}
        # Without a path of its own it would take the default, which belongs to this system's Postfix.
        self._sessions = sessions or ({"tlsrpt_socket": str(self.directory / "tlsrpt.sock")},)
        self.environment = dict(environment or {})
        self._program: Program | None = None

    @property
    def config_file(self) -> Path:
        """Its configuration file, inside the lab."""
        return self.directory / "stsguard.toml"

    @property
    def database(self) -> Path:
        """Its database, inside the lab."""
        return self.directory / "stsguard.db"

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._program is not None and self._program.running

    async def start(self) -> None:
        """Start it and return when all its sockets accept connections and it has looked at its store.

        Raises:
            LabFailed: it ended instead, or took too long; the message holds its log.
        """
        outside = self._namespace.outside(self.directory)
        outside.mkdir(exist_ok=True)
        self._namespace.outside(self.config_file).write_text(toml(self._configuration(), self._sessions))
        (outside / "overrides.toml").write_text(self._overrides)
        before = len(self.log())
        with (outside / "log").open("ab") as log:
            command = [str(EXECUTABLE), "outbound", "--config", str(self.config_file)]
            spawn = partial(self._namespace.spawn, command, log, environment=self.environment)
            self._program = await asyncio.to_thread(spawn)
        limit = time.monotonic() + LIMIT_SECONDS
        while not (await self._listens() and any(text in self.log()[before:] for text in STORE_SEEN)):
            if not self.running:
                raise LabFailed(
                    f"stsguard {self.name} has ended with {self._program.exit_status}:\n{self.log()[-LOG_SHOWN:]}"
                )
            if time.monotonic() > limit:
                raise LabFailed(f"stsguard {self.name} does not listen:\n{self.log()[-LOG_SHOWN:]}")
            await asyncio.sleep(0.02)

    async def stop(self) -> int:
        """End it in order and return its exit status."""
        return await self._end(Program.stop)

    async def kill(self) -> None:
        """End it as `kill -9` does."""
        await self._end(Program.kill)

    async def lookup(self, key: str, map_name: str = "policy") -> str:
        """Its reply to `key`, as Postfix would get it.

        Raises:
            LabFailed: no reply.
        """
        try:
            async with asyncio.timeout(ASK_LIMIT_SECONDS):
                [reply] = await self._ask([key], map_name)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as exc:
            raise LabFailed(f"stsguard {self.name} does not answer: {exc!r}\n{self.log()[-LOG_SHOWN:]}") from exc
        return reply

    async def flood(self, keys: Sequence[str]) -> None:
        """Ask for all these keys at once, and wait for all replies."""
        async with asyncio.timeout(ASK_LIMIT_SECONDS):
            await self._ask(keys, "policy")

    async def ask_admin(self, path: str) -> dict[str, Any]:
        """What its admin socket answers to a GET.

        Raises:
            LabFailed: it is no JSON object.
        """
        socket = self._namespace.outside(self.directory / "admin.sock")
        async with asyncio.timeout(ASK_LIMIT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
            answer = (await reader.read()).decode()
            writer.close()
        found = json.loads(answer.partition("\r\n\r\n")[2] or "null")
        if not isinstance(found, dict):
            raise LabFailed(f"GET {path}: {answer[:LOG_SHOWN]}")
        return found

    async def command(self, *arguments: str) -> CompletedProcess[str]:
        """`stsguard ARGUMENTS…` with this daemon's configuration."""
        command = [str(EXECUTABLE), "--config", str(self.config_file), *arguments]
        return await asyncio.to_thread(self._namespace.run, command, check=False)

    def log(self) -> str:
        """Its log so far, over all starts."""
        file = self._namespace.outside(self.directory / "log")
        return file.read_text(errors="replace") if file.exists() else ""

    async def _end(self, how: Callable[[Program], None]) -> int:
        if self._program is None:
            return 0
        program, self._program = self._program, None
        await asyncio.to_thread(how, program)
        return program.wait()

    async def _ask(self, keys: Sequence[str], map_name: str) -> list[str]:
        # A connection each time: replies come in the order of the requests, so a slow one would delay others.
        requests = [f"{map_name} {key}".encode() for key in keys]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"".join(b"%d:%s," % (len(request), request) for request in requests))
            replies = []
            for _ in requests:
                length = int((await reader.readuntil(b":"))[:-1])
                replies.append((await reader.readexactly(length + 1))[:-1].decode("utf-8", "replace"))
            return replies
        finally:
            writer.close()

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.close()
            for socket in self._sockets:
                _, writer = await asyncio.open_unix_connection(self._namespace.outside(socket))
                writer.close()
        except OSError:
            return False
        return True

    def _configuration(self) -> dict[str, dict[str, Value]]:
        configuration: dict[str, dict[str, Value]] = {
            "store": {"url": f"sqlite:///{self.database}"},
            "dns": {"nameservers": ["127.0.0.1:53"], "bogus_name": BOGUS_NAME},
            "network": {"ca_file": str(self._ca_file), "allow_private_addresses": [str(net) for net in NETWORKS]},
            "lookup": {
                "listen": [f"inet:127.0.0.1:{self.port}", *(f"unix:{socket}" for socket in self._sockets)],
                "overrides": str(self.directory / "overrides.toml"),
                "postfix_dane": "yes",
            },
            "verification": {"interval": "1m", "helo": "mta.sender.test"},
            "admin": {"listen": f"unix:{self.directory}/admin.sock"},
            "log": {"level": "debug"},
        }
        for section, values in self._settings.items():
            configuration.setdefault(section, {}).update(values)
        return configuration


def toml(configuration: Settings, sessions: Sessions = ()) -> str:
    """A configuration file of stsguard's."""
    # A JSON string, number, boolean or list of strings is the same in TOML.
    lines = []
    sections: list[tuple[str, Mapping[str, Value]]] = [(f"[{name}]", values) for name, values in configuration.items()]
    sections += [("[[sessions]]", values) for values in sessions]
    for heading, values in sections:
        lines.append(heading)
        lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"
