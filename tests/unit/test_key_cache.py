"""Keys that are kept for a short while, so that one that can't be had is not waited for again and again."""

import pytest

from stsguard.app import key_cache
from stsguard.app.key_cache import FAILURE_SECONDS, KEY_SECONDS, KeyCache
from stsguard.core.dane import Answer, AnswerStatus
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.names import Domain

NAME = Domain("s1._domainkey.sender.example")
ANSWER = Answer(AnswerStatus.FOUND, (b"v=DKIM1; p=",), NAME, 300, False)


class Resolver:
    """Fails, or does not."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails
        self.asked = 0

    async def lookup_txt(self, name: Domain) -> Answer[bytes]:
        self.asked += 1
        if self.fails:
            raise LookupFailed(LookupReason.TIMEOUT, str(name))
        return ANSWER


@pytest.mark.parametrize(("fails", "seconds"), [(True, FAILURE_SECONDS), (False, KEY_SECONDS)])
async def test_key_is_looked_up_once_in_a_while(monkeypatch: pytest.MonkeyPatch, fails: bool, seconds: float) -> None:
    now = 1000.0
    monkeypatch.setattr(key_cache.time, "monotonic", lambda: now)
    resolver = Resolver(fails=fails)
    cache = KeyCache(resolver)
    for _ in range(3):
        if fails:
            with pytest.raises(LookupFailed):
                await cache.lookup_txt(NAME)
        else:
            assert await cache.lookup_txt(NAME) is ANSWER
    assert resolver.asked == 1
    now += seconds
    await cache.lookup(NAME)
    assert resolver.asked == 2
