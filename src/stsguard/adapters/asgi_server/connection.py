"""One HTTP connection: uvicorn's, with a time by which the next response has to be complete.

uvicorn bounds how long a connection may be idle after a response, but neither the time before the first request nor
that of a request which arrives octet by octet.
"""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

MORE_TIME = "more_time"  # in the state that the application sees


class BoundedProtocol(H11Protocol):
    """uvicorn's connection by h11, which holds the request's head to `h11_max_incomplete_event_size`. `deadline` is by
    the loop's clock; whoever tends the connections aborts what is
    past it. `closed` is done when the connection is."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any], request_seconds: float) -> None:
        # The application may give a request that has a body more time than one for a policy.
        super().__init__(config, state, {**app_state, MORE_TIME: self.more_time})
        self._request_seconds = request_seconds
        self.deadline = 0.0
        self.closed: asyncio.Future[None] = self.loop.create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """The time begins with the connection."""
        self._begin()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over, for whoever waits for that."""
        super().connection_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)

    def on_response_complete(self) -> None:
        """It begins anew with each response."""
        self._begin()
        super().on_response_complete()

    def more_time(self, seconds: float) -> None:
        """The response under way may take so long from now."""
        self.deadline = max(self.deadline, self.loop.time() + seconds)

    def _begin(self) -> None:
        self.deadline = self.loop.time() + self._request_seconds
