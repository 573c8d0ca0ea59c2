"""What `stsguard ingest` is given, taken apart: files, mbox files, Maildirs and directories, one item for each report
mail or report file in them. Nothing is read whole but what is in an mbox, and that one mail at a time.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stsguard.core.arrival import Arrival, Via, media_type_of
from stsguard.core.received_mail import MAX_MESSAGE_BYTES

_NAMES = (".json", ".json.gz", ".gz", ".zip", ".eml", ".mbox", ".mbx")
_MAILDIR = ("cur", "new", "tmp")
_HEADER_FIELD = re.compile(rb"[!-9;-~]{1,78}[ \t]*:")
_FROM_LINE = re.compile(rb"From \S* *(.{24})")
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)


Tell = Callable[[str, str], None]  # the path, and what keeps it from being read


@dataclass(frozen=True, slots=True)
class Item:
    """One mail or file. `octets` are those of a mail in an mbox; of all others None, since the file has them.
    `moves_to` is where a Maildir wants the file once it is taken in."""

    path: Path
    label: str
    octets: bytes | None = None
    received_at: datetime | None = None
    moves_to: Path | None = None

    @property
    def size(self) -> int:
        """About how many octets it has."""
        try:
            return len(self.octets) if self.octets is not None else self.path.stat().st_size
        except OSError:
            return 0


def arrival_of(item: Item, octets: bytes, now: datetime) -> Arrival:
    """How the item came. A mail was received when its file was written, as far as anybody knows."""
    received_at = item.received_at
    if received_at is None:
        try:
            received_at = datetime.fromtimestamp(item.path.stat().st_mtime, UTC)
        except (OSError, ValueError, OverflowError):
            received_at = now
    return Arrival(Via.FILE, min(received_at, now), client=item.label, media_type=media_type_of(octets))


def items_in(path: Path, tell: Tell) -> Iterator[Item]:
    """Everything at `path`. What is not there or can't be read is told, and the rest is gone on with."""
    yield from _told(_at(path, tell), path, tell)


def _told(found: Iterator[Item], path: Path, tell: Tell) -> Iterator[Item]:
    """`found`, as far as it can be read."""
    try:
        yield from found
    except OSError as exc:
        tell(str(path), exc.strerror or str(exc))


def _at(path: Path, tell: Tell) -> Iterator[Item]:
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        yield from _in_directory(path, tell)
    elif not stat.S_ISREG(kind):  # a pipe would be waited for, and can't be read twice
        tell(str(path), "not a regular file; - takes in standard input")
    elif _begin(path).startswith(b"From "):
        yield from _in_mbox(path)
    else:
        yield Item(path, str(path))


def _in_directory(directory: Path, tell: Tell) -> Iterator[Item]:
    """In the order of names. Of a Maildir only `new`: what is in `cur` somebody has seen."""
    if all((directory / name).is_dir() for name in _MAILDIR):
        for name in sorted(os.listdir(directory / "new")):  # noqa: PTH208 (a name takes a fifth of a Path)
            path = directory / "new" / name
            if name[0] != "." and path.is_file():
                yield Item(path, str(path), moves_to=directory / "cur" / f"{name.partition(':')[0]}:2,")
        below = [path for path in sorted(directory.iterdir()) if path.name not in _MAILDIR and path.is_dir()]
        for path in below:
            yield from _told(_in_directory(path, tell), path, tell)
        return
    for path in sorted(directory.iterdir()):
        if path.name[0] != ".":
            yield from _told(_below(path, tell), path, tell)


def _below(path: Path, tell: Tell) -> Iterator[Item]:
    """What is at `path` in a directory: only what looks like mail or a report."""
    if path.is_dir() and not path.is_symlink():
        yield from _in_directory(path, tell)
    elif path.is_file():
        begin = _begin(path)
        if begin.startswith(b"From "):
            yield from _in_mbox(path)
        elif path.name.lower().endswith(_NAMES) or _HEADER_FIELD.match(begin):
            yield Item(path, str(path))


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(200)


def _in_mbox(path: Path) -> Iterator[Item]:
    """Each mail of an mbox, its lines that begin with `>From ` as they were (mboxrd)."""
    written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    with path.open("rb") as file:
        number, first, octets, blank = 0, b"", bytearray(), True
        for line in iter(lambda: file.readline(MAX_MESSAGE_BYTES), b""):
            if blank and line.startswith(b"From "):
                if first:
                    number += 1
                    yield _mbox_item(path, number, first, octets, written_at)
                first, octets = line, bytearray()
            elif len(octets) <= MAX_MESSAGE_BYTES:  # what is longer is refused, by what there is of it
                octets += line
            blank = not line.strip(b"\r\n")
        if first:
            yield _mbox_item(path, number + 1, first, octets, written_at)


def _mbox_item(path: Path, number: int, first: bytes, collected: bytearray, written_at: datetime) -> Item:
    octets = bytes(_QUOTED_FROM.sub(rb"\1", collected))
    if octets.endswith(b"\n\n"):
        octets = octets[:-1]  # the blank line is the mbox's
    elif octets.endswith(b"\r\n\r\n"):
        octets = octets[:-2]
    return Item(path, f"{path}, mail {number}", octets, _from_line_time(first) or written_at)


def _from_line_time(line: bytes) -> datetime | None:
    found = _FROM_LINE.match(line)
    if found is None:
        return None
    try:
        return datetime.strptime(found[1].decode("ascii"), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except (ValueError, UnicodeDecodeError):
        return None


def finish(item: Item) -> None:
    """Where the item is in `new` of a Maildir, move it to `cur`: it is stored. Somebody else may have moved it.

    Raises:
        OSError: it can't be moved.
    """
    if item.moves_to is not None:
        try:
            os.rename(item.path, item.moves_to)  # noqa: PTH104 (Path.rename makes a Path that nobody wants)
        except FileNotFoundError:
            return
