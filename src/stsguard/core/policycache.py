"""When a cached policy expires, is re-checked, refreshed and retried (RFC 8461 §3.3, §5.1, §10.2).

Pure arithmetic on seconds; the instants come from the caller. Lifetimes run by a monotonic clock while we run, so
that a wall clock set wrong for an hour or a year never expires a policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from stsguard.core.mtasts import Mode, Policy
from stsguard.names import Domain

ZERO_MAX_AGE_SECONDS = 60.0  # max_age 0 is legal: held for a minute, never stored
REFRESH_SECONDS = 86_400.0  # RFC 8461 §3.3: "a suggested refresh frequency is once per day"
FETCH_PAUSE_SECONDS = 300.0  # RFC 8461 §3.3: five minutes or longer between attempts per version ID
FETCH_PAUSE_LIMIT_SECONDS = 6 * 3600.0
UNAVAILABLE_LIMIT_SECONDS = 3600.0  # a domain without a cached policy gets a new chance at least hourly
NEW_ID_PAUSE_SECONDS = 60.0  # a new id may be fetched sooner, but no faster than this, or flipping it would flood
NEGATIVE_TTL_SECONDS = (60.0, 3600.0)
REPLY_TTL_SECONDS = (30.0, 900.0)
RENEWAL_SHARE = 0.8  # a reply in use is renewed when this share of its life is over
IN_USE_SECONDS = 60 * 86_400.0  # a policy that nobody asked for in so long is no longer refreshed


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as the store keeps it: it lives `policy.max_age` seconds from `fetched_at`, the last good fetch."""

    policy_domain: Domain
    policy: Policy
    record_id: str
    fetched_at: datetime
    last_used_at: datetime


class Downgrade(StrEnum):
    """What may be an attack, or a mistake, and is logged and counted though the RFC lets it happen."""

    TXT_VANISHED = "txt-vanished"  # the record is gone while a policy holds (RFC 8461 §10.2)
    MODE_LOWERED = "mode-lowered"
    MAX_AGE_CUT = "max-age-cut"  # to under a tenth
    ID_FLIPS = "id-flips"  # back to an id that was there before
    MX_NOT_PERMITTED = "mx-not-permitted"  # an MX host that the cached policy does not permit


_RANK = {Mode.NONE: 0, Mode.TESTING: 1, Mode.ENFORCE: 2}


def lifetime_seconds(policy: Policy) -> float:
    """How long `policy` may be applied after its fetch (RFC 8461 §3.2 max_age)."""
    return float(policy.max_age) or ZERO_MAX_AGE_SECONDS


def remaining_seconds(stored: StoredPolicy, now: datetime) -> float:
    """How long a policy read from the store still lives at `now`, by the wall clock: 0 or less is expired.

    A fetch in the future (the clock has been set back since) counts as one just made: never more than max_age.
    """
    age = max(0.0, (now - stored.fetched_at).total_seconds())
    return lifetime_seconds(stored.policy) - age


def refresh_after_seconds(policy: Policy, share: float) -> float:
    """When to fetch afresh, in seconds after the last fetch: daily, or well before the end of a shorter life
    (RFC 8461 §3.3, §10.2). `share` in 0 … 1 is random: it spreads refreshes over the last quarter of the time."""
    return min(REFRESH_SECONDS, lifetime_seconds(policy) / 2) * (1.0 - share / 4)


def fetch_pause_seconds(failures: int, share: float) -> float:
    """How long a fetch is not tried again after `failures` in a row (RFC 8461 §3.3): from five minutes, doubling.
    `share` in 0 … 1 is random and lengthens it by up to a tenth."""
    return min(FETCH_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10), FETCH_PAUSE_LIMIT_SECONDS) * (1.0 + share / 10)


def negative_ttl_seconds(ttl: int) -> float:
    """How long "no policy" is believed, from the negative TTL of its SOA (RFC 2308 §5), within 1 min … 1 h."""
    low, high = NEGATIVE_TTL_SECONDS
    return min(max(float(ttl), low), high)


def reply_ttl_seconds(ttl: int) -> float:
    """How long a reply is given without new DNS look-ups, from the least TTL behind it, within 30 s … 15 min."""
    low, high = REPLY_TTL_SECONDS
    return min(max(float(ttl), low), high)


def downgrades(old: Policy, new: Policy) -> Sequence[Downgrade]:
    """What the step from a cached policy to its successor weakens; the new policy counts all the same."""
    found = []
    if _RANK[new.mode] < _RANK[old.mode]:
        found.append(Downgrade.MODE_LOWERED)
    if new.mode is not Mode.NONE and new.max_age * 10 < old.max_age:
        found.append(Downgrade.MAX_AGE_CUT)
    return found
