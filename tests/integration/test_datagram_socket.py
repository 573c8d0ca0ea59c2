"""The datagram socket: who may take it and write to it, and reading it on both event loops."""

import asyncio
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from stsguard.adapters import datagram_socket
from stsguard.adapters.datagram_socket import (
    FEW_IN_QUEUE,
    HANDFUL,
    LARGE_BYTES,
    DatagramReader,
    is_datagram_socket,
    open_datagram_socket,
    queue_advice,
    queue_length,
)
from stsguard.core.errors import ListenFailed
from stsguard.core.tlsrpt_event import MAX_DATAGRAM_BYTES

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on one of the two event loops."""

    def invoke(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(coroutine)

    return invoke


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tlsrpt.sock"


def sender(path: Path) -> socket.socket:
    """A socket that sends as libtlsrpt does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.connect(str(path))
    sock.setblocking(False)
    return sock


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (lists and counters have no events)
            await asyncio.sleep(0)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ListenFailed) as caught:
        open_datagram_socket(path, **options)
    prefix = f"can't receive TLS session events at {path}: "
    assert str(caught.value).startswith(prefix)
    return str(caught.value).removeprefix(prefix)


@pytest.mark.parametrize("mode", [0o622, 0o620, 0o600, 0o666])
def test_path_has_the_mode_asked_for_whatever_the_umask(path: Path, mode: int) -> None:
    old = os.umask(0o077)
    try:
        with open_datagram_socket(path, mode=mode) as sock:
            found = path.stat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == mode
            assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())
            assert (is_datagram_socket(sock), sock.getblocking()) == (True, False)
    finally:
        assert os.umask(old) == 0o077  # as it was


@needs_root
def test_owner_and_group_by_name_and_number(path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    group = grp.getgrgid(nobody.pw_gid).gr_name
    for owner, group_given in (("nobody", group), (str(nobody.pw_uid), str(nobody.pw_gid))):
        with open_datagram_socket(path, owner=owner, group=group_given):
            assert (path.stat().st_uid, path.stat().st_gid) == (nobody.pw_uid, nobody.pw_gid)
    with open_datagram_socket(path, group=group):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.geteuid(), nobody.pw_gid)


def test_unknown_owner_and_group(path: Path) -> None:
    assert refusal(path, owner="no-such-user") == "there is no user 'no-such-user' on this machine"
    assert refusal(path, group="no-such-group") == "there is no group 'no-such-group' on this machine"
    assert refusal(path, owner=str(2**32 - 1)) == "4294967295 is no number of a user or group"
    assert not path.exists()


def test_what_may_not_be_given_away_leaves_no_path_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)  # what the system says to others than root, who runs these tests
    assert refusal(path, owner="0") == "only root may give it to another owner, or to a group that this user is not in"
    assert not path.exists()


def test_left_over_socket_is_taken_over(path: Path) -> None:
    open_datagram_socket(path).close()
    assert path.exists()
    with open_datagram_socket(path) as sock, sender(path) as client:
        client.send(b"x")
        assert sock.recv(10) == b"x"


def test_socket_that_somebody_reads_is_not_taken(path: Path) -> None:
    with open_datagram_socket(path) as first, sender(path) as client:
        assert refusal(path) == "another program reads it, perhaps stsguard already runs or another collector does"
        client.send(b"x")
        assert first.recv(10) == b"x"
        with pytest.raises(BlockingIOError):  # and looking at it sent nothing
            first.recv(10)


def test_what_is_in_the_way_stays(path: Path, tmp_path: Path) -> None:
    path.write_text("precious")
    assert refusal(path) == "there is a file in the way that is no socket"
    assert path.read_text() == "precious"
    stream = tmp_path / "stream.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(stream))
        server.listen()
        assert refusal(stream) == "a socket of another kind is there, for look-ups perhaps"
        assert not is_datagram_socket(server)
    link = tmp_path / "link.sock"
    link.symlink_to(tmp_path / "absent")
    assert refusal(link) == "there is a file in the way that is no socket"


def test_directory_that_is_not_there_or_not_a_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent/x.sock") == f"the directory {tmp_path}/absent does not exist"
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file/x.sock") == "Not a directory"
    assert "too long" in refusal(tmp_path / ("x" * 120))


def test_directory_that_may_not_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert refusal(path) == f"no permission to make it in {path.parent}; check the directory's owner and mode"


