"""Verification of MX hosts: which of them present a certificate that RFC 8461 §4.2 accepts, found out by ourselves.

In the background and in use only: whoever looks up a next hop asks for its hosts to be verified, waits for nothing,
and reads what is known. One address of one MX host is probed at most once an hour. A fault is believed when a second
probe, made soon after the first, agrees: one bad moment takes no host out of a reply. A failed session lets the next
probe be made sooner. While policies are being fetched, which somebody waits for, probes begin one at a time.

What is kept is bounded, and a flood of hosts pushes out the least recently asked for that have no confirmed fault.
"""

import asyncio
import heapq
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count, islice
from weakref import WeakValueDictionary

from stsguard.core.dane import MxHost
from stsguard.core.mxcheck import CertificateFacts, Finding, MxProbe, MxVerdict, agree, merge
from stsguard.discovery.mx_target import Target, number_of
from stsguard.discovery.supervisor import contained, supervised
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import Clock, IPAddress, MxProber

log = logger(__name__)
probes_made = Counter("mx_probes_total", "Probes of MX hosts, by what they found.", "result")
probes_dropped = Counter("mx_probes_dropped_total", "Probes not made since too many were waiting.")
faults_confirmed = Counter("mx_faults_confirmed_total", "Probes that found the fault of the one before.", "result")
hosts_forgotten = Counter("mx_hosts_forgotten_total", "MX hosts forgotten to make room for others.")

INTERVAL_SECONDS = 3600.0
CONFIRM_SHARE = 1 / 60  # of the interval, between a fault's first finding and the probe that confirms it
CONFIRM_SECONDS = 5.0  # but no longer: the look-up for the next message shall know of it
SOONER_SHARE = 1 / 12  # of the interval: five minutes, between two probes that failed sessions bring about
YIELD_SECONDS = 0.05  # between the beginnings of two probes while something else is more urgent
BUSY_SECONDS = 1.0  # when to look again at an address that another probe is connected to
WAKE_SECONDS = 60.0  # the longest sleep, since the loop's clock stands still while the machine sleeps
FINDING_INTERVALS = 24  # a finding that no later probe could renew counts for so many intervals
MAX_ADDRESSES = 8  # of one MX host: large providers rotate through more, and their hosts are alike
MAX_CERTIFICATES = 2000  # facts kept once however many hosts share them
_VOID_SHARE = 8  # once an eighth of the queue's places are of hosts forgotten since, they are taken out of it
_SPARED = 16  # so many of the oldest hosts are looked at for one without a confirmed fault


