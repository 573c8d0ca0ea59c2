"""One process that serves policies: `python -m stsguard.app.policy_worker HTTPS HTTP`, started by `stsguard inbound`
with the numbers of the listening sockets that it inherits."""

import asyncio
import json
import os
import signal
import socket
import sys

from stsguard.app.policy_serving import Listeners, PolicyServing
from stsguard.app.policy_workers import Growth, read_config
from stsguard.app.serving import end, raise_file_limit
from stsguard.config.model import Config
from stsguard.discovery.health import PartState
from stsguard.store.stores import open_stores

REPORT_SECONDS = 1.0


async def serve(config: Config, listeners: Listeners) -> None:
    """Serve until the daemon closes standard input."""
    stores = open_stores(config.store.url)
    serving = PolicyServing(config, stores)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), stop.set)  # nothing more is ever written there: this is its end
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A terminal signals the whole group, systemd as well; it is the daemon that ends its workers.
        loop.add_signal_handler(signum, lambda: None)
    await serving.hosting.refresh()
    tasks = [
        asyncio.create_task(serving.follow()),
        asyncio.create_task(_report(serving)),
        asyncio.create_task(serving.answer(listeners)),
        asyncio.create_task(stop.wait()),
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in reversed(tasks):
        await end(task)
    await serving.close()
    await stores.policies.close()
    for task in done:
        task.result()


async def _report(serving: PolicyServing) -> None:
    growth = Growth()
    while True:
        health = serving.hosting.health()
        report = {
            "pid": os.getpid(),
            "problem": health.detail if health.state is PartState.FAILED else None,
            "connections": serving.server.connections,
            "growth": growth.take(),
        }
        try:
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            return  # the daemon is gone
        await asyncio.sleep(REPORT_SECONDS)


def main() -> None:
    """Read the configuration, take the sockets, serve."""
    import uvloop

    from stsguard.log import set_up

    length = int.from_bytes(sys.stdin.buffer.read(4), "big")
    config = read_config(sys.stdin.buffer.read(length))
    set_up(level=config.log.level.value, form=config.log.format.value)
    https, http = ([socket.socket(fileno=int(each)) for each in text.split(",") if each] for text in sys.argv[1:3])
    for sock in (*https, *http):
        sock.setblocking(False)
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, Listeners(https, http)))


if __name__ == "__main__":
    main()
