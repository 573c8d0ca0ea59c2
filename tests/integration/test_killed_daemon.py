"""`kill -9` of the daemon while a mail log is read: the next one goes on there, and loses and doubles no session."""

import asyncio
import json
import subprocess
from pathlib import Path

from tests.integration.log_site import DELIVERED, ESTABLISHED, LogSite, log_site
from tests.integration.test_outbound_process import LIMIT_SECONDS, STSGUARD


async def test_sessions_whose_mx_hosts_are_not_known_yet_outlive_kill_9(tmp_path: Path) -> None:
    async with log_site(tmp_path) as site:
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


async def test_deliveries_under_way_outlive_kill_9(tmp_path: Path) -> None:
    async with log_site(tmp_path) as site:
        site.answering = True
        site.start()
        await site.until(site.follows)
        site.deliver(1, 2)
        site.write(ESTABLISHED, 3, 5)
        await site.until(lambda: site.counted() == 2 and _under_way(site) == [3, 4, 5])
        site.kill()

        site.write(DELIVERED, 3, 3)  # while nobody reads
        site.start()
        await site.until(lambda: site.counted() == 3 and _under_way(site) == [4, 5])
        site.kill()

        site.start()
        site.write(DELIVERED, 4, 5)
        site.deliver(6, 6)
        await site.until(lambda: site.counted() >= 6)
        assert _under_way(site) == []
        assert await asyncio.to_thread(_reported, tmp_path) == 6


def _under_way(site: LogSite) -> list[int]:
    """The processes of which the store knows that they are in a connection."""
    [memory] = site.stored("SELECT position FROM log_positions WHERE log = 'memory:postfix'")
    return [process_id for process_id, process in json.loads(memory)["processes"] if process["attempts"]]


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
