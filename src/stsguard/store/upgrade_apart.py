"""A migration in a process of its own, which takes SQLAlchemy and Alembic with it when it ends.

They are as much memory as the rest of a daemon, for what is done once in a version's life. The process is told what to
do on its standard input and says on its standard output what came of it, as JSON.
"""

import json
import subprocess
import sys
from pathlib import Path

from stsguard.core.errors import StoreUnavailable
from stsguard.store.sqlite_file import PREFIX
from stsguard.store.versions import Migrations

# -P: the directory that a command is called in may hold another "stsguard".
COMMAND = (sys.executable, "-P", "-m", "stsguard.store.upgrade_apart")


def upgrade_apart(url: str, migrations: Migrations) -> None:
    """Bring the schema of the SQLite database `url` to the newest revision, from whichever it has, none included.

    Raises:
        StoreUnavailable: it can't be used, or not be migrated; then it is as it was.
    """
    asked = {"url": url, "directory": str(migrations.directory), "revisions": migrations.revisions}
    done = subprocess.run(COMMAND, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return
    try:
        fault = json.loads(done.stdout)
        error = StoreUnavailable(str(fault["error"]), temporary=bool(fault["temporary"]))
    except (ValueError, KeyError, TypeError):
        # Ended from outside, or by a fault of ours, which it has written to standard error.
        name = f"SQLite database {url.removeprefix(PREFIX)}"
        raise StoreUnavailable(f"{name}: the process that migrates it ended with status {done.returncode}") from None
    raise error


def main() -> None:
    """The other process."""
    from stsguard.store.upgrade import upgrade_database  # noqa: PLC0415 (what is not to be loaded above)

    asked = json.load(sys.stdin)
    try:
        upgrade_database(asked["url"], Migrations(Path(asked["directory"]), tuple(asked["revisions"])))
    except StoreUnavailable as exc:
        json.dump({"error": str(exc), "temporary": exc.temporary}, sys.stdout)
        sys.exit(1)


if __name__ == "__main__":
    main()
