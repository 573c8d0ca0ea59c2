"""Sessions of mail logs that nobody can judge yet, since the MX hosts of their domain are not known.

A log does not name the next hop, and is read on meanwhile. So what waits is written in the same transaction as how far
the log was read, in the place of a position of its own for each domain: whatever ends the process, the next one has
both, and neither counts a session twice nor loses one.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from stsguard.core.session import Session
from stsguard.core.session_text import SessionTextInvalid, parse_session_text, session_text
from stsguard.log import logger, outcome
from stsguard.names import Domain

log = logger(__name__)

MAX_UNPLACED = 10_000


class Placeless(NamedTuple):
    """What sessions that wait have in common: the Postfix instance, the next hop as far as the log tells it."""

    instance: str
    recipient_domain: Domain
    port: int


class Unplaced:
    """The sessions that wait, at most MAX_UNPLACED of them."""

    def __init__(self) -> None:
        self._sessions: dict[Placeless, list[tuple[Session, str]]] = {}
        self._count = 0
        self._changed: set[Placeless] = set()

    def __len__(self) -> int:
        return self._count

    def waiting(self) -> tuple[Placeless, ...]:
        """What waits, in the order in which it came."""
        return tuple(self._sessions)

    def add(self, session: Session) -> bool:
        """Have it wait; False where there is no room."""
        if self._count >= MAX_UNPLACED:
            return False
        key = Placeless(session.instance, session.recipient_domain, session.port)
        self._sessions.setdefault(key, []).append((session, session_text(session)))
        self._count += 1
        self._changed.add(key)
        return True

    def take(self, key: Placeless) -> list[Session]:
        """The sessions of `key`; none of them waits any longer."""
        taken = self._sessions.pop(key, [])
        self._count -= len(taken)
        self._changed.add(key)
        return [session for session, _ in taken]

    def to_write(self) -> dict[str, str]:
        """What has changed since the last call, as positions by name; empty text where nothing is left."""
        changed, self._changed = self._changed, set()
        return {_name(key): "\n".join(text for _, text in self._sessions.get(key, ())) for key in sorted(changed)}


def restored(instance: str, positions: Mapping[str, str]) -> Iterator[Session]:
    """The sessions of this instance that were waiting when these positions were written."""
    for name, texts in positions.items():
        if name.startswith(_prefix(instance)):
            for text in texts.split("\n"):
                try:
                    yield parse_session_text(text)
                except SessionTextInvalid as exc:
                    outcome(log, logging.ERROR, "session in the store is unreadable", reason=exc)


def _prefix(instance: str) -> str:
    return f"waiting:{instance} "


def _name(key: Placeless) -> str:
    return f"{_prefix(key.instance)}{key.recipient_domain}:{key.port}"
