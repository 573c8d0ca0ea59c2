"""A policy in force, with the instants of its upkeep, as the policy cache keeps it.

Most of it is octets: as objects a policy, its lines and its instants take five times as much, and there may be a
hundred thousand of them. What few entries have is apart from that.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from struct import Struct

from stsguard.core.errors import PolicyFetchFailed
from stsguard.core.mtasts import Policy
from stsguard.core.packed_policy import pack_policy, unpack_policy
from stsguard.core.policycache import StoredPolicy
from stsguard.discovery.agenda import Placed
from stsguard.names import Domain

_INSTANT = Struct("<d")
_TWO_INSTANTS = Struct("<2d")
REMEMBERED = 256  # policies as objects: as many domains may be looked up at one time, and each is looked at again
REMEMBERED_OCTETS = 2048  # a policy of thousands of lines is a megabyte of objects
_HEAD = Struct("<6d?B")  # the instants below, whether it has succeeded an equal policy, octets of the record id
_remembered: dict[bytes, Policy] = {}  # by their packed form


def _remember(packed: bytes, policy: Policy) -> Policy:
    if len(packed) <= REMEMBERED_OCTETS:
        if len(_remembered) >= REMEMBERED:
            _remembered.clear()
        _remembered[packed] = policy
    return policy


class _Instant:
    """One of the instants of an entry, by its place in the head."""

    def __init__(self, number: int) -> None:
        self._at = number * _INSTANT.size
        self._after = self._at + _INSTANT.size

    def __get__(self, entry: "PolicyEntry", _owner: object = None) -> float:
        return float(_INSTANT.unpack_from(entry.packed, self._at)[0])

    def __set__(self, entry: "PolicyEntry", value: float) -> None:
        entry.packed = entry.packed[: self._at] + _INSTANT.pack(value) + entry.packed[self._after :]


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What happened to a policy since it was fetched, and to those before it, where anything did."""

    failures: int = 0
    failure: PolicyFetchFailed | None = None
    failed_id: str | None = None
    retry_at: float = 0.0
    txt_vanished: bool = False
    past_ids: tuple[str, ...] = ()
    predecessor: Policy | None = None  # in force until this one was fetched, where it was another


_NOTHING = Upkeep()


class PolicyEntry:
    """A policy in force; instants are of the monotonic clock, but for `fetched_at`."""

    __slots__ = ("after", "before", "name", "packed", "upkeep")

    used_at = _Instant(0)
    expires_at = _Instant(1)
    refresh_at = _Instant(2)
    id_check_at = _Instant(3)
    checked_at = _Instant(4)
    _fetched_at = _Instant(5)

    def __init__(
        self,
        stored: StoredPolicy,
        *,
        name: str | None = None,
        used_at: float,
        expires_at: float,
        refresh_at: float,
        id_check_at: float,
        checked_at: float,
        upkeep: Upkeep = _NOTHING,
        is_renewed: bool = False,
    ) -> None:
        self.name = name or str(stored.policy_domain)  # no `Domain`, which as an object is twice as large
        self.before: Placed | None = None  # on the agenda of what is to be tended, as `after`
        self.after: Placed | None = None
        self.upkeep = upkeep
        record_id = stored.record_id.encode()
        fetched_at = stored.fetched_at.timestamp()
        instants = used_at, expires_at, refresh_at, id_check_at, checked_at, fetched_at
        head = _HEAD.pack(*instants, is_renewed, len(record_id))
        packed = pack_policy(stored.policy)
        _remember(packed, stored.policy)
        self.packed = head + record_id + packed

    def note_check(self, checked_at: float, next_at: float) -> None:
        """The record's id was looked at, and is to be at `next_at`: both in one, since each takes a copy."""
        at = 3 * _INSTANT.size
        self.packed = (
            self.packed[:at] + _TWO_INSTANTS.pack(next_at, checked_at) + self.packed[at + _TWO_INSTANTS.size :]
        )

    @property
    def policy_domain(self) -> Domain:
        """Whose policy it is."""
        return Domain(self.name)

    @property
    def policy(self) -> Policy:
        """The policy itself."""
        packed = self.packed[_HEAD.size + self.packed[_HEAD.size - 1] :]
        return _remembered.get(packed) or _remember(packed, unpack_policy(packed))

    @property
    def record_id(self) -> str:
        """The `id` of the record that it was fetched for."""
        return self.packed[_HEAD.size : _HEAD.size + self.packed[_HEAD.size - 1]].decode()

    @property
    def is_renewed(self) -> bool:
        """Whether the policy in force before it was the same."""
        return bool(self.packed[_HEAD.size - 2])

    @property
    def fetched_at(self) -> datetime:
        """When it was fetched, by the wall clock."""
        return datetime.fromtimestamp(self._fetched_at, UTC)

    @fetched_at.setter
    def fetched_at(self, at: datetime) -> None:
        self._fetched_at = at.timestamp()

    def stored(self, last_used_at: datetime) -> StoredPolicy:
        """As the store keeps it, last used then."""
        return StoredPolicy(self.policy_domain, self.policy, self.record_id, self.fetched_at, last_used_at)
