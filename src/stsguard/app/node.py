"""This machine as one of several nodes over one database: its name, and positions in logs that are its own.

On SQLite there is one node, and the names of positions are as they are: no change of the host name loses them.
"""

import socket
from collections.abc import Mapping, Sequence

from stsguard.core.session import CounterRow
from stsguard.ports import CounterStore


def node_name() -> str:
    """The host name: what reports and deliveries are claimed by, and each node's positions in its logs are known by."""
    return socket.gethostname()


def own_positions(store: CounterStore, url: str) -> CounterStore:
    """The counters in the database at `url`, with the positions of this node alone."""
    return store if url.startswith("sqlite:") else NodePositions(store, node_name())


class NodePositions:
    """The counters of all nodes, and the positions of `node`. Two nodes read different logs of the same syslog_name."""

    def __init__(self, store: CounterStore, node: str) -> None:
        self._store = store
        self._prefix = f"{node}/"  # a host name has no slash

    async def add_counters(self, rows: Sequence[CounterRow], positions: Mapping[str, str]) -> None:
        """As the store does it, with this node's positions."""
        await self._store.add_counters(rows, {self._prefix + name: text for name, text in positions.items()})

    async def load_positions(self) -> Mapping[str, str]:
        """This node's positions, as last written."""
        found = await self._store.load_positions()
        return {name.removeprefix(self._prefix): text for name, text in found.items() if name.startswith(self._prefix)}
