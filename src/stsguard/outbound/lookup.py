"""The socketmap server: Postfix's `smtp_tls_policy_maps` asks here which TLS a next hop demands.

Protocol: one netstring `MAPNAME SPACE KEY` a request, one netstring a reply, in the order of the requests, any number
of them on a connection (Postfix src/util/dict_sockmap.c). An idle client is never closed: Postfix takes a connection
that goes away at the wrong moment for a failed look-up, and defers. A client that sends rubbish loses its own
connection and nothing else.

Security: a key can come from any recipient address, so it is bounded, normalised, and never logged as it is. Whoever
can connect can make us look up any domain; listen on a unix socket or loopback.

The hot path takes no task and writes no log line: bytes in, dictionary, bytes out.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import cast

from stsguard.core import netstring
from stsguard.core.errors import RequestInvalid
from stsguard.core.socketmap import Dialect, KeyKind, UnknownMap, parse_next_hop, parse_request
from stsguard.discovery.demand import Demands
from stsguard.discovery.destination import Demand, Destination
from stsguard.discovery.limits import TimeLimit
from stsguard.discovery.supervisor import caught, contained, report
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.outbound.replies import NOTFOUND_REPLY, TEMP_FAULT, Cell, ReplyCache, has_bogus_tlsa, render

log = logger(__name__)
hits = Counter("lookups_cached_total", "Look-ups answered from the reply cache.")
misses = Counter("lookups_decided_total", "Look-ups for which a decision was waited for, by kind of key.", "kind")
_MISSES = {kind: misses.tally(kind.value) for kind in KeyKind}
bad_requests = Counter("lookup_bad_requests_total", "Connections closed, or requests refused, as no socketmap.", "kind")
faults = Counter("lookup_faults_total", "Look-ups answered TEMP since we failed.", "kind")
connections = Counter("lookup_connections_total", "Connections accepted.")
refused_connections = Counter("lookup_connections_refused_total", "Connections refused since there were too many.")

MAX_CONNECTIONS = 4096  # Postfix holds one for each smtp(8) process
MAX_WAITING = 256  # requests under way on one connection; those behind them wait, and nothing more is read
WRITE_BYTES = 65_536  # so much at a time, then it shows whether the client takes it
ANSWER_SECONDS = 90.0  # Postfix gives up after 100
PERM_UNKNOWN_MAP = netstring.encode(b"PERM unknown map name, use policy or policy-tlsrpt")
TEMP_TIMEOUT = netstring.encode(b"TEMP stsguard could not decide in time")
TEMP_NO_NAME = netstring.encode(b"TEMP the key is no domain name")


class LookupService:
    """Answers requests, from the reply cache or by a decision. `now` is the monotonic clock of the decisions.
    `on_bogus_tlsa` is told of each look-up of a destination of which an MX host has a bogus TLSA look-up."""

    def __init__(self, demands: Demands, cache: ReplyCache, now: Callable[[], float]) -> None:
        self._demands = demands
        self._cache = cache
        self.cells = cache.cells
        self.now = now
        # Observe mode answers NOTFOUND to everything, our own faults included.
        self.fault_reply = NOTFOUND_REPLY if cache.observe else TEMP_FAULT
        self.on_bogus_tlsa: Callable[[Destination, Demand], None] = lambda _destination, _demand: None
        self.open_connections: set[LookupProtocol] = set()
        self._pending: TimeLimit[PendingReply] = TimeLimit(ANSWER_SECONDS, self._waited_enough)

    def answer(self, framed: bytes) -> "bytes | PendingReply":
        """The framed reply to a framed request that is not in the reply cache, or the one that is being made.

        Raises:
            RequestInvalid: this is no socketmap request.
        """
        try:
            request = parse_request(netstring.payload(framed))
        except UnknownMap as exc:
            bad_requests.inc("unknown-map")
            outcome(log, logging.ERROR, "look-up in an unknown map, check main.cf", reason=exc)
            return PERM_UNKNOWN_MAP
        next_hop = parse_next_hop(request.key)
        kind = next_hop.kind
        _MISSES[kind].count += 1
        if kind is KeyKind.PARENT or kind is KeyKind.ADDRESS:
            # RFC 8461 §3.4: no policy from the parent zone, and none for address literals.
            return NOTFOUND_REPLY
        if next_hop.host is None:
            outcome(log, logging.WARNING, "key is no domain name, mail to it waits", key=ascii(request.key))
            return NOTFOUND_REPLY if self._cache.observe else TEMP_NO_NAME
        if kind is KeyKind.BRACKETED and self._demands.find_override(next_hop.host) is None:
            return NOTFOUND_REPLY
        pending = PendingReply(framed, request.dialect, self._demands.destination(next_hop.host, next_hop.port))
        # A bracketed key is served by its override alone: without one it must not get the domain's answer.
        pending.is_kept = kind is not KeyKind.BRACKETED
        if caught("look-up", self._begin, pending) is not None:
            faults.inc("crash")
            return self.fault_reply
        return pending if pending.reply is None else pending.reply

    def _begin(self, pending: "PendingReply") -> None:
        begun = self._demands.begin(pending.destination)
        if isinstance(begun, Demand):
            pending.reply = self._reply(pending, begun)
        else:
            self._pending.add(pending)
            begun.then(partial(self._decided, pending))

    def _decided(self, pending: "PendingReply", outcome: Demand | BaseException) -> None:
        self._pending.discard(pending)
        if pending.reply is not None:
            return  # it took too long
        if isinstance(outcome, asyncio.CancelledError):
            faults.inc("cancelled")
            pending.settle(self.fault_reply)
        elif isinstance(outcome, BaseException):
            self._fail(pending, outcome)
        elif (fault := caught("look-up", self._settle, pending, outcome)) is not None:
            self._fail(pending, fault)

    def _settle(self, pending: "PendingReply", demand: Demand) -> None:
        pending.settle(self._reply(pending, demand))

    def _fail(self, pending: "PendingReply", exc: BaseException) -> None:
        """A fault of ours: the mail waits, it is never sent with less."""
        faults.inc("crash")
        report("look-up", exc)
        pending.settle(self.fault_reply)

    def _reply(self, pending: "PendingReply", demand: Demand) -> bytes:
        destination = pending.destination
        kept = None
        if has_bogus_tlsa(demand):
            contained("sessions", partial(self.on_bogus_tlsa, destination, demand))
        elif pending.is_kept:
            kept = self._cache.keep(pending.framed, pending.dialect, destination, demand)
        return kept or render(demand, pending.dialect, destination, observe=self._cache.observe)

    def _waited_enough(self, pending: "PendingReply") -> None:
        faults.inc("timeout")
        outcome(log, logging.ERROR, "not decided in time, mail waits", policy_domain=pending.destination.next_hop)
        pending.settle(NOTFOUND_REPLY if self._cache.observe else TEMP_TIMEOUT)

    async def close(self) -> None:
        """Close all connections. What is being decided is left to the decisions' own end."""
        for connection in tuple(self.open_connections):
            connection.close()
        self._pending.clear()


