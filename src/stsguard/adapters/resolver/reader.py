"""The reading of answers: the plain ones at once, others by dnspython, which is loaded when the first of them comes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from stsguard.adapters.resolver.plain import (
    PlainAnswer,
    PlainFailure,
    Question,
    is_truncated,
    read_plain,
)

if TYPE_CHECKING:
    import dns.message


@dataclass(frozen=True, slots=True)
class Unread:
    """The octets of an answer that is not plain, come before dnspython is there."""

    wire: bytes


Response: TypeAlias = "PlainAnswer | PlainFailure | dns.message.Message"
Read: TypeAlias = "Response | Unread | None"  # None: the answer is truncated


class Reader:
    """One resolver's. It takes a thread to load dnspython: look-ups of others don't wait for it."""

    def __init__(self) -> None:
        self._parse: Callable[[bytes, Question], dns.message.Message | None] | None = None
        self._loading = asyncio.Lock()

    def read(self, wire: bytes, question: Question) -> Read:
        """What `wire` says, whose ID is that of the query.

        Raises:
            Malformed: it is no usable answer to `question`.
        """
        plain = read_plain(wire, question)
        if plain is not None:
            return plain
        if is_truncated(wire, question):
            return None
        return Unread(wire) if self._parse is None else self._parse(wire, question)

    async def load(self) -> None:
        """Nothing is `Unread` afterwards. Where dnspython is not to be had its ImportError is whoever asks', who fails
        by it, and the next one tries again."""
        async with self._loading:
            if self._parse is None:
                self._parse = await asyncio.to_thread(_load)


def _load() -> "Callable[[bytes, Question], dns.message.Message | None]":
    from stsguard.adapters.resolver.interpreted import parse_response  # noqa: PLC0415 (5 MiB and 30 ms: see above)

    return parse_response
