"""Turns what SQLite, PostgreSQL, SQLAlchemy and the file system raise into `StoreUnavailable`, with a message that
tells an administrator what is wrong and what to do. No other exception leaves the store."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)

from stsguard.core.errors import StoreUnavailable
from stsguard.store.refused import Refused, user

MAX_DETAIL_CHARACTERS = 200
_LEFT_ALONE = "stsguard leaves it as it is; put a good copy in its place, or move it away to begin with an empty one"
_SQLITE = {
    sqlite3.SQLITE_BUSY: 'locked by another process ("fuser {path}" names it)',
    sqlite3.SQLITE_LOCKED: 'locked by another process ("fuser {path}" names it)',
    sqlite3.SQLITE_CORRUPT: f"damaged; {_LEFT_ALONE}",
    sqlite3.SQLITE_NOTADB: f"not an SQLite database; {_LEFT_ALONE}",
    sqlite3.SQLITE_FULL: "no space left on its disk",
    sqlite3.SQLITE_READONLY: "can't be written by user {user}",
    sqlite3.SQLITE_PERM: "can't be opened by user {user}",
    sqlite3.SQLITE_CANTOPEN: "can't be opened by user {user}",
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL = {
    "53100": "no space left on its disk",
    "55P03": "locked by another session",
    "57014": "does not answer in time",
    "25006": "is read-only",
}


@contextmanager
def as_unavailable(database: str, *, path: str = "") -> Iterator[None]:
    """Raise `StoreUnavailable` for every fault of a database; `database` begins the message, `path` is its file.

    Raises:
        StoreUnavailable: SQLite, the PostgreSQL driver, SQLAlchemy or the file system failed, or `Refused`.
    """
    try:
        yield
    except Refused as exc:
        raise StoreUnavailable(f"{database}: {exc}") from exc
    except (SQLAlchemyError, sqlite3.Error, OSError, ImportError) as exc:
        raise StoreUnavailable(f"{database}: {_describe(exc, path)}", temporary=not _is_of_values(exc)) from exc


def _is_of_values(exc: BaseException) -> bool:
    """Whether it is what was to be written that the database does not take, and no repetition helps."""
    if isinstance(exc, DBAPIError):
        return isinstance(exc, (DataError, IntegrityError, ProgrammingError))
    return isinstance(exc, StatementError)  # a value that the driver can't bind


def _describe(exc: SQLAlchemyError | sqlite3.Error | OSError | ImportError, path: str) -> str:
    fault = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    if isinstance(fault, sqlite3.Error):
        return _describe_sqlite(fault, path)
    if isinstance(fault, ImportError):
        return f"the PostgreSQL driver can't be loaded, install stsguard[postgresql] ({_first_line(fault)})"
    if isinstance(fault, OSError):
        return f"{fault.strerror or _first_line(fault)}" + (f" ({fault.filename})" if fault.filename else "")
    sqlstate = getattr(fault, "sqlstate", None)
    if sqlstate is None and isinstance(exc, DBAPIError):
        return f"can't be reached ({_first_line(fault)})"
    return _POSTGRESQL.get(sqlstate or "", _first_line(fault))


def _describe_sqlite(fault: sqlite3.Error, path: str) -> str:
    code = getattr(fault, "sqlite_errorcode", None)  # the driver's own errors have none
    if code is None:
        return _first_line(fault)
    primary = code & 0xFF  # https://www.sqlite.org/rescode.html: the extended codes keep it in the low octet
    if primary == sqlite3.SQLITE_IOERR:
        return f"input/output error ({fault.sqlite_errorname})"
    known = _SQLITE.get(primary)
    return known.format(path=path, user=user()) if known else _first_line(fault)


def _first_line(fault: BaseException) -> str:
    text = " ".join((str(fault).strip().splitlines() or [type(fault).__name__])[0].split())
    return text if len(text) <= MAX_DETAIL_CHARACTERS else text[: MAX_DETAIL_CHARACTERS - 1] + "…"
