"""Stored policies before the database is open: found by plain sqlite3, and only where nothing is in doubt."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.names import Domain
from stsguard.store.policy_rows import COLUMNS
from stsguard.store.schema import policies
from tests.integration.store.conftest import OpenStore
from tests.integration.store.examples import stored

A, B = Domain("a.example"), Domain("b.example")
HEAVY = ("sqlalchemy", "alembic", "dns", "prometheus_client", "cryptography.x509", "stsguard.outbound.reporter")


async def test_stored_policy_is_found_before_the_database_is_open(filled: Path, new_store: OpenStore) -> None:
    store = new_store(f"sqlite:///{filled}")
    assert await store.open_early()
    found = await asyncio.gather(*(store.load_policy(name) for name in (A, B, A)))
    assert found == [stored("a.example"), None, stored("a.example")]
    assert store.problem is not None
    await store.open()
    assert store.problem is None
    assert await store.load_policy(A) == stored("a.example")


async def test_file_that_is_not_there_yet_holds_nothing(path: Path, new_store: OpenStore) -> None:
    store = new_store(f"sqlite:///{path}")
    assert await store.open_early()
    assert await store.load_policy(A) is None
    assert not path.exists()


async def test_whoever_saves_early_waits_until_the_database_is_open(path: Path, new_store: OpenStore) -> None:
    store = new_store(f"sqlite:///{path}")
    assert await store.open_early()
    await store.save_policies([stored("a.example")])
    assert store.problem is None
    other = new_store(f"sqlite:///{path}")
    assert await other.open_early()
    assert await other.load_policy(A) == stored("a.example")
    await other.forget_policies([A])
    assert await other.load_policy(A) is None


async def test_an_open_database_is_left_as_it_is(filled: Path, new_store: OpenStore) -> None:
    store = new_store(f"sqlite:///{filled}")
    await store.open()
    assert await store.open_early()
    assert await store.load_policy(A) == stored("a.example")


async def test_row_that_is_no_policy_is_reported(filled: Path, new_store: OpenStore) -> None:
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("UPDATE policies SET mode = 'none'")
    store = new_store(f"sqlite:///{filled}")
    assert await store.open_early()
    with pytest.raises(StoreUnavailable, match=r"what is stored for a\.example is no policy: mode none"):
        await store.load_policy(A)


async def test_file_that_fails_later_is_unavailable(filled: Path, new_store: OpenStore) -> None:
    store = new_store(f"sqlite:///{filled}")
    assert await store.open_early()
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("DROP TABLE policies")
    with pytest.raises(StoreUnavailable, match="no such table"):
        await store.load_policy(A)


@pytest.mark.parametrize(
    "sql",
    ["UPDATE stsguard_schema SET version_num = '0001'", "DELETE FROM stsguard_schema", "DROP TABLE stsguard_schema"],
)
async def test_any_other_schema_waits_for_the_opening(filled: Path, new_store: OpenStore, sql: str) -> None:
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute(sql)
    assert not await new_store(f"sqlite:///{filled}").open_early()


async def test_whatever_looks_wrong_waits_for_the_opening(filled: Path, new_store: OpenStore) -> None:
    filled.chmod(0o666)
    assert not await new_store(f"sqlite:///{filled}").open_early()
    filled.chmod(0o600)
    filled.write_bytes(b"these are notes of mine\n" * 100)
    assert not await new_store(f"sqlite:///{filled}").open_early()
    filled.write_bytes(b"")
    assert not await new_store(f"sqlite:///{filled}").open_early()
    assert not await new_store("sqlite:////nowhere/stsguard.db").open_early()


async def test_postgresql_waits_for_the_opening(new_store: OpenStore) -> None:
    assert not await new_store("postgresql://nobody@127.0.0.1:1/none").open_early()


def test_the_columns_are_those_of_the_schema() -> None:
    assert {column.name: column.type.python_type for column in policies.columns} == COLUMNS


def test_the_way_to_the_first_answer_loads_nothing_heavy(filled: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "import stsguard.app.outbound, stsguard.cli.outbound\n"
        "from stsguard.names import Domain\n"
        "from stsguard.store.stores import open_stores\n"
        "async def main():\n"
        "    store = open_stores(sys.argv[1]).policies\n"
        "    assert await store.open_early()\n"
        "    print((await store.load_policy(Domain('a.example'))).record_id)\n"
        "asyncio.run(main())\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", script, f"sqlite:///{filled}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{stored('a.example').record_id}\n[]\n"
