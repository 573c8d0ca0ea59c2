"""Turns what SQLite, PostgreSQL, SQLAlchemy and the file system raise into `StoreUnavailable`, with a message that
tells an administrator what is wrong and what to do. No other exception leaves the store."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
    except _upstream() as exc:
        raise StoreUnavailable(f"{database}: {_describe(exc, path)}", temporary=not _is_of_values(exc)) from exc


def _upstream() -> tuple[type[Exception], ...]:
    """What the libraries that are loaded raise; to load one in order to catch its errors would be for nothing."""
    found: list[type[Exception]] = [sqlite3.Error, OSError, ImportError]
    for module, error in (("psycopg", "Error"), ("sqlalchemy.exc", "SQLAlchemyError")):
        if sys.modules.get(module) is not None:
            found.append(getattr(sys.modules[module], error))
    return tuple(found)


def _is_of_values(exc: Exception) -> bool:
    """Whether it is what was to be written that the database does not take, and no repetition helps."""
    # By name: PEP 249 has both drivers call them so, and SQLAlchemy does too. Its own StatementError, which its
    # DBAPIError is as well, is of a value that the driver can't bind.
    names = {each.__name__ for each in type(exc).__mro__}
    if names & {"DataError", "IntegrityError", "ProgrammingError"}:
        return True
    return "StatementError" in names and "DBAPIError" not in names


def _describe(exc: Exception, path: str) -> str:
    fault: BaseException = getattr(exc, "orig", None) or exc  # what SQLAlchemy wraps, the driver has raised
    if isinstance(fault, sqlite3.Error):
        return _describe_sqlite(fault, path)
    if isinstance(fault, ImportError):
        return f"the PostgreSQL driver can't be loaded, install stsguard[postgresql] ({_first_line(fault)})"
    if isinstance(fault, OSError):
        return f"{fault.strerror or _first_line(fault)}" + (f" ({fault.filename})" if fault.filename else "")
    if getattr(fault, "sqlstate", "") is None:  # psycopg has it from the server alone
        return f"can't be reached ({_first_line(fault)})"
    return _POSTGRESQL.get(getattr(fault, "sqlstate", ""), _first_line(fault))


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
