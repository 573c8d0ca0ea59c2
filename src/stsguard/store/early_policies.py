"""Stored policies before the database is open: by plain sqlite3, for the first answers after a start.

To open a database may mean to make or to migrate it, and no look-up may be answered before what is stored for its
domain is known. So until the database is open, single policies are read from an SQLite file whose schema is the newest,
and from nothing else: an older schema, PostgreSQL, or a file that looks wrong in any
way waits for the opening, which tells what is wrong with it. A file that is not there yet holds no policy.
"""

import sqlite3
from collections.abc import Collection
from pathlib import Path

from stsguard.core.errors import StoreUnavailable
from stsguard.names import Domain
from stsguard.store.policy_rows import COLUMNS, Page, PolicyRows
from stsguard.store.refused import Refused
from stsguard.store.sqlite_file import PREFIX, check_file, connect, is_current
from stsguard.store.versions import Migrations

NAMES_AT_ONCE = 500  # in one statement; SQLite takes no more than 999 parameters in its older versions


class EarlyPolicies:
    """The policies of an SQLite file. Every call blocks, and all come from one thread."""

    def __init__(self, path: Path, connection: sqlite3.Connection | None) -> None:
        self._path = path
        self._connection = connection
        self._rows = PolicyRows()

    @classmethod
    def open(cls, url: str, migrations: Migrations) -> "EarlyPolicies | None":
        """The policies at `url`, spelled as [store] url; None where they have to wait until the database is open."""
        if not url.startswith(PREFIX):
            return None
        path = Path(url.removeprefix(PREFIX))
        try:
            if not check_file(path):
                return cls(path, None)
            connection = connect(path, writing=False)
        except (Refused, sqlite3.Error, OSError):
            return None
        if not is_current(connection, migrations):
            connection.close()
            return None
        return cls(path, connection)

    def load_some(self, policy_domains: Collection[Domain]) -> Page:
        """Those policies of `policy_domains` that there are.

        Raises:
            StoreUnavailable: they can't be read.
        """
        page = Page()
        if self._connection is None:
            return page
        names = [str(name) for name in policy_domains]
        try:
            for start in range(0, len(names), NAMES_AT_ONCE):
                some = names[start : start + NAMES_AT_ONCE]
                places = ", ".join("?" * len(some))
                query = f"SELECT {', '.join(COLUMNS)} FROM policies WHERE policy_domain IN ({places})"  # noqa: S608
                for row in self._connection.execute(query, some):
                    self._rows.add(page, row)
        except sqlite3.Error as exc:
            raise StoreUnavailable(f"SQLite database {self._path}: {exc}") from exc
        return page

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
