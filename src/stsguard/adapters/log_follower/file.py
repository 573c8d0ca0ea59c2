"""Follows a log file through rotation, by renaming or by copying and truncating, and through a restart of ours.

A file is known by its inode and the digest of its first octets, since inodes are used again. What was rotated away is
looked for beside the file, as logrotate names it (`mail.log.1`, `mail.log-20260504`). Left out on purpose: compressed
files (logrotate's delaycompress leaves the newest alone), and a log that is a pipe.
"""

import asyncio
import errno
import hashlib
import logging
import os
import re
import stat
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stsguard.adapters.log_follower.batch import LogBatch
from stsguard.log import logger, outcome
from stsguard.metrics import Counter

log = logger(__name__)
rotations = Counter("mail_log_rotations_total", "Log files that were finished and followed by another.")
losses = Counter("mail_log_losses_total", "Times that lines of the mail log could not be found again.")

POLL_SECONDS = 0.25
CHUNK_BYTES = 65536
HEAD_BYTES = 1024  # a dozen lines with their time stamps: no two logs begin with the same
MAX_LINE_BYTES = 65536  # longer ones are passed over; syslog daemons cut at 8 KiB
MAX_ROTATED = 100
_ROTATED = re.compile(r"[.-][0-9][0-9.-]*")
_POSITION = re.compile(r"file:([0-9]{1,20}):([0-9]{1,19}):([0-9]{1,4}):([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class FilePosition:
    """The octet after the last line handed over, and what the file is known by: `digest` is of its first `length`."""

    inode: int
    offset: int
    length: int
    digest: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """A stored position; None where it is none of a file."""
        found = _POSITION.fullmatch(text)
        return cls(int(found[1]), int(found[2]), int(found[3]), found[4]) if found else None

    def __str__(self) -> str:
        return f"file:{self.inode}:{self.offset}:{self.length}:{self.digest}"


class _OpenFile:
    """One file of the log, read in whole lines."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._descriptor)
            raise OSError(errno.EINVAL, "it is no regular file")
        self.inode = found.st_ino
        self.offset = 0  # after the last whole line
        self._skipped = 0  # octets of an overlong line that are passed over
        self._head = b""

    def close(self) -> None:
        os.close(self._descriptor)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def last_written_ns(self) -> int:
        return os.fstat(self._descriptor).st_mtime_ns

    def seek(self, offset: int) -> None:
        self.offset = offset
        self._skipped = 0
        self._head = os.pread(self._descriptor, min(offset, HEAD_BYTES), 0)

    def seek_end(self) -> None:
        """Go behind the last whole line."""
        size = self.size()
        start = max(0, size - MAX_LINE_BYTES)
        end = os.pread(self._descriptor, size - start, start).rfind(b"\n")
        self.seek(start + end + 1 if end >= 0 else size)

    def matches(self, position: FilePosition) -> bool:
        """Whether what was read up to `position` is the beginning of this file."""
        if self.size() < position.offset:
            return False
        head = os.pread(self._descriptor, position.length, 0)
        return len(head) == position.length and _digest(head) == position.digest

    def is_unchanged(self) -> bool:
        """Whether what was read still stands before what comes now: not after a truncation."""
        return self.size() >= self.offset and os.pread(self._descriptor, len(self._head), 0) == self._head

    def position(self) -> FilePosition:
        return FilePosition(self.inode, self.offset, len(self._head), _digest(self._head))

    def read_lines(self) -> bytes | None:
        """The next whole lines; None at the end, empty while an overlong line is passed over."""
        octets = os.pread(self._descriptor, CHUNK_BYTES, self.offset + self._skipped)
        if not octets:
            return None
        end = octets.find(b"\n") if self._skipped else octets.rfind(b"\n")
        if end < 0:
            if not self._skipped and len(octets) < MAX_LINE_BYTES:
                return None  # the rest of this line is yet to be written
            self._skipped += len(octets)
            return b""
        lines = b"" if self._skipped else octets[: end + 1]
        self.offset += self._skipped + end + 1
        self._skipped = 0
        if len(self._head) < HEAD_BYTES:
            self._head = os.pread(self._descriptor, min(self.offset, HEAD_BYTES), 0)
        return lines


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()[:32]


class FileFollower:
    """Follows the log at `path` from `position`, or from its present end where that is empty or not of a file.

    A log that is not there is waited for. `problem` says why it can't be read, for /healthz.
    """

    def __init__(self, path: Path, position: str = "") -> None:
        self._path = path
        self._resume = FilePosition.parse(position)
        self._file: _OpenFile | None = None
        self._is_live = False  # whether the open file is the one at `path`, not one rotated away
        self._waiting: deque[_OpenFile] = deque()
        self._is_first = True
        self._placed = False  # whether a position was handed over
        self._lost = False
        self._from_start = False
        self.problem: str | None = None

    async def batches(self) -> AsyncGenerator[LogBatch, None]:
        """The log's lines for ever, as they are written."""
        try:
            while True:
                batch = self.poll()
                if batch is not None:
                    yield batch
                # Also between two full batches: whoever else waits gets a turn.
                await asyncio.sleep(POLL_SECONDS if batch is None else 0)
        finally:
            self.close()

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, *self._waiting):
            if file is not None:
                file.close()
        self._file = None
        self._waiting.clear()

    def poll(self) -> LogBatch | None:
        """The next batch; None where nothing was written meanwhile."""
        try:
            return self._poll()
        except OSError as exc:
            self._note(f"{self._path} can't be read: {exc.strerror}")
            return None

    def _poll(self) -> LogBatch | None:
        if self._file is None and not self._begin():
            return None
        while self._file is not None:
            if self._is_live and not self._file.is_unchanged():
                self._follow_truncated(self._file)
                continue
            # Looked for before the file is read: what is written to a new file comes after all in the old one.
            successor_written = self._is_live and self._successor_written(self._file)
            octets = self._file.read_lines()
            if octets is not None:
                return self._batch(self._file, octets)
            if self._is_live and not successor_written:
                return self._empty_batch(self._file)
            self._go_on(self._file)
        return None

    def _begin(self) -> bool:
        """Open what comes first; whether there is anything."""
        live = self._open(self._path)
        if self._resume is not None:
            if live is not None and live.inode == self._resume.inode and live.matches(self._resume):
                live.seek(self._resume.offset)
                self._use([live])
            else:
                # Without a new file yet, what was rotated away may still be written to: it is read when there is one.
                if live is None:
                    return False
                self._use([*self._rotated_since(self._resume, live), live])
            self._resume = None
        elif live is None:
            self._is_first = False  # all that is written from now on is new
            return False
        else:
            if self._is_first:
                live.seek_end()
            self._from_start = live.offset == 0 and not self._has_past(live)
            self._use([live])
        self._is_first = False
        self._note(None)
        return True

    def _use(self, files: list[_OpenFile]) -> None:
        self._waiting.extend(files)
        self._file = self._waiting.popleft()
        self._is_live = not self._waiting

    def _go_on(self, finished: _OpenFile) -> None:
        """From a file that is read to its end to the one after it."""
        rotations.inc()
        if not self._waiting:
            live = self._open(self._path)
            # More may have come and gone between two looks.
            newer = self._written_after(finished, self._rotated(live)) if live is not None else []
            self._waiting.extend([*newer, *([live] if live is not None else [])])
        finished.close()
        self._file = self._waiting.popleft() if self._waiting else None
        self._is_live = not self._waiting

    def _follow_truncated(self, file: _OpenFile) -> None:
        """The log was cut: finish the copy that was made of it, then begin at its start."""
        position = file.position()
        copies = self._rotated_since(position, file)
        file.seek(0)
        self._file = None
        self._use([*copies, file])

    def _successor_written(self, file: _OpenFile) -> bool:
        """Whether something stands in a new file at the path: until then the old one may still be written to."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return found.st_ino != file.inode and found.st_size > 0

    def _rotated_since(self, position: FilePosition, live: _OpenFile) -> list[_OpenFile]:
        """The file that `position` is in, at its offset, and those that were rotated away after it."""
        candidates = self._rotated(live)
        # By its inode first: a copy has another one, and where nothing was read yet, nothing else to be known by.
        candidates.sort(key=lambda file: file.inode != position.inode)
        known = (file for file in candidates if position.length or file.inode == position.inode)
        old = next((file for file in known if file.matches(position)), None)
        if old is None:
            for file in candidates:
                file.close()
            if position.offset or position.inode != live.inode:
                self._lost = True
                losses.inc()
                outcome(log, logging.WARNING, "mail log's last position not found, lines may be lost", path=self._path)
            return []
        old.seek(position.offset)
        candidates.remove(old)
        return [old, *self._written_after(old, candidates)]

    def _written_after(self, old: _OpenFile, candidates: list[_OpenFile]) -> list[_OpenFile]:
        """Those that were rotated away after `old`, the oldest first; the others are closed."""
        newer = []
        for file in sorted(candidates, key=_OpenFile.last_written_ns):
            if file.inode != old.inode and file.last_written_ns() > old.last_written_ns():
                newer.append(file)
            else:
                file.close()
        return newer

    def _rotated(self, live: _OpenFile) -> list[_OpenFile]:
        """What stands beside the log under the names of rotated files."""
        prefix = self._path.name
        names = sorted(entry.name for entry in os.scandir(self._path.parent) if entry.name.startswith(prefix))
        names = [name for name in names if _ROTATED.fullmatch(name[len(prefix) :])][:MAX_ROTATED]
        files = []
        for name in names:
            try:
                file = _OpenFile(self._path.with_name(name))
            except OSError:
                continue
            if file.inode == live.inode:
                file.close()
            else:
                files.append(file)
        return files

    def _has_past(self, live: _OpenFile) -> bool:
        """Whether a file was rotated away, in which a delivery may have begun."""
        files = self._rotated(live)
        for file in files:
            file.close()
        return bool(files)

    def _open(self, path: Path) -> _OpenFile | None:
        try:
            return _OpenFile(path)
        except FileNotFoundError:
            return None

    def _batch(self, file: _OpenFile, octets: bytes) -> LogBatch:
        self._note(None)
        lines = octets.decode("utf-8", "replace").split("\n")[:-1]
        return self._flagged(tuple(lines), file)

    def _empty_batch(self, file: _OpenFile) -> LogBatch | None:
        """At the very beginning, the position alone: lines that are written while we are down are found again."""
        return None if self._placed else self._flagged((), file)

    def _flagged(self, lines: tuple[str, ...], file: _OpenFile) -> LogBatch:
        batch = LogBatch(lines, str(file.position()), lost=self._lost, from_start=self._from_start)
        self._lost = self._from_start = False
        self._placed = True
        return batch

    def _note(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            outcome(log, logging.WARNING, "mail log can't be read", reason=problem)
        self.problem = problem
