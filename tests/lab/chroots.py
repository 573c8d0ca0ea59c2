"""The two Debian releases whose Postfix the end-to-end tests run: made once by debootstrap, kept outside the checkout.

`python -m tests.lab.chroots prepare` makes what is missing (about a minute each) and is quick where nothing is.
A chroot is made under a temporary name, with Postfix kept from starting, and renamed when it is whole; its stamp file
says what it was made of, so an interrupted or outdated one is made again. Tests only read it.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

DEFAULT_CACHE = Path("/var/cache/stsguard-lab")
STAMP = "made-of.json"
RECIPE = 1  # raised when `_make` changes in a way that old chroots lack
FORBIDDING_POLICY = "#!/bin/sh\n# no daemon is started while packages are installed here\nexit 101\n"
FAILURE_LINES = 15  # of debootstrap's own output, shown when it fails


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian release: what is installed beside the minimal system, and the Postfix it brings."""

    suite: str
    postfix: str
    packages: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where its chroot lies once it is made."""
        return cache_directory() / self.suite

    @property
    def ready(self) -> bool:
        """Whether the chroot is there, whole, and made of what is asked for now."""
        try:
            return bool(json.loads((self.path / STAMP).read_text()) == self._recipe())
        except (OSError, ValueError):
            return False

    def _recipe(self) -> dict[str, object]:
        return json.loads(json.dumps({"recipe": RECIPE, **asdict(self)}))  # type: ignore[no-any-return] # as read back


BOOKWORM = Release("bookworm", "3.7", ("postfix", "ca-certificates"))
TRIXIE = Release("trixie", "3.10", ("postfix", "ca-certificates", "libtlsrpt0"))
RELEASES = (BOOKWORM, TRIXIE)


class PrepareFailed(Exception):
    """A chroot can't be made; the message says why and holds the last lines of what failed."""


def cache_directory() -> Path:
    """Where the chroots are kept: $STSGUARD_LAB_CACHE, else /var/cache/stsguard-lab."""
    return Path(os.environ.get("STSGUARD_LAB_CACHE") or DEFAULT_CACHE)


def prepare(progress: TextIO) -> None:
    """Make every chroot that is missing; two calls at once wait for each other.

    Raises:
        PrepareFailed: no root, no debootstrap, or debootstrap failed.
    """
    missing = [release for release in RELEASES if not release.ready]
    if not missing:
        return
    if os.geteuid() != 0:
        raise PrepareFailed("making the chroots needs root")
    if shutil.which("debootstrap") is None:
        raise PrepareFailed("debootstrap is not installed (apt-get install debootstrap)")
    with _only_one():
        for release in RELEASES:
            if not release.ready:
                _make(release, progress)


@contextmanager
def _only_one() -> Iterator[None]:
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(release: Release, progress: TextIO) -> None:
    started = time.monotonic()
    print(f"lab: making Debian {release.suite} for Postfix {release.postfix} in {release.path}", file=progress)
    work = cache_directory() / f".{release.suite}.making"
    for left_over in (work, release.path):
        shutil.rmtree(left_over, ignore_errors=True)
    include = "--include=" + ",".join(release.packages)
    _run(["debootstrap", "--foreign", "--variant=minbase", include, release.suite, str(work)], progress)
    policy = work / "usr/sbin/policy-rc.d"
    policy.write_text(FORBIDDING_POLICY)
    policy.chmod(0o755)
    # Packages are configured where a daemon would find no network and would end with the command.
    isolated = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c"]
    # Postfix's own installation wants a loopback interface that is up.
    script = 'ip link set lo up && exec chroot "$0" /debootstrap/debootstrap --second-stage'
    _run([*isolated, script, str(work)], progress)
    for archive in (work / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    (work / STAMP).write_text(json.dumps(release._recipe(), indent=2) + "\n")
    work.rename(release.path)
    print(f"lab: Debian {release.suite} is ready after {time.monotonic() - started:.0f} s", file=progress)


def _run(command: list[str], progress: TextIO) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    output: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if line.startswith("I: ") and not line.startswith(("I: Retrieving", "I: Validating", "I: Extracting")):
                print("lab:  ", line[3:].strip(), file=progress, flush=True)
    if process.returncode != 0:
        raise PrepareFailed(f"{' '.join(command)} failed:\n{''.join(output[-FAILURE_LINES:])}")


def main(arguments: list[str]) -> int:
    """`prepare` makes the chroots, `path` prints where they are kept; 0 when they are ready."""
    match arguments:
        case ["prepare"]:
            try:
                prepare(sys.stderr)
            except PrepareFailed as exc:
                print(f"lab: {exc}", file=sys.stderr)
                return 1
            return 0
        case ["path"]:
            print(cache_directory())
            return 0
        case _:
            print("usage: python -m tests.lab.chroots prepare|path", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
