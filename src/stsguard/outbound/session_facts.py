"""What discovery knows of a session's domain and MX host, as `core.verdict` wants it."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum

from stsguard.core.dane import MxEvidence, MxHost, TlsaStatus
from stsguard.core.errors import LookupReason, PolicyFetchFailed
from stsguard.core.session import Seen, Session, Source
from stsguard.core.tlspolicy import SMTP_PORT, Decision, Reply, Row, StsStatus
from stsguard.core.verdict import FetchFailure, Known
from stsguard.discovery.demand import Demands
from stsguard.discovery.destination import NO_LOOKUP, Demand, Destination
from stsguard.discovery.policies import PolicyCache
from stsguard.discovery.verification import MxVerifier
from stsguard.names import Domain
from stsguard.outbound.fetch_health import FetchHealth
from stsguard.ports import Clock

MAX_REFRESHED = 10_000  # domains with refresh failures that no session has told of yet
MAX_REFRESH_FAILURES = 100  # of one domain and day: five minutes or longer lie between two
MAX_ASKED = 10_000
MX_ADDRESS_LIMIT = 5  # smtp_mx_address_limit: Postfix comes to no more in one attempt
_TOLD_NOTHING = Decision(Reply.NOTFOUND, Row.NO_TLSA_NOT_ENFORCE, "")


class Placing(Enum):
    """Whether a session that a log tells of was one with an MX host of its domain."""

    YES = "yes"
    NO = "no"  # a relay or a transport of the site's own, most likely
    UNKNOWN = "unknown"  # its MX hosts are not known at present


@dataclass(frozen=True, slots=True)
class _RefreshFailure:
    day: date
    at: float
    failure: PolicyFetchFailed


class SessionFacts:
    """Reads what discovery holds in memory, and remembers the failed refreshes of policies in force."""

    def __init__(
        self,
        *,
        demands: Demands,
        cache: PolicyCache,
        verifier: MxVerifier,
        clock: Clock,
        observe: bool,
        is_own_report: Callable[[Session], bool],
    ) -> None:
        self._demands = demands
        self._cache = cache
        self._verifier = verifier
        self._clock = clock
        self._observe = observe
        self._is_own_report = is_own_report
        self._health = FetchHealth()
        self._refreshes: OrderedDict[Domain, list[_RefreshFailure]] = OrderedDict()
        self._asked: OrderedDict[tuple[Domain, int], int] = OrderedDict()  # for those with a bogus TLSA look-up

    def note_fetch(self, policy_domain: Domain, failure: PolicyFetchFailed | None) -> None:
        """A policy fetch ended: well, or with `failure`."""
        now = self._clock.monotonic()
        self._health.note(policy_domain, failure.reason if failure else None, now)
        if failure is None or self._cache.entry(policy_domain) is None:
            return
        today = self._clock.now().date()
        kept = [each for each in self._refreshes.pop(policy_domain, []) if each.day == today]
        self._refreshes[policy_domain] = [*kept, _RefreshFailure(today, now, failure)][:MAX_REFRESH_FAILURES]
        if len(self._refreshes) > MAX_REFRESHED:
            self._refreshes.popitem(last=False)

    def refreshes_told(self, policy_domain: Domain) -> None:
        """The failed refreshes of this domain were counted, and are not told again."""
        self._refreshes.pop(policy_domain, None)

    def known(self, session: Session, day: date) -> Known:
        """What is known of `session`, which counts on `day`."""
        next_hop = session.recipient_domain
        demand = self._demand(session)
        mx_hostname = session.receiving_mx_hostname
        told = demand.decision if demand is not None and not self._observe else _TOLD_NOTHING
        refreshes = self._refreshes.get(next_hop)
        return Known(
            policy=self._cache.policy_at(next_hop, session.at),
            fetch_failure=self._fetch_failure(next_hop),
            refresh_failures=tuple(self._as_known(each.failure, each.at) for each in refreshes if each.day == day)
            if refreshes
            else (),
            override=self._demands.find_override(next_hop),
            mx_host=self._mx_host(demand, mx_hostname) if demand is not None else None,
            dane_in_force=told.reply is Reply.DANE or told.reply is Reply.DANE_ONLY,
            not_offered=told.reply is Reply.SECURE and mx_hostname not in told.match_names,
            enforcing=not self._observe,
            probes=self._verifier.results(mx_hostname) if mx_hostname is not None else (),
            our_reports_own_session=self._is_own_report(session),
        )

    def _demand(self, session: Session) -> Demand | None:
        next_hop, port = session.recipient_domain, session.port
        destination = self._demands.known(next_hop, port)
        if port != SMTP_PORT and (destination is None or not destination.packed):
            destination = self._demands.known(next_hop, SMTP_PORT)
        return self._demands.latest(destination) if destination is not None else None

    def _fetch_failure(self, policy_domain: Domain) -> FetchFailure | None:
        negative = self._cache.negative(policy_domain)
        if negative is None or negative.failure is None or negative.state.status is not StsStatus.UNAVAILABLE:
            return None
        return self._as_known(negative.failure, negative.failed_at)

    def _as_known(self, failure: PolicyFetchFailed, at: float) -> FetchFailure:
        return FetchFailure(failure.reason, failure.detail, outage=self._health.outage(at))

    def _mx_host(self, demand: Demand, mx_hostname: Domain | None) -> MxHost | None:
        hosts = demand.mx.hosts if isinstance(demand.mx, MxEvidence) else ()
        if mx_hostname is None:
            # A datagram does not name the host of a success; where there is only one it went there.
            found = hosts[0] if len(hosts) == 1 else None
        else:
            found = next((host for host in hosts if host.mx_hostname == mx_hostname), None)
        if found is not None and not self._demands.postfix_can_dane:
            return replace(found, tlsa_status=TlsaStatus.ABSENT, tlsa=(), tlsa_failure=None)
        if found is not None and found.tlsa_failure is not None and self._health.outage(self._clock.monotonic()):
            return replace(found, tlsa_failure=LookupReason.SERVFAIL)  # as far as we can tell
        return found

    def placing(self, session: Session) -> Placing:
        """Whether this session of a log was one with an MX host of its `recipient_domain`: the log does not name the
        next hop, and a relay of the site's own is none of the domain's business."""
        if session.receiving_mx_hostname is None or session.policy_domain is not None:
            return Placing.YES  # it was no connection, or the log named the next hop by its policy
        demand = self._demand(session)
        if demand is None:
            return Placing.UNKNOWN
        if demand.mx is NO_LOOKUP:
            return Placing.YES  # whatever it is, the override decides
        hosts = demand.mx.hosts if isinstance(demand.mx, MxEvidence) else ()
        return Placing.YES if session.receiving_mx_hostname in {host.mx_hostname for host in hosts} else Placing.NO

    def bogus_tlsa(self, destination: Destination, demand: Demand) -> list[Session]:
        """One session for each MX host that this look-up of Postfix shows not to be delivered to since its TLSA look-up
        is bogus (RFC 8460 §4.3.2.1); empty where it belongs to an attempt that is counted already.

        Postfix makes no connection then and reports nothing. In one attempt it asks once for each MX host that it comes
        to, so the attempts are no fewer than the look-ups by the number of hosts. Where the mail goes to other hosts,
        only one of the best preference is certain to be come to. Not where the site's own level holds, at which Postfix
        does deliver; and not in an outage, when the fault may be our resolver's.
        """
        if self._observe or demand.decision.reply is Reply.NOTFOUND or not isinstance(demand.mx, MxEvidence):
            return []
        if not self._demands.postfix_can_dane or self._health.outage(self._clock.monotonic()):
            return []
        key = (destination.next_hop, destination.port)
        asked = self._asked.pop(key, 0)
        self._asked[key] = asked + 1
        if len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)
        come_to = sum(host.tlsa_status is not TlsaStatus.UNREACHABLE for host in demand.mx.hosts)
        if asked % min(come_to, MX_ADDRESS_LIMIT):
            return []
        withheld = demand.decision.reply is Reply.TEMP
        best = min(host.preference for host in demand.mx.hosts)
        return [
            Session(
                at=self._clock.now(),
                source=Source.OURSELVES,
                instance="",
                seen=Seen.NO_TLS_POLICY,
                recipient_domain=destination.next_hop,
                receiving_mx_hostname=host.mx_hostname,
                port=destination.port,
            )
            for host in demand.mx.hosts
            if host.tlsa_failure is LookupReason.BOGUS and (withheld or host.preference == best)
        ]
