"""The unix datagram socket of libtlsrpt: opening it, and reading it without holding up the event loop.

Senders use MSG_DONTWAIT: when the queue of the socket is full the MTA drops the event and logs a warning of its own,
and the receiver never learns of it. On Linux the queue is counted in datagrams, net.unix.max_dgram_qlen as it was when
the socket was made (unix(7): SO_RCVBUF has no effect), so all a reader can do is come soon and take many.

Left out on purpose: making the directory, and unlinking the path at the end, which may be a successor's by then. Who
may send is a matter of the path's owner, group and mode; a datagram does not tell who sent it.
"""

import asyncio
import errno
import grp
import logging
import os
import pwd
import socket
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from stsguard.core.errors import ListenFailed
from stsguard.core.tlsrpt_event import MAX_DATAGRAM_BYTES
from stsguard.log import logger, outcome
from stsguard.metrics import Counter

log = logger(__name__)
queue_full = Counter(
    "tlsrpt_queue_full", "Wake-ups that found the socket's queue full: Postfix may have dropped events, and says so."
)
read_errors = Counter("tlsrpt_read_errors", "Times the datagram socket could not be read.")

BATCH = 256  # datagrams a wake-up: half a millisecond, after which look-ups have their turn
LARGE_BYTES = 16_384  # one of this size ends its batch, so that a batch is bounded in bytes too
# In a flood the sender is slower than this reader and waits for it, and to wake up for each handful costs more than to
# read them: so where a handful was there, others are given the processor and the socket is looked at again. Twenty
# times are 10 microseconds.
HANDFUL = 8
LOOKS = 20
PAUSE_SECONDS = 1.0  # after an error of the socket, which would otherwise wake us again at once
FEW_IN_QUEUE = 128
_QUEUE_LENGTH = Path("/proc/sys/net/unix/max_dgram_qlen")
_ID_LIMIT = 2**32 - 1  # the last one means "leave it as it is"


def open_datagram_socket(path: Path, *, owner: str = "", group: str = "", mode: int = 0o622) -> socket.socket:
    """A unix datagram socket bound to `path`, in a directory that is there. Writing is what senders need.

    `owner` and `group` are names or numbers, empty for those of this process. The path is nobody's to write until both
    are set. A socket left over by a daemon that was killed is taken over; one that somebody still reads is not.

    Raises:
        ListenFailed: with the path and what to do.
    """
    uid = _user_id(owner, path) if owner else -1
    gid = _group_id(group, path) if group else -1
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        _remove_stale(path)
        old = os.umask(0o777)
        try:
            sock.bind(str(path))
        finally:
            os.umask(old)
        _give_away(path, uid, gid, mode)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise _failed(path, _hint(exc, path)) from exc
    except ListenFailed:
        sock.close()
        raise
    return sock


def _give_away(path: Path, uid: int, gid: int, mode: int) -> None:
    try:
        os.chown(path, uid, gid)
        path.chmod(mode)
    except OSError:
        path.unlink()  # with no access at all it could not be told from one in use by the next start
        raise


def is_datagram_socket(sock: socket.socket) -> bool:
    """Whether a socket that systemd passed is for datagrams (ListenDatagram=), and not one for look-ups."""
    return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_DGRAM


