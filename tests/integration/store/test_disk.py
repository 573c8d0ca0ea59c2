"""A SQLite file whose directory, permissions or disk do not allow what the store needs."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stsguard.core.errors import StoreUnavailable
from tests.integration.store.conftest import OpenStore
from tests.integration.store.examples import stored

ROOT = Path(__file__).parents[3]
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="mounting a small file system takes root"
)

# Run as another user where the tests run as root, whom no permission stops.
UNPRIVILEGED = """
import asyncio, os, sys
import stsguard.core.errors, stsguard.store.tables, stsguard.store.upgrade
from stsguard.store.policies import PolicyStoreSql
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
from stsguard.store.refused import user
async def main():
    try:
        await PolicyStoreSql(sys.argv[1]).open()
    except stsguard.core.errors.StoreUnavailable as exc:
        print(str(exc).replace(user(), "USER"))
asyncio.run(main())
"""


def unprivileged_reason(path: Path) -> str:
    command = [sys.executable, "-c", UNPRIVILEGED, f"sqlite:///{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may pass through, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="stsguard-"))
    directory.chmod(0o711)
    yield directory
    for below in directory.rglob("*"):
        below.chmod(0o700)
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("directory_mode", "file", "file_mode", "message"),
    [
        (0o555, "stsguard.db", None, "the directory {directory} can't be written by user USER"),
        (0o555, "stsguard.db", 0o644, "the directory {directory} can't be written by user USER"),
        (0o1777, "stsguard.db", 0o444, "can't be written by user USER"),
        (0o600, "below/stsguard.db", None, "Permission denied ({directory}/below)"),
    ],
)
def test_read_only_directory_and_file(
    public: Path, directory_mode: int, file: str, file_mode: int | None, message: str
) -> None:
    directory = public / "state"
    directory.mkdir()
    path = directory / file
    if file_mode is not None:
        path.write_bytes(b"x")
        path.chmod(file_mode)
    directory.chmod(directory_mode)
    expected = message.format(directory=directory)
    assert unprivileged_reason(path) == f"SQLite database {path}: {expected}\n"


@contextmanager
def small_file_system(directory: Path) -> Iterator[Path]:
    """One MiB of memory as a file system."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@needs_root
async def test_full_disk_is_reported_and_the_store_goes_on(tmp_path: Path, new_store: OpenStore) -> None:
    with small_file_system(tmp_path / "small") as directory:
        path = directory / "stsguard.db"
        store = new_store(f"sqlite:///{path}")
        filler = directory / "filler"
        await store.open()
        await store.save_policies([stored("a.example")])
        free = os.statvfs(directory)
        filler.write_bytes(bytes(free.f_bavail * free.f_bsize))
        many = [stored(f"b{number}.example") for number in range(1000)]
        message = f"SQLite database {path}: no space left on its disk"
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as caught:
                await store.save_policies(many)
            assert str(caught.value) == message
            assert await store.load_policies(None, 10_000) == [stored("a.example")]
        assert store.problem == message
        filler.unlink()
        await store.save_policies(many)
        assert len(await store.load_policies(None, 10_000)) == 1001
        assert store.problem is None
        await store.close()


@needs_root
async def test_full_disk_when_the_database_is_made_leaves_nothing_behind(tmp_path: Path, new_store: OpenStore) -> None:
    with small_file_system(tmp_path / "small") as directory:
        path = directory / "stsguard.db"
        store = new_store(f"sqlite:///{path}")
        filler = directory / "filler"
        filler.write_bytes(bytes(1024 * 1024))
        with pytest.raises(StoreUnavailable) as caught:
            await store.open()
        assert str(caught.value) == f"SQLite database {path}: no space left on its disk"
        assert list(directory.iterdir()) == [filler]
        filler.unlink()
        await store.open()
        await store.close()


def test_write_that_the_file_size_limit_stops_is_an_error_of_ours(filled: Path) -> None:
    script = (
        "import asyncio, resource, sys\n"
        "from stsguard.core.errors import StoreUnavailable\n"
        "from stsguard.store.policies import PolicyStoreSql\n"
        "from tests.integration.store.examples import stored\n"
        "async def main():\n"
        "    store = PolicyStoreSql(sys.argv[1])\n"
        "    await store.open()\n"
        "    await store.save_policies([stored('b.example')])\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "    try:\n"
        "        await store.save_policies([stored(f'c{number}.example') for number in range(5000)])\n"
        "    except StoreUnavailable as exc:\n"
        "        print(exc)\n"
        "    print(len(await store.load_policies(None, 10000)))\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, f"sqlite:///{filled}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"SQLite database {filled}: input/output error (SQLITE_IOERR_WRITE)\n2\n"