def test_socket_that_may_not_be_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    open_datagram_socket(path).close()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert refusal(path).startswith("no permission to make it in ")
    assert path.exists()


def test_queue_length_is_what_senders_meet(path: Path) -> None:
    length = queue_length()
    assert length is not None
    with open_datagram_socket(path) as sock, sender(path) as client:
        sent = 0
        with suppress(BlockingIOError):
            while sent <= 100_000:
                client.send(b"")
                sent += 1
        # Either the queue is full, or before that the buffer of this one sender.
        assert sent == length + 1 or FEW_IN_QUEUE < sent <= 100_000
        assert sock.recv(1) == b""


def test_queue_length_without_proc_is_found_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = queue_length()
    assert told is not None
    monkeypatch.setattr(datagram_socket, "_QUEUE_LENGTH", tmp_path / "absent")
    assert queue_length() == min(told, FEW_IN_QUEUE)
    (tmp_path / "absent").write_text("many\n")
    assert queue_length() == min(told, FEW_IN_QUEUE)
    monkeypatch.setattr(datagram_socket, "FEW_IN_QUEUE", min(told, 3))  # a long queue is not filled to its end
    assert queue_length() == min(told, 3)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert queue_length() is None


def test_small_queue_is_warned_about() -> None:
    assert queue_advice(None) is None
    assert queue_advice(FEW_IN_QUEUE) is None
    text = queue_advice(10)
    assert text is not None
    assert text.startswith("net.unix.max_dgram_qlen is 10: ")
    assert "net.unix.max_dgram_qlen = 512" in text


def test_every_datagram_arrives_whole_and_in_order(path: Path, run: Run) -> None:
    got: list[bytes] = []

    def receive(datagrams: Sequence[bytes]) -> bool:
        got.extend(datagrams)
        return True

    async def work() -> None:
        sent = [b"", b"\x00", b"a" * 500, b"b" * 99_000, b"c"]
        reader = DatagramReader(open_datagram_socket(path), receive)
        with sender(path) as client:
            client.send(sent[0])  # before the start: it waits
            reader.start()
            for datagram in sent[1:]:
                client.send(datagram)
            await until(lambda: len(got) == len(sent))
        reader.close()
        assert got == sent

    run(work())


@needs_root
def test_too_large_datagram_is_cut_to_what_its_parser_refuses(path: Path, run: Run) -> None:
    got: list[bytes] = []

    def receive(datagrams: Sequence[bytes]) -> bool:
        got.extend(datagrams)
        return True

    async def work() -> None:
        reader = DatagramReader(open_datagram_socket(path), receive)
        reader.start()
        with sender(path) as client:
            client.setsockopt(socket.SOL_SOCKET, 32, 4 * MAX_DATAGRAM_BYTES)  # SO_SNDBUFFORCE, for root
            client.send(b"x" * (MAX_DATAGRAM_BYTES + 1000))
            client.send(b"y" * MAX_DATAGRAM_BYTES)
            client.send(b"z")
            await until(lambda: len(got) == 3)
        reader.close()
        assert [len(each) for each in got] == [MAX_DATAGRAM_BYTES + 1, MAX_DATAGRAM_BYTES, 1]

    run(work())


def test_one_wake_up_takes_one_batch_and_the_rest_follows(path: Path, run: Run) -> None:
    got: list[bytes] = []
    turns: list[int] = []

    def receive(datagrams: Sequence[bytes]) -> bool:
        got.extend(datagrams)
        return True

    async def work() -> None:
        reader = DatagramReader(open_datagram_socket(path), receive, batch=3)
        with sender(path) as client:
            for number in range(8):
                client.send(b"%d" % number)
            reader.start()
            while len(got) < 8:
                await asyncio.sleep(0)  # somebody else's turn
                turns.append(len(got))
        reader.close()

    run(work())
    assert got == [b"%d" % number for number in range(8)]
    assert {3, 6, 8} <= set(turns) <= {0, 3, 6, 8}


