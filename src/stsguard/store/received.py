"""The reports that others sent us: the port `ReceivedStore` on SQLite or PostgreSQL.

How they are queried is in modules beside this one; here they are taken in, read anew, and given up when they are old.
"""

import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stsguard import __version__
from stsguard.core.arrival import Arrival, SpoolEntry, Via
from stsguard.core.received_record import ReceivedIntake, SavedIntake, Signer
from stsguard.store.access import DatabaseAccess
from stsguard.store.instants import from_micros

if TYPE_CHECKING:
    from stsguard.store.received_table import RawIntake

UNREAD_AT_ONCE = 1  # with its octets, which may be 100 MiB
DELETED_AT_ONCE = 200  # intakes in a transaction that other writes wait for


class ReceivedStoreSql:
    """The received reports in a database that other stores use as well: opening and closing this one opens and closes
    it for all. Every method raises `StoreUnavailable` where the database can't be used."""

    def __init__(
        self, database: str | DatabaseAccess, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """`now` is for tests."""
        self.now = now
        self._access = DatabaseAccess(database) if isinstance(database, str) else database

    async def open(self) -> None:
        """Open the database, or look again whether it can be opened; no effect on an open one.

        Raises:
            StoreUnavailable: with what is wrong with it and what to do. It may be tried again at any time.
        """
        await self._access.open()

    async def close(self) -> None:
        """Write what was asked for before, and close the database. One that hangs is left behind."""
        await self._access.close()

    async def save_intakes(self, intakes: Sequence[ReceivedIntake]) -> Sequence[SavedIntake]:
        """Write them in one transaction, and say what became of each. It may be repeated without harm: what is stored
        is known. A few hundred at a time."""
        now = self.now()
        return await self._access.write(lambda tables: tables.received.save(intakes, now, __version__))

    async def load_unread(self, after: int) -> Sequence[tuple[int, SpoolEntry, Signer]]:
        """The next intakes, by number, after `after`, that are worth to be read anew: something in them could not be
        read, or the key of their signature not be looked up. None when there are no more. With each goes what DKIM said
        when it came."""
        found = await self._access.scan(lambda tables: tables.received.load_unread(after, UNREAD_AT_ONCE))
        return [(each.intake, _entry(each), _signer(each)) for each in found]

    async def save_again(self, number: int, intake: ReceivedIntake) -> SavedIntake:
        """Replace what was read of a stored intake by what is read now. What counted before goes on counting, once."""
        now = self.now()
        return await self._access.write(lambda tables: tables.received.save_again(number, intake, now, __version__))

    async def load_raw(self, number: int) -> bytes | None:
        """The octets of an intake as they came; None where there is none of that number."""
        found = await self._access.scan(lambda tables: tables.received.load_raw(number))
        return None if found is None else zlib.decompress(found)

    async def delete_intakes(self, before: datetime, *, dry_run: bool = False) -> int:
        """Delete what was stored before that, with all that was read of it but the sums; how many intakes. With
        `dry_run` only count them. It is done in short transactions, between which others write."""
        if dry_run:
            return await self._access.scan(lambda tables: tables.received.count_before(before))
        number = 0
        while some := await self._access.write(lambda tables: tables.received.delete_some(before, DELETED_AT_ONCE)):
            number += some
            if some < DELETED_AT_ONCE:
                break
        return number

    async def newest_intake(self) -> datetime | None:
        """When the last intake was stored; None where there is none."""
        found = await self._access.scan(lambda tables: tables.received.newest())
        return None if found is None else from_micros(found)


def _signer(stored: "RawIntake") -> Signer:
    return Signer(
        stored.dkim_status, stored.dkim_domain, stored.dkim_selector, stored.dkim_reason, aligned=stored.aligned
    )


def _entry(stored: "RawIntake") -> SpoolEntry:
    arrival = Arrival(
        via=Via(stored.via),
        received_at=from_micros(stored.received_at),
        recipient=stored.recipient,
        client=stored.client,
        media_type=stored.media_type,
    )
    return SpoolEntry(arrival, zlib.decompress(stored.raw))