class PendingReply:
    """A reply that is being made: `reply` is None until it is there, and then whoever waits is told."""

    __slots__ = ("destination", "dialect", "framed", "is_kept", "notify", "reply")

    def __init__(self, framed: bytes, dialect: Dialect, destination: Destination) -> None:
        self.framed = framed
        self.dialect = dialect
        self.destination = destination
        self.is_kept = True
        self.reply: bytes | None = None
        self.notify: Callable[[], None] = _nobody

    def settle(self, reply: bytes) -> None:
        """The reply is there."""
        self.reply = reply
        self.notify()


def _nobody() -> None:
    """Nobody waits."""


class LookupProtocol(asyncio.Protocol):
    """One client's connection."""

    __slots__ = ("_buffer", "_find", "_now", "_queued", "_reading", "_service", "_transport", "_waiting", "_writable")

    def __init__(self, service: LookupService) -> None:
        self._service = service
        self._find: Callable[[bytes], Cell | None] = (
            service.cells.get
        )  # _find_none while a request is under way, whose reply comes first
        self._now = service.now
        self._transport: asyncio.Transport | None = None
        self._buffer = b""  # an incomplete request
        self._queued: deque[bytes] = deque()  # complete ones that nobody works on yet
        self._waiting: deque[bytes | PendingReply] = deque()  # replies, in the order of the requests
        self._reading = True
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        # uvloop's transports are no subclass of asyncio's, they only have its methods.
        self._transport = cast(asyncio.Transport, transport)
        connections.inc()
        if len(self._service.open_connections) >= MAX_CONNECTIONS:
            refused_connections.inc()
            outcome(log, logging.ERROR, "too many connections, one refused", limit=MAX_CONNECTIONS)
            self._transport.abort()
            return
        self._service.open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; decisions under way go on, for the cache."""
        self._service.open_connections.discard(self)
        self._waiting.clear()
        self._queued.clear()
        self._transport = None

    def close(self) -> None:
        """Close the connection from our side: only when the daemon ends."""
        if self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        """The client does not read: stop taking its requests."""
        self._writable = False
        self._regulate()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._writable = True
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Answer what is complete; the hot paths come first: one request in one segment, or several."""
        cell = self._find(data)
        if cell is not None:
            now = self._now()
            if cell.expires_at > now:
                cell.last_used = now
                hits.count += 1
                self._transport.write(cell.reply)  # type: ignore[union-attr]  # there is one while data comes in
                return
        elif data.find(b",") < len(data) - 1 and (replies := self._cached(data)) is not None:
            self._transport.write(replies)  # type: ignore[union-attr]  # as above
            return
        try:
            requests, self._buffer = netstring.split(self._buffer + data if self._buffer else data)
        except RequestInvalid as exc:
            self._refuse(exc)
            return
        self._queued.extend(requests)
        self._go_on()

    def _cached(self, data: bytes) -> bytes | None:
        """The replies to several requests that are complete and all in the reply cache; None where it is not so."""
        # The requests in the cache are netstrings, few of them with a comma inside: where each piece up to a comma is
        # one of them, the pieces are what the parser would find, and there is no quicker way to find them.
        *pieces, rest = data.split(b",")
        if rest:
            return None
        find, now = self._find, self._now()
        replies: list[bytes] = []
        for piece in pieces:
            cell = find(piece + b",")
            if cell is None or cell.expires_at <= now:
                return None
            cell.last_used = now
            replies.append(cell.reply)
        joined = b"".join(replies) if len(replies) <= MAX_WAITING else b""
        if not 0 < len(joined) <= WRITE_BYTES:
            return None
        hits.count += len(replies)
        return joined

    def _go_on(self) -> None:
        """Work on what is queued, as far as the client takes replies and has not too many requests under way."""
        waiting, queued = self._waiting, self._queued
        try:
            while True:
                if waiting:
                    self._flush()
                if not queued or not self._writable or len(waiting) >= MAX_WAITING:
                    break
                for _ in range(min(len(queued), MAX_WAITING - len(waiting))):
                    waiting.append(self._answer(queued.popleft()))
        except RequestInvalid as exc:
            self._refuse(exc)
            return
        self._regulate()

    def _refuse(self, exc: RequestInvalid) -> None:
        bad_requests.inc("malformed")
        outcome(log, logging.WARNING, "client is no socketmap client, connection closed", reason=exc)
        self._buffer = b""
        self._queued.clear()
        self._flush()
        self._waiting.clear()
        if self._transport is not None:
            self._transport.close()

    def _answer(self, framed: bytes) -> "bytes | PendingReply":
        cell = self._service.cells.get(framed)
        if cell is not None:
            now = self._service.now()
            if cell.expires_at > now:
                cell.last_used = now
                hits.count += 1
                return cell.reply
        answer = self._service.answer(framed)
        if isinstance(answer, PendingReply):
            answer.notify = self._answered
        return answer

    def _answered(self) -> None:
        if self._transport is not None:
            self._go_on()

    def _flush(self) -> None:
        """Write the replies that are there, in the order of the requests, for as long as the client takes them."""
        waiting = self._waiting
        while self._writable and self._transport is not None:
            ready: list[bytes] = []
            size = 0
            while waiting and size < WRITE_BYTES:
                first = waiting[0]
                reply = first.reply if isinstance(first, PendingReply) else first
                if reply is None:
                    break
                ready.append(reply)
                size += len(reply)
                waiting.popleft()
            if not ready:
                return
            self._transport.write(ready[0] if len(ready) == 1 else b"".join(ready))

    def _regulate(self) -> None:
        """Read only while nothing is queued: the client takes its replies and has not too many requests under way."""
        idle = not self._waiting and not self._queued and not self._buffer
        self._find = self._service.cells.get if idle else _find_none
        wanted = self._writable and not self._queued and len(self._waiting) < MAX_WAITING
        if wanted is self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()


def _find_none(_framed: bytes, /) -> Cell | None:
    """No cell."""
    return None
