"""Sessions that were counted as well as could be told at the time, and may turn out to be more.

A session in testing mode counts as unverified until a probe of that MX host and address is made, within an hour. A
failure that a mail log tells of lacks what only the datagram of the same session has: the EHLO name, our address. Both
are counted at once and corrected by additive counters, so that nothing waits in memory only; what is never corrected
stays as it was counted, and is true.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Generic, TypeVar

from stsguard.core.errors import ResultType
from stsguard.core.session import Count, Session
from stsguard.core.verdict import Known
from stsguard.metrics import Counter
from stsguard.names import Domain

waiting_dropped = Counter(
    "provisional_sessions_dropped_total", "Sessions whose count stays as it was, for want of room."
)

MAX_PENDING = 100_000
MAX_FAILURES = 10_000
MERGE_WITHIN = timedelta(minutes=1)
DETAIL_WITHIN = timedelta(seconds=60)

Address = IPv4Address | IPv6Address
_Kept = TypeVar("_Kept", "Provisional", "_Heard")
_FailureKey = tuple[str, Domain, Domain | None, str, ResultType | None]


@dataclass(slots=True, eq=False)
class Provisional:
    """`times` sessions like this one, and what each was counted as. `until` is of the monotonic clock."""

    session: Session
    known: Known
    counts: tuple[Count, ...]
    day: date
    times: int
    until: float


class PendingVerification:
    """The unverified sessions by MX host and address."""

    def __init__(self) -> None:
        self._by_host: dict[tuple[Domain, Address], list[Provisional]] = {}
        self._in_order: deque[tuple[tuple[Domain, Address], Provisional]] = deque()

    def __len__(self) -> int:
        return len(self._in_order)

    def add(self, counted: Provisional) -> None:
        """Wait for a probe of its MX host and address, where they are known."""
        key = _host_key(counted.session)
        if key is None:
            return
        waiting = self._by_host.setdefault(key, [])
        if waiting and _alike(waiting[-1], counted):
            waiting[-1].times += counted.times
            return
        if len(self._in_order) >= MAX_PENDING:
            self._drop_oldest()
            waiting_dropped.inc()
            waiting = self._by_host.setdefault(key, [])
        waiting.append(counted)
        self._in_order.append((key, counted))

    def take(self, mx_hostname: Domain, address: Address) -> list[Provisional]:
        """All that waits for a probe of this host and address; none of it waits any longer."""
        taken = self._by_host.pop((mx_hostname, address), [])
        for counted in taken:
            counted.until = float("-inf")
        return taken

    def expire(self, now: float) -> None:
        """Forget those whose hour is over."""
        while self._in_order and self._in_order[0][1].until <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        key, counted = self._in_order.popleft()
        waiting = self._by_host.get(key, [])
        if counted in waiting:
            waiting.remove(counted)
            if not waiting:
                del self._by_host[key]


def _host_key(session: Session) -> tuple[Domain, Address] | None:
    try:
        address = ip_address(session.receiving_ip)
    except ValueError:
        return None
    return (session.receiving_mx_hostname, address) if session.receiving_mx_hostname is not None else None


def _alike(last: Provisional, new: Provisional) -> bool:
    """Whether a probe will say the same of both: then they wait together, as the many of one large provider do."""
    near = abs(new.session.at - last.session.at) < MERGE_WITHIN
    same = (last.day, last.counts, last.session.further_details) == (new.day, new.counts, new.session.further_details)
    return near and same and last.known.policy == new.known.policy


@dataclass(slots=True, eq=False)
class _Heard:
    session: Session
    times: int
    until: float


class FailureDetails:
    """Brings together a failure in the log and the datagram of the same session, whichever comes first."""

    def __init__(self) -> None:
        self._datagrams: _Table[_Heard] = _Table()
        self._counted: _Table[Provisional] = _Table()

    def detail_for(self, session: Session) -> Session:
        """`session` of a log with what a datagram that came before has of it."""
        for heard in self._datagrams.of(_failure_key(session)):
            if heard.times and _near(heard.session, session):
                heard.times -= 1
                return _detailed(session, heard.session)
        return session

    def wait(self, counted: Provisional) -> None:
        """Wait for the datagram of a failure that was counted without."""
        self._counted.add(_failure_key(counted.session), counted)

    def offer(self, datagram: Session, times: int, until: float) -> Iterator[tuple[Provisional, Session]]:
        """The failures counted before that this datagram tells more of, each with its session as known now. What is
        left of `times` is kept for failures to come."""
        key = _failure_key(datagram)
        for counted in self._counted.of(key):
            if times and counted.times and _near(counted.session, datagram):
                counted.times, times = counted.times - 1, times - 1
                yield replace(counted, times=1), _detailed(counted.session, datagram)
        if times:
            self._datagrams.add(key, _Heard(datagram, times, until))

    def expire(self, now: float) -> None:
        """Forget what nobody has asked for."""
        self._datagrams.expire(now)
        self._counted.expire(now)


class _Table(Generic[_Kept]):
    """A bounded number of failures by what they have in common; those with `times` 0 are done with."""

    def __init__(self) -> None:
        self._by_key: dict[_FailureKey, list[_Kept]] = {}
        self._in_order: deque[tuple[_FailureKey, _Kept]] = deque()

    def add(self, key: _FailureKey, kept: _Kept) -> None:
        if len(self._in_order) >= MAX_FAILURES:
            self._drop_oldest()
        self._by_key.setdefault(key, []).append(kept)
        self._in_order.append((key, kept))

    def of(self, key: _FailureKey) -> Sequence[_Kept]:
        if key not in self._by_key:
            return ()
        self._by_key[key] = [kept for kept in self._by_key[key] if kept.times]
        return self._by_key[key]

    def expire(self, now: float) -> None:
        while self._in_order and self._in_order[0][1].until <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        key, oldest = self._in_order.popleft()
        left = [kept for kept in self._by_key.get(key, ()) if kept is not oldest]
        if left:
            self._by_key[key] = left
        else:
            self._by_key.pop(key, None)


def _failure_key(session: Session) -> _FailureKey:
    return (
        session.instance,
        session.recipient_domain,
        session.receiving_mx_hostname,
        session.receiving_ip.lower(),
        session.result_type,
    )


def _near(one: Session, other: Session) -> bool:
    return abs(one.at - other.at) <= DETAIL_WITHIN


def _detailed(logged: Session, datagram: Session) -> Session:
    """`logged` with what only the datagram tells, the policy that Postfix applied included."""
    says_policy = logged.policy_type is None
    return logged._replace(
        policy_type=datagram.policy_type if says_policy else logged.policy_type,
        policy_domain=datagram.policy_domain if says_policy else logged.policy_domain,
        policy_strings=datagram.policy_strings if says_policy else logged.policy_strings,
        failure_reason_code=logged.failure_reason_code or datagram.failure_reason_code,
        sending_mta_ip=logged.sending_mta_ip or datagram.sending_mta_ip,
        receiving_mx_helo=logged.receiving_mx_helo or datagram.receiving_mx_helo,
        additional_information=logged.additional_information or datagram.additional_information,
    )
