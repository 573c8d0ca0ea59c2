"""The processes that serve policies beside the daemon, where [policy_host] workers says more than one.

The daemon opens the sockets and starts each worker with them, kept and started again when one dies. A worker reads the
configuration that the daemon has from its standard input, whose end tells it that the daemon is gone; once a second it
writes to its standard output how it does and what it has counted since. It reads policies from the database by itself.
"""

import asyncio
import json
import logging
import pickle
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from stsguard.app.policy_serving import Listeners
from stsguard.config.model import Config
from stsguard.core.errors import OurFault
from stsguard.discovery.health import PartHealth, PartState
from stsguard.log import logger, outcome
from stsguard.metrics import Counter, all_metrics

log = logger(__name__)
ended = Counter("policy_workers_ended_total", "Processes that served policies and ended by themselves.")

RESTART_SECONDS = 1.0
STOP_SECONDS = 15.0
MAX_LINE_BYTES = 1_048_576
COMMAND = (sys.executable, "-m", "stsguard.app.policy_worker")
# A worker's report, as JSON has it: this is the JSON edge.
Report = dict[str, Any]


class Growth:
    """What the counters of this process have grown by since it was last asked."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, tuple[str, ...]], int] = {}

    def take(self) -> list[tuple[str, tuple[str, ...], int]]:
        """Name, label values and growth of each counter that has grown."""
        return list(self._take())

    def _take(self) -> Iterator[tuple[str, tuple[str, ...], int]]:
        for counter in all_metrics():
            if isinstance(counter, Counter):
                for labels, value in counter.values.items():
                    grown = value - self._told.get((counter.name, labels), 0)
                    if grown:
                        self._told[counter.name, labels] = value
                        yield counter.name, labels, grown


def add_growth(growth: list[tuple[str, list[str], int]]) -> None:
    """Count here what another process has counted, in the counters of the same names."""
    counters = {counter.name: counter for counter in all_metrics() if isinstance(counter, Counter)}
    for name, labels, grown in growth:
        if name in counters:
            counters[name].inc(*labels, by=grown)


class PolicyWorkers:
    """`config.policy_host.workers` processes that answer at `listeners`."""

    def __init__(self, config: Config, listeners: Listeners) -> None:
        self._config = config
        self._listeners = listeners
        self._reports: dict[int, Report | None] = dict.fromkeys(range(config.policy_host.workers))
        self.reported = asyncio.Event()

    async def run(self) -> None:
        """Keep them all running until cancelled, and then have them end."""
        async with asyncio.TaskGroup() as group:
            for number in self._reports:
                group.create_task(self._keep(number))

    async def _keep(self, number: int) -> None:
        while True:
            worker = await self._start()
            try:
                await self._listen_to(number, worker)
                status = await worker.wait()
            finally:
                self._reports[number] = None
                await _stop(worker)
            ended.inc()
            outcome(log, logging.ERROR, "a process that serves policies has ended, starting it again", status=status)
            await asyncio.sleep(RESTART_SECONDS)

    async def _start(self) -> asyncio.subprocess.Process:
        https = [sock.fileno() for sock in self._listeners.https]
        http = [sock.fileno() for sock in self._listeners.http]
        arguments = (",".join(map(str, https)), ",".join(map(str, http)))
        worker = await asyncio.create_subprocess_exec(
            *COMMAND,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[*https, *http],
            limit=MAX_LINE_BYTES,
        )
        assert worker.stdin is not None  # noqa: S101 (it is a pipe)
        with suppress(ConnectionError):  # it has ended already, which is seen at once
            worker.stdin.write(len(octets := pickle.dumps(self._config)).to_bytes(4, "big") + octets)
            await worker.stdin.drain()
        return worker

    async def _listen_to(self, number: int, worker: asyncio.subprocess.Process) -> None:
        assert worker.stdout is not None  # noqa: S101 (it is a pipe)
        async for line in worker.stdout:
            report: Report = json.loads(line)
            add_growth(report.pop("growth"))
            self._reports[number] = report
            if all(self._reports.values()):
                self.reported.set()

    @property
    def pids(self) -> list[int]:
        """The processes that serve now."""
        return [report["pid"] for report in self._reports.values() if report]

    @property
    def connections(self) -> int:
        """Connections open in all of them, as they last said."""
        return sum(report["connections"] for report in self._reports.values() if report)

    def health(self) -> PartHealth:
        """Whether all of them serve what is stored."""
        running = [report for report in self._reports.values() if report]
        problem = next((report["problem"] for report in running if report["problem"]), None)
        detail = f"{len(running)} of {len(self._reports)} processes serve"
        if problem is not None or not running:
            return PartHealth(PartState.FAILED, detail + (f": {problem}" if problem else ""))
        return PartHealth(PartState.OK if len(running) == len(self._reports) else PartState.LIMITED, detail)


async def _stop(worker: asyncio.subprocess.Process) -> None:
    """Have it end after the requests under way; one that does not is killed."""
    if worker.returncode is not None:
        return
    assert worker.stdin is not None  # noqa: S101 (it is a pipe)
    worker.stdin.close()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await worker.wait()
    except TimeoutError:
        worker.kill()
        await worker.wait()


def read_config(octets: bytes) -> Config:
    """The configuration that the daemon sent.

    Raises:
        OurFault: it is none.
    """
    config = pickle.loads(octets)  # noqa: S301 (from the daemon that started this process)
    if not isinstance(config, Config):
        raise OurFault("no configuration from stsguard inbound")
    return config
