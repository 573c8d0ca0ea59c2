"""A look-up that is under way: it tells whoever wants to know, and can be awaited as well (`ports.Lookup`).

Not a future: that would tell by way of the event loop, which takes a turn of it and as long as reading the answer.
"""

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from stsguard.adapters.resolver.exchange import Outcome
from stsguard.adapters.resolver.reader import Read
from stsguard.adapters.resolver.udp import Query
from stsguard.names import Domain

T = TypeVar("T")


class Lookup(Query[Read], Generic[T]):
    """Begins as the query that `arrived` is told of; `one_family` is for `lookup_some_addresses`."""

    __slots__ = ("_call", "one_family", "outcome", "task")

    def __init__(
        self,
        name: Domain,
        rdtype: int,
        wire: bytes,
        timeout_seconds: float,
        arrived: "Callable[[Lookup[T], Outcome], None]",
    ) -> None:
        # All that a `Query` is made of, but without a question made first, and calls of two more `__init__`.
        self.name: Domain = name
        self.rdtype = rdtype
        self.wire = wire
        self.checking_disabled = False
        self.plain = True
        self.timeout_seconds = timeout_seconds
        self.done = arrived
        self.deadline = 0.0
        self.stray = None
        self.one_family = False
        self.outcome: T | BaseException | None = None
        self.task: asyncio.Task[T] | None = None  # where more than the first query is needed
        self._call: Callable[[T | BaseException], object] | None = None

    def then(self, call: Callable[[T | BaseException], object]) -> None:
        """Have `call` told of the outcome, once and as soon as it is there. It must not raise anything, and only one
        can be told."""
        if self.outcome is not None:
            call(self.outcome)
        else:
            assert self._call is None  # noqa: S101 (as said above)
            self._call = call

    def settle(self, outcome: T | BaseException) -> None:
        """This is what came of it."""
        if self.outcome is None:
            self.outcome = outcome
            call, self._call = self._call, None  # whom it belongs to refers to this, and nobody has to seek garbage
            if call is not None:
                call(outcome)

    def cancel(self) -> None:
        """Nobody waits any longer, and nobody is told."""
        if self.outcome is None:
            self.outcome = asyncio.CancelledError()
            self._call = None
            if self.task is not None:
                self.task.cancel()

    def __await__(self) -> Generator[Any, None, T]:
        if self.outcome is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.then(lambda _outcome: None if future.done() else future.set_result(None))
            try:
                yield from future
            finally:
                self.cancel()  # without effect where it is settled
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        assert self.outcome is not None  # noqa: S101 (it is settled)
        return self.outcome
