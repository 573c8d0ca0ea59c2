"""How discovery is told of what is under way: by a call, at once where the work can do that, else by a future; and how
somebody awaits what is told by a call."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

from stsguard.ports import Cancellable

T = TypeVar("T")


def tell(work: Awaitable[T], call: Callable[[T | BaseException], object]) -> Cancellable:
    """Have `call` told of what comes of `work`, which begins here if it has not yet; of its cancellation nobody is
    told. `call` must not raise anything."""
    then = getattr(work, "then", None)  # see `ports.Lookup`
    if then is not None:
        then(call)
        return work  # type: ignore[return-value]  # a `Lookup` can be cancelled
    future = asyncio.ensure_future(work)
    future.add_done_callback(partial(_told, call))
    return future


def _told(call: Callable[[T | BaseException], object], future: "asyncio.Future[T]") -> None:
    if not future.cancelled():
        call(future.exception() or future.result())


class Waited(Generic[T]):
    """A future for the outcome that a call of `set` tells of."""

    def __init__(self) -> None:
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def set(self, outcome: T | BaseException) -> None:
        """This is what came of it."""
        if self.future.done():
            return  # nobody waits any longer
        if isinstance(outcome, asyncio.CancelledError):
            self.future.cancel()
        elif isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
