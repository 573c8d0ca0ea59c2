"""Reads what came in, once: verifies its signature, and finds what is to be stored of it.

Verification is done here and not later, since keys and signatures expire. Nothing that came in makes this fail: a fault
of ours on one entry becomes a refusal of that entry, which is kept, and is read anew by `stsguard ingest --again`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stsguard.core.arrival import SpoolEntry
from stsguard.core.dkim_verdict import UNSIGNED, DkimStatus
from stsguard.core.errors import StoreUnavailable
from stsguard.core.received_record import ReceivedIntake, SavedIntake
from stsguard.core.taking_in import IntakeRules, refused, take_in
from stsguard.discovery.supervisor import supervised
from stsguard.names import Domain
from stsguard.ports import DomainStore, ReportVerifier
from stsguard.ports.intake import ReceivedStore

BATCH_INTAKES = 200
BATCH_BYTES = 8 * 1024 * 1024
BATCH_ROWS = 20_000  # policies and details: as many as one report may have, so that two large ones make no batch


@dataclass(frozen=True, slots=True)
class Read:
    """An entry that was read. `waits`: the key of its signature could not be looked up, and may be later."""

    intake: ReceivedIntake
    waits: bool = False


class IntakeReader:
    """Reads entries by `rules`, which may be replaced at any time."""

    def __init__(self, verifier: ReportVerifier, rules: IntakeRules) -> None:
        self._verifier = verifier
        self.rules = rules
        self._taking_in = asyncio.Lock()

    async def read(self, entry: SpoolEntry) -> Read:
        """What is to be stored of `entry`. What takes long is done beside the event loop, of several at the same time
        all but what takes memory."""
        found: list[Read] = []

        async def work() -> None:
            verdict = UNSIGNED
            if entry.arrival.is_mail:
                verdict = await self._verifier.verify(entry.octets, entry.arrival.received_at)
            async with self._taking_in:
                intake = await asyncio.to_thread(take_in, entry, verdict, self.rules)
            found.append(Read(intake, verdict.status is DkimStatus.TEMPORARY))

        if not await supervised("reading a received report", work()):
            return Read(refused(entry, "stsguard failed on it, see its log"))
        return found[0]


class Batch:
    """Entries that were read and go into the database in one transaction, `limit` of them at most, and bounded in what
    they take of memory."""

    def __init__(self, limit: int = BATCH_INTAKES) -> None:
        self.intakes: list[ReceivedIntake] = []
        self._limit = limit
        self._bytes = 0
        self._rows = 0

    def add(self, intake: ReceivedIntake) -> None:
        """Take one more in."""
        self.intakes.append(intake)
        self._bytes += len(intake.raw)
        self._rows += weight(intake)

    @property
    def is_full(self) -> bool:
        """Whether it is time to write them."""
        return len(self.intakes) >= self._limit or self._bytes >= BATCH_BYTES or self._rows >= BATCH_ROWS


def weight(intake: ReceivedIntake) -> int:
    """How many rows it makes."""
    policies = [policy for document in intake.documents for policy in document.report.policies]
    return len(policies) + sum(len(policy.details) for policy in policies)


async def save_batch(
    store: ReceivedStore, intakes: Sequence[ReceivedIntake]
) -> Sequence[tuple[ReceivedIntake, SavedIntake]]:
    """Store them in one transaction, and say what became of each, as it was stored.

    Where the database refuses what is to be written it is done one by one, since only one of them may be what it can't
    take: of that the octets are stored, with the reason.

    Raises:
        StoreUnavailable: the database can't be used. Some may be stored nevertheless.
    """
    saved = await _save(store, intakes)
    if not isinstance(saved, str):
        return list(zip(intakes, saved, strict=True))
    return [await _save_one(store, intake) for intake in intakes]


async def _save_one(store: ReceivedStore, intake: ReceivedIntake) -> tuple[ReceivedIntake, SavedIntake]:
    saved = await _save(store, [intake])
    if not isinstance(saved, str):
        return intake, saved[0]
    octets_only = replace(intake, documents=(), refusals=(f"the database does not take it: {saved}",))
    return octets_only, (await store.save_intakes([octets_only]))[0]


async def _save(store: ReceivedStore, intakes: Sequence[ReceivedIntake]) -> Sequence[SavedIntake] | str:
    """What became of each, or why the database can't take them, a fault of ours among the reasons."""
    found: list[Sequence[SavedIntake] | str | StoreUnavailable] = []

    async def work() -> None:
        try:
            found.append(await store.save_intakes(intakes))
        except StoreUnavailable as exc:
            found.append(exc if exc.temporary else str(exc))

    if not await supervised("storing received reports", work()):
        return "stsguard failed on it, see its log"
    result = found[0]
    if isinstance(result, StoreUnavailable):
        raise result
    return result


class OurDomains:
    """The domains that are ours, kept up with the database: those hosted here, retired ones among them, and those that
    the configuration lists."""

    def __init__(self, store: DomainStore, listed: Sequence[Domain]) -> None:
        self._store = store
        self._listed = frozenset(map(str, listed))
        self._hosted: set[str] = set()
        self._revision: int | None = None

    async def load(self) -> frozenset[str] | None:
        """All of them; None where none is known, so that any may be ours.

        Raises:
            StoreUnavailable: the database can't be read.
        """
        revision = await self._store.revision()
        if revision != self._revision:
            self._hosted = {str(domain.policy_domain) for domain in await self._store.load_domains()}
            self._revision = revision
        return (self._listed | self._hosted) or None
