"""The sockets of fetches: what else has come in is served between two steps, and every socket has its turn."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import monotonic

import pytest
import uvloop

from stsguard.adapters.policy_fetch.session import PolicyHostSessions
from stsguard.adapters.policy_fetch.turns import TURN_SECONDS, Turns
from stsguard.core.errors import PolicyFetchFailed
from stsguard.names import Domain
from tests.lab.fetching import LOOPBACK, POLICY_HOST

COUNT = 5


@pytest.fixture
def readable() -> Iterator[list[socket.socket]]:
    """Sockets from which something can be read, all the time."""
    with ExitStack() as stack:
        found = []
        for _ in range(COUNT):
            ours, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
            theirs.send(b"x")
            found.append(ours)
        yield found


async def record(readable: list[socket.socket], steps: int) -> list[int | None]:
    """What is done in which order: a step for the socket of that number, None for anything else in a turn of the loop.
    Each step takes as long as a turn may take."""
    loop = asyncio.get_running_loop()
    turns = Turns()
    seen: list[int | None] = []
    enough = loop.create_future()

    def step(number: int) -> None:
        seen.append(number)
        ends_at = monotonic() + TURN_SECONDS
        while monotonic() < ends_at:
            pass
        if seen.count(None) > steps and not enough.done():
            enough.set_result(None)

    def other() -> None:
        seen.append(None)
        if not enough.done():
            loop.call_soon(other)

    for number, sock in enumerate(readable):
        turns.watch(sock, partial(step, number), writable=False)
    loop.call_soon(other)
    await enough
    for sock in readable:
        turns.forget(sock)
    return seen


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_other_work_is_done_between_two_steps(
    make_loop: "type[asyncio.AbstractEventLoop]", readable: list[socket.socket]
) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        seen = runner.run(record(readable, 4 * COUNT))
    steps = [place for place, number in enumerate(seen) if number is not None]
    assert all(later - earlier > 1 for earlier, later in pairwise(steps))
    # Round robin, see epoll_wait(2).
    numbers = [seen[place] for place in steps]
    assert {tuple(sorted(numbers[place : place + COUNT])) for place in range(0, 3 * COUNT, COUNT)} == {(0, 1, 2, 3, 4)}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_is_left_behind_the_last(readable: list[socket.socket]) -> None:
    turns, seen = Turns(), []
    all_seen = asyncio.Event()
    before = open_files()

    def step(number: int) -> None:
        seen.append(number)
        turns.forget(readable[number])
        if len(seen) == COUNT:
            all_seen.set()

    for number, sock in enumerate(readable):
        turns.watch(sock, partial(step, number), writable=False)
    assert open_files() == before + 1
    await all_seen.wait()
    assert sorted(seen) == list(range(COUNT))
    assert open_files() == before


async def test_what_can_be_written_to_is_told_as_long_as_that_is_asked(readable: list[socket.socket]) -> None:
    turns, sock = Turns(), readable[0]
    sock.recv(1)
    written = asyncio.get_running_loop().create_future()
    turns.watch(sock, lambda: written.done() or written.set_result(None), writable=True)
    await written
    turns.watch(sock, partial(pytest.fail, "there is nothing to read"), writable=False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    turns.forget(sock)
    turns.forget(sock)  # no effect


class Talkative:
    """An SSLContext and an SSLObject whose handshake says more than fits into a socket's buffer."""

    octets = b"0123456789" * 1_000_000

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *, server_hostname: str) -> "Talkative":
        outgoing.write(self.octets)
        self._incoming = incoming
        return self

    def do_handshake(self) -> None:
        raise ssl.SSLEOFError if self._incoming.eof else ssl.SSLWantReadError


async def test_what_does_not_fit_into_the_buffer_is_sent_later() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sessions = PolicyHostSessions(Talkative(), max_size_bytes=1, port=port)  # type: ignore[arg-type]  # a fake
        with sessions.ask(Domain(POLICY_HOST), LOOPBACK) as exchange, listener.accept()[0] as peer:
            peer.setblocking(False)
            left = len(Talkative.octets)
            while left:
                data = await loop.sock_recv(peer, 1 << 16)
                begin = len(Talkative.octets) - left
                assert data == Talkative.octets[begin : begin + len(data)]
                assert data
                left -= len(data)
            peer.close()
            with pytest.raises(PolicyFetchFailed):  # it reads again
                await exchange.done
