"""The spool: a directory in which a report lies from the moment it is taken in until it is in the database.

Whoever takes a report in (the milter, `stsguard ingest -` in a pipe transport, the HTTPS server) calls `Spool.add`, and
says so to its sender only when that returns: the entry is on disk then, and stays until it was stored, whatever dies
in between. `stsguard inbound` empties the spool, through `Spool.reading`.

An entry is one file: written under a name that begins with a dot, synced, renamed, the directory synced. So at any
moment it is either not there or whole. Damaged ones and what can't be read are moved to `set-aside` below the
directory and never looked at again. Nothing here trusts the clock: the order of names is that of arrival only as far
as the clock goes forward, and nothing depends on it.

Rights: the directory belongs to the user of the daemon and to a group of those who may hand reports in, mode 3770:
setgid, so that the daemon can read what others put there, and sticky, so that these can't remove each other's. Entries
have mode 0640.
"""

import errno
import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from stsguard.core.arrival import MAX_HEADER_BYTES, Arrival, EntryInvalid, SpoolEntry, parse_entry, serialize_entry
from stsguard.core.errors import SpoolFailed, SpoolFull
from stsguard.log import logger, outcome
from stsguard.metrics import Counter

log = logger(__name__)
added = Counter("intake_spooled_total", "Reports written to the spool, by how they came.", "via")
set_aside = Counter("intake_set_aside_total", "Entries of the spool that are damaged or can't be read, set aside.")

DIRECTORY_MODE = 0o3770
ENTRY_MODE = 0o640
MAX_ENTRY_BYTES = 100 * 1024 * 1024  # the most that [intake] max_compressed allows
MAX_ENTRIES = 20_000  # weeks of reports; while nothing empties it no more of the disk is taken than that
MIN_FREE_BYTES = 64 * 1024 * 1024  # left for everything else on that disk
LISTED = 1000
ABANDONED_SECONDS = 3600.0  # a file that somebody has begun to write and nobody holds any more
SET_ASIDE = "set-aside"
_NEW = ".new-"
_LOCK = ".lock"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Spool:
    """The spool in `directory`. Every call blocks, and may come from any process and thread.

    Args:
        max_entry_bytes, max_entries, min_free_bytes: bounds; what goes beyond is refused.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_entry_bytes: int = MAX_ENTRY_BYTES,
        max_entries: int = MAX_ENTRIES,
        min_free_bytes: int = MIN_FREE_BYTES,
    ) -> None:
        self.directory = directory
        self._max_entry_bytes = max_entry_bytes
        self._max_entries = max_entries
        self._min_free_bytes = min_free_bytes

    def prepare(self) -> None:
        """Make the directory where it is missing; for the daemon that empties the spool.

        Raises:
            SpoolFailed: it can't be made, or not be used.
        """
        with self._faults():
            if self.directory.exists():
                return
            # Under another name until its rights are right: killed in between, the next start finds it and goes on.
            new = self.directory.with_name(f".{self.directory.name}{_NEW}")
            new.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                new.chmod(DIRECTORY_MODE)
                new.rename(self.directory)
            except OSError:
                new.rmdir()  # without setgid the daemon could not read what others put there
                raise

    def add(self, arrival: Arrival, octets: bytes) -> str:
        """Keep a report; the name of its entry. On disk when this returns.

        Raises:
            SpoolFull: there is no room for it, now or ever (see `temporary`).
            SpoolFailed: it can't be kept for another reason; nothing is left behind.
        """
        with self._faults():
            self._check_room(len(octets))
            stem = f"{int(time.time()):012d}-{secrets.token_hex(8)}"
            new, name = self.directory / f"{_NEW}{stem}", f"{stem}.{arrival.via.value}"
            try:
                self._write(new, arrival, octets)
                new.rename(self.directory / name)
            except BaseException:
                with suppress(OSError):
                    new.unlink(missing_ok=True)
                raise
            _sync_directory(self.directory)
        added.inc(arrival.via.value)
        return name

    def _check_room(self, size: int) -> None:
        if size > self._max_entry_bytes:
            text = f"{self.directory}: a report of {size} bytes, and {self._max_entry_bytes} are kept at most"
            raise SpoolFull(text, temporary=False)
        number = sum(1 for _ in self.directory.iterdir())
        if number >= self._max_entries:
            raise SpoolFull(f"{self.directory}: {number} reports wait there already; is stsguard inbound running?")
        disk = os.statvfs(self.directory)
        if disk.f_bavail * disk.f_frsize < size + self._min_free_bytes:
            raise SpoolFull(f"{self.directory}: its disk is full, or nearly so")

    def _write(self, new: Path, arrival: Arrival, octets: bytes) -> None:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, ENTRY_MODE)
        with os.fdopen(handle, "wb", buffering=0) as file:
            fcntl.flock(handle, fcntl.LOCK_EX)  # as long as this process lives its file is not taken for abandoned
            os.fchmod(handle, ENTRY_MODE)  # whatever the umask is
            for part in (serialize_entry(arrival, octets), octets):
                rest = memoryview(part)
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(handle)

    def pending(self, limit: int | None = LISTED) -> Sequence[str]:
        """The names of up to `limit` entries, of None of all, in about the order in which they came.

        Raises:
            SpoolFailed: the directory can't be read.
        """
        with self._faults():
            names = [path.name for path in self.directory.iterdir()]
        return sorted(name for name in names if name[0] != "." and name != SET_ASIDE)[:limit]

    @contextmanager
    def reading(self) -> Iterator["SpoolReader"]:
        """The right to read and remove entries, which one process has at a time.

        Raises:
            SpoolFailed: another one has it, or the directory can't be used.
        """
        with self._faults():
            handle = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with self._faults():
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as exc:
                    raise SpoolFailed(f"{self.directory}: another process empties this spool") from exc
            yield SpoolReader(self)
        finally:
            os.close(handle)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Raise our errors for those of the file system."""
        try:
            yield
        except OSError as exc:
            if exc.errno in _FULL:
                raise SpoolFull(f"{self.directory}: {exc.strerror}") from exc
            file = f" ({exc.filename})" if exc.filename and str(exc.filename) != str(self.directory) else ""
            raise SpoolFailed(f"{self.directory}: {exc.strerror or exc}{file}") from exc


