"""A process that reads items for `stsguard ingest`: `python -m stsguard.app.ingest_worker`.

It takes frames from its standard input, four octets of length and a pickle: first the configuration and the rules, then
lists of items. To each list one frame answers, with what was read of as many of them as it holds. The end of standard
input, which comes however the command ends, is its end.
"""

import asyncio
import pickle
import signal
import sys
from typing import BinaryIO

from stsguard.app.ingest_reading import build_item_reader
from stsguard.log import set_up


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame; None at the end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return stream.read(int.from_bytes(head, "big"))


def frame(value: object) -> bytes:
    """A value as a frame."""
    octets = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return len(octets).to_bytes(4, "big") + octets


async def _serve() -> None:
    octets = read_frame(sys.stdin.buffer)
    if octets is None:
        return
    config, rules = pickle.loads(octets)  # noqa: S301 (from the command that started this process)
    reader = build_item_reader(config, rules)
    while (octets := read_frame(sys.stdin.buffer)) is not None:
        found = await reader.read_some(pickle.loads(octets))  # noqa: S301
        sys.stdout.buffer.write(frame(found))
        sys.stdout.buffer.flush()


def main() -> None:
    """Read until the command ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal signals the whole group; the command ends its workers
    set_up(level="error", form="text")
    try:
        asyncio.run(_serve())
    except BrokenPipeError:
        return  # the command is gone


if __name__ == "__main__":
    main()
