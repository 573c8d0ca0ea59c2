"""No session is lost or counted twice: kill -9, calls that end late, connections that break, a schema of before."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.names import Domain
from stsguard.store import sessions
from stsguard.store.connection import Connection
from stsguard.store.counter_table import CounterTable
from stsguard.store.database import open_database
from stsguard.store.stores import Stores
from stsguard.store.upgrade import upgrade_database
from stsguard.store.versions import MIGRATIONS, Migrations
from tests.integration.store.conftest import OpenStore, OpenStores
from tests.integration.store.counting import EXPIRED, UNTRUSTED, all_counters, ordered, row
from tests.integration.store.examples import stored
from tests.integration.store.postgres import Cluster

ROOT = Path(__file__).parents[3]
A = Domain.parse("a.example")
WRITER = """
import asyncio, sys
from stsguard.store.stores import open_stores
from tests.integration.store.counting import EXPIRED, row
async def main():
    stores = open_stores(sys.argv[1])
    await stores.sessions.open()
    for number in range(1, 1000000):
        rows = [row(bad=1, details={EXPIRED: 1}), row(f"d{number}.example", 2)]
        await stores.sessions.add_counters(rows, {"postfix": str(number)})
        print(number, flush=True)
asyncio.run(main())
"""


def killed_writer(url: str) -> int:
    """The number of the last flush that another process said it had written before it was killed in the next."""
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None
        numbers = [writer.stdout.readline() for _ in range(100)]
        writer.kill()
        return int((numbers + [line for line in writer.stdout if line.endswith("\n")])[-1])


async def test_at_most_the_flush_under_way_is_lost_by_kill_9(url: str, new_stores: OpenStores) -> None:
    written = await asyncio.to_thread(killed_writer, url)
    stores = await new_stores(url)
    found = await all_counters(stores.sessions)
    # Positions and counters are of the same flush: the one said to be written, or the one after it.
    last = int((await stores.sessions.load_positions())["postfix"])
    assert last in {written, written + 1}
    assert {each.report_domain for each in found} == {A, *(f"d{number}.example" for number in range(1, last + 1))}
    assert [each for each in found if each.report_domain == A] == [
        row("a.example", last, last, details={EXPIRED: last})
    ]


class Faults:
    """Makes the next flush end badly for its caller."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._real = CounterTable.add

    def after_the_commit(self) -> None:
        """Written, and the answer is lost."""

        def add(table: CounterTable, *arguments: object) -> None:
            self._restore()
            self._real(table, *arguments)  # type: ignore[arg-type] # as they came
            raise StoreUnavailable("the connection is lost")

        self._monkeypatch.setattr(CounterTable, "add", add)

    def before_the_commit(self) -> None:
        """Not written."""

        def add(_table: CounterTable, *_arguments: object) -> None:
            self._restore()
            raise StoreUnavailable("the disk is full")

        self._monkeypatch.setattr(CounterTable, "add", add)

    def _restore(self) -> None:
        self._monkeypatch.setattr(CounterTable, "add", self._real)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


FIRST = [row(good=3, bad=1, unverified=1, details={EXPIRED: 1})]
MORE = [*FIRST, row("b.example"), row(bad=1, details={UNTRUSTED: 1})]  # the caller's next try, and what came meanwhile
BOTH = [row(good=4, bad=2, unverified=1, details={EXPIRED: 1, UNTRUSTED: 1}), row("b.example")]


async def test_flush_that_was_written_although_the_call_failed_counts_once(stores: Stores, faults: Faults) -> None:
    taken_back = sessions.flushes_taken_back.value()
    faults.after_the_commit()
    with pytest.raises(StoreUnavailable, match="connection is lost"):
        await stores.sessions.add_counters(FIRST, {"postfix": "1"})
    await stores.sessions.add_counters(MORE, {"postfix": "2"})
    assert await all_counters(stores.sessions) == BOTH
    assert await stores.sessions.load_positions() == {"postfix": "2"}
    assert sessions.flushes_taken_back.value() == taken_back + 1


async def test_flush_that_was_not_written_counts_once(stores: Stores, faults: Faults) -> None:
    for _ in range(3):
        faults.before_the_commit()
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await stores.sessions.add_counters(FIRST, {})
        assert await all_counters(stores.sessions) == []
    await stores.sessions.add_counters(MORE, {})
    assert await all_counters(stores.sessions) == BOTH


