"""The SQLite file: how it is made, its write-ahead log, and the copy before a migration.

A new database is made under another name, and linked to its own
when it is complete.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from stsguard.store.refused import Refused
from stsguard.store.sqlite_file import READ_BUSY_SECONDS, connect, uri


def use_write_ahead_log(path: Path) -> None:
    """Readers and the writer do not wait for each other. The setting stays in the file.

    Raises:
        Refused: the file system can't do it.
        sqlite3.Error: the database can't be opened.
    """
    with closing(connect(path, writing=True)) as connection:
        (journal_mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone() or ("unknown",)
    if journal_mode != "wal":
        raise Refused(f"its file system allows no write-ahead log (journal mode {journal_mode})")


def create(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the database `path`, filled by `fill`. Killed in between there is none; where another process has made it
    meanwhile, that one stays.

    Raises:
        OSError, or what `fill` raises: there is no space, or the like.
    """
    with _new_file(path) as new:
        fill(new)
        try:
            os.link(new, path)
        except FileExistsError:
            return
    _sync_directory(path.parent)


def keep_copy(path: Path, copy: Path) -> None:
    """Copy the database `path` to `copy`, complete and readable by the owner only; an older `copy` is replaced.

    Raises:
        OSError, sqlite3.Error: there is no space, or the like.
    """
    with _new_file(copy) as new:
        with (
            closing(sqlite3.connect(uri(path, "ro"), uri=True, timeout=READ_BUSY_SECONDS)) as source,
            closing(sqlite3.connect(uri(new, "rw"), uri=True)) as target,
        ):
            source.backup(target)
        new.rename(copy)
    _sync_directory(copy.parent)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, mode 0600; gone at the end where it was not renamed."""
    # As `tempfile` does, which loads a MiB of what copies and compresses.
    new = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        owner = path.parent.stat()
        if os.geteuid() == 0:
            # `stsguard db upgrade` as root must not leave a file that the daemon can't open.
            os.fchown(handle, owner.st_uid, owner.st_gid)
        os.close(handle)
        yield new
    finally:
        new.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
