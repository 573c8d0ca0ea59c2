"""Queries over UDP to one nameserver (RFC 1035 §4.2.1, RFC 5452).

To a nameserver on this machine all queries under way share a socket, since nobody on a network can guess at its port;
to any other each has a socket, hence a port, of its own (RFC 5452 §9.2). Each has a random ID that no other query on
its socket has. A socket is closed as soon as nothing waits on it, so there is nothing to close in the end.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Generic, TypeVar

from stsguard.adapters.resolver.plain import Question, make_wire_query
from stsguard.core.addresses import is_loopback
from stsguard.metrics import Counter

STRAY = Counter("dns_stray", "Datagrams that came instead of an answer to the query sent.")

Nameserver = tuple[str, int]  # IP address (an IPv6 one may carry its zone) and port
T = TypeVar("T")

RECEIVE_SIZE = 65_535
RECEIVE_BUFFER = 1_048_576  # answers to hundreds of queries may come at once
AT_A_TIME = 64  # datagrams read before other work has its turn


class Malformed(Exception):
    """These octets are no usable answer to the query; the message says why."""


class NoAnswer(Exception):
    """Nothing usable came in time; `malformed` says what came instead, where something did."""

    def __init__(self, malformed: Malformed | None) -> None:
        super().__init__()
        self.malformed = malformed


@dataclass(slots=True, eq=False)
class _Waiting(Generic[T]):
    question: Question
    future: "asyncio.Future[T]"
    stray: Malformed | None = None


class UdpQueries(Generic[T]):
    """The queries to one nameserver. `read` makes an answer of a datagram whose ID is right, or raises `Malformed`."""

    def __init__(self, nameserver: Nameserver, read: Callable[[bytes, Question], T]) -> None:
        self.nameserver = nameserver
        self._read = read
        self._shares = is_loopback(ip_address(nameserver[0]))
        self._open: _Socket[T] | None = None

    async def ask(self, question: Question, timeout_seconds: float) -> T:
        """The answer.

        Raises:
            NoAnswer: not within the time.
            OSError: the nameserver can't be reached.
        """
        sock = self._open or _Socket(self.nameserver, self._read)
        if self._shares:
            self._open = sock
        try:
            return await sock.ask(question, timeout_seconds)
        finally:
            if not sock.waiting:
                sock.close()
                if self._open is sock:
                    self._open = None


class _Socket(Generic[T]):
    def __init__(self, nameserver: Nameserver, read: Callable[[bytes, Question], T]) -> None:
        self.waiting: dict[int, _Waiting[T]] = {}
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._sock = open_socket(nameserver, socket.SOCK_DGRAM)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._sock.connect(nameserver)  # at once; from now on the kernel drops what others send
            self._loop.add_reader(self._sock, self._receive)
        except OSError:
            self._sock.close()
            raise

    def close(self) -> None:
        self._loop.remove_reader(self._sock)
        self._sock.close()

    async def ask(self, question: Question, timeout_seconds: float) -> T:
        query_id = secrets.randbits(16)
        while query_id in self.waiting:
            query_id = secrets.randbits(16)
        waiting = self.waiting[query_id] = _Waiting(question, self._loop.create_future())
        timer = self._loop.call_later(timeout_seconds, _expire, waiting)
        try:
            self._sock.send(make_wire_query(question, query_id))
            return await waiting.future
        finally:
            timer.cancel()
            del self.waiting[query_id]

    def _receive(self) -> None:
        for _ in range(AT_A_TIME):
            try:
                datagram = self._sock.recv(RECEIVE_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:  # an ICMP error: there is nobody, for none of the queries
                for waiting in self.waiting.values():
                    _settle(waiting, exc)
                return
            self._take(datagram)

    def _take(self, datagram: bytes) -> None:
        waiting = self.waiting.get(int.from_bytes(datagram[:2], "big"))
        if waiting is None:
            STRAY.inc()
            # Whose answer it should have been nobody knows, but with one query alone.
            for only in self.waiting.values() if len(self.waiting) == 1 else ():
                only.stray = Malformed("not an answer to this query")
            return
        try:
            answer = self._read(datagram, waiting.question)
        except Malformed as exc:
            # RFC 5452 §9.1: somebody may be guessing, and the true answer may still come.
            STRAY.inc()
            waiting.stray = exc
        else:
            if not waiting.future.done():
                waiting.future.set_result(answer)


def open_socket(nameserver: Nameserver, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking socket of the nameserver's family, not connected."""
    sock = socket.socket(socket.AF_INET6 if ":" in nameserver[0] else socket.AF_INET, kind)
    sock.setblocking(False)
    return sock


def _expire(waiting: _Waiting[T]) -> None:
    _settle(waiting, NoAnswer(waiting.stray))


def _settle(waiting: _Waiting[T], exc: Exception) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(exc)
