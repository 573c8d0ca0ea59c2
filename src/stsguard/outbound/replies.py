"""The reply cache: the bytes of a request to the bytes of its reply.

A hit costs one dictionary look-up and one comparison of floats. A cell belongs to one spelling of a key in one
dialect; its destination has it rendered anew with every decision, and it holds for as long as the destination's
decision does, so a hit never meets one that no longer holds.
"""

from stsguard.core import netstring
from stsguard.core.dane import MxEvidence
from stsguard.core.errors import LookupReason
from stsguard.core.socketmap import NOTFOUND, Dialect, render_reply
from stsguard.core.tlspolicy import Reply
from stsguard.discovery.demand import Demand, Demands, Destination

SPELLINGS = 8  # of one destination that are kept, the newest: dialects times cases, and a stranger may add his own
NOTFOUND_REPLY = netstring.encode(NOTFOUND)
TEMP_FAULT = netstring.encode(b"TEMP stsguard failed, see its log")


class ReplyCell:
    """The reply to one spelling of a key."""

    __slots__ = ("cells", "destination", "dialect", "observe", "reply", "request")

    def __init__(
        self,
        cells: "dict[bytes, ReplyCell]",
        request: bytes,
        dialect: Dialect,
        destination: Destination,
        *,
        observe: bool,
    ) -> None:
        self.cells = cells
        self.request = request
        self.dialect = dialect
        self.destination = destination
        self.observe = observe
        self.reply = NOTFOUND_REPLY if observe else TEMP_FAULT

    def decided(self, destination: Destination, demand: Demand) -> None:
        """Render the reply for a new decision."""
        # Should rendering fail, the reply to the decision before must not live on with the new one's life.
        self.reply = NOTFOUND_REPLY if self.observe else TEMP_FAULT
        if has_bogus_tlsa(demand):
            self.cells.pop(self.request, None)
            return
        self.reply = render(demand, self.dialect, destination, observe=self.observe)
        self.cells[self.request] = self


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
        self.cells: dict[bytes, ReplyCell] = {}
        self.observe = observe
        self._demands = demands
        demands.on_evict = self._evicted

    def keep(self, request: bytes, dialect: Dialect, destination: Destination) -> bytes | None:
        """Keep a cell for this request, and give its reply; of a destination with enough spellings the oldest goes.
        None where there is a cell already, or nothing may be kept."""
        if request in self.cells or destination.demand is None or has_bogus_tlsa(destination.demand):
            return None
        if self._demands.known(destination.next_hop, destination.port) is not destination:
            return None  # dropped while it was decided
        if len(destination.watchers) >= SPELLINGS:
            oldest = destination.watchers.pop(0)
            if isinstance(oldest, ReplyCell):
                self.cells.pop(oldest.request, None)
        cell = ReplyCell(self.cells, request, dialect, destination, observe=self.observe)
        destination.watchers.append(cell)
        cell.decided(destination, destination.demand)
        return cell.reply

    def _evicted(self, destination: Destination) -> None:
        for watcher in destination.watchers:
            if isinstance(watcher, ReplyCell):
                self.cells.pop(watcher.request, None)
        destination.watchers.clear()
