"""When the sockets of all fetches can be used, and how long the event loop is kept busy with them at a time.

A step of a TLS handshake takes a third of a millisecond and more. Where dozens of fetches are under way, dozens of
steps may be due at once, and a cached look-up that comes meanwhile would wait for all of them. So the sockets are
watched by an epoll of their own, which the loop watches as one: as long as a step is left to make it has the loop call
again, and what else has come in is served between. It also takes a third of the system calls of a watch by the loop for
each socket.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from time import monotonic

TURN_SECONDS = 0.0005  # a step begun within it is made to its end


class Turns:
    """The sockets that are waited for, in the one event loop of whoever watches the first. Nothing is left open behind
    the last one."""

    def __init__(self) -> None:
        self._ready: dict[int, Callable[[], None]] = {}
        self._epoll: select.epoll | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, sock: socket.socket, ready: Callable[[], None], *, writable: bool) -> None:
        """Have `ready` called whenever there is something to read from `sock`, its end included; with `writable`
        instead when it can be written to, as it can be once it is connected."""
        if self._epoll is None or self._loop is None:
            self._epoll = select.epoll()
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._epoll.fileno(), self._serve)
        handle = sock.fileno()
        events = select.EPOLLOUT if writable else select.EPOLLIN
        if handle in self._ready:
            self._epoll.modify(handle, events)
        else:
            self._epoll.register(handle, events)
        self._ready[handle] = ready

    def forget(self, sock: socket.socket) -> None:
        """Watch `sock` no longer, where it is watched."""
        handle = sock.fileno()
        if self._ready.pop(handle, None) is None or self._epoll is None or self._loop is None:
            return
        self._epoll.unregister(handle)
        if not self._ready:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = self._loop = None

    def _serve(self) -> None:
        ends_at = monotonic() + TURN_SECONDS
        # Asked for one by one, so that those not called in this turn keep their places in the queue.
        while self._epoll is not None and (events := self._epoll.poll(0, 1)):
            handle, _ = events[0]
            self._ready[handle]()
            if monotonic() >= ends_at:
                return
