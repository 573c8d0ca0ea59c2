"""The SQLite file: who may write it, and how a connection to it behaves.

A database that can't be opened, is locked, damaged or empty is refused with the reason: it may hold the only proof that
a destination demands TLS, so it is never moved aside, never recreated and never taken for an empty one.
Every connection is opened for an existing file only.
"""

import os
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from stsguard.store.refused import Refused, user
from stsguard.store.versions import VERSION_TABLE, Migrations

PREFIX = "sqlite:///"
READ_BUSY_SECONDS = 1.0  # a look-up waits for the store 2 s in all
WRITE_BUSY_SECONDS = 5.0  # longer than any transaction of another stsguard process
CACHE_KIB = 512  # of pages, each connection; with SQLite's 2 MB a row of many is written in the same time


def connect(path: Path, *, writing: bool) -> sqlite3.Connection:
    """A connection to the existing file `path`."""
    connection = sqlite3.connect(
        uri(path, "rw"),
        uri=True,
        timeout=WRITE_BUSY_SECONDS if writing else READ_BUSY_SECONDS,
        isolation_level=None,  # the driver begins no transactions of its own, or DDL would not be inside one
        check_same_thread=False,  # one thread uses it, another one closes it
    )
    # A damaged text is one row's fault, found out where that row is read; it must not fail the whole query.
    connection.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
    # FULL: a commit is on disk when it returns, so neither kill -9 nor a power loss takes a policy back.
    durable, lean = "synchronous = FULL", f"cache_size = -{CACHE_KIB}"
    for pragma in (durable, lean, "foreign_keys = ON", f"query_only = {'OFF' if writing else 'ON'}"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def is_current(connection: sqlite3.Connection, migrations: Migrations) -> bool:
    """Whether the database has the newest schema; not, where that can't be read."""
    try:
        revisions = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall()  # noqa: S608
    except sqlite3.Error:
        return False
    return revisions == [(migrations.head,)]


def uri(path: Path, mode: str) -> str:
    """`path` as SQLite opens it in this mode."""
    return f"file:{quote(str(path))}?mode={mode}"


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
