"""Transactions by the driver alone, on both databases, and that a lean process loads nothing else for them."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.store.database import Database, open_database

ROOT = Path(__file__).parents[3]
INSERT = "INSERT INTO log_positions (log, position) VALUES (:log, :position)"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()


def logs(database: Database) -> list[str]:
    with database.scanning() as connection:
        return [log for (log,) in connection.query("SELECT log FROM log_positions ORDER BY log")]


def test_parameters_by_name_by_place_and_as_a_list(database: Database) -> None:
    with database.writing() as connection:
        connection.execute_many(INSERT, [{"log": log, "position": log.upper()} for log in "abc"])
        connection.execute_many("INSERT INTO log_positions (log, position) VALUES (?, ?)", [("d", "D")])
        found = connection.query(
            "SELECT position FROM log_positions WHERE log IN (:logs) AND position <> :log ORDER BY log",
            {"logs": ["a", "b", "d", "x"], "log": "B", "unused": 1},
        )
        assert found == [("A",), ("D",)]
        changed = connection.execute("UPDATE log_positions SET position = :to WHERE log > :log", {"to": "", "log": "a"})
        assert changed == 3
        assert connection.first("SELECT log FROM log_positions WHERE log = 'x'") is None


def test_transaction_that_ends_by_an_exception_is_undone(database: Database) -> None:
    def fail() -> None:
        with database.writing() as connection:
            connection.execute(INSERT, {"log": "a", "position": "1"})
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert logs(database) == []
    with pytest.raises(StoreUnavailable) as caught, database.writing() as connection:
        connection.execute_many(INSERT, [{"log": "a", "position": "1"}] * 2)
    assert not caught.value.temporary  # it is of what was to be written
    assert logs(database) == []
    with database.writing() as connection:
        connection.execute(INSERT, {"log": "a", "position": "1"})
    assert logs(database) == ["a"]


def test_readers_can_not_write(database: Database) -> None:
    for looking in (database.reading, database.scanning):
        with pytest.raises(StoreUnavailable), looking() as connection:
            connection.execute(INSERT, {"log": "a", "position": "1"})
    assert logs(database) == []


def test_connection_in_use_is_closed_when_that_is_over(database: Database) -> None:
    begun, release, written = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        with database.writing() as connection:
            begun.set()
            release.wait(60)
            connection.execute(INSERT, {"log": "a", "position": "1"})
        written.set()

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait(60)
    database.close()
    release.set()
    thread.join(60)
    assert written.is_set()
    assert database._write._raw is None


def test_through_sqlalchemy_the_same_is_seen(database: Database) -> None:
    with database.alchemy.writing() as connection:
        connection.exec_driver_sql("INSERT INTO log_positions (log, position) VALUES ('a', '1')")
    assert logs(database) == ["a"]
    assert database.alchemy is database.alchemy


LEAN = """
import asyncio, sys
from datetime import timedelta
from stsguard.store.stores import open_stores
from tests.integration.store.counting import EXPIRED, row
from tests.integration.store.examples import NOW, stored
async def main():
    stores = open_stores(sys.argv[1], lean=True)
    await stores.policies.open()
    await stores.policies.save_policies([stored("a.example")])
    await stores.sessions.add_counters([row(bad=1, details={EXPIRED: 1})], {"postfix": "1"})
    day = (await stores.reports.unbuilt_days(NOW.date() + timedelta(days=9999)))[0]
    counted = [each async for each in stores.sessions.load_counters(day)]
    claimed = await stores.reports.claim_day(day, counted[0].report_domain, "n1", NOW, 60)
    await stores.policies.close()
    print(len(counted), claimed, [name for name in ("sqlalchemy", "alembic", "psycopg") if name in sys.modules])
asyncio.run(main())
"""


def test_lean_process_loads_neither_sqlalchemy_nor_alembic(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEAN, f"sqlite:///{tmp_path}/stsguard.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "1 True []\n"