class SpoolReader:
    """What the one process that empties a spool does with its entries."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._directory = spool.directory

    def pending(self, limit: int | None = LISTED) -> Sequence[str]:
        """As `Spool.pending`; what was begun and abandoned is removed on the way."""
        with self._spool._faults():
            for path in self._directory.iterdir():
                if path.name.startswith(_NEW):
                    self._remove_abandoned(path)
        return self._spool.pending(limit)

    def set_aside_names(self) -> Sequence[str]:
        """The names of the entries that were set aside and still lie there.

        Raises:
            SpoolFailed: the directory can't be read.
        """
        with self._spool._faults():
            try:
                return sorted(path.name for path in (self._directory / SET_ASIDE).iterdir())
            except FileNotFoundError:
                return ()

    def load(self, name: str) -> SpoolEntry | None:
        """The entry of that name; None where it is gone, or was damaged and is set aside now.

        Raises:
            SpoolFailed: the disk fails.
        """
        path = self._directory / name
        try:
            return parse_entry(_content(path))
        except FileNotFoundError:
            return None
        except (EntryInvalid, PermissionError, IsADirectoryError) as exc:
            self.set_aside(name, str(exc))
            return None
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO):
                self.set_aside(name, "not a file")
                return None
            raise SpoolFailed(f"{path}: {exc.strerror}") from exc

    def set_aside(self, name: str, reason: str) -> None:
        """Move an entry to where nothing looks at it any more; that, and why, is logged.

        Raises:
            SpoolFailed: it can't be moved.
        """
        with self._spool._faults():
            to = self._directory / SET_ASIDE
            to.mkdir(mode=0o750, exist_ok=True)
            (self._directory / name).rename(to / name)
            _sync_directory(self._directory)
        set_aside.inc()
        outcome(log, logging.ERROR, "damaged entry of the spool set aside", entry=str(to / name), reason=reason)

    def remove(self, names: Sequence[str]) -> None:
        """Remove entries, which are stored by now; one that is gone already is none the worse. Not synced: one that
        comes back after a power failure is stored already, and found to be.

        Raises:
            SpoolFailed: one can't be removed.
        """
        with self._spool._faults():
            for name in names:
                (self._directory / name).unlink(missing_ok=True)

    def _remove_abandoned(self, path: Path) -> None:
        with suppress(OSError):
            if time.time() - path.stat(follow_symlinks=False).st_mtime < ABANDONED_SECONDS:
                return
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def _content(path: Path) -> bytes:
    # Whoever may write here could put a FIFO or a link in place of a file.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb", buffering=0) as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise EntryInvalid("not a file")
        if found.st_size > MAX_ENTRY_BYTES + MAX_HEADER_BYTES:
            raise EntryInvalid(f"{found.st_size} bytes are too many")
        return file.read()


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
