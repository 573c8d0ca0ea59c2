"""What the intake of received reports asks of the outside world, as Protocols; as in the package itself."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Protocol

from stsguard.core.arrival import Arrival, SpoolEntry
from stsguard.core.received_query import NamedSum
from stsguard.core.received_record import ReceivedIntake, SavedIntake, Signer


class ReceivedStore(Protocol):
    """Keeps the reports that others sent. Every method raises `StoreUnavailable` where the database can't be used."""

    async def save_intakes(self, intakes: Sequence[ReceivedIntake]) -> Sequence[SavedIntake]:
        """Write them in one transaction, and say what became of each. It may be repeated without harm: what is stored
        is known. A few hundred at a time."""

    async def load_unread(self, after: int) -> Sequence[tuple[int, SpoolEntry, Signer]]:
        """The next intakes, by number, after `after`, that are worth to be read anew: something in them could not be
        read, or the key of their signature not be looked up. None when there are no more."""

    async def save_again(self, number: int, intake: ReceivedIntake) -> SavedIntake:
        """Replace what was read of a stored intake by what is read now. What counted before goes on counting, once."""

    async def load_raw(self, number: int) -> bytes | None:
        """The octets of an intake as they came; None where there is none of that number."""

    async def delete_intakes(self, before: datetime, *, dry_run: bool = False) -> int:
        """Delete what was stored before that, with all that was read of it but the sums; how many intakes. With
        `dry_run` only count them. It is done in short transactions, between which others write."""

    async def newest_intake(self) -> datetime | None:
        """When the last intake was stored; None where there is none."""


class ReceivedSumsStore(Protocol):
    """Adds up what is stored of received reports. It raises `StoreUnavailable` where the database can't be read."""

    async def sums_of_domains(
        self, names: Sequence[str], since: date
    ) -> tuple[Sequence[NamedSum], Sequence[tuple[str, str, int]]]:
        """Of each of these domains that was reported since that day the sessions that count, and its failures by
        result-type."""


class IntakeSpool(Protocol):
    """Where whoever takes a report in puts it: the milter, and the HTTPS server."""

    def add(self, arrival: Arrival, octets: bytes) -> str:
        """Keep a report; the name of its entry. On disk when this returns, which it does after a sync: it blocks.

        Raises:
            SpoolFull: there is no room for it; where that is not `temporary`, nor will there be.
            SpoolFailed: it can't be kept for another reason; nothing is left behind.
        """