def test_flood_is_read_in_batches_bounded_in_number_and_bytes(path: Path, run: Run) -> None:
    batches: list[int] = []

    def receive(datagrams: Sequence[bytes]) -> bool:
        batches.append(len(datagrams))
        return True

    async def work() -> None:
        reader = DatagramReader(open_datagram_socket(path), receive, batch=HANDFUL + 2)
        with sender(path) as client:
            client.setblocking(False)
            reader.start()
            for large in (False, True):
                sent = 0
                with suppress(BlockingIOError):
                    while sent < HANDFUL + 1:
                        client.send(b"x" * (LARGE_BYTES + 1 if large and sent == 2 else 1))
                        sent += 1
                await until(lambda wanted=sent: sum(batches) == wanted)
                assert max(batches) <= HANDFUL + 2
                assert not large or batches[0] == 3
                batches.clear()
        reader.close()

    run(work())


def test_reading_stops_without_room_and_goes_on_when_asked(path: Path, run: Run) -> None:
    got: list[bytes] = []

    def receive(datagrams: Sequence[bytes]) -> bool:
        got.extend(datagrams)
        return len(got) not in (2, 3)

    async def work() -> None:
        reader = DatagramReader(open_datagram_socket(path), receive, batch=1)
        reader.start()
        with sender(path) as client:
            for number in range(6):
                client.send(b"%d" % number)
            await until(lambda: len(got) == 2)
            for _ in range(20):
                await asyncio.sleep(0)
            reader.drain()  # by whoever holds up the loop: there is no room for him either
            assert len(got) == 2
            reader.resume()
            await until(lambda: len(got) == 3)
            reader.resume()
            reader.resume()  # reading already: no effect
            await until(lambda: len(got) == 6)
        reader.close()

    run(work())
    assert got == [b"%d" % number for number in range(6)]


def test_full_queue_is_counted(path: Path, run: Run) -> None:
    before = datagram_socket.queue_full.value()
    got: list[bytes] = []

    def receive(datagrams: Sequence[bytes]) -> bool:
        got.extend(datagrams)
        return True

    async def work() -> None:
        reader = DatagramReader(open_datagram_socket(path), receive, queue=4)
        reader.start()
        with sender(path) as client:
            for _ in range(4):
                client.send(b"x")
            await until(lambda: len(got) == 4)
            assert datagram_socket.queue_full.value() == before
            for _ in range(5):
                client.send(b"x")
            await until(lambda: len(got) == 9)
        reader.close()

    run(work())
    assert datagram_socket.queue_full.value() == before + 1


def test_close_takes_what_waits_in_the_queue_and_ends_reading(path: Path, run: Run) -> None:
    got: list[bytes] = []
    before = datagram_socket.read_errors.value()

    def receive(datagrams: Sequence[bytes]) -> bool:
        got.extend(datagrams)
        return True

    async def work() -> None:
        reader = DatagramReader(open_datagram_socket(path), receive, batch=2, queue=6)
        reader.resume()  # not started: no effect
        reader.start()
        with sender(path) as client:
            for number in range(5):
                client.send(b"%d" % number)
            reader.close()
            assert got == [b"0", b"1", b"2", b"3", b"4"]
            with pytest.raises(ConnectionRefusedError):
                client.send(b"x")
        reader.resume()
        reader.drain()
        await asyncio.sleep(0)

    run(work())
    assert datagram_socket.read_errors.value() == before


class Broken(socket.socket):
    """A socket that can't be read for a while."""

    broken = True

    def recv_into(self, *arguments: Any) -> int:
        if self.broken:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return super().recv_into(*arguments)


def test_error_of_the_socket_pauses_reading(path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagram_socket, "PAUSE_SECONDS", 0.01)
    before = datagram_socket.read_errors.value()
    got: list[bytes] = []

    def receive(datagrams: Sequence[bytes]) -> bool:
        got.extend(datagrams)
        return True

    async def work() -> None:
        sock = Broken(fileno=open_datagram_socket(path).detach())
        reader = DatagramReader(sock, receive)
        reader.start()
        with sender(path) as client:
            client.send(b"x")
            await until(lambda: datagram_socket.read_errors.value() > before + 1)
            sock.broken = False
            await until(lambda: got == [b"x"])
            sock.broken = True
            client.send(b"y")
            seen = datagram_socket.read_errors.value()
            await until(lambda: datagram_socket.read_errors.value() > seen)
            reader.close()  # while it waits to try again

    run(work())


def test_reading_can_be_tried_again_by_hand_without_a_loop(path: Path) -> None:
    sock = Broken(fileno=open_datagram_socket(path).detach())
    with sock:
        before = datagram_socket.read_errors.value()
        DatagramReader(sock, lambda _: True).drain()
        assert datagram_socket.read_errors.value() == before + 1
