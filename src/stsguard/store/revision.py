"""Which schema a database has, compared with what this program knows: one query, and no Alembic."""

from stsguard.store.connection import Connection
from stsguard.store.refused import Refused
from stsguard.store.versions import VERSION_TABLE, Migrations

_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_'",
    "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
}


def read_revision(connection: Connection, migrations: Migrations) -> str | None:
    """The revision of the database's schema; None where there is no stsguard table yet.

    Raises:
        Refused: the schema is of a newer stsguard, or the tables are another program's.
    """
    tables = {name for (name,) in connection.query(_TABLES[connection.dialect])}
    if VERSION_TABLE not in tables:
        if tables and connection.dialect == "sqlite":
            raise Refused(f"not a database of stsguard: it has tables, but no {VERSION_TABLE}")
        return None
    revisions = connection.query(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
    if len(revisions) != 1:
        raise Refused(f"its table {VERSION_TABLE} has {len(revisions)} rows instead of one")
    revision = str(revisions[0][0])
    if revision not in migrations.revisions:
        raise Refused(
            f"its schema {revision[:32]!r} is unknown to this stsguard, which knows none after {migrations.head}; "
            "install the stsguard that wrote it, or put the copy that it kept in its place"
        )
    return revision


def sqlite_revision(connection: Connection, migrations: Migrations) -> str:
    """The revision of an SQLite file that is there.

    Raises:
        Refused: as by `read_revision`, or it has no tables.
    """
    revision = read_revision(connection, migrations)
    if revision is None:
        # Ours are complete before they have their name: this one has lost its tables.
        raise Refused("holds no tables; put a good copy in its place, or remove it to begin with an empty one")
    return revision


def check_encoding(connection: Connection) -> None:
    """Look whether a PostgreSQL database can hold every policy.

    Raises:
        Refused: it can't.
    """
    ((encoding,),) = connection.query("SHOW server_encoding")
    if encoding != "UTF8":  # RFC 8461 §3.2: a policy's extension fields may hold any UTF-8
        raise Refused(f"its encoding is {encoding}, and stsguard needs UTF8")
