"""Postfix's message rate with the milter and without, in turns, on one Postfix with two smtpd(8) services.

The Postfix of this machine runs with queue and log of its own in a network of its own. smtp-source(1) and smtp-sink(1),
which come with it, send short mails over a connection each, as most mail comes, and take them. A run lasts from the
first mail to the last that is delivered. All of it shares the cores; the queue is in memory, so that no disk hides what
the milter costs.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab.milter import Milter, milters, smtpd
from tests.lab.namespace import LAB, LIMIT_SECONDS, LabFailed, Namespace, Program
from tests.lab.postfix import SYSTEM_ROOT, Postfix

from bench.results import Result, note, ratio

ADDRESS = "127.0.1.1"
PORTS = {"without": 2501, "with": 2502}
SOCKET = LAB / "bench/queue/stsguard/milter.sock"
SINK_PORT = 2600
SESSIONS = 10
SIZE = 4000
PROGRAMS = ("postfix", "smtp-source", "smtp-sink", "unshare", "nsenter", "ip")


def main(*, smoke: bool = False) -> None:
    """Run it, where there is a Postfix and this is root."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None]
    if lacking or os.geteuid() != 0:
        print(f"milter: left out, {', '.join(lacking) or 'root'} needed")
        return
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as queue,
        Namespace() as namespace,
        ThreadPoolExecutor(1) as executor,
    ):
        namespace.run(["mkdir", LAB / "bench"])
        namespace.run(["mount", "--bind", queue, LAB / "bench"])
        Path(queue).chmod(0o755)
        # A thread of its own joins the network, and nothing that runs after this bench.
        executor.submit(_run, namespace, smoke).result()


def _run(namespace: Namespace, smoke: bool) -> None:
    namespace.join_network()
    asyncio.run(_measure(namespace, messages=50 if smoke else 3000, repeats=1 if smoke else 7))


async def _measure(namespace: Namespace, *, messages: int, repeats: int) -> None:
    postfix = Postfix(
        namespace,
        "bench",
        SYSTEM_ROOT,
        address=ADDRESS,
        policy_map="",
        ca_file=Path("/nowhere.pem"),
        settings={
            "default_transport": f"smtp:[{ADDRESS}]:{SINK_PORT}",
            "transport_maps": "",
            "smtp_tls_security_level": "none",
            "smtpd_client_connection_count_limit": "0",
        },
        services=smtpd(ADDRESS, PORTS["without"], "") + smtpd(ADDRESS, PORTS["with"], milters(f"unix:{SOCKET}")),
    )
    # As for a chrooted smtpd(8): a socket below the queue directory.
    milter = Milter(namespace, "bench", f"unix:{SOCKET}", {"milter": {"socket_mode": "0666"}})
    await postfix.start()
    await milter.start()
    sink = _sink(namespace)
    try:
        for which in PORTS:
            await _rate(namespace, postfix, which, min(messages, 200))  # processes are started
        rates: dict[str, list[float]] = {which: [] for which in PORTS}
        for turn in range(repeats):
            for which in PORTS if turn % 2 else reversed(PORTS):
                rates[which].append(await _rate(namespace, postfix, which, messages))
    finally:
        sink.stop()
        await milter.stop()
        await postfix.stop()
    pairs = list(zip(rates["with"], rates["without"], strict=True))
    middle = sorted(pairs)[len(pairs) // 2]
    figures = f"{middle[0]:.0f} to {middle[1]:.0f} messages/s, n={messages}, {repeats} times, {SESSIONS} sessions"
    note(Result("milter", "Postfix's message rate with the milter / without", ratio(pairs), 0.9, 1.0, True, figures))


def _sink(namespace: Namespace) -> Program:
    with Path("/dev/null").open("wb") as nowhere:
        return namespace.spawn(["smtp-sink", f"{ADDRESS}:{SINK_PORT}", "1000"], nowhere)


async def _rate(namespace: Namespace, postfix: Postfix, which: str, messages: int) -> float:
    """Messages delivered a second."""
    to = f"127.0.1.1:{PORTS[which]}"
    command = ["smtp-source", "-s", SESSIONS, "-m", messages, "-l", SIZE, "-f", "", "-t", "user@remote.example", to]
    begun = time.perf_counter()
    done = await asyncio.to_thread(namespace.run, list(map(str, command)))
    await _drain(namespace, postfix)
    seconds = time.perf_counter() - begun
    if done.stderr:
        raise LabFailed(done.stderr)
    return messages / seconds


async def _drain(namespace: Namespace, postfix: Postfix) -> None:
    """Wait until all is delivered."""
    limit = time.monotonic() + LIMIT_SECONDS
    outside = namespace.outside(postfix.queue)
    while any(
        itertools.chain.from_iterable((outside / name).rglob("*") for name in ("incoming", "active", "maildrop"))
    ):
        if time.monotonic() > limit:
            raise LabFailed("the queue does not empty")
        await asyncio.sleep(0.01)
