"""What becomes of a mail in the milter: each row of its table."""

from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest

from stsguard.core.arrival import Arrival, Via
from stsguard.core.dkim_verdict import UNSIGNED as NO_SIGNATURE
from stsguard.core.dkim_verdict import DkimStatus, DkimVerdict
from stsguard.core.errors import SpoolFailed, SpoolFull
from stsguard.milter.mail import ACCEPTED, NOT_NOW, UNSIGNED, Answer, Held, Intake, Mail, Ruling
from tests.unit.fakes import START, Clock

REPORTS = b"<TLSrpt@example.net>"
OTHER = b"<user@example.org>"
LIMIT = 1000


@dataclass
class World:
    """A spool, or its fault, and what was kept and told."""

    fault: Exception | None = None
    verdict: DkimVerdict | None = None
    discard: bool = False
    kept: list[tuple[Arrival, bytes]] = field(default_factory=list)
    warmed: list[str] = field(default_factory=list)
    held: Held = field(default_factory=Held)

    def add(self, arrival: Arrival, octets: bytes) -> str:
        if self.fault is not None:
            raise self.fault
        self.kept.append((arrival, octets))
        return "name"

    def verify(self, message: bytes, received_at: datetime) -> DkimVerdict:
        assert message == b"Subject: x\r\n\r\nbody"
        assert received_at == START
        assert self.verdict is not None
        return self.verdict

    def mail(self, *paths: bytes) -> Mail:
        intake = Intake(
            frozenset({"tlsrpt@example.net"}),
            self,
            Clock(),
            self.held,
            LIMIT,
            self.discard,
            self.verify if self.verdict is not None else None,
            self.warmed.append,
        )
        mail = Mail(intake, "192.0.2.1")
        for path in paths:
            mail.add_recipient(path, "smtp", "example.org")
        return mail

    def sent(self, *paths: bytes) -> Ruling:
        mail = self.mail(*paths)
        for part in (b"Subject: x\r\n", b"\r\n", b"body"):
            mail.add(part)
        return mail.finish("4ABC")


def test_only_mail_for_a_report_address_is_asked_for() -> None:
    world = World()
    assert world.mail(OTHER, REPORTS).wanted
    assert not world.mail(OTHER, b"<postmaster>", b"<xtlsrpt@example.net>").wanted
    assert not world.mail().wanted


def test_domains_of_other_recipients_are_told() -> None:
    world = World()
    world.mail(REPORTS, OTHER)
    assert world.warmed == ["example.org"]


def test_it_is_kept_as_it_came() -> None:
    world = World()
    assert world.sent(REPORTS) == ACCEPTED
    arrival = Arrival(Via.MILTER, START, "TLSrpt@example.net", "192.0.2.1")
    assert world.kept == [(arrival, b"Subject: x\r\n\r\nbody")]


@pytest.mark.parametrize(
    ("paths", "ruling"),
    [
        ([REPORTS], Ruling(Answer.DISCARD)),
        ([REPORTS, REPORTS], Ruling(Answer.DISCARD)),
        ([OTHER, REPORTS], Ruling(Answer.ACCEPT, (REPORTS,))),
    ],
)
def test_discard(paths: list[bytes], ruling: Ruling) -> None:
    world = World(discard=True)
    assert world.sent(*paths) == ruling
    assert len(world.kept) == 1


@pytest.mark.parametrize(
    ("fault", "alone"),
    [
        (SpoolFailed("/spool: Permission denied"), NOT_NOW),
        (SpoolFull("/spool: full"), NOT_NOW),
        (SpoolFull("/spool: too large", temporary=False), None),
    ],
)
@pytest.mark.parametrize("discard", [False, True])
def test_what_can_not_be_kept_waits_unless_others_would(fault: Exception, alone: Ruling | None, discard: bool) -> None:
    world = World(fault=fault, discard=discard)
    ruling = world.sent(REPORTS)
    assert ruling == alone or (ruling.answer, ruling.reply and ruling.reply[0]) == (Answer.REJECT, "552")
    assert world.sent(REPORTS, OTHER) == ACCEPTED, "the report address gets it as well, so that it is not lost"


def test_too_large() -> None:
    for paths, answer in (([REPORTS], Answer.REJECT), ([REPORTS, OTHER], Answer.ACCEPT)):
        world = World()
        mail = world.mail(*paths)
        for part in (b"x" * LIMIT, b"y", b"z"):
            mail.add(part)
        ruling = mail.finish("4ABC")
        assert ruling.answer is answer
        assert world.kept == []
        assert world.held.take(256 * 1024 * 1024), "its memory is given back"


def test_too_many_at_once_wait() -> None:
    world = World(held=Held(10))
    other = world.mail(REPORTS)
    other.add(b"12345678")
    assert world.sent(REPORTS) == NOT_NOW
    other.drop()
    assert replace(world, kept=[], held=Held(100)).sent(REPORTS) == ACCEPTED


@pytest.mark.parametrize(
    ("status", "refused"),
    [(DkimStatus.PASS, False), (DkimStatus.TEMPORARY, False), (DkimStatus.FAIL, True), (DkimStatus.NONE, True)],
)
def test_rfc8460_3_without_a_valid_signature_it_is_refused(status: DkimStatus, refused: bool) -> None:
    verdict = replace(NO_SIGNATURE, status=status)
    world = World(verdict=verdict)
    assert world.sent(REPORTS) == (UNSIGNED if refused else ACCEPTED)
    assert len(world.kept) == (0 if refused else 1)
    assert World(verdict=verdict).sent(REPORTS, OTHER) == ACCEPTED, "never somebody else's mail"


def test_after_a_fault_of_ours_only_a_report_waits() -> None:
    world = World()
    assert world.mail(REPORTS).after_fault() == NOT_NOW
    assert world.mail(REPORTS, OTHER).after_fault() == ACCEPTED


def test_a_fault_gives_the_memory_back() -> None:
    world = World(fault=ZeroDivisionError("a bug"), held=Held(20))
    with pytest.raises(ZeroDivisionError):
        world.sent(REPORTS)
    assert world.held.take(20)
