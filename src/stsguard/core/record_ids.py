"""New ids for `_mta-sts` records: UTC stamps that only ever grow (RFC 8461 §3.1 sts-id, §3.2).

The RFC wants a new id to differ from the last, nothing more. Ours also sort after every one before, as people and
tools that compare them expect, whoever made the one in DNS: a stamp where that suffices, else a stamp behind the
foreign id or a part of it.
"""

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

_STAMP_FORM = "%Y%m%dT%H%M%SZ"
_STAMP_LENGTH = 16
_MAX_LENGTH = 32  # RFC 8461 §3.1: 1*32(ALPHA / DIGIT)
_STAMPED = re.compile(r"([A-Za-z0-9]{0,16})([0-9]{8}T[0-9]{6}Z)")
_ORDER = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # as ASCII sorts them
_SECOND = timedelta(seconds=1)


def new_record_id(now: datetime, used: Collection[str]) -> str:
    """An id later than `now` and than every stamp among `used` (all ids of the domain, and what is in DNS); it is none
    of them, and sorts after them all where 32 letters and digits leave room for that."""
    known = [found for text in used if (found := _parse_stamped(text)) is not None]
    latest = max([now, *(instant for _, instant in known)])
    try:
        stamp = (latest.replace(microsecond=0) + _SECOND).strftime(_STAMP_FORM)
    except OverflowError:  # someone published the last second of the year 9999
        stamp = (now.replace(microsecond=0) + _SECOND).strftime(_STAMP_FORM)
    greatest = max(used, default="")
    if stamp > greatest:
        return stamp
    prefix = _prefix_after(greatest, stamp)
    return _unused(stamp, used) if prefix is None else prefix + stamp


def _parse_stamped(text: str) -> tuple[str, datetime] | None:
    """The parts of an id of ours: what stands before the stamp, mostly nothing, and the stamp's instant."""
    match = _STAMPED.fullmatch(text)
    if match is None:
        return None
    try:
        return match[1], datetime.strptime(match[2], _STAMP_FORM).replace(tzinfo=UTC)
    except ValueError:  # the 30th of February is a legal id, but no stamp
        return None


def _prefix_after(greatest: str, stamp: str) -> str | None:
    """What to put before `stamp` so that it sorts after `greatest`; None where nothing does."""
    own = _parse_stamped(greatest)
    if own is not None and own[0] + stamp > greatest:
        return own[0]
    room = _MAX_LENGTH - _STAMP_LENGTH
    return greatest if len(greatest) <= room else _increment(greatest[:room])


def _increment(text: str) -> str | None:
    """The next text of the same length or shorter in the order of ASCII; None after the last."""
    kept = text.rstrip(_ORDER[-1])
    return kept[:-1] + _ORDER[_ORDER.index(kept[-1]) + 1] if kept else None


def _unused(stamp: str, used: Collection[str]) -> str:
    """`stamp`, or the first one after it that was never used: it sorts before some id, but it differs from all."""
    instant = datetime.strptime(stamp, _STAMP_FORM).replace(tzinfo=UTC)
    while (text := instant.strftime(_STAMP_FORM)) in used:
        instant += _SECOND
    return text
