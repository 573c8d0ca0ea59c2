"""Migrations, with a revision of the future, and `stsguard db upgrade`."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from stsguard.cli.main import main
from stsguard.core.errors import StoreUnavailable
from stsguard.names import Domain
from stsguard.store import upgrade_apart
from stsguard.store.access import DatabaseAccess
from stsguard.store.database import open_database
from stsguard.store.policies import PolicyStoreSql
from stsguard.store.upgrade import Upgrade, upgrade_database
from stsguard.store.versions import MIGRATIONS, Migrations
from tests.integration.store.conftest import OpenStore
from tests.integration.store.examples import stored
from tests.integration.store.postgres import Cluster

A = Domain.parse("a.example")
HEAD = MIGRATIONS.head
NEXT = """
import sqlalchemy as sa
from alembic import op
revision = "9001"
down_revision = "HEAD"
def upgrade() -> None:
    op.add_column("policies", sa.Column("added", sa.Integer, nullable=True))
    op.execute("UPDATE policies SET added = 1")
""".replace("HEAD", HEAD)


@pytest.fixture
def future(tmp_path: Path) -> Migrations:
    """The migrations of a later stsguard, one more than today."""
    directory = tmp_path / "migrations of 100%"
    shutil.copytree(MIGRATIONS.directory, directory, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "versions" / "9001_next.py").write_text(NEXT)
    return Migrations(directory, (*MIGRATIONS.revisions, "9001"))


@pytest.fixture
async def path(tmp_path: Path, new_store: OpenStore) -> Path:
    """A closed database of today with one policy."""
    made = tmp_path / "stsguard.db"
    store = new_store(f"sqlite:///{made}")
    await store.open()
    await store.save_policies([stored("a.example")])
    await store.close()
    return made


async def load(url: str, migrations: Migrations) -> object:
    store = PolicyStoreSql(DatabaseAccess(url, migrations=migrations))
    await store.open()
    try:
        return await store.load_policy(A)
    finally:
        await store.close()


async def test_old_schema_is_migrated_when_opened_and_a_copy_kept(path: Path, future: Migrations) -> None:
    assert await load(f"sqlite:///{path}", future) == stored("a.example")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT added FROM policies").fetchall() == [(1,)]
        assert connection.execute("SELECT version_num FROM stsguard_schema").fetchall() == [("9001",)]
    copy = path.with_name(f"stsguard.db.schema-{HEAD}")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert await load(f"sqlite:///{copy}", MIGRATIONS) == stored("a.example")
    left = {file.name for file in path.parent.iterdir() if file.name.startswith((".", "stsguard.db"))}
    assert left == {"stsguard.db", f"stsguard.db.schema-{HEAD}"}


async def test_daemon_has_another_process_migrate(path: Path, future: Migrations) -> None:
    new = path.with_name("new.db")
    for file in (path, new):
        database = open_database(f"sqlite:///{file}", future, lean=True)
        database.close()
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("SELECT version_num FROM stsguard_schema").fetchall() == [("9001",)]
    left = {file.name for file in path.parent.iterdir() if file.name.startswith((".", "stsguard.db", "new.db"))}
    assert left == {"stsguard.db", f"stsguard.db.schema-{HEAD}", "new.db"}


def test_what_the_other_process_finds_wrong_is_told(
    path: Path, future: Migrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = future.directory / "versions" / "9001_next.py"
    migration.write_text(NEXT + '    op.drop_table("nowhere")\n')
    with pytest.raises(StoreUnavailable) as caught:
        open_database(f"sqlite:///{path}", future, lean=True)
    assert str(caught.value) == f"SQLite database {path}: no such table: nowhere"
    monkeypatch.setattr(upgrade_apart, "COMMAND", ("sh", "-c", "kill -9 $$"))
    with pytest.raises(StoreUnavailable) as caught:
        open_database(f"sqlite:///{path}", future, lean=True)
    assert str(caught.value) == f"SQLite database {path}: the process that migrates it ended with status -9"
    path.chmod(0o666)  # what is wrong before that is told as ever
    with pytest.raises(StoreUnavailable, match=r"everyone may write it"):
        open_database(f"sqlite:///{path}", future, lean=True)


async def test_policy_still_in_the_log_is_in_the_copy_too(path: Path, future: Migrations) -> None:
    database = open_database(f"sqlite:///{path}")  # its connection keeps the write-ahead log from being merged
    with database.writing() as connection:
        connection.execute("UPDATE policies SET record_id = 'late'")
    upgrade = upgrade_database(f"sqlite:///{path}", future)
    database.close()
    assert upgrade.copy is not None
    with closing(sqlite3.connect(upgrade.copy)) as copy:
        assert copy.execute("SELECT record_id FROM policies").fetchall() == [("late",)]


async def test_newer_schema_is_refused_and_left_alone(path: Path, future: Migrations, new_store: OpenStore) -> None:
    upgrade_database(f"sqlite:///{path}", future)
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable) as caught:
        await new_store(f"sqlite:///{path}").open()
    assert str(caught.value) == (
        f"SQLite database {path}: its schema '9001' is unknown to this stsguard, which knows none after {HEAD}; "
        "install the stsguard that wrote it, or put the copy that it kept in its place"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("count", [0, 2])
async def test_version_that_is_not_one_is_refused(path: Path, new_store: OpenStore, count: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM stsguard_schema")
        connection.executemany("INSERT INTO stsguard_schema VALUES (?)", [(f"000{n + 1}",) for n in range(count)])
    with pytest.raises(StoreUnavailable) as caught:
        await new_store(f"sqlite:///{path}").open()
    assert str(caught.value) == (f"SQLite database {path}: its table stsguard_schema has {count} rows instead of one")


def test_failed_migration_leaves_the_database_as_it_was(path: Path, future: Migrations) -> None:
    migration = future.directory / "versions" / "9001_next.py"
    migration.write_text(NEXT + '    op.drop_table("nowhere")\n')
    with pytest.raises(StoreUnavailable) as caught:
        upgrade_database(f"sqlite:///{path}", future)
    assert str(caught.value) == f"SQLite database {path}: no such table: nowhere"
    with closing(sqlite3.connect(path)) as connection:
        assert "added" not in [column[1] for column in connection.execute("PRAGMA table_info(policies)")]
    open_database(f"sqlite:///{path}").close()
    migration.write_text(NEXT)
    done = upgrade_database(f"sqlite:///{path}", future)
    assert (done.before, done.after) == (HEAD, "9001")


def test_revisions_that_do_not_join_are_our_fault_and_said_so(path: Path, future: Migrations) -> None:
    (future.directory / "versions" / "9001_next.py").unlink()
    with pytest.raises(StoreUnavailable, match=r"can't be migrated: "):
        upgrade_database(f"sqlite:///{path}", future)


def test_postgresql_is_migrated_by_the_command_only(postgres: Cluster, future: Migrations) -> None:
    url = postgres.new_database()
    upgrade_database(url)
    with pytest.raises(StoreUnavailable) as caught:
        open_database(url, future)
    assert str(caught.value).endswith(
        f': its schema is {HEAD}, and this stsguard needs 9001; run "stsguard db upgrade"'
    )
    done = upgrade_database(url, future)
    assert (done.before, done.after, done.copy) == (HEAD, "9001", None)
    open_database(url, future).close()


RunUpgrade = Callable[..., tuple[int, str, str]]


@pytest.fixture
def upgrade(capsys: pytest.CaptureFixture[str]) -> RunUpgrade:
    """Runs `stsguard db upgrade`: its exit code, standard output and standard error."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["db", "upgrade", *arguments], prog_name="stsguard")
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return invoke


