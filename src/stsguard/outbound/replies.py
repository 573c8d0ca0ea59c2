"""The reply cache: the bytes of a request to the bytes of its reply.

A hit costs one dictionary look-up and one comparison of floats. A cell belongs to one spelling of a key in one
dialect: the first that a destination is asked for by is in the destination itself, for others there is a `Spelling`.
It is rendered anew with every decision, and holds for as long as the destination's decision does, so a hit never meets
one that no longer holds.
"""

from stsguard.core import netstring
from stsguard.core.dane import MxEvidence
from stsguard.core.errors import LookupReason
from stsguard.core.socketmap import NOTFOUND, Dialect, render_reply
from stsguard.core.tlspolicy import Reply
from stsguard.discovery.demand import Demands
from stsguard.discovery.destination import Demand, Destination

SPELLINGS = 8  # of one destination that are kept, the newest: dialects times cases, and a stranger may add his own
NOTFOUND_REPLY = netstring.encode(NOTFOUND)
TEMP_FAULT = netstring.encode(b"TEMP stsguard failed, see its log")


class Spelling:
    """Another request than the one that a destination itself is the answer to: in other case, or of the other map."""

    __slots__ = ("destination", "dialect", "reply", "request")

    def __init__(self, request: bytes, dialect: Dialect, destination: Destination) -> None:
        self.request = request
        self.dialect = dialect
        self.destination = destination
        self.reply = b""

    @property
    def expires_at(self) -> float:
        """As its destination's."""
        return self.destination.expires_at

    @property
    def last_used(self) -> float:
        """As its destination's."""
        return self.destination.last_used

    @last_used.setter
    def last_used(self, now: float) -> None:
        self.destination.last_used = now


Cell = Destination | Spelling


def has_bogus_tlsa(demand: Demand) -> bool:
    """Whether the TLSA look-up of an MX host is bogus. Without a log only Postfix's look-ups tell of the attempts on it
    (RFC 8460 §4.3.2.1), so that each of them has to be seen, and none is answered by a cell."""
    if isinstance(demand.mx, MxEvidence):
        for host in demand.mx.hosts:
            if host.tlsa_failure is LookupReason.BOGUS:
                return True
    return False


def render(demand: Demand, dialect: Dialect, destination: Destination, *, observe: bool) -> bytes:
    """The framed reply; in observe mode always NOTFOUND, whatever was decided."""
    if observe or demand.decision.reply is Reply.NOTFOUND:
        return NOTFOUND_REPLY
    return netstring.encode(render_reply(demand.decision, dialect, destination.next_hop))


class ReplyCache:
    """Cells by request. `cells` is read by the server directly: that is the hot path."""

    def __init__(self, demands: Demands, *, observe: bool) -> None:
        self.cells: dict[bytes, Cell] = {}
        self.observe = observe
        self._demands = demands
        self._others: dict[Destination, tuple[Spelling, ...]] = {}  # but for the first spelling of each
        demands.on_evict = self._evicted
        demands.on_decided = self._decided

    def keep(self, request: bytes, dialect: Dialect, destination: Destination, demand: Demand) -> bytes | None:
        """Keep a cell for this request, and give its reply; of a destination with enough spellings the oldest goes, but
        for the first of all. None where there is a cell already, or nothing may be kept: the destination was dropped,
        or decided once more. One that `has_bogus_tlsa` must not come here."""
        if request in self.cells or demand.packed is not destination.packed or not self._demands.is_here(destination):
            return None  # of a decision that is not the last any more it would be kept too long
        if not destination.request:
            destination.request, destination.dialect = request, dialect
            return self._render(destination, destination, demand)
        other, others = Spelling(request, dialect, destination), self._others.get(destination, ())
        if len(others) >= SPELLINGS - 1:
            self.cells.pop(others[0].request, None)
            others = others[1:]
        self._others[destination] = (*others, other)
        return self._render(other, destination, demand)

    def _render(self, cell: Cell, destination: Destination, demand: Demand) -> bytes:
        cell.reply = render(demand, cell.dialect, destination, observe=self.observe)
        self.cells[cell.request] = cell
        return cell.reply

    def _decided(self, destination: Destination, demand: Demand) -> None:
        """Render the replies anew for a new decision."""
        if not destination.request:
            return
        cells: tuple[Cell, ...] = (destination, *self._others.get(destination, ()))
        # Should rendering fail, no reply to the decision before must live on with the new one's life.
        for cell in cells:
            cell.reply = NOTFOUND_REPLY if self.observe else TEMP_FAULT
        bogus = has_bogus_tlsa(demand)
        for cell in cells:
            if bogus:
                self.cells.pop(cell.request, None)
            else:
                self._render(cell, destination, demand)

    def _evicted(self, destination: Destination) -> None:
        cells: tuple[Cell, ...] = (destination, *self._others.pop(destination, ()))
        for cell in cells:
            self.cells.pop(cell.request, None)
        destination.request = b""
