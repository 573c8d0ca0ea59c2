"""The spool: nothing that was taken in is lost or read half, whoever dies, and whatever lies in the directory."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stsguard.core.arrival import Arrival, SpoolEntry, Via
from stsguard.core.errors import SpoolFailed, SpoolFull
from stsguard.inbound import spool as spool_module
from stsguard.inbound.spool import DIRECTORY_MODE, SET_ASIDE, Spool
from tests.integration.store.test_disk import needs_root, small_file_system

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
ARRIVAL = Arrival(Via.MILTER, NOW, "tls@a.example", "192.0.2.1")
KILLS = 30


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


def test_entry_is_kept_read_and_removed(spool: Spool) -> None:
    name = spool.add(ARRIVAL, b"a mail\r\n")
    assert name.endswith(".milter")
    with spool.reading() as reader:
        assert reader.pending() == [name]
        assert reader.load(name) == SpoolEntry(ARRIVAL, b"a mail\r\n")
        reader.remove([name, name])
        assert reader.pending() == []
        assert reader.load(name) is None


def test_modes_let_a_group_hand_in_and_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        spool = Spool(tmp_path / "spool")
        spool.prepare()
        spool.prepare()
        name = spool.add(ARRIVAL, b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(spool.directory.stat().st_mode) == DIRECTORY_MODE == 0o3770
    assert stat.S_IMODE((spool.directory / name).stat().st_mode) == 0o640


def test_killed_while_it_is_made_leaves_no_wrong_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "spool")

    def killed(_path: Path, _mode: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "chmod", killed)
        with pytest.raises(KeyboardInterrupt):
            spool.prepare()
    assert not spool.directory.exists()
    spool.prepare()
    assert stat.S_IMODE(spool.directory.stat().st_mode) == DIRECTORY_MODE
    assert list(tmp_path.iterdir()) == [spool.directory]


def test_order_is_that_of_arrival(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for second in (1.0, 2.0, 3.0):
        monkeypatch.setattr(time, "time", lambda second=second: second)
        names.append(spool.add(ARRIVAL, b"x"))
    assert spool.pending() == names
    assert spool.pending(2) == names[:2]


def test_only_one_process_empties_it(spool: Spool) -> None:
    with spool.reading(), pytest.raises(SpoolFailed, match="another process empties this spool"), spool.reading():
        pass
    with spool.reading():
        pass


def test_too_many_and_too_large_are_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_entries=2, max_entry_bytes=10)
    with pytest.raises(SpoolFull, match="a report of 11 bytes, and 10 are kept at most") as large:
        spool.add(ARRIVAL, b"x" * 11)
    assert not large.value.temporary
    spool.add(ARRIVAL, b"x" * 10)
    spool.add(ARRIVAL, b"x")
    with pytest.raises(SpoolFull, match="2 reports wait there already; is stsguard inbound running") as many:
        spool.add(ARRIVAL, b"x")
    assert many.value.temporary
    assert len(spool.pending()) == 2


def test_nearly_full_disk_is_refused_before_it_is_full(tmp_path: Path) -> None:
    with pytest.raises(SpoolFull, match="its disk is full, or nearly so"):
        Spool(tmp_path, min_free_bytes=1 << 60).add(ARRIVAL, b"x")


def test_missing_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpoolFailed, match=r"spool: No such file or directory"):
        Spool(tmp_path / "spool").add(ARRIVAL, b"x")
    (tmp_path / "file").touch()
    with pytest.raises(SpoolFailed, match="Not a directory"):
        Spool(tmp_path / "file" / "spool").prepare()


@needs_root
def test_full_disk_refuses_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small"):
        spool = Spool(tmp_path / "small", min_free_bytes=0)
        kept: list[str] = []

        def fill() -> None:
            while True:
                kept.append(spool.add(ARRIVAL, os.urandom(100_000)))

        with pytest.raises(SpoolFull):
            fill()
        assert kept
        assert set(spool.pending()) == set(kept)
        assert not list(spool.directory.glob(".new-*"))
        with spool.reading() as reader:
            assert all(reader.load(name) for name in kept)
            reader.remove(kept)
        spool.add(ARRIVAL, b"x" * 100_000)


def _spoil(path: Path, way: str) -> None:
    content = path.read_bytes()
    match way:
        case "cut off":
            path.write_bytes(content[:-1])
        case "changed":
            path.write_bytes(content[:-1] + b"?")
        case "empty":
            path.write_bytes(b"")
        case "directory":
            path.unlink()
            path.mkdir()
        case "link":
            path.unlink()
            path.symlink_to("/etc/passwd")
        case "fifo":
            path.unlink()
            os.mkfifo(path)


@pytest.mark.parametrize("way", ["cut off", "changed", "empty", "directory", "link", "fifo"])
def test_damaged_entry_is_set_aside_and_not_looked_at_again(
    spool: Spool, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = spool.add(ARRIVAL, b"good"), spool.add(ARRIVAL, b"bad")
    _spoil(spool.directory / bad, way)
    with spool.reading() as reader:
        assert reader.load(bad) is None
        assert reader.pending() == [good]
        assert reader.load(good) == SpoolEntry(ARRIVAL, b"good")
    assert os.path.lexists(spool.directory / SET_ASIDE / bad)
    assert "damaged entry of the spool set aside" in caplog.text


def test_what_was_begun_and_abandoned_is_removed(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned = spool.directory / ".new-1"
    abandoned.write_bytes(b"half")
    with spool.reading() as reader:
        reader.pending()
        assert abandoned.exists()  # it may be somebody's who has only just begun
        monkeypatch.setattr(spool_module, "ABANDONED_SECONDS", -1.0)
        reader.pending()
    assert not abandoned.exists()


def test_what_somebody_is_writing_is_left_even_when_the_clock_has_jumped(spool: Spool) -> None:
    held = spool.directory / ".new-1"
    script = """