def test_db_upgrade_makes_a_database_and_says_so(tmp_path: Path, upgrade: RunUpgrade) -> None:
    at = ("--config", "/dev/null", "--state-dir", f"{tmp_path}/state")
    name = f"SQLite database {tmp_path}/state/stsguard.db"
    assert upgrade(*at) == (0, f"{name}: new, now schema {HEAD}\n", "")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert upgrade(*at) == (0, f"{name}: already has schema {HEAD}\n", "")
    code, out, _ = upgrade(*at, "--json")
    assert (code, json.loads(out)) == (
        0,
        {"upgraded": False, "database": name, "before": HEAD, "after": HEAD, "copy": None},
    )


def test_db_upgrade_names_the_copy(path: Path, monkeypatch: pytest.MonkeyPatch, upgrade: RunUpgrade) -> None:
    done = Upgrade(f"SQLite database {path}", "0001", "0002", Path(f"{path}.schema-0001"))
    monkeypatch.setattr("stsguard.store.upgrade.upgrade_database", lambda _url: done)
    assert upgrade() == (
        0,
        f"{done.database}: schema 0001, now schema 0002\nThe database as it was before is kept in {done.copy}.\n",
        "",
    )
    assert json.loads(upgrade("--json")[1])["copy"] == f"{path}.schema-0001"


def test_db_upgrade_refuses_with_the_reason(tmp_path: Path, upgrade: RunUpgrade) -> None:
    config = tmp_path / "stsguard.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/none/stsguard.db"\n')
    message = f"SQLite database {tmp_path}/none/stsguard.db: the directory {tmp_path}/none does not exist"
    assert upgrade("--config", str(config)) == (1, "", f"{message}\n")
    code, out, err = upgrade("--config", str(config), "--json")
    assert (code, json.loads(out), err) == (1, {"upgraded": False, "error": message}, "")


def test_threads_of_one_process_may_make_databases_at_once(tmp_path: Path) -> None:
    together = Barrier(8)

    def make(number: int) -> str:
        together.wait(timeout=30)
        return upgrade_database(f"sqlite:///{tmp_path}/{number}.db").after

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(make, range(8))) == [HEAD] * 8
    for number in range(8):
        open_database(f"sqlite:///{tmp_path}/{number}.db").close()


def test_two_processes_may_make_the_same_database_at_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from stsguard.cli import main; main()",
        "db",
        "upgrade",
        "--state-dir",
        str(tmp_path),
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [(*process.communicate(), process.returncode) for process in running]
    assert [(err, code) for _, err, code in ended] == [("", 0)] * 4
    assert {out for out, _, _ in ended} <= {
        f"SQLite database {tmp_path}/stsguard.db: {what}\n"
        for what in (f"new, now schema {HEAD}", f"already has schema {HEAD}")
    }
    assert [file.name for file in tmp_path.iterdir()] == ["stsguard.db"]
