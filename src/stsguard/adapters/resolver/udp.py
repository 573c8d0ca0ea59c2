"""Queries over UDP to one nameserver (RFC 1035 §4.2.1, RFC 5452).

To a nameserver on this machine all queries under way share a socket, since nobody on a network can guess at its port;
to any other each has a socket, hence a port, of its own (RFC 5452 §9.2). Each has a random ID that no other query on
its socket has. A socket is closed as soon as nothing waits on it, so there is nothing to close in the end.

A query takes no task, no future and no timer: it is told what came, and a socket has one timer for all that wait on it.
Tasks and timers cost more than asking and reading together.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import Generic, Self, TypeVar

from stsguard.adapters.resolver.plain import Question, make_wire_query
from stsguard.core.addresses import is_loopback
from stsguard.metrics import Counter

STRAY = Counter("dns_stray", "Datagrams that came instead of an answer to the query sent.")

Nameserver = tuple[str, int]  # IP address (an IPv6 one may carry its zone) and port
T = TypeVar("T")

RECEIVE_SIZE = 65_535
RECEIVE_BUFFER = 1_048_576  # answers to hundreds of queries may come at once
AT_A_TIME = 64  # datagrams read, or sent, before other work has its turn
ID_OCTETS = 2
IDS_AT_ONCE = 256  # drawn from the system: a call of its own for each would cost as much as sending the query


class Malformed(Exception):
    """These octets are no usable answer to the query; the message says why."""


class NoAnswer(Exception):
    """Nothing usable came in time; `malformed` says what came instead, where something did."""

    def __init__(self, malformed: Malformed | None) -> None:
        super().__init__()
        self.malformed = malformed


class Query(Question, Generic[T]):
    """A question that is asked for so many seconds: until `deadline` by the loop's clock, once it is sent. `done` is
    called once, with the query and the answer, with `NoAnswer` when the time is over, or with why the nameserver can't
    be reached; `stray` is the last that came instead of an answer."""

    __slots__ = ("deadline", "done", "stray", "timeout_seconds")

    def __init__(
        self, question: Question, timeout_seconds: float, done: "Callable[[Self, T | NoAnswer | OSError], object]"
    ) -> None:
        super().__init__(question.name, question.rdtype, question.wire, question.checking_disabled, question.plain)
        self.timeout_seconds = timeout_seconds
        self.done = done
        self.deadline = 0.0
        self.stray: Malformed | None = None


class UdpQueries(Generic[T]):
    """The queries to one nameserver. `read` makes an answer of a datagram whose ID is right, or raises `Malformed`."""

    def __init__(self, nameserver: Nameserver, read: Callable[[bytes, Question], T]) -> None:
        self.nameserver = nameserver
        self._read = read
        self._shares = is_loopback(ip_address(nameserver[0]))
        self._unsent: deque[Query[T]] = deque()
        self._open: _Socket[T] | None = None

    def send(self, query: Query[T]) -> None:
        """Ask, when all else is done that this turn of the event loop brings about; the query is told what came of it,
        never before this returns."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send_some)
        self._unsent.append(query)

    def _send_some(self) -> None:
        # A nameserver that gets the queries of a turn one after the other is woken up once, and stays awake; one at a
        # time between other work each wakes it, which takes us longer than to send, and it sleeps again meanwhile.
        queries = [self._unsent.popleft() for _ in range(min(len(self._unsent), AT_A_TIME))]
        if self._unsent:
            asyncio.get_running_loop().call_soon(self._send_some)
        for some in [queries] if self._shares else [[query] for query in queries]:
            self._send_together(some)

    def _send_together(self, queries: Sequence[Query[T]]) -> None:
        sock = self._open
        if sock is None or sock.closed:
            try:
                sock = _Socket(self.nameserver, self._read)
            except OSError as exc:
                for query in queries:
                    query.done(query, exc)
                return
            if self._shares:
                self._open = sock
        sock.send(queries)

    async def ask(self, question: Question, timeout_seconds: float) -> T:
        """The answer.

        Raises:
            NoAnswer: not within the time.
            OSError: the nameserver can't be reached.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(_query: Query[T], outcome: T | NoAnswer | OSError) -> None:
            if future.done():
                return
            if isinstance(outcome, NoAnswer | OSError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.send(Query(question, timeout_seconds, done))
        return await future


class _Socket(Generic[T]):
    def __init__(self, nameserver: Nameserver, read: Callable[[bytes, Question], T]) -> None:
        self.closed = False
        self._waiting: dict[bytes, Query[T]] = {}
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._ids: Iterator[bytes] = iter(())
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._sock = _Unattended(family_of(nameserver), socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._sock.connect(nameserver)  # at once; from now on the kernel drops what others send
            self._loop.add_reader(self._sock, self._receive)
        except OSError:
            self._sock.close()
            raise

    def send(self, queries: Sequence[Query[T]]) -> None:
        waiting, now = self._waiting, self._loop.time()
        for query in queries:
            query_id = next(self._ids, None)
            if query_id is None or query_id in waiting:
                query_id = self._new_id()
            try:
                self._sock.send(make_wire_query(query, query_id))
            except OSError as exc:
                if isinstance(exc, ConnectionRefusedError):  # it tells of a query before this one
                    self._fail_waiting(exc)
                query.done(query, exc)
                continue
            waiting[query_id] = query
            deadline = query.deadline = now + query.timeout_seconds
            if self._timer is None or deadline < self._timer_at:
                self._set_timer(deadline)
        self._close_unless_needed()

    def _new_id(self) -> bytes:
        while True:
            for query_id in self._ids:
                if query_id not in self._waiting:
                    return query_id
            drawn = os.urandom(ID_OCTETS * IDS_AT_ONCE)
            self._ids = iter([drawn[at : at + ID_OCTETS] for at in range(0, len(drawn), ID_OCTETS)])

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._expire), at

    def _expire(self) -> None:
        self._timer = None
        # Also what is due within the resolution of the loop's clock, or the timer would be set for no time at all.
        now = max(self._loop.time(), self._timer_at)
        for query_id, query in tuple(self._waiting.items()):
            if query.deadline <= now:
                del self._waiting[query_id]
                query.done(query, NoAnswer(query.stray))
        if self._waiting:
            self._set_timer(min(query.deadline for query in self._waiting.values()))
        self._close_unless_needed()

    def _receive(self) -> None:
        waiting = self._waiting
        for _ in range(AT_A_TIME):
            try:
                datagram = self._sock.recv(RECEIVE_SIZE)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:  # an ICMP error: there is nobody, for none of the queries
                self._fail_waiting(exc)
                break
            query_id = datagram[:ID_OCTETS]
            query = waiting.get(query_id)
            if query is None:
                self._note_stray()
                continue
            try:
                answer = self._read(datagram, query)
            except Malformed as exc:
                # RFC 5452 §9.1: somebody may be guessing, and the true answer may still come.
                STRAY.inc()
                query.stray = exc
                continue
            del waiting[query_id]
            query.done(query, answer)
            if not waiting:
                break  # to find that there is nothing more would be a system call
        self._close_unless_needed()

    def _fail_waiting(self, exc: OSError) -> None:
        queries = tuple(self._waiting.values())
        self._waiting.clear()
        for each in queries:
            each.done(each, exc)

    def _note_stray(self) -> None:
        STRAY.inc()
        # Whose answer it should have been nobody knows, but with one query alone.
        for only in self._waiting.values() if len(self._waiting) == 1 else ():
            only.stray = Malformed("not an answer to this query")

    def _close_unless_needed(self) -> None:
        if not self._waiting:
            # Whoever got the last answer may be about to ask the next question.
            self._loop.call_soon(self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._waiting or self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()


class _Unattended(socket.socket):
    """A socket that needs no closing: an event loop that ends drops it with the queries of whoever was cancelled."""

    def __del__(self) -> None:
        self.close()


def open_socket(nameserver: Nameserver, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking socket of the nameserver's family, not connected."""
    sock = socket.socket(family_of(nameserver), kind)
    sock.setblocking(False)
    return sock


def family_of(nameserver: Nameserver) -> socket.AddressFamily:
    """The family of the nameserver's address."""
    return socket.AF_INET6 if ":" in nameserver[0] else socket.AF_INET
