"""The overrides in force: read at start, on SIGHUP and when the file changes. A bad file keeps the old ones."""

import asyncio
import logging
from collections.abc import Callable, Hashable
from datetime import date

from stsguard.core.errors import OverrideInvalid
from stsguard.core.overrides import Overrides
from stsguard.discovery.health import PartHealth, PartState
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.ports import Clock

log = logger(__name__)
reloads = Counter("override_reloads_total", "Reads of the override file, by outcome.", "outcome")

POLL_SECONDS = 5.0


class OverrideWatch:
    """Keeps `overrides` as the file has them. `read` parses it, `stamp` tells whether it has changed."""

    def __init__(
        self,
        read: Callable[[], Overrides],
        stamp: Callable[[], Hashable],
        clock: Clock,
        apply: Callable[[Overrides], None],
    ) -> None:
        self._read = read
        self._stamp = stamp
        self._clock = clock
        self._apply = apply
        self._seen: Hashable = None
        self._today: date | None = None
        self._overrides = Overrides()
        self.problem: str | None = None

    def load(self) -> None:
        """Read the file.

        Raises:
            OverrideInvalid: it is not usable; what was in force stays.
        """
        self._seen = self._stamp()
        try:
            overrides = self._read()
        except OverrideInvalid as exc:
            self.problem = str(exc)
            reloads.inc("refused")
            raise
        self.problem = None
        reloads.inc("ok")
        self._overrides = overrides
        self._today = self._clock.now().date()
        for entry in overrides.expired(self._today):
            outcome(log, logging.WARNING, "override expired, ignored", entry=entry.key, expires=entry.expires)
        outcome(log, logging.INFO, "overrides read", entries=len(overrides))
        self._apply(overrides)

    def reload(self) -> None:
        """Read the file again; a bad one is logged and changes nothing."""
        try:
            self.load()
        except OverrideInvalid as exc:
            outcome(log, logging.ERROR, "override file refused, the old overrides stay in force", reason=exc)

    async def run(self) -> None:
        """Watch the file, and the day: an entry that expires at midnight is reported then."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._stamp() != self._seen or self._has_expired_entries():
                self.reload()

    def _has_expired_entries(self) -> bool:
        """Whether the day has changed, and with it which entries hold."""
        before, self._today = self._today, self._clock.now().date()
        if before is None or before == self._today:
            return False
        return list(self._overrides.expired(before)) != list(self._overrides.expired(self._today))

    def health(self) -> PartHealth:
        """Whether the file as it is now is in force."""
        if self.problem is not None:
            return PartHealth(PartState.FAILED, f"the old overrides stay in force: {self.problem}")
        gone = sum(1 for _ in self._overrides.expired(self._clock.now().date()))
        return PartHealth(
            PartState.OK, f"{len(self._overrides)} entries" + (f", {gone} expired, ignored" if gone else "")
        )
