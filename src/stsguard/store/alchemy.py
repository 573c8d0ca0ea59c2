"""The same database through SQLAlchemy: for tables whose queries are put together from what is asked for, which are
those of our own domains and of received reports, and for migrations.

A daemon that needs none of them saves sixteen MiB by not loading this module.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.pool import QueuePool

from stsguard.store import connection as plain
from stsguard.store import postgresql, sqlite_file

if TYPE_CHECKING:
    from stsguard.store.database import Database


class AlchemyDatabase:
    """An open database: three connections for the same uses as those of `Database`, with the same limits and faults."""

    def __init__(self, database: "Database", *, read: Engine, scan: Engine, write: Engine) -> None:
        self._database = database
        self._read = read
        self._scan = scan
        self._write = write

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """As `Database.reading`."""
        with self._database.faults(), self._read.begin() as connection:
            yield connection

    @contextmanager
    def scanning(self) -> Iterator[Connection]:
        """As `Database.scanning`."""
        with self._database.faults(), self._scan.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """As `Database.writing`."""
        with self._database.faults():
            self._database.check_file()
            with self._write.begin() as connection:
                yield connection

    def close(self) -> None:
        """Close the connections."""
        self._read.dispose()
        self._scan.dispose()
        self._write.dispose()


def sqlite_engine(path: Path, *, writing: bool) -> Engine:
    """An engine with one connection to the existing file `path`; each transaction of a writing one locks it at once,
    so that no transaction fails in the middle because another process writes."""
    made = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: sqlite_file.connect(path, writing=writing),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
    )

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    event.listen(made, "begin", begin)
    return made


def postgresql_engine(url: str, *, statement_seconds: float, writing: bool) -> Engine:
    """An engine with one connection to the database `url`.

    Raises:
        ImportError: there is no psycopg, or no libpq.
    """
    return create_engine(
        "postgresql+psycopg://",
        creator=lambda: postgresql.connect(url, statement_seconds=statement_seconds, writing=writing, autocommit=False),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,  # the server may have been restarted since
    )


def by_driver(connection: Connection) -> plain.Connection:
    """The connection below, inside the same transaction."""
    return plain.Connection(
        connection.connection.driver_connection, "sqlite" if connection.dialect.name == "sqlite" else "postgresql"
    )


def insert_into(connection: Connection, table: Table) -> PostgresqlInsert | SqliteInsert:
    """An INSERT that can say ON CONFLICT, for the database of `connection`."""
    if connection.dialect.name == "sqlite":
        return sqlite_dialect.insert(table)
    return postgresql_dialect.insert(table)
