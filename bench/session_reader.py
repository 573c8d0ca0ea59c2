"""Our reader as a process for bench/sessions.py: socket, tally, parser, verdict, counters, SQLite, as in the daemon.

`python -m bench.session_reader CONFIG`: reads at [sessions] tlsrpt_socket until the datagram END, writes everything,
and prints how many datagrams were counted, and its CPU seconds.
"""

import asyncio
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from stsguard.adapters.datagram_socket import DatagramReader, open_datagram_socket
from stsguard.app.latency import prefer_latency
from stsguard.app.parts import build_parts
from stsguard.config.load import load
from stsguard.log import set_up
from stsguard.outbound.datagrams import DatagramPump, DatagramTally, heard
from stsguard.outbound.sessions import SessionIntake
from stsguard.store.stores import open_stores

END = b"END"


async def _read(config_file: Path) -> int:
    config = load(config_file)
    (instance,) = config.sessions
    assert instance.tlsrpt_socket is not None
    stores = open_stores(config.store.url)
    await stores.sessions.open()
    parts = build_parts(config, stores.policies)
    intake = SessionIntake(
        demands=parts.demands,
        cache=parts.cache,
        tender=parts.tender,
        verifier=parts.verifier,
        store=stores.sessions,
        clock=parts.clock,
    )
    tally = DatagramTally()
    ended = asyncio.Event()
    add = tally.add

    def receive(datagrams: Sequence[bytes]) -> bool:
        if datagrams[-1] == END:
            ended.set()
            add(datagrams[:-1])
            return False
        return add(datagrams)

    reader = DatagramReader(
        open_datagram_socket(instance.tlsrpt_socket, mode=instance.tlsrpt_mode),
        receive,
    )
    pump = DatagramPump(
        tally,
        intake.heard,
        reader,
        clock=parts.clock,
        instance=instance.syslog_name,
        refused=intake.refused,
    )
    tasks = [asyncio.create_task(pump.run()), asyncio.create_task(intake.run())]
    reader.start()
    await ended.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pump.flush()
    await intake.close()
    reader.close()
    await stores.sessions.close()
    assert not intake.refused.kept()
    return heard.value("read")


def main() -> None:
    """Read until END."""
    import uvloop

    set_up(level="error", form="text")
    prefer_latency()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        read = runner.run(_read(Path(sys.argv[1])))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(read, usage.ru_utime + usage.ru_stime, flush=True)


if __name__ == "__main__":
    main()
