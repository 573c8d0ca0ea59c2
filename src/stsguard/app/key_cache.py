"""Keys of DKIM signatures, kept for a short while: thousands of mails are signed with the same few, and one that can't
be looked up costs a time limit of DNS."""

import time

from stsguard.adapters.dkim_verifier import TxtLookup
from stsguard.core.dane import Answer
from stsguard.core.errors import LookupFailed
from stsguard.names import Domain

KEY_SECONDS = 300.0
FAILURE_SECONDS = 60.0
MAX_KEYS = 5000


class KeyCache:
    """Look-ups of keys, each made once in a few minutes, failed ones too."""

    def __init__(self, resolver: TxtLookup) -> None:
        self._resolver = resolver
        self._known: dict[Domain, tuple[float, Answer[bytes] | LookupFailed]] = {}

    async def lookup(self, name: Domain) -> Answer[bytes] | LookupFailed:
        """The TXT records at `name`, or why they can't be had."""
        until, answer = self._known.get(name, (0.0, None))
        if answer is not None and time.monotonic() < until:
            return answer
        seconds = KEY_SECONDS
        try:
            found: Answer[bytes] | LookupFailed = await self._resolver.lookup_txt(name)
        except LookupFailed as exc:
            found, seconds = exc, FAILURE_SECONDS
        if len(self._known) >= MAX_KEYS:
            self._known.clear()
        self._known[name] = (time.monotonic() + seconds, found)
        return found

    async def lookup_txt(self, name: Domain) -> Answer[bytes]:
        """The same, as a resolver gives it; raises LookupFailed."""
        found = await self.lookup(name)
        if isinstance(found, LookupFailed):
            raise found
        return found
