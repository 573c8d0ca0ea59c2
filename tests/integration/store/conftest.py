"""Fixtures: a database of each kind."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from stsguard.store.policies import PolicyStoreSql
from stsguard.store.stores import Stores, open_stores
from stsguard.store.upgrade import upgrade_database
from tests.integration.store.examples import NOW, stored
from tests.integration.store.postgres import Cluster, cluster, programs

OpenStore = Callable[[str], PolicyStoreSql]
OpenStores = Callable[[str], Awaitable[Stores]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server."""
    found = programs()
    if found is None:
        reason = "PostgreSQL is not installed (package postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with cluster(found) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind, with the newest schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/stsguard.db"
    server: Cluster = request.getfixturevalue("postgres")
    made = server.new_database()
    upgrade_database(made)
    return made


@pytest.fixture
async def new_store() -> AsyncIterator[OpenStore]:
    """Makes stores that are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        def make(url: str) -> PolicyStoreSql:
            store = PolicyStoreSql(url, now=lambda: NOW)
            stack.push_async_callback(store.close)
            return store

        yield make


@pytest.fixture
async def store(url: str, new_store: OpenStore) -> PolicyStoreSql:
    """An open store on a database of each kind."""
    made = new_store(url)
    await made.open()
    return made


@pytest.fixture
async def new_stores() -> AsyncIterator[OpenStores]:
    """Opens all stores of a database; they are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def make(url: str) -> Stores:
            stores = open_stores(url)
            stack.push_async_callback(stores.policies.close)
            await stores.policies.open()
            return stores

        yield make


@pytest.fixture
async def stores(url: str, new_stores: OpenStores) -> Stores:
    """All stores, open, on a database of each kind."""
    return await new_stores(url)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is, or will be."""
    return tmp_path / "stsguard.db"


@pytest.fixture
async def filled(path: Path, new_store: OpenStore) -> Path:
    """A closed database with the policy of a.example."""
    store = new_store(f"sqlite:///{path}")
    await store.open()
    await store.save_policies([stored("a.example")])
    await store.close()
    return path
