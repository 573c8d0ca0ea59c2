"""Datagrams about TLS sessions: our whole way from the socket to SQLite, beside tlsrpt-collectd and a bare C reader.

tlsrpt-collectd is tlsrpt-reporter's from PyPI, in an environment of its own below the user's cache directory; without
it the rest is measured. Sender and readers share the machine, so read the ratios.

Four loads, with seven successes in ten sessions but for `content`:

repeat   4,096 kinds over 1,000 domains again and again, as real sessions do: a datagram has neither time nor id
differ   the same, and no two alike: each has a key of its own that nobody reads, so every one has to be looked into
content  1,000 domains, and no two alike in what is read: each session failed at an address of its own, by one of five
         result types
domains  each of a domain of its own: also every counter is a new one
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.daemon import cpu_seconds
from bench.results import ratio

SOURCE = Path(__file__).with_name("datagram_load.c")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stsguard-bench"
START_SECONDS = 30.0
OFFERED = 20_000
LONG_QUEUE = 512  # what the daemon advises; Linux has 10
# Datagrams a run: of the fast readers, of the slow one. The daemon holds up to 50,000 counters between two flushes.
LOADS = {
    "repeat": (2_000_000, 60_000),
    "differ": (200_000, 30_000),
    "content": (40_000, 20_000),
    "domains": (40_000, 20_000),
}
SMOKE = 2_000


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: `rate` 0 as fast as it is read. `queue` is the socket's queue length, 0 for the machine's."""

    kind: str
    count: int
    rate: int = 0
    queue: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """Datagrams sent and read, seconds from the first to the last, CPU of the reader a datagram in microseconds."""

    offered: int
    read: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Datagrams a second."""
        return self.read / self.seconds

    @property
    def loss(self) -> float:
        """Percent of what was offered."""
        return 100 * (1 - self.read / self.offered)


def _compile(directory: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    program = directory / "load"
    subprocess.run([compiler, "-O2", "-o", str(program), str(SOURCE)], check=True)
    return program


def _collectd(*, install: bool) -> Path | None:
    """The program, installed where it may be and can be."""
    directory = CACHE / "tlsrpt-reporter"
    program = directory / "bin/tlsrpt-collectd"
    if install and not program.exists():
        venv.create(directory, with_pip=True)
        pip = [str(directory / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "tlsrpt-reporter"]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"tlsrpt-reporter can't be had: {done.stderr.strip()[-200:]}", file=sys.stderr)
    return program if program.exists() else None


@contextmanager
def _listening(command: list[str], path: Path) -> Iterator["subprocess.Popen[str]"]:
    """`command` as a process that has made `path`, ended afterwards."""
    path.unlink(missing_ok=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not path.exists():
            assert process.poll() is None, f"{command[0]} has ended"
            assert time.monotonic() < deadline, f"{command[0]} does not start"
            time.sleep(0.01)
        time.sleep(0.2)  # the path is there before its mode and the reader are
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def _send(program: Path, path: Path, load: Load) -> tuple[int, float]:
    """Send, and say how many were sent and when the first was."""
    sender = subprocess.Popen(
        [str(program), "send", str(path), str(load.count), load.kind, str(load.rate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert sender.stdout is not None
    sender.stdout.readline()  # it has made its datagrams
    started = time.perf_counter()
    out, _ = sender.communicate("\n", timeout=300)
    return int(out), started


def _with_queue(length: int, command: list[str]) -> list[str]:
    """`command` where new sockets have a queue of this length: a network namespace has a setting of its own."""
    if not length:
        return command
    script = f'echo {length} >/proc/sys/net/unix/max_dgram_qlen && exec "$@"'
    return ["unshare", "--net", "sh", "-c", script, "sh", *command]


def _measure(program: Path, command: list[str], path: Path, load: Load, *, reports: bool) -> Result:
    """Run one reader under one load. One that `reports` ends by itself and prints what it read; of another the loss is
    what could not be sent."""
    with _listening(_with_queue(load.queue, command), path) as process:
        before = cpu_seconds(process)
        sent, started = _send(program, path, load)
        if not reports:
            seconds = time.perf_counter() - started
            return Result(load.count, sent, seconds, (cpu_seconds(process) - before) / sent * 1e6)
        assert process.stdout is not None
        read, cpu = process.stdout.readline().split()
        seconds = time.perf_counter() - started
        assert int(read) == sent, f"{sent} were taken, and {read} counted"
        return Result(load.count, sent, seconds, (float(cpu) - before) / sent * 1e6)


def _write_config(directory: Path, path: Path) -> Path:
    config = directory / "stsguard.toml"
    config.write_text(
        f"""
