"""Brings the schema of a database to the newest revision: by Alembic, inside one transaction.

SQLite is made and migrated by whoever opens it. On PostgreSQL that takes `stsguard db upgrade`, since other nodes use
it too.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, text

from stsguard.store import postgresql, sqlite
from stsguard.store.alchemy import by_driver, postgresql_engine, sqlite_engine
from stsguard.store.faults import as_unavailable
from stsguard.store.refused import Refused
from stsguard.store.revision import check_encoding, read_revision, sqlite_revision
from stsguard.store.sqlite_file import PREFIX, check_file
from stsguard.store.versions import MIGRATIONS, Migrations

_ADVISORY_LOCK = 0x73747367  # one migration at a time on PostgreSQL; "stsg"

# A migration reaches its connection by `alembic.context` and `alembic.op`, which are one each for the whole process.
_one_at_a_time = Lock()


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What became of a schema: `before` None where the database was new; `copy` is that of the database before."""

    database: str
    before: str | None
    after: str
    copy: Path | None


def upgrade_database(url: str, migrations: Migrations = MIGRATIONS) -> Upgrade:
    """Bring the schema of the database `url` to the newest revision, from whichever it has, none included.

    Raises:
        StoreUnavailable: it can't be used, or not be migrated; then it is as it was.
    """
    if url.startswith(PREFIX):
        return _upgrade_sqlite(Path(url.removeprefix(PREFIX)), migrations)
    return _upgrade_postgresql(url, migrations)


def _upgrade_sqlite(path: Path, migrations: Migrations) -> Upgrade:
    name = f"SQLite database {path}"
    with as_unavailable(name, path=str(path)), ExitStack() as finally_:
        is_new = not check_file(path)
        if is_new:
            sqlite.create(path, lambda file: _fill(file, migrations))
        engine = sqlite_engine(path, writing=True)
        finally_.callback(engine.dispose)
        upgrade = _bring_up_to_date(name, path, engine, migrations, is_new=is_new)
        sqlite.use_write_ahead_log(path)
    return upgrade


def _fill(file: Path, migrations: Migrations) -> None:
    engine = sqlite_engine(file, writing=True)
    try:
        with engine.begin() as connection:
            _migrate(connection, migrations)
    finally:
        engine.dispose()


def _bring_up_to_date(name: str, path: Path, engine: Engine, migrations: Migrations, *, is_new: bool) -> Upgrade:
    # The transaction locks out every other process, which may be about to do the same.
    with engine.begin() as connection:
        before = sqlite_revision(by_driver(connection), migrations)
        copy = None
        if before != migrations.head:
            copy = path.with_name(f"{path.name}.schema-{before}")
            sqlite.keep_copy(path, copy)
            _migrate(connection, migrations)
    return Upgrade(name, None if is_new and copy is None else before, migrations.head, copy)


def _upgrade_postgresql(url: str, migrations: Migrations) -> Upgrade:
    name = "PostgreSQL database"
    with as_unavailable(name):
        name = postgresql.describe(url)
    with as_unavailable(name):
        engine = postgresql_engine(url, statement_seconds=postgresql.UPGRADE_STATEMENT_SECONDS, writing=True)
        try:
            with engine.begin() as connection:
                # Every other migration waits until this transaction ends.
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
                check_encoding(by_driver(connection))
                before = read_revision(by_driver(connection), migrations)
                if before != migrations.head:
                    _migrate(connection, migrations)
        finally:
            engine.dispose()
    return Upgrade(name, before, migrations.head, None)


def _migrate(connection: Connection, migrations: Migrations) -> None:
    """Migrate to the newest revision inside the transaction of `connection`.

    Raises:
        Refused: Alembic finds fault with its revisions.
        SQLAlchemyError: a statement failed; the caller's transaction has to be rolled back.
    """
    config = Config()
    config.set_main_option("script_location", str(migrations.directory).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        with _one_at_a_time:
            command.upgrade(config, migrations.head)
    except CommandError as exc:
        raise Refused(f"can't be migrated: {exc}") from exc
