"""The name of a flush of counters, written with it."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Flush:
    """Flush `number`, from 1 on, of the process `writer`, made on the day `on`."""

    writer: str
    number: int
    on: date
