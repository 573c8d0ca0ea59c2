"""Opens a database, or refuses it with the reason: where it is, which schema it has, who may use it.

SQLite is made and migrated on the way. On PostgreSQL that takes `stsguard db upgrade`, since other nodes use it too.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from stsguard.store import postgresql, sqlite
from stsguard.store.connection import Connection, Link, PostgresqlLink, SqliteLink
from stsguard.store.faults import as_unavailable
from stsguard.store.refused import Refused
from stsguard.store.revision import check_encoding, read_revision, sqlite_revision
from stsguard.store.sqlite_file import PREFIX, check_file
from stsguard.store.upgrade_apart import upgrade_apart
from stsguard.store.versions import MIGRATIONS, Migrations

if TYPE_CHECKING:
    from stsguard.store.alchemy import AlchemyDatabase


class Database:
    """An open database: a connection that reads, another one that reads what takes longer, and one that writes. Each
    may be used by one thread at a time, and is made when it is first used."""

    def __init__(self, name: str, url: str, *, read: Link, scan: Link, write: Link) -> None:
        self.name = name
        self._url = url
        self._read = read
        self._scan = scan
        self._write = write
        self._path = Path(url.removeprefix(PREFIX)) if url.startswith(PREFIX) else None
        self._identity = _identity(self._path)
        self._alchemy: AlchemyDatabase | None = None
        self._making_alchemy = Lock()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection inside a transaction that sees one state of the database.

        Raises:
            StoreUnavailable: for every fault in it.
        """
        with self.faults(), self._read.transaction() as connection:
            yield connection

    @contextmanager
    def scanning(self) -> Iterator[Connection]:
        """As `reading`, on a connection and with a time limit of its own, for what no look-up waits for.

        Raises:
            StoreUnavailable: for every fault in it.
        """
        with self.faults(), self._scan.transaction() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection inside a transaction, which is on disk when this ends without an exception.

        Raises:
            StoreUnavailable: for every fault in it; then nothing is written.
        """
        with self.faults():
            self.check_file()
            with self._write.transaction() as connection:
                yield connection

    def faults(self) -> AbstractContextManager[None]:
        """Makes every fault a `StoreUnavailable` that names this database."""
        return as_unavailable(self.name, path=str(self._path))

    def check_file(self) -> None:
        """Look whether the file still has its name: writes to one that has not would go nowhere, in silence.

        Raises:
            Refused: it has not.
        """
        if _identity(self._path) != self._identity:
            raise Refused("removed or replaced while in use; restart stsguard")

    @property
    def alchemy(self) -> "AlchemyDatabase":
        """The same database through SQLAlchemy, which is loaded when this is first asked for."""
        with self._making_alchemy:
            if self._alchemy is None:
                self._alchemy = self._make_alchemy()
            return self._alchemy

    def _make_alchemy(self) -> "AlchemyDatabase":
        from stsguard.store import alchemy  # noqa: PLC0415 (see its docstring)

        if self._path is not None:
            read, scan, write = (alchemy.sqlite_engine(self._path, writing=writing) for writing in (False, False, True))
        else:
            read, scan, write = (
                alchemy.postgresql_engine(self._url, statement_seconds=seconds, writing=writing)
                for seconds, writing in _POSTGRESQL_USES
            )
        return alchemy.AlchemyDatabase(self, read=read, scan=scan, write=write)

    def close(self) -> None:
        """Close the connections."""
        for link in (self._read, self._scan, self._write):
            link.close()
        if self._alchemy is not None:
            self._alchemy.close()


_POSTGRESQL_USES = (
    (postgresql.READ_STATEMENT_SECONDS, False),
    (postgresql.SCAN_STATEMENT_SECONDS, False),
    (postgresql.WRITE_STATEMENT_SECONDS, True),
)


def _identity(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def open_database(url: str, migrations: Migrations = MIGRATIONS, *, lean: bool = False) -> Database:
    """The database `url`, ready for use. A missing SQLite file is made, one with an older schema is migrated: with
    `lean` by another process, which takes all that it needs for it away again.

    Raises:
        StoreUnavailable: it can't be used; the message is for the administrator.
    """
    if url.startswith(PREFIX):
        return _open_sqlite(url, migrations, lean=lean)
    return _open_postgresql(url, migrations)


def _open_sqlite(url: str, migrations: Migrations, *, lean: bool) -> Database:
    path = Path(url.removeprefix(PREFIX))
    with as_unavailable(f"SQLite database {path}", path=str(path)), ExitStack() as on_failure:
        if not check_file(path):
            _upgrade(url, migrations, lean=lean)
        write = SqliteLink(path, writing=True)
        on_failure.callback(write.close)
        if _revision(write, migrations) != migrations.head:
            _upgrade(url, migrations, lean=lean)
        sqlite.use_write_ahead_log(path)
        read, scan = SqliteLink(path, writing=False), SqliteLink(path, writing=False)
        database = Database(f"SQLite database {path}", url, read=read, scan=scan, write=write)
        on_failure.pop_all()
    return database


def _revision(link: Link, migrations: Migrations) -> str:
    with link.transaction() as connection:
        return sqlite_revision(connection, migrations)


def _upgrade(url: str, migrations: Migrations, *, lean: bool) -> None:
    if lean:
        upgrade_apart(url, migrations)
        return
    from stsguard.store.upgrade import upgrade_database  # noqa: PLC0415 (Alembic takes its time to import)

    upgrade_database(url, migrations)


def _open_postgresql(url: str, migrations: Migrations) -> Database:
    name = "PostgreSQL database"
    with as_unavailable(name):
        name = postgresql.describe(url)
    with as_unavailable(name), ExitStack() as on_failure:
        read, scan, write = (
            PostgresqlLink(url, statement_seconds=seconds, writing=writing) for seconds, writing in _POSTGRESQL_USES
        )
        on_failure.callback(write.close)
        with write.transaction() as connection:
            check_encoding(connection)
            revision = read_revision(connection, migrations)
        if revision != migrations.head:
            what = f"its schema is {revision}" if revision else "it has no tables of stsguard yet"
            raise Refused(f'{what}, and this stsguard needs {migrations.head}; run "stsguard db upgrade"')
        on_failure.pop_all()
    return Database(name, url, read=read, scan=scan, write=write)
