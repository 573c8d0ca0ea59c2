"""A next hop and port with what was decided last, and the making of a decision.

Decision and evidence are kept packed: they are only looked at when a session is judged, or when they change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from struct import Struct

from stsguard.core.dane import MxEvidence, MxLookupFailure
from stsguard.core.overrides import Override
from stsguard.core.policycache import REPLY_TTL_SECONDS
from stsguard.core.socketmap import Dialect
from stsguard.core.tlspolicy import Decision, StsState
from stsguard.discovery.agenda import Placed
from stsguard.discovery.states import NEVER, StateUntil
from stsguard.names import Domain

NO_LOOKUP = MxEvidence((), secure=False, ttl=int(REPLY_TTL_SECONDS[1]))  # an override needs no evidence
_DECIDED = Struct("<d")  # the monotonic instant of a decision; the rest is `pack`'s


@dataclass(slots=True)  # not frozen: see `dane.Answer`
class Demand:
    """A decision with all that it was made of."""

    mx: MxEvidence | MxLookupFailure
    sts: StsState
    override: Override | None
    decision: Decision
    decided_at: datetime
    packed: bytes = b""  # as its destination keeps it


@dataclass(slots=True, eq=False)
class Destination:
    """A next hop and port; instants are of the monotonic clock. `last_used` is set by whoever answers with it.

    There may be a million of them, so what few have is elsewhere. `request`, `reply` and `dialect` are the reply
    cache's: a look-up finds all it needs in one object.
    """

    name: str  # of the next hop: no `Domain`, which as an object is twice as large
    port: int
    packed: bytes = b""  # the last decision with its evidence, as `Demands.latest` gives it
    expires_at: float = NEVER
    evidence_until: float = NEVER
    last_used: float = NEVER
    before: Placed | None = None  # among the renewals, as `after`
    after: Placed | None = None
    flight: "Deciding | None" = None
    request: bytes = b""
    reply: bytes = b""
    dialect: Dialect = Dialect.POLICY

    @property
    def next_hop(self) -> Domain:
        """The next hop."""
        return Domain(self.name)

    @property
    def decided_at(self) -> float:
        """When the last decision was made."""
        return float(_DECIDED.unpack_from(self.packed)[0]) if self.packed else NEVER

    @property
    def evidence(self) -> bytes:
        """The last decision and its evidence as `core.packed` has them; empty before the first."""
        return self.packed[_DECIDED.size :]

    def note_decision(self, packed: bytes, decided_at: float) -> None:
        """This was decided last, at an instant of the monotonic clock."""
        self.packed = _DECIDED.pack(decided_at) + packed


class Deciding:
    """A decision under way, and what has been gathered for it."""

    __slots__ = ("_calls", "ahead_seconds", "destination", "generation", "mx", "next_hop", "outcome", "state")

    def __init__(self, destination: Destination, ahead_seconds: float) -> None:
        self.destination = destination
        self.next_hop = destination.next_hop
        self.ahead_seconds = ahead_seconds
        self.generation = 0
        self.mx: MxEvidence | MxLookupFailure | None = None
        self.state: StateUntil | None = None
        self.outcome: Demand | BaseException | None = None
        self._calls: list[Callable[[Demand | BaseException], object]] = []

    def then(self, call: Callable[[Demand | BaseException], object]) -> None:
        """Have `call`, which raises nothing, told of the decision as soon as it is made, or of why it can't be."""
        if self.outcome is None:
            self._calls.append(call)
        else:
            call(self.outcome)

    def settle(self, outcome: Demand | BaseException) -> None:
        """This is what came of it."""
        self.outcome = outcome
        for call in self._calls:
            call(outcome)
