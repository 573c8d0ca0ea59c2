"""A private network, mount, PID and host name namespace that ends with the process that made it.

The namespace is held by one small process of its own. It ends when its standard input is closed, which the kernel
does for us even after `kill -9`; then the kernel ends everything inside and frees network, mounts and files: all files
of a lab lie in a tmpfs that only the namespace has. No interface but `lo` exists, so nothing can leave it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import IO

# The documentation networks (RFC 5737, RFC 3849) and, as they are small, a piece of the one for benchmarks (RFC 2544):
# the lab's "internet". Every address of them is local in here.
NETWORKS: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("192.0.2.0/24"),
    IPv4Network("198.51.100.0/24"),
    IPv4Network("203.0.113.0/24"),
    IPv4Network("198.18.0.0/20"),
    IPv6Network("2001:db8::/32"),
)
UNREACHABLE = "192.0.2.83"  # the one address of them to which there is no way
LAB = Path("/run/lab")  # inside; /run is the namespace's own tmpfs
LIMIT_SECONDS = 30.0

_CLONE_NEWNET = 0x40000000
_HOLDER = (
    "import signal, sys\n"
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"  # daemons of the lab end up as its children: no zombies
    "print('up', flush=True)\n"
    "sys.stdin.buffer.read()\n"
)
_SET_UP = """
set -e
resolv=$(readlink -f /etc/resolv.conf)
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lab "$(dirname "$resolv")"
[ -e "$resolv" ] || touch "$resolv"
echo nameserver 127.0.0.1 > /run/lab/resolv.conf
mount --bind /run/lab/resolv.conf "$resolv"
hostname mta.sender.test
ip link set lo up
echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind
echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6
"""


class LabFailed(Exception):
    """The lab can't be set up, or a part of it failed; the message says which, with what it printed."""


class Namespace:
    """The namespace of one lab; needs root. Use it as a context manager."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def __enter__(self) -> "Namespace":
        """Make it.

        Raises:
            LabFailed: it can't be made, most often for want of root.
        """
        command = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(
            [*command, sys.executable, "-I", "-S", "-c", _HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C in the terminal is for the tests, which then end the lab in order
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            _, errors = self._holder.communicate()
            raise LabFailed(f"the namespace can't be made: {errors.decode(errors='replace').strip()}")
        self.pid = only_child(self._holder.pid)
        routes = [f"ip route add local {network} dev lo" for network in NETWORKS]
        routes.append(f"ip route add unreachable {UNREACHABLE} table local")
        self.run(["sh", "-c", "\n".join([_SET_UP, *routes])])
        return self

    def __exit__(self, *_exc: object) -> None:
        """End everything inside, and wait until it has ended."""
        if self._holder is not None:
            self._holder.communicate(timeout=LIMIT_SECONDS)  # closes its standard input
            self._holder = None

    def outside(self, inside: Path) -> Path:
        """The path by which this process reaches the file that is `inside` in there."""
        return Path(f"/proc/{self.pid}/root") / inside.relative_to("/")

    def command(self, arguments: Sequence[str | Path]) -> list[str]:
        """The command line that runs `arguments` in the namespace."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--uts", "--"]
        return [*enter, *map(str, arguments)]

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        input_text: str | None = None,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in there to its end.

        Raises:
            LabFailed: it failed (unless `check` is false) or took too long.
        """
        try:
            done = subprocess.run(
                self.command(arguments),
                input=input_text if input_text is not None else "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_SECONDS,
                check=False,
                env=None if environment is None else {**os.environ, **environment},
            )
        except subprocess.TimeoutExpired as exc:
            raise LabFailed(f"{' '.join(map(str, arguments))}: no end after {LIMIT_SECONDS:.0f} s") from exc
        if check and done.returncode != 0:
            said = "\n".join(filter(None, [done.stdout.strip(), done.stderr.strip()]))
            raise LabFailed(f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{said}")
        return done

    def spawn(
        self, arguments: Sequence[str | Path], output: IO[bytes], *, environment: Mapping[str, str] | None = None
    ) -> "Program":
        """Start a program in there that goes on running; both its outputs go to `output`."""
        entered = subprocess.Popen(
            self.command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=None if environment is None else {**os.environ, **environment},
        )
        return Program(entered, str(arguments[0]))

    def join_network(self) -> None:
        """Put the calling thread, and no other, into the namespace's network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/proc/{self.pid}/ns/net").open("rb") as handle:
            if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
                raise LabFailed(f"can't join the lab's network: {os.strerror(ctypes.get_errno())}")


class Program:
    """A program that runs in the namespace. A PID namespace is entered by a fork: the program is nsenter's child."""

    def __init__(self, entered: subprocess.Popen[bytes], name: str) -> None:
        self._entered = entered
        self.name = name

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._entered.poll() is None

    @property
    def exit_status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._entered.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        if self.running:
            with suppress(LabFailed, ProcessLookupError):  # it ended meanwhile
                os.kill(only_child(self._entered.pid), number)

    def pause(self) -> None:
        """Have it hang, until `resume`. nsenter stops itself when its child does."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)
        os.kill(self._entered.pid, signal.SIGCONT)

    def wait(self, limit_seconds: float = LIMIT_SECONDS) -> int:
        """Wait for its end and return its exit status.

        Raises:
            LabFailed: it has not ended after `limit_seconds`.
        """
        try:
            return self._entered.wait(limit_seconds)
        except subprocess.TimeoutExpired as exc:
            raise LabFailed(f"{self.name} has not ended after {limit_seconds:.0f} s") from exc

    def stop(self) -> None:
        """End it in order, or by force if it does not."""
        self.signal(signal.SIGTERM)
        try:
            self._entered.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        self.signal(signal.SIGKILL)
        self.wait()


def only_child(parent: int) -> int:
    """The process id of the one child of `parent`, waiting for it to be there."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    limit = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < limit:
        try:
            found = children.read_text().split()
        except FileNotFoundError:
            break
        if found:
            return int(found[0])
        if "\nState:\tZ" in Path(f"/proc/{parent}/status").read_text():
            break
        os.sched_yield()
    raise LabFailed(f"process {parent} has no child")
