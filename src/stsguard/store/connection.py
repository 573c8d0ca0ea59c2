"""A connection to the database by its driver alone, `sqlite3` or `psycopg`: what a daemon needs that has to stay small.

Statements are SQL that both databases understand, in one spelling: `:name` for a value of a mapping, where a list
stands for one parameter for each of its entries, as in `IN (:names)`; `?` for the next value of a tuple. None holds a
colon, a question mark or a per cent sign for anything else.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from stsguard.store import postgresql, sqlite_file

Dialect = Literal["sqlite", "postgresql"]
Row = tuple[Any, ...]
_PARAMETER = re.compile(r":(\w+)|\?")


class Connection:
    """One inside a transaction. Every call raises what the driver raises."""

    def __init__(self, raw: Any, dialect: Dialect) -> None:
        self._raw = raw  # a DB-API connection; the drivers' classes have no common type
        self.dialect = dialect

    def query(self, statement: str, values: Mapping[str, object] | None = None) -> list[Row]:
        """All rows that the statement gives."""
        rows: list[Row] = self._executed(statement, values or {}).fetchall()
        return rows

    def first(self, statement: str, values: Mapping[str, object] | None = None) -> Row | None:
        """The first of these rows, if there is one."""
        rows = self.query(statement, values)
        return rows[0] if rows else None

    def execute(self, statement: str, values: Mapping[str, object] | None = None) -> int:
        """How many rows the statement changed."""
        return int(self._executed(statement, values or {}).rowcount)

    def execute_many(self, statement: str, rows: Sequence[Mapping[str, object]] | Sequence[Row]) -> None:
        """Execute the statement once for each of `rows`."""
        self._raw.cursor().executemany(_spelled(statement, self.dialect), rows)

    def _executed(self, statement: str, values: Mapping[str, object]) -> Any:
        for name, value in values.items():
            if isinstance(value, list):
                names = [f"{name}_{number}" for number in range(len(value))]
                statement = statement.replace(f"(:{name})", f"({', '.join(f':{each}' for each in names)})")
                values = {**values, **dict(zip(names, value, strict=True))}
        return self._raw.execute(_spelled(statement, self.dialect), *([values] if values else []))


@lru_cache
def _spelled(statement: str, dialect: Dialect) -> str:
    """The statement as the driver takes it. SQLite's knows our spelling."""
    if dialect == "sqlite":
        return statement
    return _PARAMETER.sub(lambda match: f"%({match[1]})s" if match[1] else "%s", statement)


class Link(ABC):
    """A connection for one thread at a time, made when it is first used, and anew where it was lost."""

    dialect: Dialect

    def __init__(self) -> None:
        self._raw: Any = None
        self._busy = False
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection inside a transaction, which is on disk when this ends without an exception, and undone when
        it ends by one."""
        self._busy = True
        try:
            self._begin()
            try:
                yield Connection(self._raw, self.dialect)
                self._raw.commit()
            except BaseException:
                self._undo()
                raise
        finally:
            self._busy = False
            if self._closed:
                self._drop()

    @abstractmethod
    def _begin(self) -> None:
        """Begin a transaction on the connection, which is made where there is none."""

    def _undo(self) -> None:
        undone = False
        try:
            if not getattr(self._raw, "closed", False):  # by psycopg, when the server is gone
                self._raw.rollback()
                undone = True
        finally:
            if not undone:  # the next transaction gets another one
                self._drop()

    def _drop(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()

    def close(self) -> None:
        """Close the connection; one that is in use, since its thread hangs, when that is over."""
        self._closed = True
        if not self._busy:
            self._drop()


class SqliteLink(Link):
    """To a file. A transaction that writes locks it at once, so that none fails in the middle because another process
    writes."""

    dialect = "sqlite"

    def __init__(self, path: Path, *, writing: bool) -> None:
        super().__init__()
        self._path = path
        self._writing = writing

    def _begin(self) -> None:
        if self._raw is None:
            self._raw = sqlite_file.connect(self._path, writing=self._writing)
        self._raw.execute("BEGIN IMMEDIATE" if self._writing else "BEGIN")


class PostgresqlLink(Link):
    """To a server, which may have been restarted since the last transaction."""

    dialect = "postgresql"

    def __init__(self, url: str, *, statement_seconds: float, writing: bool) -> None:
        super().__init__()
        self._url = url
        self._statement_seconds = statement_seconds
        self._writing = writing

    def _begin(self) -> None:
        from psycopg import OperationalError  # noqa: PLC0415 (an SQLite site need not have it)

        if self._raw is not None:
            try:
                self._raw.execute("BEGIN")
            except OperationalError:
                if not self._raw.closed:
                    raise
                self._drop()
            else:
                return
        self._raw = postgresql.connect(
            self._url, statement_seconds=self._statement_seconds, writing=self._writing, autocommit=True
        )
        self._raw.execute("BEGIN")
