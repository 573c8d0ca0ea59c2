"""One mail as the milter sees it: whether it is for one of our report addresses, and what becomes of it.

What is answered to Postfix is one table. A mail that has other recipients as well is never held up or refused because
of us; it is delivered to the report address like any mail then, so that the report is in that mailbox.

    what happened                      for report addresses alone      with other recipients
    kept in the spool                  accept, or discard              accept, or take the report addresses off
    can't be kept now                  451, the sender comes again     accept, logged
    too large                          552                             accept, logged
    no valid signature and "reject"    550 (RFC 8460 §3)               kept: it is shown apart, and never counts
    a key can't be looked up           as kept: it is verified again when it is stored
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from threading import Lock

from stsguard.core.arrival import Arrival, Via
from stsguard.core.dkim_verdict import DkimStatus, DkimVerdict
from stsguard.core.errors import SpoolFailed, SpoolFull
from stsguard.core.recipients import folded, next_hop_to_warm, parse_path
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.ports import Clock
from stsguard.ports.intake import IntakeSpool

log = logger(__name__)
mails = Counter("milter_report_mails_total", "Mails for report addresses, by what became of them.", "outcome")

MAX_HELD_BYTES = 256 * 1024 * 1024  # of all mails under way; Postfix may hand in hundreds at once


class Answer(Enum):
    """What Postfix is told of a mail."""

    ACCEPT = auto()
    DISCARD = auto()
    TEMPFAIL = auto()
    REJECT = auto()


@dataclass(frozen=True, slots=True)
class Ruling:
    """The answer, with the recipients to take off as Postfix named them, and reply code, enhanced code (RFC 3463) and
    text for a refusal."""

    answer: Answer
    taken_off: tuple[bytes, ...] = ()
    reply: tuple[str, str, str] | None = None


ACCEPTED = Ruling(Answer.ACCEPT)
NOT_NOW = Ruling(Answer.TEMPFAIL, reply=("451", "4.3.0", "the report can't be kept just now, please come again"))
UNSIGNED = Ruling(
    Answer.REJECT,
    # RFC 7372 §3.1: X.7.20 is no passing DKIM signature found.
    reply=("550", "5.7.20", "TLS reports need a valid DKIM signature of their sender (RFC 8460 section 3)"),
)


class Held:
    """How many octets of mails are in memory, in all threads together."""

    def __init__(self, limit: int = MAX_HELD_BYTES) -> None:
        self._limit = limit
        self._held = 0
        self._lock = Lock()

    def take(self, size: int) -> bool:
        """Count `size` more; whether that is within the limit, and counted."""
        with self._lock:
            if self._held + size > self._limit:
                return False
            self._held += size
            return True

    def give_back(self, size: int) -> None:
        """Count so much less."""
        with self._lock:
            self._held -= size


@dataclass(frozen=True, slots=True)
class Intake:
    """What all mails share. `addresses` are folded; `verify` is None where signatures are not asked for; `warm` takes
    the next hop of each other recipient, and never waits."""

    addresses: frozenset[str]
    spool: IntakeSpool
    clock: Clock
    held: Held
    max_bytes: int
    discard: bool
    verify: Callable[[bytes, datetime], DkimVerdict] | None
    warm: Callable[[str], None]


class Mail:
    """One mail, from its first recipient on."""

    def __init__(self, intake: Intake, client: str) -> None:
        self._intake = intake
        self._client = client
        self._reports: list[bytes] = []
        self._others = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._fault = ""
        self._too_large = False

    @property
    def wanted(self) -> bool:
        """Whether its content is asked for."""
        return bool(self._reports)

    def add_recipient(self, path: bytes, mailer: str, host: str) -> None:
        """One recipient that Postfix has accepted."""
        address = parse_path(path)
        if address and folded(address) in self._intake.addresses:
            self._reports.append(path)
            return
        self._others += 1
        next_hop = next_hop_to_warm(mailer, host)
        if next_hop is not None:
            self._intake.warm(next_hop)

    def add(self, octets: bytes) -> None:
        """The next octets of header or body."""
        if self._fault or self._too_large:
            return
        if self._size + len(octets) > self._intake.max_bytes:
            self._too_large = True
        elif not self._intake.held.take(len(octets)):
            self._fault = "too many mails at once"
        else:
            self._size += len(octets)
            self._parts.append(octets)
            return
        self.drop()

    def drop(self) -> None:
        """Forget the content."""
        self._parts.clear()
        self._intake.held.give_back(self._size)
        self._size = 0

    def finish(self, queue_id: str) -> Ruling:
        """Keep the mail, and say what becomes of it."""
        try:
            return self._finish(queue_id)
        finally:
            self.drop()

    def after_fault(self) -> Ruling:
        """What becomes of it when we have failed in a way that nobody thought of."""
        return ACCEPTED if self._others else NOT_NOW

    def _finish(self, queue_id: str) -> Ruling:
        message = b"".join(self._parts)
        received_at = self._intake.clock.now()
        if not (self._fault or self._too_large) and self._is_refused(message, received_at, queue_id):
            return UNSIGNED
        name = self._kept(message, received_at)
        if name is None:
            return self._lost(queue_id)
        self._note("kept", queue_id, logging.INFO, entry=name, size=len(message))
        if not self._intake.discard:
            return ACCEPTED
        return Ruling(Answer.ACCEPT, tuple(self._reports)) if self._others else Ruling(Answer.DISCARD)

    def _is_refused(self, message: bytes, received_at: datetime, queue_id: str) -> bool:
        if self._intake.verify is None or self._others:
            return False
        verdict = self._intake.verify(message, received_at)
        if verdict.status not in (DkimStatus.FAIL, DkimStatus.NONE):
            return False
        self._note("refused", queue_id, logging.WARNING, reason=verdict.reason)
        return True

    def _kept(self, message: bytes, received_at: datetime) -> str | None:
        if self._fault or self._too_large:
            return None
        recipient = parse_path(self._reports[0])
        try:
            return self._intake.spool.add(Arrival(Via.MILTER, received_at, recipient, self._client), message)
        except SpoolFailed as exc:
            self._fault = str(exc)
            self._too_large = isinstance(exc, SpoolFull) and not exc.temporary
            return None

    def _lost(self, queue_id: str) -> Ruling:
        reason = self._fault or f"larger than {self._intake.max_bytes} bytes"
        if self._others:
            self._note("passed by", queue_id, logging.ERROR, reason=reason)
            return ACCEPTED
        self._note("too large" if self._too_large else "deferred", queue_id, logging.ERROR, reason=reason)
        if not self._too_large:
            return NOT_NOW
        text = f"a report mail may have {self._intake.max_bytes} bytes"
        return Ruling(Answer.REJECT, reply=("552", "5.3.4", text))

    def _note(self, what: str, queue_id: str, level: int, **fields: object) -> None:
        mails.inc(what)
        outcome(
            log,
            level,
            f"report mail {what}",
            queue_id=queue_id,
            client=self._client,
            recipient=parse_path(self._reports[0]),
            others=self._others or None,
            **fields,
        )
