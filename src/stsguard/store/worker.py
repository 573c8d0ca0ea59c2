"""One thread that makes the blocking calls of a database, one after the other, for callers that wait a bounded time.

Not a ThreadPoolExecutor: the interpreter waits for its threads at exit, and a database that hangs would keep the
process from ending.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from stsguard.core.errors import StoreUnavailable

T = TypeVar("T")
MAX_WAITING = 1000  # look-ups of a flood that outruns the database are told so at once


class StoreThread:
    """Runs calls on one thread of its own, which begins with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._overdue: Future[object] | None = None

    async def run(self, call: Callable[[], T], *, timeout_seconds: float) -> T:
        """What `call` returns or raises. Calls are made in the order in which they come.

        A call that has not begun when the time is over is not made at all; one that has begun goes on, and until it
        is done every other fails at once.

        Raises:
            StoreUnavailable: it took longer than `timeout_seconds`, the wait included.
        """
        if self._overdue is not None and not self._overdue.done():
            raise StoreUnavailable("the database still does not answer")
        if self._jobs.qsize() >= MAX_WAITING:
            raise StoreUnavailable("the database can't keep up")
        future: Future[T] = Future()
        self._jobs.put(lambda: _make(call, future))
        self._start()
        try:
            async with asyncio.timeout(timeout_seconds) as limit:
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if not limit.expired():
                raise  # the call's own
            if future.running():
                self._overdue = future  # type: ignore[assignment] # only asked whether it is done
            raise StoreUnavailable(f"the database does not answer within {timeout_seconds:g} s") from None

    async def stop(self, timeout_seconds: float) -> None:
        """End the thread after the calls made so far; one that hangs is left behind. It may begin anew."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join, timeout_seconds)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        while job := self._jobs.get():
            job()


def _make(call: Callable[[], T], future: Future[T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:  # noqa: BLE001 (not swallowed: the caller that waits for it raises it)
        future.set_exception(exc)
    else:
        future.set_result(result)
