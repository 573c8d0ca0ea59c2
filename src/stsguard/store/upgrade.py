"""The schema of an open database: read, compared with what this program knows, and migrated.

The comparison needs one query and no Alembic, whose import takes longer than the rest of the start.
"""

from threading import Lock

from sqlalchemy import Connection, inspect, text

from stsguard.store.refused import Refused
from stsguard.store.versions import VERSION_TABLE, Migrations

_ADVISORY_LOCK = 0x73747367  # one migration at a time on PostgreSQL; "stsg"

# A migration reaches its connection by `alembic.context` and `alembic.op`, which are one each for the whole process.
_one_at_a_time = Lock()


def read_revision(connection: Connection, migrations: Migrations) -> str | None:
    """The revision of the database's schema; None where there is no stsguard table yet.

    Raises:
        Refused: the schema is of a newer stsguard, or the tables are another program's.
    """
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE not in tables:
        if tables and connection.dialect.name == "sqlite":
            raise Refused(f"not a database of stsguard: it has tables, but no {VERSION_TABLE}")
        return None
    revisions = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all()  # noqa: S608
    if len(revisions) != 1:
        raise Refused(f"its table {VERSION_TABLE} has {len(revisions)} rows instead of one")
    revision = str(revisions[0])
    if revision not in migrations.revisions:
        raise Refused(
            f"its schema {revision[:32]!r} is unknown to this stsguard, which knows none after {migrations.head}; "
            "install the stsguard that wrote it, or put the copy that it kept in its place"
        )
    return revision


def wait_for_turn(connection: Connection) -> None:
    """On PostgreSQL, keep every other migration out until the transaction of `connection` ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def migrate(connection: Connection, migrations: Migrations) -> None:
    """Migrate to the newest revision inside the transaction of `connection`.

    Raises:
        Refused: Alembic finds fault with its revisions.
        SQLAlchemyError: a statement failed; the caller's transaction has to be rolled back.
    """
    from alembic import command  # noqa: PLC0415 (see the module's docstring)
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util.exc import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(migrations.directory).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        with _one_at_a_time:
            command.upgrade(config, migrations.head)
    except CommandError as exc:
        raise Refused(f"can't be migrated: {exc}") from exc