[store]
url = "sqlite:///{directory}/stsguard.db"
[dns]
nameservers = ["127.0.0.1:1"]
dnssec = "no"
[verification]
enabled = false
[sessions]
tlsrpt_socket = "{path}"
""",
        encoding="utf-8",
    )
    return config


def _readers(program: Path, directory: Path, *, install: bool) -> dict[str, Callable[[Load], Result]]:
    path = directory / "tlsrpt.sock"

    def reference(load: Load) -> Result:
        return _measure(program, [str(program), "read", str(path)], path, load, reports=True)

    def ours(load: Load) -> Result:
        for file in directory.glob("stsguard.db*"):
            file.unlink()
        command = [sys.executable, "-m", "bench.session_reader", str(_write_config(directory, path))]
        return _measure(program, command, path, load, reports=True)

    def collectd(load: Load) -> Result:
        for file in directory.glob("collectd.*"):
            file.unlink()
        options = {"storage": f"sqlite:///{directory}/collectd.db", "socketname": str(path), "log_level": "critical"}
        for name in ("logfilename", "pidfilename", "dump_path_for_invalid_datagram"):
            options[name] = f"{directory}/collectd.{name}"
        return _measure(program, [str(peer), *(f"--{k}={v}" for k, v in options.items())], path, load, reports=False)

    peer = _collectd(install=install)
    return {"C": reference, "stsguard": ours, **({"collectd": collectd} if peer else {})}


def _ratio(
    runs: list[dict[str, Result]], of: str, figure: str, *, inverse: bool = False, whose: str = "stsguard"
) -> str:
    """The median of our figure by that of another reader, or the other way round."""
    if of not in runs[0]:
        return "-"
    pairs = [(getattr(run[whose], figure), getattr(run[of], figure)) for run in runs]
    return f"{ratio((of_it, own) for own, of_it in pairs) if inverse else ratio(pairs):.2f}"


def _print_rates(readers: dict[str, Callable[[Load], Result]], repeats: int, *, smoke: bool) -> None:
    print(f"datagrams without loss, median of {repeats} (python -m bench sessions)")
    print(
        "load      datagrams/s   µs CPU each   rate of collectd   CPU less than collectd   rate of C reader   "
        "C reader's of collectd"
    )
    for kind, (fast, slow) in LOADS.items():
        counts = {name: SMOKE if smoke else slow if name == "collectd" else fast for name in readers}
        runs = [{name: reader(Load(kind, counts[name])) for name, reader in readers.items()} for _ in range(repeats)]
        rate, cpu = (statistics.median(getattr(run["stsguard"], figure) for run in runs) for figure in ("rate", "cpu"))
        by_rate, by_cpu = _ratio(runs, "collectd", "rate"), _ratio(runs, "collectd", "cpu", inverse=True)
        of_c, limit = _ratio(runs, "C", "rate"), _ratio(runs, "collectd", "rate", whose="C")
        print(f"{kind:8}  {rate:11.0f}   {cpu:11.1f}   {by_rate:>16}   {by_cpu:>22}   {of_c:>16}   {limit:>22}")


def _print_loss(readers: dict[str, Callable[[Load], Result]], repeats: int, queue: int, *, smoke: bool) -> None:
    load = Load("repeat", SMOKE if smoke else 3 * OFFERED, OFFERED, queue)
    runs = [{name: reader(load).loss for name, reader in readers.items()} for _ in range(repeats)]
    shown = ", ".join(f"{name} {statistics.median(run[name] for run in runs):.1f} %" for name in readers)
    more = statistics.median(run["stsguard"] - run["C"] for run in runs)
    length = queue or int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text(encoding="ascii"))
    print(f"lost of {OFFERED} a second, queue {length}: {shown}; stsguard {more:+.1f} points beside the C reader")


def main(*, smoke: bool) -> None:
    """Print rates and losses."""
    repeats = 1 if smoke else 3
    with tempfile.TemporaryDirectory() as name:
        program = _compile(Path(name))
        if program is None:
            print("sessions: there is no C compiler, and nothing else can send fast enough")
            return
        readers = _readers(program, Path(name), install=not smoke)
        if "collectd" not in readers:
            print("sessions: without tlsrpt-collectd")
        _print_rates(readers, repeats, smoke=smoke)
        _print_loss(readers, repeats, 0, smoke=smoke)
        if os.geteuid() == 0:  # making a network namespace takes root
            _print_loss(readers, repeats, LONG_QUEUE, smoke=smoke)
