"""What can go wrong with a SQLite file: each is reported with the reason, and the file stays as it is."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.names import Domain
from stsguard.store import sqlite
from stsguard.store.policies import PolicyStoreSql
from stsguard.store.refused import Refused
from tests.integration.store.conftest import OpenStore
from tests.integration.store.examples import stored

ROOT = Path(__file__).parents[3]
A = Domain.parse("a.example")
LEFT_ALONE = "stsguard leaves it as it is; put a good copy in its place, or move it away to begin with an empty one"


async def reason(store: PolicyStoreSql) -> str:
    """Why `store` can't be opened; it may be asked again and says the same."""
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            await store.open()
        assert store.problem == str(caught.value)
    with pytest.raises(StoreUnavailable) as again:
        await store.load_policy(A)
    assert str(again.value) == str(caught.value)
    return str(caught.value)


@contextmanager
def holding(path: Path, *statements: str) -> Iterator[Callable[[], None]]:
    """Another process that has made `statements` on the database and keeps its connection; calling ends it."""
    script = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in sys.argv[2:]: connection.execute(statement).fetchall()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(path), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def end() -> None:
            process.communicate()

        yield end
        end()


async def test_file_is_readable_by_its_owner_only(filled: Path, new_store: OpenStore) -> None:
    assert [file.name for file in filled.parent.iterdir()] == ["stsguard.db"]
    assert filled.stat().st_mode & 0o777 == 0o600
    store = new_store(f"sqlite:///{filled}")
    await store.open()
    await store.save_policies([stored("b.example")])
    assert {file.stat().st_mode & 0o777 for file in filled.parent.iterdir()} == {0o600}  # -wal and -shm as well


async def test_settings_that_keep_policies_over_a_power_loss(filled: Path, new_store: OpenStore) -> None:
    store = new_store(f"sqlite:///{filled}")
    await store.open()
    tables = store._access._tables
    assert tables is not None
    with tables.database.writing() as connection:
        found = {
            name: connection.first(f"PRAGMA {name}")
            for name in ("journal_mode", "synchronous", "foreign_keys", "query_only", "busy_timeout")
        }
    assert found == {
        "journal_mode": ("wal",),
        "synchronous": (2,),
        "foreign_keys": (1,),
        "query_only": (0,),
        "busy_timeout": (5000,),
    }
    for looking in (tables.database.reading, tables.database.scanning):
        with looking() as connection:
            assert connection.first("PRAGMA query_only") == (1,)
            assert connection.first("PRAGMA busy_timeout") == (1000,)


@pytest.mark.parametrize("name", ["with space.db", "50%41.db", "ä&'=.db"])
async def test_any_file_name_will_do(tmp_path: Path, new_store: OpenStore, name: str) -> None:
    store = new_store(f"sqlite:///{tmp_path}/{name}")
    await store.open()
    await store.save_policies([stored("a.example")])
    assert await store.load_policy(A) == stored("a.example")
    assert (tmp_path / name).is_file()