class MxVerifier:
    """What is known of MX hosts, and the probes that find it out.

    Args:
        enabled: False makes `request` and `after_failed_session` do nothing.
        random: numbers from 0 up to 1, for the jitter.
        interval_seconds: between two probes of one address of one host. A fault is confirmed after a sixtieth of it,
            give or take half.
        concurrency: connections at one time; to one address there is never more than one.
        max_hosts: how many hosts are remembered, and how many probes may wait.

    `on_change` is called with an MX hostname whose verdict has changed, `on_probe` with what every probe showed;
    `has_to_yield` tells whether something is under way that somebody waits for.
    """

    def __init__(
        self,
        prober: MxProber,
        clock: Clock,
        *,
        enabled: bool,
        random: Callable[[], float],
        interval_seconds: float = INTERVAL_SECONDS,
        concurrency: int = 8,
        max_hosts: int = 10_000,
    ) -> None:
        self.enabled = enabled
        self.on_change: Callable[[Domain], None] = lambda _mx_hostname: None
        self.on_probe: Callable[[MxProbe], None] = lambda _probe: None
        self.has_to_yield: Callable[[], bool] = lambda: False
        self._prober = prober
        self._clock = clock
        self._random = random
        self._interval_seconds = interval_seconds
        self._concurrency = concurrency
        self._max_hosts = max_hosts
        self._hosts: dict[str, Target] = {}  # the first address of each, the least recently asked for first
        self._sooner_at: dict[str, float] = {}  # of those of which a session has failed
        self._told: dict[str, MxVerdict] = {}  # as of the last `on_change`
        self._certificates: OrderedDict[CertificateFacts, CertificateFacts] = OrderedDict()
        self._waiting: deque[Target] = deque()  # for a place, their time having come: of a flood all but a few
        self._queue: list[tuple[float, int, Target]] = []  # for their time
        self._void = 0  # places in both of hosts that are forgotten
        self._sequence = count()
        self._locks: WeakValueDictionary[IPAddress, asyncio.Lock] = WeakValueDictionary()
        self._running = 0
        self._begun_at = float("-inf")  # the last of them
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._hosts)

    @property
    def waiting(self) -> int:
        """How many probes wait for their time or a place."""
        return len(self._waiting) + len(self._queue)

    def request(self, hosts: Sequence[MxHost]) -> None:
        """Have these MX hosts verified in the background where that is due. Never blocks."""
        if not self.enabled:
            return
        now = self._clock.monotonic()
        for host in hosts:
            for target in self._targets(host, now):
                if target.due is None and target.next_at <= now:
                    self._enqueue_now(target, now)
                    self._wake.set()

    def after_failed_session(self, mx_hostname: Domain) -> None:
        """A session with this host failed: have it probed now, though its hour may not be over."""
        first = self._hosts.get(mx_hostname) if self.enabled else None
        if first is None or (now := self._clock.monotonic()) < self._sooner_at.get(mx_hostname, now):
            return
        self._sooner_at[first.name] = now + self._interval_seconds * SOONER_SHARE
        for target in first.all_of_host():
            self._enqueue_now(target, now)
        self._wake.set()

    def verdict(self, mx_hostname: Domain) -> MxVerdict | None:
        """What is known of a host over all its addresses; None where nothing is."""
        return merge(mx_hostname, self._findings(mx_hostname)) if mx_hostname in self._hosts else None

    def verdicts(self, hosts: Sequence[MxHost]) -> Mapping[Domain, MxVerdict]:
        """The verdicts on those of `hosts` of which something is known."""
        found = {host.mx_hostname: self.verdict(host.mx_hostname) for host in hosts if host.mx_hostname in self._hosts}
        return {mx_hostname: verdict for mx_hostname, verdict in found.items() if verdict is not None}

    def results(self, mx_hostname: Domain) -> tuple[MxProbe, ...]:
        """The probe that counts for each address of a host, at most a day old; its time is `at`."""
        return tuple(finding.probe for finding in self._findings(mx_hostname))

    def _findings(self, mx_hostname: Domain) -> list[Finding]:
        first = self._hosts.get(mx_hostname)
        if first is None:
            return []
        oldest = self._oldest_that_counts()
        return [finding for target in first.all_of_host() if (finding := target.finding(oldest))]

    def _oldest_that_counts(self) -> float:
        return self._clock.monotonic() - FINDING_INTERVALS * self._interval_seconds

    async def probe_now(self, hosts: Sequence[MxHost], *, next_hops: Sequence[Domain] = ()) -> list[MxProbe]:
        """Probe every address of `hosts` now, whatever the hour, and remember what is found.

        `next_hops` are further reference identifiers for DANE-TA(2): the next hop, and what it is an alias of
        (RFC 7672 §3.2.2).
        """
        now = self._clock.monotonic()
        targets = [target for host in hosts for target in self._targets(host, now)]
        places = asyncio.Semaphore(self._concurrency)

        async def probe(target: Target) -> MxProbe:
            async with places:
                return await self._probe(target, next_hops)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(probe(target)) for target in targets]
        return [task.result() for task in tasks]

    async def run(self) -> None:
        """Make the probes that are due, for ever. A fault in one ends no other."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                seconds = self._start_due(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._wake.wait()

    def _targets(self, host: MxHost, now: float) -> list[Target]:
        """The host's addresses as targets, with the evidence of this look-up."""
        first = self._hosts.pop(host.mx_hostname, None)
        numbers = [number_of(address) for address in host.addresses]
        # Addresses that DNS has not named for an interval are the host's no longer.
        oldest = now - self._interval_seconds
        known = [each for each in _all_of(first) if each.asked_at > oldest or each.number in numbers]
        targets = []
        for number, address in zip(numbers, host.addresses, strict=True):
            target = next((each for each in known if each.number == number), None)
            if target is None:
                if len(known) >= MAX_ADDRESSES:
                    continue
                target = Target(host.mx_hostname, address)
                known.append(target)
            target.asked_at, target.tlsa, target.tlsa_base_domain = now, host.tlsa, host.tlsa_base_domain
            targets.append(target)
        if first is None and len(self._hosts) >= self._max_hosts:
            self._make_room()
        if known:
            for target in known:
                target.others = ()
            known[0].others = tuple(known[1:])
            self._hosts[known[0].name] = known[0]
        return targets

    def _make_room(self) -> None:
        oldest = list(islice(self._hosts.values(), _SPARED))
        # A flood of other hosts must not make us forget why one was left out.
        spared = (first for first in oldest if not any(each.has_confirmed_fault for each in first.all_of_host()))
        self._forget(next(spared, oldest[0]))

    def _forget(self, first: Target) -> None:
        hosts_forgotten.inc()
        del self._hosts[first.name]
        self._sooner_at.pop(first.name, None)
        self._told.pop(first.name, None)
        for target in first.all_of_host():
            if target.due is not None:
                target.due = None
                self._void += 1
        # Nobody probes them, and they would keep places that others are refused, and as much memory as the hosts known.
        if self._void * _VOID_SHARE > self._max_hosts:
            self._waiting = deque(target for target in self._waiting if target.due is not None)
            self._queue = [place for place in self._queue if place[2].due == place[0]]
            heapq.heapify(self._queue)
            self._void = 0

    def _has_place(self) -> bool:
        if self.waiting >= self._max_hosts:
            probes_dropped.inc()
            return False
        return True

    def _enqueue_now(self, target: Target, now: float) -> None:
        if self._has_place():
            target.due = now
            self._waiting.append(target)

    def _enqueue(self, target: Target, due: float) -> None:
        if self._has_place():
            target.due = due
            heapq.heappush(self._queue, (due, next(self._sequence), target))

    def _is_known(self, target: Target) -> bool:
        return target in _all_of(self._hosts.get(target.name))

    def _start_due(self, group: asyncio.TaskGroup) -> float:
        """Start what is due as far as there are places; the seconds until there may be more to start."""
        now = self._clock.monotonic()
        while self._running < self._concurrency:
            is_timed = bool(self._queue) and self._queue[0][0] <= now  # few, and somebody waits for them
            if not is_timed and not self._waiting:
                return min(self._queue[0][0] - now, WAKE_SECONDS) if self._queue else WAKE_SECONDS
            if self._begun_at + YIELD_SECONDS > now and self.has_to_yield():
                return self._begun_at + YIELD_SECONDS - now
            if is_timed:
                due, _, target = heapq.heappop(self._queue)
                is_valid = target.due == due
            else:
                target = self._waiting.popleft()
                is_valid = target.due is not None and target.due <= now
            if not is_valid or not self._is_known(target):
                continue  # put forward, begun, or forgotten since
            if self._lock(target.address).locked():
                # Another name of the same machine is being probed; it must not keep a place from others.
                self._enqueue(target, now + BUSY_SECONDS)
                continue
            target.due = None
            target.next_at = now + self._interval_seconds  # before the task gets its turn another request may come
            self._running += 1
            self._begun_at = now
            group.create_task(self._probe_in_background(target))
        return WAKE_SECONDS

    async def _probe_in_background(self, target: Target) -> None:
        try:
            await supervised("verification", self._probe(target, ()))
        finally:
            self._running -= 1
            self._wake.set()

    def _lock(self, address: IPAddress) -> asyncio.Lock:
        lock = self._locks.get(address)
        if lock is None:
            lock = self._locks[address] = asyncio.Lock()
        return lock

    async def _probe(self, target: Target, next_hops: Sequence[Domain]) -> MxProbe:
        async with self._lock(target.address):
            target.next_at = self._clock.monotonic() + self._interval_seconds * (1 + 0.1 * self._random())
            confirming, target.confirming = target.confirming, False
            probe = await self._prober.probe(
                target.mx_hostname,
                target.address,
                target.tlsa,
                reference_identifiers=(target.tlsa_base_domain or target.mx_hostname, *next_hops),
            )
        self._note(target, self._shared(probe), confirming=confirming)
        return probe

    def _shared(self, probe: MxProbe) -> MxProbe:
        """`probe` with the one copy of its certificate's facts: many hosts present the same certificate."""
        if probe.certificate is None:
            return probe
        # Equal facts, not an equal fingerprint: of an untrusted chain's certificate some names may be cut off.
        facts = self._certificates.setdefault(probe.certificate, probe.certificate)
        self._certificates.move_to_end(facts)
        if len(self._certificates) > MAX_CERTIFICATES:
            self._certificates.popitem(last=False)
        return replace(probe, certificate=facts)

    def _note(self, target: Target, probe: MxProbe, *, confirming: bool) -> None:
        now = self._clock.monotonic()
        probes_made.inc("inconclusive" if probe.inconclusive else probe.result_type or "valid")
        first = target.finding(self._oldest_that_counts())
        confirmed = first is not None and not first.probe.inconclusive and agree(first.probe, probe)
        target.note(probe, now, confirmed=confirmed)
        if not probe.inconclusive and probe.result_type is not None:
            if confirmed:
                faults_confirmed.inc(probe.result_type)
            elif not confirming and self.enabled:
                # One confirmation for each regular probe: hosts that answer differently each time get no more.
                target.confirming = True
                pause = min(self._interval_seconds * CONFIRM_SHARE, CONFIRM_SECONDS)
                self._enqueue(target, now + pause * (0.5 + self._random()))
                self._wake.set()
        self._tell(target, probe)
        contained("sessions", partial(self.on_probe, probe))

    def _tell(self, target: Target, probe: MxProbe) -> None:
        mx_hostname = target.mx_hostname
        verdict, told = self.verdict(mx_hostname), self._told.get(mx_hostname)
        if verdict is None or (told is not None and _significance(told) == _significance(verdict)):
            return
        if told is None and verdict.rfc_valid is None and not verdict.certificates:
            return  # nothing conclusive, which is what was known before: no decision changes by it
        notable = _is_confirmed_fault(verdict) or (told is not None and _is_confirmed_fault(told))
        self._told[target.name] = verdict
        outcome(
            log,
            logging.INFO if notable else logging.DEBUG,
            "verdict on MX host changed",
            mx_hostname=mx_hostname,
            address=target.address,
            valid=verdict.rfc_valid,
            confirmed=verdict.confirmed,
            result=probe.result_type,
            reason=probe.failure_reason_code or None,
        )
        self.on_change(mx_hostname)


def _all_of(first: Target | None) -> tuple[Target, ...]:
    return first.all_of_host() if first is not None else ()


def _significance(verdict: MxVerdict) -> object:
    """What a decision may depend on: not the time, and of the certificates the names only."""
    names = frozenset((facts.dns_names, facts.common_names) for facts in verdict.certificates)
    return verdict.rfc_valid, verdict.trusted, verdict.confirmed, names


def _is_confirmed_fault(verdict: MxVerdict) -> bool:
    return verdict.rfc_valid is False and verdict.confirmed
