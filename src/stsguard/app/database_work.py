"""A command's work on the database, straight, whether or not a daemon runs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from stsguard.config.model import Config

if TYPE_CHECKING:
    from stsguard.store.stores import Stores

T = TypeVar("T")


def with_stores(config: Config, work: Callable[["Stores"], Awaitable[T]]) -> T:
    """What `work` returns, with the database opened for it and closed again.

    Raises:
        StoreUnavailable: it can't be opened; and whatever `work` raises.
    """
    from stsguard.store.stores import open_stores

    async def run() -> T:
        stores = open_stores(config.store.url)
        await stores.policies.open()
        try:
            return await work(stores)
        finally:
            await stores.policies.close()

    return asyncio.run(run())
