"""`kill -9` of the daemon while a mail log is read: the next one goes on there, and loses and doubles no session."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import dns.message

from tests.integration.test_outbound_process import LIMIT_SECONDS, STSGUARD, Daemon, write
from tests.lab.nameserver import Nameserver, zone

LINES = """\
{at} mta postfix/smtp[{pid}]: Trusted TLS connection established to mx.example.com[192.0.2.25]:25: TLSv1.3 with cipher X
{at} mta postfix/smtp[{pid}]: 4D40D1EC: to=<user@{domain}>, relay=mx.example.com[192.0.2.25]:25, delay=0.4, \
delays=0.1/0.1/0.1/0.1, dsn=2.0.0, status=sent (250 2.0.0 Ok)
"""
ANSWERS = zone("example.com. 300 IN MX 1 mx.example.com.", "mx.example.com. 300 IN A 192.0.2.25")


class _Site:
    """A log, a daemon that follows it, and a nameserver that says nothing of MX hosts before `answering`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mail_log = directory / "mail.log"
        self.mail_log.touch()
        self.answering = False
        self.nameserver = Nameserver(self._answer)
        self.processes: list[subprocess.Popen[bytes]] = []

    def _answer(self, query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        silent = not self.answering and "example.com" in query.question[0].name.to_text()
        return [] if silent else ANSWERS(query, over_tcp)

    def deliver(self, first: int, last: int, domain: str = "example.com") -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self.mail_log.open("a") as log:
            log.writelines(LINES.format(at=now, pid=pid, domain=domain) for pid in range(first, last + 1))

    def start(self) -> Daemon:
        write(
            self.directory,
            dns={"nameservers": ["{}:{}".format(*self.nameserver.address)], "timeout": "30s"},
            sessions={"mail_log": str(self.mail_log), "tlsrpt_socket": str(self.directory / "tlsrpt.sock")},
        )
        running = Daemon(self.directory)
        self.processes.append(running.process)
        return running

    def kill(self) -> None:
        self.processes[-1].send_signal(signal.SIGKILL)
        assert self.processes[-1].wait(LIMIT_SECONDS) == -signal.SIGKILL

    def stored(self, query: str) -> list[str]:
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
        texts = self.stored("SELECT position FROM log_positions WHERE log LIKE 'waiting:%'")
        return sum(len(text.splitlines()) for text in texts)

    def counted(self) -> int:
        return sum(map(int, self.stored("SELECT successes FROM session_counters")))

    async def until(self, holds: Callable[[], bool]) -> None:
        limit = time.monotonic() + LIMIT_SECONDS
        while not holds():
            assert time.monotonic() < limit, (self.directory / "log").read_text()
            await asyncio.sleep(0.02)


async def test_sessions_whose_mx_hosts_are_not_known_yet_outlive_kill_9(tmp_path: Path) -> None:
    site = _Site(tmp_path)
    async with site.nameserver:
        try:
            site.start()
            await site.until(site.follows)
            site.deliver(1, 3)
            await site.until(lambda: site.waiting() == 3)
            assert len(site.stored("SELECT log FROM log_positions WHERE log = 'log:postfix'")) == 1
            site.kill()

            site.deliver(4, 5)  # while nobody reads
            site.start()
            await site.until(lambda: site.waiting() == 5)
            site.kill()

            site.answering = True
            site.start()
            await site.until(lambda: site.counted() == 5)
            assert site.waiting() == 0
            site.kill()  # with nothing that waits

            site.deliver(6, 6)
            site.start()
            await site.until(lambda: site.counted() >= 6)
            assert await asyncio.to_thread(_reported, tmp_path) == 6
        finally:
            for process in site.processes:
                process.kill()
                process.wait()


def _reported(directory: Path) -> int:
    """What the day's report says of example.com."""
    output = directory / "reports"
    output.mkdir()
    arguments = ["--config", str(directory / "stsguard.toml"), "--state-dir", str(directory)]
    command = [STSGUARD, "report", "build", "--day", "today", "--domain", "example.com", "--output", output, *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_SECONDS)
    [report] = output.iterdir()
    [policy] = json.loads(report.read_text())["policies"]
    return int(policy["summary"]["total-successful-session-count"])