import fcntl, sys
file = open(sys.argv[1], "wb")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, held]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "held\n"
        os.utime(held, (0, 0))
        with spool.reading() as reader:
            reader.pending()
        assert held.exists()
        writer.communicate("")
    with spool.reading() as reader:
        reader.pending()
    assert not held.exists()


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from stsguard.core.arrival import Arrival, Via
from stsguard.inbound.spool import Spool
spool = Spool(Path(sys.argv[1]))
for number in range(10_000):
    name = spool.add(Arrival(Via.PIPE, datetime.now(UTC)), b"%d " % number * 5000)
    print(name, flush=True)
"""


async def test_killed_at_any_moment_what_was_said_to_be_kept_is_there_and_whole(spool: Spool) -> None:
    said: list[str] = []
    for turn in range(KILLS):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(spool.directory), stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        assert writer.stdout is not None
        said += [(await writer.stdout.readline()).decode().strip() for _ in range(1 + turn % 4)]
        writer.send_signal(signal.SIGKILL)
        said += (await writer.stdout.read()).decode().split("\n")[:-1]
        await writer.wait()
    with spool.reading() as reader:
        there = reader.pending(100_000)
        assert set(said) <= set(there)
        assert all(reader.load(name) for name in there)
    assert not (spool.directory / SET_ASIDE).exists()


@pytest.fixture
def public() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stsguard-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


# In the group but not the owner, as the user of a pipe transport is.
MEMBER = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from stsguard.core.arrival import Arrival, Via
from stsguard.core.errors import SpoolFailed
from stsguard.inbound.spool import Spool
spool = Spool(Path(sys.argv[1]))
os.setgroups([int(sys.argv[3])] if sys.argv[3] else [])
os.setgid(65534)
os.setuid(65534)
os.umask(0o077)
try:
    print(spool.add(Arrival(Via.PIPE, datetime.now(UTC)), b"x"))
    os.unlink(spool.directory / sys.argv[2])
except (SpoolFailed, OSError) as exc:
    print(type(exc).__name__)
"""


@needs_root
def test_member_of_the_group_hands_in_and_removes_nothing_of_others(public: Path) -> None:
    spool = Spool(public / "spool")
    spool.prepare()
    os.chown(spool.directory, 65533, 65532)
    spool.directory.chmod(DIRECTORY_MODE)
    other = spool.add(ARRIVAL, b"of another")

    def run(group: str) -> list[str]:
        command = [sys.executable, "-c", MEMBER, spool.directory, other, group]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    name, refused = run("65532")
    assert refused == "PermissionError"
    found = (spool.directory / name).stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (65532, 0o640)  # so the daemon can read it
    assert run("") == ["SpoolFailed"]
