"""The SQLite file: who may write it, how it is made, how connections to it behave, and the copy before a migration.

A database that can't be opened, is locked, damaged or empty is refused with the reason: it may hold the only proof that
a destination demands TLS, so it is never moved aside, never recreated and never taken for an empty one.
Every connection is opened for an existing file only. A new database is made under another name, and linked to its own
when it is complete.
"""

import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from stsguard.store.faults import Refused, user

READ_BUSY_SECONDS = 1.0  # a look-up waits for the store 2 s in all
WRITE_BUSY_SECONDS = 5.0  # longer than any transaction of another stsguard process


def engine(path: Path, *, writing: bool) -> Engine:
    """An engine with one connection to the existing file `path`; each transaction of a writing one locks it at once,
    so that no transaction fails in the middle because another process writes."""
    made = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(path, writing=writing),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
    )

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    event.listen(made, "begin", begin)
    return made


def _connect(path: Path, *, writing: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        _uri(path, "rw"),
        uri=True,
        timeout=WRITE_BUSY_SECONDS if writing else READ_BUSY_SECONDS,
        isolation_level=None,  # the driver begins no transactions of its own, or DDL would not be inside one
        check_same_thread=False,  # one thread uses it, another one closes it
    )
    # A damaged text is one row's fault, found out where that row is read; it must not fail the whole query.
    connection.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
    # FULL: a commit is on disk when it returns, so neither kill -9 nor a power loss takes a policy back.
    for pragma in ("synchronous = FULL", "foreign_keys = ON", f"query_only = {'OFF' if writing else 'ON'}"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path))}?mode={mode}"


def use_write_ahead_log(engine: Engine) -> None:
    """Readers and the writer do not wait for each other. The setting stays in the file.

    Raises:
        Refused: the file system can't do it.
        SQLAlchemyError: the database can't be opened.
    """
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        (journal_mode,) = cursor.fetchone() or ("unknown",)
    finally:
        raw.close()
    if journal_mode != "wal":
        raise Refused(f"its file system allows no write-ahead log (journal mode {journal_mode})")


def check_file(path: Path) -> bool:
    """Whether the file is there; where it is, that nobody else can write it and that it is not empty.

    Raises:
        Refused: the directory or the file can't be used; what is wrong and what to do.
    """
    _check_directory(path.parent)
    try:
        found = path.stat()
    except FileNotFoundError:
        for rest in (f"{path}-wal", f"{path}-journal"):
            if Path(rest).exists():
                raise Refused(f"missing, but {rest} is there; put the file back") from None
        return False
    if not stat.S_ISREG(found.st_mode):
        raise Refused("not a file")
    if found.st_size == 0:
        raise Refused("an empty file; put a good copy in its place, or remove it to begin with an empty one")
    if found.st_mode & stat.S_IWOTH:
        raise Refused(f"everyone may write it (mode {found.st_mode & 0o777:04o}); chmod 0600 {path}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise Refused(f"can't be written by user {user()}")
    return True


def _check_directory(directory: Path) -> None:
    try:
        mode = directory.stat().st_mode
    except FileNotFoundError:
        raise Refused(f"the directory {directory} does not exist") from None
    if not stat.S_ISDIR(mode):
        raise Refused(f"{directory} is no directory")
    # Who may write in the directory may replace the file.
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Refused(f"everyone may write in the directory {directory}; chmod o-w {directory}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Refused(f"the directory {directory} can't be written by user {user()}")


def create(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the database `path`, filled by `fill`. Killed in between there is none; where another process has made it
    meanwhile, that one stays.

    Raises:
        OSError, SQLAlchemyError: there is no space, or the like.
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
            closing(sqlite3.connect(_uri(path, "ro"), uri=True, timeout=READ_BUSY_SECONDS)) as source,
            closing(sqlite3.connect(_uri(new, "rw"), uri=True)) as target,
        ):
            source.backup(target)
        new.rename(copy)
    _sync_directory(copy.parent)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, mode 0600; gone at the end where it was not renamed."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    new = Path(name)
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
