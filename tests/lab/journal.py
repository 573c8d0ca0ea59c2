"""A real journald of the lab's own, with the `/dev/log` that programs of the lab write to.

Nothing of it is ours: systemd-journald opens its sockets itself where no systemd passes them, and keeps its files in
the lab's own /run, of which `journalctl` reads them as on any machine.
"""

import asyncio
import time
from pathlib import Path

from tests.lab.namespace import LAB, LIMIT_SECONDS, LabFailed, Namespace, Program

PROGRAMS = ("journalctl",)
JOURNALD = Path("/lib/systemd/systemd-journald")
_SOCKET = Path("/run/systemd/journal/dev-log")
# A /dev of its own: that of this system is not to get a /dev/log.
_SET_UP = """
set -e
mkdir -p /run/systemd/journal /run/log/journal /run/lab/dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /run/lab/dev/
ln -s /proc/self/fd /run/lab/dev/fd
ln -s /run/systemd/journal/dev-log /run/lab/dev/log
mount --bind /run/lab/dev /dev
"""


class Journal:
    """The journal of one lab."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._programs: list[Program] = []

    async def start(self) -> None:
        """Start journald, and return when it takes lines.

        Raises:
            LabFailed: it does not start.
        """
        await asyncio.to_thread(self._namespace.run, ["sh", "-c", _SET_UP])
        await self._spawn([str(JOURNALD)], LAB / "journald.log")
        limit = time.monotonic() + LIMIT_SECONDS
        while not self._namespace.outside(_SOCKET).exists():
            if time.monotonic() > limit:
                raise LabFailed(self._namespace.outside(LAB / "journald.log").read_text())
            await asyncio.sleep(0.02)

    async def copy(self, file: Path) -> None:
        """Have journalctl write what programs log of mail to `file` (inside the lab), as syslog would."""
        match = ["--follow", "--no-tail", "--output=short", "SYSLOG_FACILITY=2"]
        await self._spawn(["journalctl", "--quiet", *match], file)

    async def stop(self) -> None:
        """Stop all of it."""
        for program in reversed(self._programs):
            await asyncio.to_thread(program.stop)

    async def _spawn(self, command: list[str], output: Path) -> None:
        with self._namespace.outside(output).open("ab") as file:
            self._programs.append(await asyncio.to_thread(self._namespace.spawn, command, file))
