"""From the start of the process to the first answer, beside an asyncio server that does nothing else."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.daemon import connect, stsguard, write_config
from stsguard.core import netstring

REFERENCE = """
import asyncio, sys, uvloop
REPLY = b"%d:%b," % (60, b"OK secure match=mx.d1.example servername=hostname".ljust(60))
class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(REPLY)
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Echo, sys.argv[1])
    await server.serve_forever()
uvloop.run(main())
"""


def _first_answer(command: list[str], path: Path) -> float:
    path.unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(command)
    try:
        with connect(path, time.monotonic() + 30) as client:
            client.sendall(netstring.encode(b"policy d1.example"))
            assert client.recv(4096)
        return time.perf_counter() - started
    finally:
        process.terminate()
        process.wait(timeout=20)


def main(*, smoke: bool) -> None:
    """Print the table."""
    repeats = 1 if smoke else 7
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ours = stsguard(write_config(directory, 10)), directory / "lookup.sock"
        reference = [sys.executable, "-c", REFERENCE, str(directory / "reference.sock")], directory / "reference.sock"
        pairs = [(_first_answer(*ours), _first_answer(*reference)) for _ in range(repeats)]
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"start to first answer, median of {repeats} (python -m bench startup)")
        print(f"{statistics.median(a for a, _ in pairs) * 1000:.0f} ms, {ratio:.2f} times a bare uvloop server")