def killed_writer(url: str) -> list[str]:
    """The names that another process said it had saved before it was killed while it saved more."""
    script = (
        "import asyncio, sys\n"
        "from stsguard.store.policies import PolicyStoreSql\n"
        "from tests.integration.store.examples import stored\n"
        "async def main():\n"
        "    store = PolicyStoreSql(sys.argv[1])\n"
        "    await store.open()\n"
        "    for number in range(1000000):\n"
        "        name = f'd{number}.example'\n"
        "        await store.save_policies([stored(name), stored(f'x{name}')])\n"
        "        print(name, flush=True)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None
        saved = [writer.stdout.readline().strip() for _ in range(200)]
        writer.kill()
        return saved + [line.strip() for line in writer.stdout if line.endswith("\n")]


async def test_policy_is_there_after_kill_9_once_save_has_returned(path: Path, new_store: OpenStore) -> None:
    saved = killed_writer(f"sqlite:///{path}")
    store = new_store(f"sqlite:///{path}")
    await store.open()
    found = {each.policy_domain for each in await store.load_policies(None, 10_000_000)}
    assert found >= set(saved)
    assert len(found) % 2 == 0  # a transaction is there whole or not at all


async def test_locked_by_another_process_when_opened(filled: Path, new_store: OpenStore) -> None:
    store = new_store(f"sqlite:///{filled}")
    with holding(filled, "PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE") as end:
        with pytest.raises(StoreUnavailable) as caught:
            await store.open()
        assert str(caught.value) == f'SQLite database {filled}: locked by another process ("fuser {filled}" names it)'
        assert store.problem == str(caught.value)
        end()
    await store.open()
    assert await store.load_policy(A) == stored("a.example")


async def test_locked_by_another_process_while_open(filled: Path, new_store: OpenStore) -> None:
    store = new_store(f"sqlite:///{filled}")
    await store.open()
    with holding(filled, "BEGIN IMMEDIATE") as end:
        with pytest.raises(StoreUnavailable) as caught:
            await store.save_policies([stored("b.example")])
        message = f'SQLite database {filled}: locked by another process ("fuser {filled}" names it)'
        assert str(caught.value) == message
        assert store.problem == message
        assert await store.load_policy(A) == stored("a.example")  # reading goes on
        end()
    await store.save_policies([stored("b.example")])
    assert store.problem is None


async def test_file_that_is_no_database(path: Path, new_store: OpenStore) -> None:
    path.write_bytes(b"these are notes of mine\n" * 100)
    assert await reason(new_store(f"sqlite:///{path}")) == (
        f"SQLite database {path}: not an SQLite database; {LEFT_ALONE}"
    )
    assert path.read_bytes() == b"these are notes of mine\n" * 100
    assert list(path.parent.iterdir()) == [path]


async def test_damaged_database_is_reported_when_opened(filled: Path, new_store: OpenStore) -> None:
    octets = bytearray(filled.read_bytes())
    octets[100:4096] = bytes(3996)  # the schema; the header stays
    filled.write_bytes(octets)
    assert await reason(new_store(f"sqlite:///{filled}")) == f"SQLite database {filled}: damaged; {LEFT_ALONE}"
    assert filled.read_bytes() == octets


async def test_damaged_database_is_reported_when_read(filled: Path, new_store: OpenStore) -> None:
    octets = filled.read_bytes()
    filled.write_bytes(octets[:4096] + b"\xff" * (len(octets) - 4096))
    store = new_store(f"sqlite:///{filled}")
    try:
        await store.open()
    except StoreUnavailable as exc:
        message = str(exc)
    else:
        with pytest.raises(StoreUnavailable) as caught:
            await store.load_policy(A)
        message = str(caught.value)
        assert store.problem == message
    assert message == f"SQLite database {filled}: damaged; {LEFT_ALONE}"


async def test_value_of_another_kind_is_one_rows_fault(
    filled: Path, new_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(filled)) as connection, connection:
        text = b"version: STSv1\nmode: enforce\nmx: *.example.net\nmax_age: 604800\n"
        for octets in ((b"b.example", text + b"x: \xff\n"), (b"c\xff.example", text), (b"c..example", text)):
            connection.execute(
                "INSERT INTO policies SELECT CAST(? AS TEXT), record_id, mode, max_age, "
                "CAST(? AS TEXT), fetched_at, last_used_at FROM policies WHERE policy_domain = 'a.example'",
                octets,
            )
        connection.execute("INSERT INTO policies SELECT 'd.example', 1, 2, 'x', 3, 'y', 'z' FROM stsguard_schema")
        connection.execute("INSERT INTO policies SELECT 'e.example', 1, 2, 3, X'00', 5, 6 FROM stsguard_schema")
    store = new_store(f"sqlite:///{filled}")
    await store.open()
    with caplog.at_level(logging.ERROR, "stsguard"):
        assert await store.load_policies(None, 10) == [stored("a.example")]
    reasons = [record.__dict__["fields"]["reason"] for record in caplog.records]
    assert reasons[0] == "'utf-8' codec can't encode character '\\udcff' in position 66: surrogates not allowed"
    assert reasons[1] == "'' is not a label of a host name"
    assert reasons[2].startswith("not an internationalised domain name: ")
    assert reasons[3:] == ["max_age is no int", "policy_text is no str"]
    for name in ("b.example", "d.example", "e.example"):
        with pytest.raises(StoreUnavailable, match=f"^what is stored for {name} is no policy: "):
            await store.load_policy(Domain.parse(name))


async def test_empty_file_is_not_taken_for_a_new_database(path: Path, new_store: OpenStore) -> None:
    path.touch()
    assert await reason(new_store(f"sqlite:///{path}")) == (
        f"SQLite database {path}: an empty file; put a good copy in its place, or remove it to begin with an empty one"
    )
    assert path.stat().st_size == 0


async def test_database_without_tables_is_not_taken_for_a_new_one(filled: Path, new_store: OpenStore) -> None:
    with closing(sqlite3.connect(filled, isolation_level=None)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            connection.execute(f"DROP TABLE {name}")
    assert await reason(new_store(f"sqlite:///{filled}")) == (
        f"SQLite database {filled}: holds no tables; "
        "put a good copy in its place, or remove it to begin with an empty one"
    )


async def test_database_of_another_program_is_left_alone(path: Path, new_store: OpenStore) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mailbox (name TEXT)")
    before = path.read_bytes()
    assert await reason(new_store(f"sqlite:///{path}")) == (
        f"SQLite database {path}: not a database of stsguard: it has tables, but no stsguard_schema"
    )
    assert path.read_bytes() == before


async def test_log_without_its_database_is_not_taken_for_a_new_one(path: Path, new_store: OpenStore) -> None:
    Path(f"{path}-wal").write_bytes(b"x")
    assert await reason(new_store(f"sqlite:///{path}")) == (
        f"SQLite database {path}: missing, but {path}-wal is there; put the file back"
    )
    assert not path.exists()


def test_file_system_without_a_write_ahead_log_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = sqlite3.connect(":memory:")
    monkeypatch.setattr(sqlite, "connect", lambda _path, *, writing: memory if writing else None)
    with pytest.raises(Refused, match=r"^its file system allows no write-ahead log \(journal mode memory\)$"):
        sqlite.use_write_ahead_log(Path("stsguard.db"))


def test_database_that_another_process_made_meanwhile_stays(path: Path) -> None:
    def fill(new: Path) -> None:
        new.write_text("ours")
        path.write_text("theirs")

    sqlite.create(path, fill)
    assert path.read_text() == "theirs"
    assert list(path.parent.iterdir()) == [path]


async def test_missing_directory(tmp_path: Path, new_store: OpenStore) -> None:
    path = tmp_path / "none" / "stsguard.db"
    assert await reason(new_store(f"sqlite:///{path}")) == (
        f"SQLite database {path}: the directory {tmp_path}/none does not exist"
    )


async def test_directory_that_is_a_file(tmp_path: Path, new_store: OpenStore) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "stsguard.db"
    assert await reason(new_store(f"sqlite:///{path}")) == (f"SQLite database {path}: {tmp_path}/file is no directory")


async def test_file_that_is_a_directory(path: Path, new_store: OpenStore) -> None:
    path.mkdir()
    assert await reason(new_store(f"sqlite:///{path}")) == f"SQLite database {path}: not a file"


async def test_directory_that_everyone_may_write(tmp_path: Path, new_store: OpenStore) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    path = tmp_path / "open" / "stsguard.db"
    assert await reason(new_store(f"sqlite:///{path}")) == (
        f"SQLite database {path}: everyone may write in the directory {tmp_path}/open; chmod o-w {tmp_path}/open"
    )
    (tmp_path / "open").chmod(0o1777)  # as /tmp: nobody else may replace the file
    await new_store(f"sqlite:///{path}").open()


async def test_file_that_everyone_may_write(filled: Path, new_store: OpenStore) -> None:
    filled.chmod(0o666)
    assert await reason(new_store(f"sqlite:///{filled}")) == (
        f"SQLite database {filled}: everyone may write it (mode 0666); chmod 0600 {filled}"
    )


async def test_file_removed_while_open_is_noticed_before_a_write_is_lost(filled: Path, new_store: OpenStore) -> None:
    store = new_store(f"sqlite:///{filled}")
    await store.open()
    for change in (filled.unlink, filled.touch):  # removed, then replaced
        change()
        with pytest.raises(StoreUnavailable) as caught:
            await store.save_policies([stored("b.example")])
        assert str(caught.value) == (f"SQLite database {filled}: removed or replaced while in use; restart stsguard")


async def test_readers_see_each_transaction_whole_or_not_at_all(filled: Path, new_store: OpenStore) -> None:
    writer, reader = new_store(f"sqlite:///{filled}"), new_store(f"sqlite:///{filled}")
    await writer.open()
    await reader.open()
    names = [f"d{number:03}.example" for number in range(300)]
    seen: set[str] = set()

    async def write() -> None:
        for number in range(20):
            await writer.save_policies([stored(name, record_id=str(number)) for name in names])

    async def read() -> None:
        while not writing.done():
            ids = [each.record_id for each in await reader.load_policies(Domain.parse("b"), 1000)]
            assert len(ids) in {0, len(names)}
            assert len(set(ids)) <= 1
            seen.update(ids)

    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        group.create_task(read())
    assert {each.record_id for each in await reader.load_policies(Domain.parse("b"), 1000)} == {"19"}
    assert seen


def test_opening_an_up_to_date_database_imports_neither_alembic_nor_the_orm(filled: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from stsguard.store.policies import PolicyStoreSql\n"
        "print([name for name in ('sqlalchemy', 'alembic') if name in sys.modules])\n"
        "async def main():\n"
        "    store = PolicyStoreSql(sys.argv[1])\n"
        "    await store.open()\n"
        "    print(len(await store.load_policies(None, 10)))\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
        "print([name for name in ('sqlalchemy', 'sqlalchemy.orm', 'alembic', 'psycopg') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", script, f"sqlite:///{filled}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n1\n['sqlalchemy']\n"
