"""Keeps the certificates of our policy hosts valid (RFC 8461 §3.3, RFC 8555).

For each host that is served and has no certificate of the operator's: an order when there is none, and again at two
thirds of its lifetime, but only once the name has been seen to lead to us. What is due is read from the files, so that
whatever the database or the clock says, and wherever a process was killed, the next look decides rightly:

- a certificate is due when the wall clock says so, or when as much monotonic time has passed since it was first seen; a
  clock set back hides no expiry, and `OrderPace` keeps one set forward from becoming a storm of orders;
- before an attempt the database is told of it as of a failure, so that a process which is killed over and over comes
  back later and later; afterwards of its outcome;
- of several nodes one has the claim for a host; of several processes on a machine one has the lock.

An order half way is not taken up again: the CA forgets it, and the new one finds what was proven already.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from stsguard.core.certificate_schedule import (
    LONGEST_SHORT_PAUSE_SECONDS,
    LONGEST_WAIT,
    SHORT_PAUSE_SECONDS,
    CertificateTimes,
    failure_pause,
    read_times,
    seconds_to_wait,
)
from stsguard.core.errors import CertificateFailed, CertificateFault, CertificateInvalid, StoreUnavailable
from stsguard.core.hosted import AcmeChallenge, CertificateState
from stsguard.discovery.health import PartHealth, PartState
from stsguard.discovery.supervisor import kept_up, supervised
from stsguard.inbound.order_pace import OrderPace
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import Clock
from stsguard.ports.certificates import CertificateAuthority, CertificateKeyFiles, CertificateStore, ReachProver

log = logger(__name__)
orders = Counter("certificate_orders_total", "Attempts to get a certificate by ACME, by what came of them.", "outcome")

ROUND_SECONDS = 2.0
LOOK_AGAIN_SECONDS = 3600.0  # at files, which the operator or another node may have put there
CLAIM_SECONDS = 900.0  # longer than an order takes
CONCURRENCY = 4
HOSTS_AT_ONCE = 50  # looked at before others have their turn
NONCE_LIFETIME = timedelta(minutes=10)
CA_LOOK_SECONDS = 86_400.0  # RFC 9773 §4.3: regularly; CAs ask for some hours, a day is enough where it is no haste
CA_ROUND_SECONDS = 300.0
LOCK_SECONDS = 10.0
EXPIRY_WARNING = timedelta(days=7)
FRESH = timedelta(days=1)  # no CA gives certificates for less than some days


@dataclass(slots=True)
class _Watched:
    """What is known of a host: its certificate, by the monotonic clock when that is due, when to look again."""

    times: CertificateTimes | None = None
    by_hand: bool = False
    due_at: float = 0.0
    look_at: float = 0.0
    ca_look_at: float = 0.0
    ca_renew_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CertificateSettings:
    """`challenge` is "http-01" or "tls-alpn-01"; `node` names this machine among those that share the database."""

    challenge: str
    node: str
    concurrency: int = CONCURRENCY
    round_seconds: float = ROUND_SECONDS


class CertificateKeeper:
    """Orders and renews. `policy_hosts` gives the hosts that are served now; `random` 0 … 1."""

    def __init__(
        self,
        settings: CertificateSettings,
        *,
        policy_hosts: Callable[[], Collection[Domain]],
        store: CertificateStore,
        authority: CertificateAuthority,
        files: CertificateKeyFiles,
        reach: ReachProver,
        clock: Clock,
        pace: OrderPace,
        random: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._policy_hosts = policy_hosts
        self._store = store
        self._authority = authority
        self._files = files
        self._reach = reach
        self._clock = clock
        self._pace = pace
        self._random = random
        self._watched: dict[Domain, _Watched] = {}
        self._states: dict[Domain, CertificateState] = {}
        self._wait_until: dict[Domain, float] = {}  # by the monotonic clock: no jump makes a pause longer or shorter
        self._fresh_until: dict[Domain, float] = {}  # likewise, of what was issued: a wrong clock orders once a day
        self._under_way: set[Domain] = set()

    async def run(self) -> None:
        """Keep all certificates valid, for ever. Where another process of this machine does, wait until it ends."""
        while True:
            try:
                with self._files.lock() as alone:
                    if alone:
                        await self._keep()
            except OSError as exc:
                outcome(log, logging.ERROR, "certificates can't be kept", reason=exc)
            except StoreUnavailable as exc:
                outcome(log, logging.WARNING, "certificates wait for the database", reason=exc)
            await asyncio.sleep(LOCK_SECONDS)

    def health(self) -> PartHealth:
        """Which certificates have expired or soon will, and whether the CA works."""
        now = self._clock.now()
        served = [(host, watched.times) for host, watched in self._watched.items() if not watched.by_hand]
        ends = sorted((times.not_after, host) for host, times in served if times is not None)
        if ends and ends[0][0] <= now + EXPIRY_WARNING:
            error = self._states[ends[0][1]].last_error if ends[0][1] in self._states else ""
            return PartHealth(PartState.FAILED, f"{ends[0][1]}: valid until {ends[0][0]:%Y-%m-%d %H:%M} UTC; {error}")
        if self._pace.problem:
            return PartHealth(PartState.LIMITED, self._pace.problem)
        missing = sorted(host for host, times in served if times is None)
        if missing:
            error = self._states[missing[0]].last_error if missing[0] in self._states else "waiting for its turn"
            return PartHealth(PartState.LIMITED, f"{len(missing)} without certificate, {missing[0]}: {error}")
        return PartHealth(PartState.OK, f"{len(ends)} certificates by ACME")

    async def _keep(self) -> None:
        for state in await self._store.load_certificate_states():
            self._remember(state)
        async with asyncio.TaskGroup() as group:
            group.create_task(kept_up("certificate renewal information", self._ask_the_ca))
            while True:
                for host in await self._due():
                    # While the CA is in trouble one host tries for all.
                    at_once = 1 if self._pace.problem else self._settings.concurrency
                    if len(self._under_way) >= at_once or not self._pace.permits():
                        break
                    self._under_way.add(host)
                    group.create_task(self._attempt(host))
                await asyncio.sleep(self._settings.round_seconds)

    async def _due(self) -> list[Domain]:
        """The hosts that want an order now, the certificate that ends first before the others, none at all last: a
        new domain may wait, one that is enforced may not."""
        served = set(self._policy_hosts())
        for gone in self._watched.keys() - served:
            del self._watched[gone]
        found: list[tuple[datetime, Domain]] = []
        for number, host in enumerate(sorted(served), start=1):
            watched = self._watched.setdefault(host, _Watched())
            if self._clock.monotonic() >= watched.look_at:
                self._look(host, watched)
                if number % HOSTS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            if host not in self._under_way and self._is_due(host, watched):
                end = datetime.max.replace(tzinfo=self._clock.now().tzinfo)
                found.append((watched.times.not_after if watched.times else end, host))
        return [host for _, host in sorted(found)]

    async def _ask_the_ca(self) -> None:
        """Ask when it wants each certificate renewed (RFC 9773 §4), one after the other."""
        while True:
            for host, watched in list(self._watched.items()):
                if watched.times is None or watched.by_hand or self._clock.monotonic() < watched.ca_look_at:
                    continue
                watched.ca_look_at = self._clock.monotonic() + CA_LOOK_SECONDS * (0.75 + self._random() / 2)
                pem = self._files.load(host) if not self._pace.problem else None
                if pem is not None and (renew_at := await self._authority.renewal_time(pem)) is not None:
                    watched.ca_renew_at = renew_at
            await asyncio.sleep(CA_ROUND_SECONDS)

    def _look(self, host: Domain, watched: _Watched, *, issued: bool = False) -> None:
        """Read the files of a host; what was issued just now has its whole life ahead, whatever the clock says."""
        monotonic, times = self._clock.monotonic(), None
        watched.look_at = monotonic + LOOK_AGAIN_SECONDS
        try:
            watched.by_hand = self._files.is_by_hand(host)
            pem = self._files.load(host)
            times = None if pem is None else read_times(pem)
        except (OSError, CertificateInvalid) as exc:
            outcome(log, logging.ERROR, "certificate can't be read", policy_host=host, reason=exc)
        if times != watched.times or times is None:
            watched.times, watched.ca_renew_at = times, None
            begin = times.not_before if times is not None and issued else self._clock.now()
            left = 0.0 if times is None else (times.renew_at - begin).total_seconds()
            watched.due_at = monotonic + left

    def _is_due(self, host: Domain, watched: _Watched) -> bool:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        if watched.by_hand or monotonic < self._wait_until.get(host, 0.0):
            return False
        if watched.times is None:
            return True
        if monotonic < self._fresh_until.get(host, 0.0):
            return False
        if now < watched.times.not_before - timedelta(days=1):
            # The clock is wrong, not the certificate: another would be "not yet valid" just the same.
            return monotonic >= watched.due_at
        if watched.ca_renew_at is not None and watched.ca_renew_at <= now:
            return True
        return now >= watched.times.renew_at or monotonic >= watched.due_at

    async def _attempt(self, host: Domain) -> None:
        try:
            if not await supervised("certificate order", self._obtain(host)):
                self._watched.setdefault(host, _Watched()).look_at = self._clock.monotonic() + LOOK_AGAIN_SECONDS
        finally:
            self._under_way.discard(host)

    async def _obtain(self, host: Domain) -> None:
        """One attempt, noted before and after it."""
        before = self._states.get(host) or CertificateState(host, None, None, None)
        now = self._clock.now()
        try:
            if not await self._store.claim_certificate(host, self._settings.node, now, CLAIM_SECONDS):
                self._wait(host, CLAIM_SECONDS / 3)
                return
            watched = self._watched.setdefault(host, _Watched())
            self._look(host, watched)
            if not self._is_due(host, watched):  # another node that shares the directory was first
                return
            # Who is killed meanwhile finds this. The first time it is begun anew at once: a restart is no failure yet.
            pause = self._short_pause(before) if before.failures else 0.0
            await self._save(self._failed(before, pause, "an attempt was begun and came to no end"))
        except StoreUnavailable as exc:
            outcome(log, logging.WARNING, "certificates wait for the database", policy_host=host, reason=exc)
            self._wait(host, SHORT_PAUSE_SECONDS)
            return
        try:
            await self._prove(host)
        except CertificateFailed as exc:
            orders.inc("unreached")
            await self._note_failure(self._failed(before, self._short_pause(before), str(exc)))
            return
        begun_at = self._pace.begin()
        try:
            times = await self._order(host)
        except CertificateFailed as exc:
            self._pace.failed(begun_at, exc)
            orders.inc(exc.fault.value)
            await self._note_failure(self._after(before, exc))
            return
        self._pace.succeeded()
        orders.inc("issued")
        outcome(log, logging.INFO, "certificate issued", policy_host=host, not_after=times.not_after.isoformat())
        now = self._clock.now()
        if not times.not_before <= now < times.renew_at:
            outcome(log, logging.ERROR, "the clock of this machine is wrong, or the CA's", policy_host=host, now=now)
        fresh_until = now + FRESH
        await self._note(
            CertificateState(host, times.not_before, times.not_after, times.renew_at, next_attempt_at=fresh_until)
        )

    async def _prove(self, host: Domain) -> None:
        """See that the name leads to us, before the CA is asked."""
        kind = "reach" if self._settings.challenge == "http-01" else "reach-tls"
        token, nonce = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        challenge = AcmeChallenge(kind, host, token, nonce, self._clock.now() + NONCE_LIFETIME)
        await self._present(challenge)
        try:
            await self._reach.prove(challenge)
        finally:
            await self._withdraw(challenge)

    async def _order(self, host: Domain) -> CertificateTimes:
        presented: list[AcmeChallenge] = []

        async def present(challenge: AcmeChallenge) -> None:
            presented.append(challenge)
            await self._present(challenge)

        try:
            key_pem, chain_pem = await self._authority.order(host, self._settings.challenge, present)
        finally:
            for challenge in presented:
                await self._withdraw(challenge)
        try:
            times = read_times(chain_pem)
            self._files.save(host, key_pem, chain_pem)
        except CertificateInvalid as exc:
            raise CertificateFailed(f"the CA's certificate can't be read: {exc}") from exc
        except OSError as exc:
            raise CertificateFailed(f"the certificate can't be written: {exc}", None, CertificateFault.CA) from exc
        watched = self._watched.setdefault(host, _Watched())
        self._look(host, watched, issued=True)
        return times

    async def _present(self, challenge: AcmeChallenge) -> None:
        try:
            await self._store.save_challenge(challenge)
        except StoreUnavailable as exc:
            raise CertificateFailed(f"no challenge can be answered: {exc}") from exc

    async def _withdraw(self, challenge: AcmeChallenge) -> None:
        try:
            await self._store.delete_challenge(challenge.kind, challenge.token)
        except StoreUnavailable:
            return  # it expires by itself

    def _after(self, before: CertificateState, failure: CertificateFailed) -> CertificateState:
        """The state after the CA refused, or could not be asked."""
        if failure.fault is CertificateFault.CA:  # the host has done nothing; the pace keeps everybody waiting
            next_attempt_at = self._clock.now() + timedelta(seconds=SHORT_PAUSE_SECONDS)
            return replace(before, next_attempt_at=next_attempt_at, last_error=str(failure))
        pause = max(failure_pause(before.failures + 1, self._random()), failure.retry_after_seconds or 0.0)
        return self._failed(before, min(pause, LONGEST_WAIT.total_seconds()), str(failure))

    def _short_pause(self, before: CertificateState) -> float:
        return failure_pause(
            before.failures + 1,
            self._random(),
            first_seconds=SHORT_PAUSE_SECONDS,
            longest_seconds=LONGEST_SHORT_PAUSE_SECONDS,
        )

    async def _note_failure(self, after: CertificateState) -> None:
        outcome(
            log,
            logging.ERROR if self._is_urgent(after.policy_host) else logging.WARNING,
            "no certificate",
            policy_host=after.policy_host,
            reason=after.last_error,
            failures=after.failures,
            next_attempt_at=after.next_attempt_at and after.next_attempt_at.isoformat(timespec="seconds"),
        )
        await self._note(after)

    def _is_urgent(self, host: Domain) -> bool:
        watched = self._watched.get(host)
        return bool(watched and watched.times and watched.times.not_after <= self._clock.now() + EXPIRY_WARNING)

    def _failed(self, before: CertificateState, pause_seconds: float, error: str) -> CertificateState:
        next_attempt_at = self._clock.now() + timedelta(seconds=pause_seconds)
        return replace(before, failures=before.failures + 1, next_attempt_at=next_attempt_at, last_error=error)

    def _wait(self, host: Domain, seconds: float) -> None:
        """Come back later; nothing happened that others need to know."""
        self._wait_until[host] = self._clock.monotonic() + seconds

    async def _note(self, state: CertificateState) -> None:
        try:
            await self._save(state)
        except StoreUnavailable as exc:
            outcome(log, logging.WARNING, "certificate state not stored", policy_host=state.policy_host, reason=exc)

    async def _save(self, state: CertificateState) -> None:
        self._remember(state)
        await self._store.save_certificate_state(state)

    def _remember(self, state: CertificateState) -> None:
        self._states[state.policy_host] = state
        seconds = seconds_to_wait(state.next_attempt_at, self._clock.now())
        self._wait(state.policy_host, seconds if state.failures or state.last_error else 0.0)
        self._fresh_until[state.policy_host] = self._clock.monotonic() + seconds
