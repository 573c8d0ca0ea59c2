"""Opens a database, or refuses it with the reason: where it is, which schema it has, who may use it.

SQLite is made and migrated on the way. On PostgreSQL that takes `stsguard db upgrade`, since other nodes use it too.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from stsguard.store import postgresql, sqlite
from stsguard.store.faults import as_unavailable
from stsguard.store.refused import Refused
from stsguard.store.sqlite_file import PREFIX, check_file, connect, is_current
from stsguard.store.upgrade import migrate, read_revision, wait_for_turn
from stsguard.store.upgrade_apart import upgrade_apart
from stsguard.store.versions import MIGRATIONS, Migrations


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What became of a schema: `before` None where the database was new; `copy` is that of the database before."""

    database: str
    before: str | None
    after: str
    copy: Path | None


class Database:
    """An open database: a connection that reads, another one that reads what takes longer, and one that writes. Each
    may be used by one thread at a time, and is made when it is first used."""

    def __init__(self, name: str, *, read: Engine, scan: Engine, write: Engine, path: Path | None = None) -> None:
        self.name = name
        self._read = read
        self._scan = scan
        self._write = write
        self._path = path
        self._identity = _identity(path)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection inside a transaction that sees one state of the database.

        Raises:
            StoreUnavailable: for every fault in it.
        """
        with as_unavailable(self.name, path=str(self._path)), self._read.begin() as connection:
            yield connection

    @contextmanager
    def scanning(self) -> Iterator[Connection]:
        """As `reading`, on a connection and with a time limit of its own, for what no look-up waits for.

        Raises:
            StoreUnavailable: for every fault in it.
        """
        with as_unavailable(self.name, path=str(self._path)), self._scan.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection inside a transaction, which is on disk when this ends without an exception.

        Raises:
            StoreUnavailable: for every fault in it; then nothing is written.
        """
        with as_unavailable(self.name, path=str(self._path)):
            if _identity(self._path) != self._identity:
                # Writes to a file that has lost its name would go nowhere, in silence.
                raise Refused("removed or replaced while in use; restart stsguard")
            with self._write.begin() as connection:
                yield connection

    def close(self) -> None:
        """Close the connections."""
        self._read.dispose()
        self._scan.dispose()
        self._write.dispose()


def _identity(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def open_database(url: str, migrations: Migrations = MIGRATIONS, *, apart: bool = False) -> Database:
    """The database `url`, ready for use. A missing SQLite file is made, one with an older schema is migrated; with
    `apart` by another process.

    Raises:
        StoreUnavailable: it can't be used; the message is for the administrator.
    """
    if url.startswith(PREFIX):
        if apart and not _is_current(Path(url.removeprefix(PREFIX)), migrations):
            upgrade_apart(url, migrations)
        return _open_sqlite(Path(url.removeprefix(PREFIX)), migrations)[0]
    return _open_postgresql(url, migrations)


def upgrade_database(url: str, migrations: Migrations = MIGRATIONS) -> Upgrade:
    """Bring the schema of the database `url` to the newest revision, from whichever it has, none included.

    Raises:
        StoreUnavailable: it can't be used, or not be migrated; then it is as it was.
    """
    if url.startswith(PREFIX):
        database, upgrade = _open_sqlite(Path(url.removeprefix(PREFIX)), migrations)
        database.close()
        return upgrade
    return _upgrade_postgresql(url, migrations)


def _open_sqlite(path: Path, migrations: Migrations) -> tuple[Database, Upgrade]:
    name = f"SQLite database {path}"
    with as_unavailable(name, path=str(path)), ExitStack() as on_failure:
        is_new = not check_file(path)
        if is_new:
            sqlite.create(path, lambda file: _fill(file, migrations))
        write = sqlite.engine(path, writing=True)
        on_failure.callback(write.dispose)
        upgrade = _bring_up_to_date(name, path, write, migrations, is_new=is_new)
        sqlite.use_write_ahead_log(write)
        read, scan = sqlite.engine(path, writing=False), sqlite.engine(path, writing=False)
        database = Database(name, read=read, scan=scan, write=write, path=path)
        on_failure.pop_all()
    return database, upgrade


def _is_current(path: Path, migrations: Migrations) -> bool:
    """Whether there is nothing to migrate, as far as can be seen; what is wrong is told by whoever opens it."""
    try:
        if not check_file(path):
            return False
        with closing(connect(path, writing=False)) as connection:
            return is_current(connection, migrations)
    except (Refused, sqlite3.Error, OSError):
        return True


def _fill(file: Path, migrations: Migrations) -> None:
    engine = sqlite.engine(file, writing=True)
    try:
        with engine.begin() as connection:
            migrate(connection, migrations)
    finally:
        engine.dispose()


def _bring_up_to_date(name: str, path: Path, engine: Engine, migrations: Migrations, *, is_new: bool) -> Upgrade:
    with engine.connect() as connection:
        before = _sqlite_revision(connection, migrations)
    if before == migrations.head:
        return Upgrade(name, None if is_new else before, migrations.head, None)
    # The transaction locks out every other process, which may be about to do the same; so it looks once more.
    with engine.begin() as connection:
        before = _sqlite_revision(connection, migrations)
        copy = None
        if before != migrations.head:
            copy = path.with_name(f"{path.name}.schema-{before}")
            sqlite.keep_copy(path, copy)
            migrate(connection, migrations)
    return Upgrade(name, before, migrations.head, copy)


def _sqlite_revision(connection: Connection, migrations: Migrations) -> str:
    revision = read_revision(connection, migrations)
    if revision is None:
        # Ours are complete before they have their name: this one has lost its tables.
        raise Refused("holds no tables; put a good copy in its place, or remove it to begin with an empty one")
    return revision


def _open_postgresql(url: str, migrations: Migrations) -> Database:
    name = "PostgreSQL database"
    with as_unavailable(name):
        name = postgresql.describe(url)
    with as_unavailable(name), ExitStack() as on_failure:
        read = postgresql.engine(url, statement_seconds=postgresql.READ_STATEMENT_SECONDS, writing=False)
        scan = postgresql.engine(url, statement_seconds=postgresql.SCAN_STATEMENT_SECONDS, writing=False)
        write = postgresql.engine(url, statement_seconds=postgresql.WRITE_STATEMENT_SECONDS, writing=True)
        on_failure.callback(write.dispose)
        with write.begin() as connection:
            _check_encoding(connection)
            revision = read_revision(connection, migrations)
        if revision != migrations.head:
            what = f"its schema is {revision}" if revision else "it has no tables of stsguard yet"
            raise Refused(f'{what}, and this stsguard needs {migrations.head}; run "stsguard db upgrade"')
        on_failure.pop_all()
    return Database(name, read=read, scan=scan, write=write)


def _check_encoding(connection: Connection) -> None:
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":  # RFC 8461 §3.2: a policy's extension fields may hold any UTF-8
        raise Refused(f"its encoding is {encoding}, and stsguard needs UTF8")


def _upgrade_postgresql(url: str, migrations: Migrations) -> Upgrade:
    name = "PostgreSQL database"
    with as_unavailable(name):
        name = postgresql.describe(url)
    with as_unavailable(name):
        engine = postgresql.engine(url, statement_seconds=postgresql.UPGRADE_STATEMENT_SECONDS, writing=True)
        try:
            with engine.begin() as connection:
                wait_for_turn(connection)
                _check_encoding(connection)
                before = read_revision(connection, migrations)
                if before != migrations.head:
                    migrate(connection, migrations)
        finally:
            engine.dispose()
    return Upgrade(name, before, migrations.head, None)
