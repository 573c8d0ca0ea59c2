"""A daemon that follows a mail log which a test writes: killed, started again, and looked at through its database."""

import asyncio
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import dns.message

from tests.integration.test_outbound_process import LIMIT_SECONDS, Daemon, write
from tests.lab.nameserver import Nameserver, zone

ESTABLISHED = """\
{at} mta postfix/smtp[{pid}]: Trusted TLS connection established to mx.example.com[192.0.2.25]:25: TLSv1.3 with cipher X
"""
DELIVERED = """\
{at} mta postfix/smtp[{pid}]: 4D40D1EC: to=<user@{domain}>, relay=mx.example.com[192.0.2.25]:25, delay=0.4, \
delays=0.1/0.1/0.1/0.1, dsn=2.0.0, status=sent (250 2.0.0 Ok)
"""
LINES = ESTABLISHED + DELIVERED
ANSWERS = zone("example.com. 300 IN MX 1 mx.example.com.", "mx.example.com. 300 IN A 192.0.2.25")


class LogSite:
    """A log, a daemon that follows it, and a nameserver that says nothing of MX hosts before `answering`.

    `store_url` is where several have their database together, and `node` the host name that the daemon finds itself on.
    """

    def __init__(self, directory: Path, *, store_url: str | None = None, node: str | None = None) -> None:
        self.directory = directory
        self.mail_log = directory / "mail.log"
        self.mail_log.touch()
        self.answering = False
        self.nameserver = Nameserver(self._answer)
        self.processes: list[subprocess.Popen[bytes]] = []
        self._store = {"url": store_url} if store_url else {}
        self._node = node

    def _answer(self, query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        silent = not self.answering and "example.com" in query.question[0].name.to_text()
        return [] if silent else ANSWERS(query, over_tcp)

    def write(self, lines: str, first: int, last: int, domain: str = "example.com") -> None:
        """Write these lines once for each process id."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self.mail_log.open("a") as log:
            log.writelines(lines.format(at=now, pid=pid, domain=domain) for pid in range(first, last + 1))

    def deliver(self, first: int, last: int, domain: str = "example.com") -> None:
        """Whole deliveries, one for each process id."""
        self.write(LINES, first, last, domain)

    def start(self) -> Daemon:
        """The next daemon."""
        write(
            self.directory,
            dns={"nameservers": ["{}:{}".format(*self.nameserver.address)], "timeout": "30s"},
            sessions={"mail_log": str(self.mail_log), "tlsrpt_socket": str(self.directory / "tlsrpt.sock")},
            store=self._store,
        )
        running = Daemon(self.directory, before=_on_node(self._node) if self._node else ())
        self.processes.append(running.process)
        return running

    def kill(self) -> None:
        """`kill -9` of the last one."""
        self.processes[-1].send_signal(signal.SIGKILL)
        assert self.processes[-1].wait(LIMIT_SECONDS) == -signal.SIGKILL

    def stored(self, query: str) -> list[str]:
        """The first column of what SQLite has."""
        try:
            with closing(sqlite3.connect(f"file:{self.directory}/stsguard.db?mode=ro", uri=True)) as connection:
                return [str(row[0]) for row in connection.execute(query)]
        except sqlite3.OperationalError:  # not made yet
            return []

    def follows(self) -> bool:
        """Whether the log is read; a session of a domain without MX hosts shows it, and counts for nothing."""
        self.deliver(99, 99, "nowhere.example")
        return bool(self.stored("SELECT log FROM log_positions"))

    def waiting(self) -> int:
        """How many sessions wait for their MX hosts."""
        texts = self.stored("SELECT position FROM log_positions WHERE log LIKE 'waiting:%'")
        return sum(len(text.splitlines()) for text in texts)

    def counted(self) -> int:
        """How many sessions are counted."""
        return sum(map(int, self.stored("SELECT successes FROM session_counters")))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for it."""
        limit = time.monotonic() + LIMIT_SECONDS
        while not holds():
            assert time.monotonic() < limit, (self.directory / "log").read_text()
            await asyncio.sleep(0.02)


def _on_node(node: str) -> tuple[str, ...]:
    """A command's beginning that gives it this host name, in a namespace of its own."""
    return ("unshare", "--uts", "sh", "-c", f'echo {node} > /proc/sys/kernel/hostname && exec "$@"', "sh")


@asynccontextmanager
async def log_site(directory: Path, *, store_url: str | None = None, node: str | None = None) -> AsyncIterator[LogSite]:
    """A site whose daemons are gone at the end."""
    site = LogSite(directory, store_url=store_url, node=node)
    async with site.nameserver:
        try:
            yield site
        finally:
            for process in site.processes:
                process.kill()
                process.wait()