@pytest.mark.parametrize("written", [(True, True), (True, False), (False, True), (True, True, False, True)])
async def test_flushes_that_fail_one_after_the_other_count_once(
    stores: Stores, faults: Faults, written: tuple[bool, ...]
) -> None:
    for each in written:
        if each:
            faults.after_the_commit()
        else:
            faults.before_the_commit()
        with pytest.raises(StoreUnavailable):
            await stores.sessions.add_counters(FIRST, {})
    await stores.sessions.add_counters(MORE, {})
    assert await all_counters(stores.sessions) == BOTH


async def test_flush_that_takes_too_long_counts_once(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release, real = threading.Event(), CounterTable.add

    def slow(table: CounterTable, *arguments: object) -> None:
        release.wait(60)
        real(table, *arguments)  # type: ignore[arg-type] # as they came

    with monkeypatch.context() as patch:
        patch.setattr(CounterTable, "add", slow)
        patch.setattr("stsguard.store.access.WRITE_SECONDS", 0.05)
        with pytest.raises(StoreUnavailable, match=r"^the database does not answer within 0\.05 s$"):
            await stores.sessions.add_counters(FIRST, {})
    with pytest.raises(StoreUnavailable, match=r"^the database still does not answer$"):
        await stores.sessions.add_counters(MORE, {})
    release.set()
    with caplog.at_level(logging.WARNING, "stsguard"):
        await until_added(stores)
    assert [record.message for record in caplog.records] == ["counters were written late"]
    assert await all_counters(stores.sessions) == BOTH


async def until_added(stores: Stores) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await stores.sessions.add_counters(MORE, {})
            except StoreUnavailable:
                await asyncio.sleep(0)


async def test_flush_whose_caller_was_cancelled_counts_once(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release, real = threading.Event(), threading.Event(), CounterTable.add

    def slow(table: CounterTable, *arguments: object) -> None:
        begun.set()
        release.wait(60)
        real(table, *arguments)  # type: ignore[arg-type] # as they came

    with monkeypatch.context() as patch:
        patch.setattr(CounterTable, "add", slow)
        adding = asyncio.create_task(stores.sessions.add_counters(FIRST, {}))
        await asyncio.to_thread(begun.wait)
        adding.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await adding
    await stores.sessions.add_counters(MORE, {})
    assert await all_counters(stores.sessions) == BOTH


async def test_flush_that_the_server_is_still_busy_with_is_waited_for(
    postgres: Cluster, new_stores: OpenStores, faults: Faults
) -> None:
    url = postgres.new_database()
    upgrade_database(url)
    stores = await new_stores(url)
    await stores.sessions.add_counters([row("b.example")], {})
    faults.before_the_commit()
    with pytest.raises(StoreUnavailable):
        await stores.sessions.add_counters(FIRST, {})
    # The connection is gone, and the server has not noticed: it commits the flush later.
    lost, release, holding = open_database(url), threading.Event(), threading.Event()

    def commit_late() -> None:
        with lost.writing() as connection:
            connection.execute("UPDATE counter_flushes SET number = 2")
            connection.execute("UPDATE session_counters SET successes = successes + 0")
            holding.set()
            assert waits_for_lock(connection)

    def waits_for_lock(connection: Connection) -> bool:
        while not release.wait(0.01):
            if connection.first("SELECT count(*) FROM pg_locks WHERE NOT granted") != (0,):
                return True
        return False

    late = asyncio.create_task(asyncio.to_thread(commit_late))
    await asyncio.to_thread(holding.wait)
    await stores.sessions.add_counters([row("b.example")], {})
    release.set()
    await late
    lost.close()
    # As it believed that FIRST was written, it took it back.
    (of_a, of_b) = await all_counters(stores.sessions)
    assert (of_a.successes, of_a.failures, of_a.details) == (-3, -1, {EXPIRED: -1})
    assert of_b.successes == 2


BAD_COUNTERS = [
    ("UPDATE report_policies SET policy = '{}'", "policy_type is none of RFC 8460"),
    ("DELETE FROM report_policies", "its policy is missing"),
    ("UPDATE session_details SET detail = 'x'", "not JSON"),
    ("UPDATE session_counters SET recipient_domain = 'a b'", "'a b' is not a label of a host name"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_COUNTERS)
async def test_row_that_is_no_counter_is_reported_and_left_out(
    stores: Stores, url: str, change: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    await stores.sessions.add_counters([row(bad=1, details={EXPIRED: 1})], {})
    database = open_database(url)
    try:
        with database.writing() as connection:
            connection.execute(change)
    finally:
        database.close()
    await stores.sessions.add_counters([row("b.example")], {})
    with caplog.at_level(logging.ERROR, "stsguard"):
        found = await all_counters(stores.sessions)
    (record,) = caplog.records
    assert (record.message, str(record.__dict__["fields"]["reason"])) == ("stored counter can't be read", reason)
    assert record.__dict__["fields"]["policy_domain"] == "a.example"
    assert found == [row("b.example")]


async def test_database_of_the_schema_before_is_migrated_with_its_policies(
    tmp_path: Path, new_store: OpenStore, new_stores: OpenStores
) -> None:
    before = Migrations(MIGRATIONS.directory, ("0001",))
    path = tmp_path / "stsguard.db"
    assert upgrade_database(f"sqlite:///{path}", before).after == "0001"
    policies = [stored(f"d{number}.example") for number in range(100)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO policies VALUES (?, '20260301', 'enforce', 604800, ?, ?, ?)",
            [
                (
                    each.policy_domain,
                    "".join(f"{line}\n" for line in each.policy.policy_text),
                    1772368215123456,
                    1772368215123456,
                )
                for each in policies
            ],
        )
    stores = await new_stores(f"sqlite:///{path}")
    assert sorted(await stores.policies.load_policies(None, 1000), key=str) == sorted(policies, key=str)
    await stores.sessions.add_counters([row()], {})
    assert await all_counters(stores.sessions) == [row()]
    assert path.with_name("stsguard.db.schema-0001").exists()
    # A daemon of the version before goes on writing until it is restarted.
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE policies SET record_id = 'old' WHERE policy_domain = 'd0.example'")
    assert await stores.policies.load_policy(Domain.parse("d0.example")) == replace(policies[0], record_id="old")


async def test_postgresql_of_the_schema_before_is_migrated_with_its_policies(
    postgres: Cluster, new_stores: OpenStores
) -> None:
    url = postgres.new_database()
    upgrade_database(url, Migrations(MIGRATIONS.directory, ("0001",)))
    database = open_database(url, Migrations(MIGRATIONS.directory, ("0001",)))
    with database.writing() as connection:
        connection.execute(
            "INSERT INTO policies VALUES ('a.example', '1', 'none', 60, "
            "E'version: STSv1\\nmode: none\\nmax_age: 60\\n', 1, 1)"
        )
    database.close()
    needed = f'its schema is 0001, and this stsguard needs {MIGRATIONS.head}; run "stsguard db upg'
    with pytest.raises(StoreUnavailable, match=needed):
        await new_stores(url)
    assert upgrade_database(url).before == "0001"
    stores = await new_stores(url)
    found = await stores.policies.load_policy(A)
    assert found is not None
    assert found.record_id == "1"
    await stores.sessions.add_counters([row()], {})
    assert await all_counters(stores.sessions) == [row()]


ODD_IN_SQLITE = [
    ("UPDATE session_counters SET failures = 'many'", "a count is no number"),
    ("UPDATE session_details SET sessions = 1.5", "a count is no number"),
    ("UPDATE session_details SET detail = x'00'", "a detail is no text"),
]


@pytest.mark.parametrize(("change", "reason"), ODD_IN_SQLITE)
async def test_value_of_another_kind_in_sqlite_is_reported_and_left_out(
    path: Path, new_stores: OpenStores, change: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    stores = await new_stores(f"sqlite:///{path}")
    await stores.sessions.add_counters([row(bad=1, details={EXPIRED: 1})], {})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    with caplog.at_level(logging.ERROR, "stsguard"):
        assert await all_counters(stores.sessions) == []
    assert [str(record.__dict__["fields"]["reason"]) for record in caplog.records] == [reason]


async def test_report_domain_that_is_no_name_is_reported_and_left_out(
    stores: Stores, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await stores.sessions.add_counters([row(), row("b.example")], {})
    database = open_database(url)
    try:
        with database.writing() as connection:
            connection.execute("UPDATE session_counters SET report_domain = 'a b' WHERE report_domain = 'a.example'")
    finally:
        database.close()
    with caplog.at_level(logging.ERROR, "stsguard"):
        assert [name async for name in stores.sessions.report_domains(row().day)] == ["b.example"]
    assert [record.__dict__["fields"]["policy_domain"] for record in caplog.records] == ["a b"]


async def test_policies_known_by_heart_are_forgotten_when_they_are_many(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stsguard.store.counter_table.POLICIES_IN_MEMORY", 500)
    rows = [row(f"d{number}.example") for number in range(50)]
    for _ in range(3):
        await stores.sessions.add_counters(rows, {})
    tables = stores.sessions._access._tables
    assert tables is not None
    assert len(tables.counters._keys) < 10
    assert await all_counters(stores.sessions) == ordered(each._replace(successes=3) for each in rows)
