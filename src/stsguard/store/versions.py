"""Which schemas this program knows. Free of SQLAlchemy and Alembic: an up-to-date database is opened without Alembic.

A database says which schema it has in the one row of `VERSION_TABLE`. Migrations only ever add, since on SQLite a
daemon of the version before may go on writing until it is restarted.
"""

from dataclasses import dataclass
from pathlib import Path

VERSION_TABLE = "stsguard_schema"  # Alembic's usual name could be another program's, in a shared PostgreSQL schema


@dataclass(frozen=True, slots=True)
class Migrations:
    """The revisions in their order, and the Alembic directory that has them."""

    directory: Path
    revisions: tuple[str, ...]

    @property
    def head(self) -> str:
        """The revision that this program works with."""
        return self.revisions[-1]


MIGRATIONS = Migrations(Path(__file__).parent / "migrations", ("0001", "0002", "0003", "0004"))
