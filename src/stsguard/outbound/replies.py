"""The reply cache: the bytes of a request to the bytes of its reply.

A hit costs one dictionary look-up and one comparison of floats. A cell belongs to one spelling of a key in one
dialect; its destination renders it anew with every decision, so a hit never meets a decision that no longer holds.
"""

from stsguard.core import netstring
from stsguard.core.socketmap import NOTFOUND, Dialect, render_reply
from stsguard.discovery.demand import Demand, Demands, Destination
from stsguard.discovery.policies import NEVER

SPELLINGS = 8  # of one destination that are kept: dialects times cases; a stranger's others are answered, not kept
NOTFOUND_REPLY = netstring.encode(NOTFOUND)


class ReplyCell:
    """The reply to one spelling of a key."""

    __slots__ = ("destination", "dialect", "expires_at", "observe", "reply", "request")

    def __init__(self, request: bytes, dialect: Dialect, destination: Destination, *, observe: bool) -> None:
        self.request = request
        self.dialect = dialect
        self.destination = destination
        self.observe = observe
        self.expires_at = NEVER
        self.reply = b""

    def decided(self, destination: Destination, demand: Demand) -> None:
        """Render the reply for a new decision."""
        self.expires_at = destination.expires_at
        self.reply = render(demand, self.dialect, destination, observe=self.observe)


def render(demand: Demand, dialect: Dialect, destination: Destination, *, observe: bool) -> bytes:
    """The framed reply; in observe mode always NOTFOUND, whatever was decided."""
    if observe:
        return NOTFOUND_REPLY
    return netstring.encode(render_reply(demand.decision, dialect, destination.next_hop))


class ReplyCache:
    """Cells by request. `cells` is read by the server directly: that is the hot path."""

    def __init__(self, demands: Demands, *, observe: bool) -> None:
        self.cells: dict[bytes, ReplyCell] = {}
        self.observe = observe
        self._demands = demands
        demands.on_evict = self._evicted

    def keep(self, request: bytes, dialect: Dialect, destination: Destination) -> None:
        """Keep a cell for this request, unless its destination has enough spellings already."""
        if request in self.cells or len(destination.watchers) >= SPELLINGS or destination.demand is None:
            return
        if self._demands.known(destination.next_hop, destination.port) is not destination:
            return  # dropped while it was decided
        cell = ReplyCell(request, dialect, destination, observe=self.observe)
        destination.watchers.append(cell)
        cell.decided(destination, destination.demand)
        self.cells[request] = cell

    def _evicted(self, destination: Destination) -> None:
        for watcher in destination.watchers:
            if isinstance(watcher, ReplyCell):
                self.cells.pop(watcher.request, None)
        destination.watchers.clear()
