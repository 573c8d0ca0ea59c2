"""Reads items for `stsguard ingest`, one after the other, in whichever process."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from stsguard.adapters.dkim_verifier import TxtLookup, read_signatures, verify_signatures
from stsguard.adapters.public_suffix_file import load_public_suffixes
from stsguard.app.ingest_items import Item, arrival_of
from stsguard.app.key_cache import KeyCache
from stsguard.config.model import Config
from stsguard.core.arrival import SpoolEntry
from stsguard.core.dkim_verdict import UNSIGNED, DkimStatus, DkimVerdict
from stsguard.core.received_record import ReceivedIntake, Signer
from stsguard.core.taking_in import IntakeRules, refused, take_in
from stsguard.discovery.supervisor import supervised
from stsguard.inbound.intake_reader import BATCH_BYTES, BATCH_ROWS, weight
from stsguard.names import Domain

MAX_ITEM_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReadItem:
    """What was read of an item: `intake`, or None and why it could not be read, and so is not kept either."""

    intake: ReceivedIntake | None
    problem: str = ""
    waits: bool = False


class ItemReader:
    """Reads items one after the other."""

    def __init__(self, resolver: TxtLookup, rules: IntakeRules) -> None:
        self._keys = KeyCache(resolver)
        self._rules = rules
        self._suffixes = load_public_suffixes()

    async def read_some(self, items: Sequence[Item]) -> list[ReadItem]:
        """What was read of the first of `items`: of all, unless it is so much that the rest has to wait."""
        found: list[ReadItem] = []
        octets, rows = 0, 0
        for item in items:
            found.append(read := await self.read(item))
            if read.intake is not None:
                octets += len(read.intake.raw)
                rows += weight(read.intake)
                if octets >= BATCH_BYTES or rows >= BATCH_ROWS:
                    break
        return found

    async def read(self, item: Item) -> ReadItem:
        """What is to be stored of one item."""
        try:
            if item.size > MAX_ITEM_BYTES:
                return ReadItem(None, f"{item.size} bytes are too many")
            octets = item.octets if item.octets is not None else item.path.read_bytes()
        except OSError as exc:
            return ReadItem(None, exc.strerror or str(exc))
        return await self.read_entry(SpoolEntry(arrival_of(item, octets, datetime.now(UTC)), octets))

    async def read_entry(self, entry: SpoolEntry, signer: Signer | None = None) -> ReadItem:
        """What is to be stored of an entry. What DKIM said when it came stays, given as `signer`: keys are gone when
        their time is over."""
        found: list[ReadItem] = []

        async def work() -> None:
            verdict = self._verdict_then(signer)
            if verdict is None:
                verdict = await self._verify(entry) if entry.arrival.is_mail else UNSIGNED
            found.append(ReadItem(take_in(entry, verdict, self._rules), waits=verdict.status is DkimStatus.TEMPORARY))

        if not await supervised("reading a received report", work()):
            return ReadItem(refused(entry, "stsguard failed on it"))
        return found[0]

    def _verdict_then(self, signer: Signer | None) -> DkimVerdict | None:
        """The verdict that was stored; None where there is none, or the key could not be looked up."""
        if signer is None or signer.status in ("", DkimStatus.TEMPORARY.value):
            return None
        domain = Domain(signer.domain) if signer.domain else None
        organization = self._suffixes.organizational_domain(domain) if domain is not None else None
        status = DkimStatus(signer.status)
        return DkimVerdict(status, domain, signer.selector, signer.reason, signer.aligned, None, organization)

    async def _verify(self, entry: SpoolEntry) -> DkimVerdict:
        mail = read_signatures(entry.octets, entry.arrival.received_at)
        if mail is None:
            return UNSIGNED
        keys = {name: await self._keys.lookup(name) for name in mail.key_names}
        return verify_signatures(mail, keys, self._suffixes)


def build_item_reader(config: Config, rules: IntakeRules) -> ItemReader:
    """A reader with a resolver of its own."""
    from stsguard.app.parts import build_resolver

    return ItemReader(build_resolver(config)[0], rules)