def queue_length() -> int | None:
    """How many datagrams a new socket's queue holds (net.unix.max_dgram_qlen); None where it can't be told.

    Where /proc does not show it (ProcSubset=pid), the queue of a socket made for this tells.
    """
    try:
        return int(_QUEUE_LENGTH.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return _tried_queue_length()


def queue_advice(length: int | None) -> str | None:
    """The warning to log at the start where a queue of `length` datagrams is small; None where it is not."""
    if length is None or length >= FEW_IN_QUEUE:
        return None
    return (
        f"net.unix.max_dgram_qlen is {length}: when more TLS sessions than that end at once, Postfix drops events and "
        "reports are incomplete; set net.unix.max_dgram_qlen = 512 in /etc/sysctl.d and open the socket anew"
    )


class DatagramReader:
    """Hands the datagrams that arrive at `sock` to `receive`, some at a time, on the running event loop.

    `receive` says whether it has room for more. Once it has not, reading stops until `resume` is called: what waits in
    the queue is not lost, and what no longer fits there is dropped by Postfix, which logs it.
    """

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[Sequence[bytes]], bool],
        *,
        batch: int = BATCH,
        queue: int | None = None,
    ) -> None:
        self._socket = sock
        self._receive = receive
        self._batch = batch
        self._queue_limit = (queue_length() if queue is None else queue) or batch
        self._buffer = bytearray(MAX_DATAGRAM_BYTES + 1)  # one too large is cut, and refused by its parser
        self._loop: asyncio.AbstractEventLoop | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._reading = False

    def start(self) -> None:
        """Begin to read, on the loop that runs now. The socket must not block."""
        self._loop = asyncio.get_running_loop()
        self.resume()

    def resume(self) -> None:
        """Go on reading after `receive` had no room. No effect while reading, before the start and after the end."""
        if self._loop is not None and not self._reading:
            self._reading = True
            self._loop.add_reader(self._socket.fileno(), self.drain)

    def close(self) -> None:
        """Read what waits in the queue, as far as there is room for it, end reading, and close the socket."""
        # No more rounds than a full queue needs: whoever goes on sending does not keep us from ending.
        for _ in range(0, self._queue_limit, self._batch):
            if self._reading:
                self.drain()
        self._stop()
        self._loop = None
        if self._retry is not None:
            self._retry.cancel()
        self._socket.close()

    def drain(self) -> None:
        """Read what is there, up to one batch; with more left the loop calls again after everybody else's turn.

        To be called as well by whoever holds up the loop for long. No effect while there is no room, and after the end.
        """
        if self._socket.fileno() < 0 or (self._loop is not None and not self._reading):
            return
        datagrams: list[bytes] = []
        waiting = 0
        try:
            waiting = self._take(datagrams)
            if waiting > HANDFUL:
                self._look_again(datagrams)
        except OSError as exc:
            self._pause(exc)
        # Reading this many in a row means that as many were waiting, or came as fast as they were read.
        if waiting > self._queue_limit:
            queue_full.inc()
        if datagrams and not self._receive(datagrams):
            self._stop()

    def _look_again(self, datagrams: list[bytes]) -> None:
        for _ in range(LOOKS):
            os.sched_yield()
            self._take(datagrams)

    def _take(self, datagrams: list[bytes]) -> int:
        """Read what waits, and say how many there were. The batch may be full then."""
        before = len(datagrams)
        view, receive_into, append = memoryview(self._buffer), self._socket.recv_into, datagrams.append
        try:
            for _ in range(self._batch - before):
                # recv() would allocate the largest size for each, which costs ten times as much as all the rest.
                size = receive_into(view)
                append(bytes(view[:size]))
                if size > LARGE_BYTES:
                    break
        except BlockingIOError:
            pass
        return len(datagrams) - before

    def _stop(self) -> None:
        if self._loop is not None and self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())

    def _pause(self, exc: OSError) -> None:
        read_errors.inc()
        outcome(
            log, logging.ERROR, "the datagram socket can't be read", error=exc.strerror, retry_seconds=PAUSE_SECONDS
        )
        self._stop()
        if self._loop is not None:
            self._retry = self._loop.call_later(PAUSE_SECONDS, self.resume)


def _tried_queue_length() -> int | None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        try:
            receiver.bind("")  # unix(7), autobind: an abstract name that nobody else has
            sender.connect(receiver.getsockname())
            sender.setblocking(False)
            for sent in range(FEW_IN_QUEUE + 1):
                try:
                    sender.send(b"")
                except BlockingIOError:
                    return sent - 1  # Linux takes one more than the setting says
        except OSError:
            return None
    return FEW_IN_QUEUE


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise _failed(path, "there is a file in the way that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()  # nobody reads it: left over by a daemon that was killed
            return
        except OSError as exc:
            if exc.errno != errno.EPROTOTYPE:
                raise
            raise _failed(path, "a socket of another kind is there, for look-ups perhaps") from exc
    raise _failed(path, "another program reads it, perhaps stsguard already runs or another collector does")


def _user_id(owner: str, path: Path) -> int:
    if owner.isdecimal():
        return _numeric_id(owner, path)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError as exc:
        raise _failed(path, f"there is no user {owner!r} on this machine") from exc


def _group_id(group: str, path: Path) -> int:
    if group.isdecimal():
        return _numeric_id(group, path)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as exc:
        raise _failed(path, f"there is no group {group!r} on this machine") from exc


def _numeric_id(text: str, path: Path) -> int:
    number = int(text)
    if number >= _ID_LIMIT:
        raise _failed(path, f"{number} is no number of a user or group")
    return number


def _failed(path: Path, why: str) -> ListenFailed:
    return ListenFailed(f"can't receive TLS session events at {path}: {why}")


def _hint(exc: OSError, path: Path) -> str:
    match exc.errno:
        case errno.ENOENT:
            return f"the directory {path.parent} does not exist"
        case errno.EACCES | errno.EROFS:
            return f"no permission to make it in {path.parent}; check the directory's owner and mode"
        case errno.EPERM:
            return "only root may give it to another owner, or to a group that this user is not in"
        case _:
            return exc.strerror or str(exc)
