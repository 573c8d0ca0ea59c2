"""`stsguard milter` in the lab, and mail handed to a Postfix that asks it."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stsguard.core.arrival import SpoolEntry
from stsguard.inbound.spool import Spool
from tests.lab.daemon import EXECUTABLE, LOG_SHOWN, Value, toml
from tests.lab.namespace import LAB, LIMIT_SECONDS, LabFailed, Namespace, Program

ADDRESS = "tlsrpt@reports.test"
SAID = "is Postfix's milter"
_QUEUED = re.compile(r"queued as (\w+)")


def milters(at: int | str, default_action: str = "accept") -> str:
    """smtpd_milters for a milter at this port, or unix socket, as docs/received.md has it."""
    where = f"inet:127.0.0.1:{at}" if isinstance(at, int) else at
    timeouts = "connect_timeout=1s, command_timeout=2s, content_timeout=20s"
    return f"{{ {where}, {timeouts}, default_action={default_action} }}"


def smtpd(address: str, port: int, setting: str) -> str:
    """A line for master.cf: one more smtpd(8), with smtpd_milters of its own."""
    return f"{address}:{port} inet n - n - - smtpd\n  -o {{ smtpd_milters = {setting} }}\n"


class Milter:
    """One milter with configuration and spool of its own; the spool outlives `kill` and `start`."""

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        at: int | str,
        settings: Mapping[str, Mapping[str, Value]] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._namespace = namespace
        self.name = name
        self.socket = f"inet:127.0.0.1:{at}" if isinstance(at, int) else at
        self.directory = LAB / f"milter-{name}"
        self._settings = settings or {}
        self._environment = dict(environment or {})
        self._program: Program | None = None

    @property
    def spool(self) -> Spool:
        """Its spool, as this process reaches it."""
        return Spool(self._namespace.outside(self.directory / "spool"))

    async def start(self) -> None:
        """Start it, and return when it listens."""
        outside = self._namespace.outside(self.directory)
        outside.mkdir(exist_ok=True)
        configuration: dict[str, dict[str, Value]] = {
            "dns": {"nameservers": ["127.0.0.1:53"], "timeout": "2s"},
            "intake": {"addresses": [ADDRESS], "spool": str(self.directory / "spool")},
            "milter": {"socket": self.socket},
            "admin": {"listen": f"unix:{self.directory}/no-daemon.sock"},
        }
        for section, values in self._settings.items():
            configuration.setdefault(section, {}).update(values)
        (outside / "stsguard.toml").write_text(toml(configuration))
        before = len(self.log())
        with (outside / "log").open("ab") as log:
            command = [str(EXECUTABLE), "milter", "--config", str(self.directory / "stsguard.toml")]
            spawn = partial(self._namespace.spawn, command, log, environment=self._environment)
            self._program = await asyncio.to_thread(spawn)
        limit = time.monotonic() + LIMIT_SECONDS
        while SAID not in self.log()[before:]:
            if not self._program.running or time.monotonic() > limit:
                raise LabFailed(f"the milter {self.name} does not start:\n{self.log()[-LOG_SHOWN:]}")
            await asyncio.sleep(0.01)

    def pause(self) -> None:
        """Have it hang."""
        assert self._program is not None
        self._program.pause()

    def resume(self) -> None:
        """Let it go on."""
        assert self._program is not None
        self._program.resume()

    async def stop(self) -> int:
        """End it in order; its exit status."""
        assert self._program is not None
        await asyncio.to_thread(self._program.stop)
        return self._program.wait()

    async def kill(self) -> None:
        """End it as kill -9 does."""
        assert self._program is not None
        await asyncio.to_thread(self._program.kill)

    def log(self) -> str:
        """Its log so far."""
        file = self._namespace.outside(self.directory / "log")
        return file.read_text() if file.exists() else ""

    def spooled(self) -> list[SpoolEntry]:
        """What lies in its spool."""
        with self.spool.reading() as reader:
            entries = [reader.load(name) for name in reader.pending(100_000)]
        return [entry for entry in entries if entry is not None]


@dataclass(frozen=True, slots=True)
class Handed:
    """What came of a mail: Postfix's last reply, how long the session took, its queue id or nothing."""

    reply: str
    seconds: float

    @property
    def queue_id(self) -> str:
        """By which Postfix has it."""
        found = _QUEUED.search(self.reply)
        return found[1] if found else ""


async def hand_in(
    host: str, port: int, recipients: Sequence[str], message: bytes, *, stop_before_data: bool = False
) -> Handed:
    """Hand a message, with CRLF at its lines' ends, to Postfix. A reply other than 2xx or 3xx ends it.

    Raises:
        OSError, EOFError: the connection is lost.
    """
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        reply = await _reply(reader)
        content = re.sub(rb"(?m)^\.", b"..", message) + b".\r\n"
        commands = [b"EHLO client.test\r\n", b"MAIL FROM:<>\r\n"]
        commands += [f"RCPT TO:<{recipient}>\r\n".encode() for recipient in recipients]
        commands += [] if stop_before_data else [b"DATA\r\n", content]
        for command in commands:
            if not reply.startswith(("2", "3")):
                break
            writer.write(command)
            reply = await _reply(reader)
        if reply.startswith("2"):
            writer.write(b"QUIT\r\n")
            await _reply(reader)
        return Handed(reply.strip(), time.monotonic() - begun)
    finally:
        writer.close()


async def _reply(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(LIMIT_SECONDS):
        lines = [(await reader.readline()).decode()]
        while lines[-1][3:4] == "-":
            lines.append((await reader.readline()).decode())
        if not lines[-1]:
            raise EOFError("Postfix has closed the connection")
        return "".join(lines)


def spool_path(milter: Milter, namespace: Namespace) -> Path:
    """The spool's directory, as this process reaches it."""
    return namespace.outside(milter.directory / "spool")
