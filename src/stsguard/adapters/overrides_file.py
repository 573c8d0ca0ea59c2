"""The operator's override file on disk: read, and noticed when it changes."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from stsguard.core.errors import OverrideInvalid
from stsguard.core.overrides import Overrides, parse_overrides

MAX_FILE_BYTES = 16 * 1024 * 1024  # a hundred thousand entries


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells one content of a file from another: replaced, or written in place."""

    inode: int
    size: int
    mtime_ns: int


def stamp(path: Path) -> FileStamp | None:
    """The file's stamp; None where it can't be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileStamp(found.st_ino, found.st_size, found.st_mtime_ns)


def read_overrides(path: Path) -> Overrides:
    """The overrides in `path`.

    Raises:
        OverrideInvalid: it can't be read, or something in it is not allowed; the message names file and entry.
    """
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise OverrideInvalid(f"{path}: can't be read: {exc.strerror}") from exc
    if len(octets) > MAX_FILE_BYTES:
        raise OverrideInvalid(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        return parse_overrides(tomllib.loads(octets.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise OverrideInvalid(f"{path}: not TOML: {exc}") from exc
    except OverrideInvalid as exc:
        raise OverrideInvalid(f"{path}: {exc}") from exc
