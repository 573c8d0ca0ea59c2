"""PostgreSQL alone: who may migrate it, and how long a call waits for a server that is locked, hangs or is gone."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import make_url

from stsguard.core.errors import StoreUnavailable
from stsguard.names import Domain
from stsguard.store.access import READ_SECONDS
from stsguard.store.database import open_database
from stsguard.store.policies import PolicyStoreSql
from stsguard.store.upgrade import Upgrade, upgrade_database
from stsguard.store.versions import MIGRATIONS
from tests.integration.store.conftest import OpenStore
from tests.integration.store.examples import stored
from tests.integration.store.postgres import Cluster

A = Domain.parse("a.example")
PASSWORD = "correct-horse"  # noqa: S105 (of nothing)


def named(url: str, postgres: Cluster) -> str:
    """The database as messages name it."""
    return f"PostgreSQL database {make_url(url).database} on {postgres.directory}"


async def reason(store: PolicyStoreSql) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await store.open()
    assert store.problem == str(caught.value)
    return str(caught.value)


@pytest.fixture
def url(postgres: Cluster) -> str:
    """A database with the newest schema."""
    made = postgres.new_database()
    upgrade_database(made)
    return made


def test_upgrade_makes_the_tables_once(postgres: Cluster) -> None:
    url = postgres.new_database()
    assert upgrade_database(url) == Upgrade(named(url, postgres), None, MIGRATIONS.head, None)
    assert upgrade_database(url) == Upgrade(named(url, postgres), MIGRATIONS.head, MIGRATIONS.head, None)
    open_database(url).close()


async def test_database_without_tables_is_refused_until_it_is_upgraded(postgres: Cluster, new_store: OpenStore) -> None:
    url = postgres.new_database()
    store = new_store(url)
    assert await reason(store) == (
        f"{named(url, postgres)}: it has no tables of stsguard yet, and this stsguard needs {MIGRATIONS.head}; "
        'run "stsguard db upgrade"'
    )
    assert postgres.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database=url_name(url)) == "0"
    upgrade_database(url)
    await store.open()
    assert await store.load_policy(A) is None


def url_name(url: str) -> str:
    name = make_url(url).database
    assert name is not None
    return name


async def test_newer_schema_is_refused(postgres: Cluster, url: str, new_store: OpenStore) -> None:
    postgres.sql("UPDATE stsguard_schema SET version_num = '9999'", database=url_name(url))
    expected = (
        f"{named(url, postgres)}: its schema '9999' is unknown to this stsguard, "
        f"which knows none after {MIGRATIONS.head}; "
        "install the stsguard that wrote it, or put the copy that it kept in its place"
    )
    assert await reason(new_store(url)) == expected
    with pytest.raises(StoreUnavailable) as caught:
        upgrade_database(url)
    assert str(caught.value) == expected


async def test_database_of_another_encoding_is_refused(postgres: Cluster, new_store: OpenStore) -> None:
    url = postgres.new_database("-E", "LATIN1", "-T", "template0", "--locale=C")
    message = f"{named(url, postgres)}: its encoding is LATIN1, and stsguard needs UTF8"
    assert await reason(new_store(url)) == message
    with pytest.raises(StoreUnavailable) as caught:
        upgrade_database(url)
    assert str(caught.value) == message


async def test_server_that_is_not_there(postgres: Cluster, new_store: OpenStore) -> None:
    store = new_store(f"postgresql://stsguard:{PASSWORD}@/stsguard?host={postgres.directory}&port=1")
    message = await reason(store)
    assert message.startswith(f"PostgreSQL database stsguard on {postgres.directory}: can't be reached (")
    assert "No such file or directory" in message
    assert PASSWORD not in message
    assert "\n" not in message


async def test_role_that_may_not_read(postgres: Cluster, url: str, new_store: OpenStore) -> None:
    postgres.sql("CREATE ROLE weak LOGIN", database=url_name(url))
    try:
        message = await reason(new_store(url.replace("postgres@", "weak@")))
        assert message == f"{named(url, postgres)}: permission denied for table stsguard_schema"
    finally:
        postgres.sql("DROP ROLE weak", database=url_name(url))


async def test_missing_driver_names_the_extra(
    postgres: Cluster, url: str, new_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    assert (await reason(new_store(url))).startswith(
        f"{named(url, postgres)}: the PostgreSQL driver can't be loaded, install stsguard[postgresql] ("
    )


async def test_options_of_the_url_hold_beside_ours(postgres: Cluster, url: str) -> None:
    database = open_database(f"{url}&options=-c%20work_mem%3D7MB")
    try:
        with database.reading() as connection:
            settings = ("work_mem", "statement_timeout", "default_transaction_read_only", "client_encoding")
            found = [connection.first(f"SHOW {name}") for name in settings]
    finally:
        database.close()
    assert found == [("7MB",), ("1500ms",), ("on",), ("UTF8",)]


async def test_locked_table_does_not_hold_a_read_up(postgres: Cluster, url: str, new_store: OpenStore) -> None:
    store = new_store(url)
    await store.open()
    await store.save_policies([stored("a.example")])
    other = open_database(url)
    try:
        with other.writing() as connection:
            connection.execute("LOCK TABLE policies IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(StoreUnavailable) as caught:
                await store.load_policy(A)
    finally:
        other.close()
    assert str(caught.value) == f"{named(url, postgres)}: locked by another session"
    assert await store.load_policy(A) == stored("a.example")


@contextmanager
def stopped(postgres: Cluster, url: str) -> Iterator[None]:
    """The server processes of a database stand still, as on a machine that hangs."""
    query = f"SELECT pid FROM pg_stat_activity WHERE datname = '{url_name(url)}'"  # noqa: S608
    pids = [int(pid) for pid in postgres.sql(query).split()]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_server_that_hangs_does_not_hold_a_read_up(postgres: Cluster, url: str, new_store: OpenStore) -> None:
    store = new_store(url)
    await store.open()
    await store.save_policies([stored("a.example")])
    assert await store.load_policy(A) == stored("a.example")
    with stopped(postgres, url):
        with pytest.raises(StoreUnavailable, match=f"^the database does not answer within {READ_SECONDS:g} s$"):
            await store.load_policy(A)
        for _ in range(100):  # the next do not wait at all
            with pytest.raises(StoreUnavailable, match=r"^the database still does not answer$"):
                await store.load_policy(A)
        assert store.problem is not None
    await until_available(store)
    assert await store.load_policy(A) == stored("a.example")


async def until_available(store: PolicyStoreSql) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            await store.load_policy(A)
        except StoreUnavailable:
            assert time.monotonic() < deadline, store.problem
        else:
            return


async def test_restarted_server_is_used_again(url: str, postgres: Cluster, new_store: OpenStore) -> None:
    store = new_store(url)
    await store.open()
    await store.save_policies([stored("a.example")])
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailable, match="can't be reached"):
            await store.load_policy(A)
        with pytest.raises(StoreUnavailable, match="can't be reached"):
            await store.save_policies([stored("b.example")])
    finally:
        postgres.start()
    assert await store.load_policy(A) == stored("a.example")
    await store.save_policies([stored("b.example")])
    assert store.problem is None
