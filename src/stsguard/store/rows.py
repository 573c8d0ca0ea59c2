"""Rows of tables and the values that they hold: what the tables of reports and of our own domains share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from stsguard.store.instants import from_micros, to_micros

R = TypeVar("R")
T = TypeVar("T")


@dataclass(slots=True)
class Readable(Generic[T]):
    """What rows say, and of the rows that can't be read, what is wrong."""

    values: list[T] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)


class RowInvalid(Exception):
    """A row that is none; the message says which and why."""


def read_rows(read: Callable[[R], T], rows: Iterable[R]) -> Readable[T]:
    """What `read` makes of each row; it raises `RowInvalid` for one that it can't read."""
    found: Readable[T] = Readable()
    for row in rows:
        try:
            found.values.append(read(row))
        except RowInvalid as exc:
            found.invalid.append(str(exc))
    return found


def optional_micros(instant: datetime | None) -> int | None:
    """An instant as it is stored, if there is one."""
    return None if instant is None else to_micros(instant)


def optional_instant(micros: int | None) -> datetime | None:
    """The instant that is stored as `micros`, if there is one.

    Raises:
        OverflowError: no calendar reaches that far.
    """
    return None if micros is None else from_micros(micros)


def one_line(text: str, max_length: int) -> str:
    """What an operator or a stranger's server said: printable, on one line, and not longer than that."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:max_length])
