"""A command's work on the database, straight, whether or not a daemon runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stsguard.config.model import Config
from stsguard.core.errors import StoreUnavailable

if TYPE_CHECKING:
    from stsguard.store.stores import Stores

T = TypeVar("T")


def require_database(config: Config) -> None:
    """Refuse to go on without a database, before opening makes an empty one: there is nothing to read, and who asks as
    root would make one that the daemon can't write.

    Raises:
        StoreUnavailable: the SQLite file is not there.
    """
    from stsguard.store.sqlite_file import PREFIX

    path = Path(config.store.url.removeprefix(PREFIX))
    if not config.store.url.startswith(PREFIX) or any(
        Path(f"{path}{end}").exists() for end in ("", "-wal", "-journal")
    ):
        return
    raise StoreUnavailable(
        f"SQLite database {path}: there is none. Either nothing has been stored yet (stsguard outbound and inbound "
        "make it when they start, stsguard ingest and domain add when they store something), or --config, --state-dir "
        "or [store] url names the wrong place"
    )


@asynccontextmanager
async def opened_stores(url: str) -> "AsyncIterator[Stores]":
    """The stores of the database `url`, opened, and closed in the end. An SQLite file is made where there is none.

    Raises:
        StoreUnavailable: it can't be opened.
    """
    from stsguard.store.stores import open_stores

    stores = open_stores(url)
    await stores.policies.open()
    try:
        yield stores
    finally:
        await stores.policies.close()


def with_stores(config: Config, work: Callable[["Stores"], Awaitable[T]]) -> T:
    """What `work` returns, with the database, which has to be there, opened for it and closed again.

    Raises:
        StoreUnavailable: it can't be opened; and whatever `work` raises.
    """
    require_database(config)

    async def run() -> T:
        async with opened_stores(config.store.url) as stores:
            return await work(stores)

    return asyncio.run(run())
