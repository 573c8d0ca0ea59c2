"""The daemon's mail log: what is written while it starts counts."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stsguard.adapters.log_follower import FileFollower
from stsguard.app.mail_log import MailLog
from stsguard.config.mail_values import MailLogFile
from stsguard.config.model import SessionsConfig
from stsguard.core.errors import StoreUnavailable
from stsguard.core.session import Session
from tests.unit.fakes import Clock

LIMIT_SECONDS = 20.0
LINES = """\
Nov 22 06:00:00 mta postfix/smtp[7]: Trusted TLS connection established to mx.example.com[192.0.2.25]:25: TLSv1.3
Nov 22 06:00:00 mta postfix/smtp[7]: 4D40D1EC: to=<user@example.com>, relay=mx.example.com[192.0.2.25]:25, delay=0.4, \
delays=0.1/0.1/0.1/0.1, dsn=2.0.0, status=sent (250 2.0.0 Ok)
"""


class _Store:
    """A database that opens late; `asked` says that it was tried."""

    def __init__(self, positions: Mapping[str, str] | None = None) -> None:
        self.positions = positions or {}
        self.asked = asyncio.Event()
        self.opened = False

    async def load_positions(self) -> Mapping[str, str]:
        self.asked.set()
        if not self.opened:
            raise StoreUnavailable("the store is not open")
        return self.positions


class _Intake:
    def __init__(self) -> None:
        self.taken: list[Session] = []
        self.came = asyncio.Event()
        self.restored: list[str] = []
        self.positions: dict[str, str] = {}

    def restore(self, instance: str, positions: Mapping[str, str]) -> None:
        del positions
        self.restored.append(instance)

    def sessions(self, sessions: Sequence[Session], positions: Mapping[str, str] | None = None) -> None:
        self.positions |= positions or {}
        self.taken += sessions
        if sessions:
            self.came.set()


def _mail_log(path: Path, store: _Store, intake: _Intake) -> MailLog:
    instance = SessionsConfig(None, "", "", 0o622, MailLogFile(path), "postfix")
    clock = Clock(datetime(2026, 11, 22, 6, 1, tzinfo=UTC))
    return MailLog(instance, store, intake, clock)  # type: ignore[arg-type]  # the parts it uses


async def test_lines_written_while_the_database_opens_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    path.write_text(LINES.replace("example.com", "before.example"))
    store, intake = _Store(), _Intake()
    following = asyncio.create_task(_mail_log(path, store, intake).run())
    async with asyncio.timeout(LIMIT_SECONDS):
        await store.asked.wait()
        with path.open("a") as log:
            log.write(LINES)
        store.opened = True
        await intake.came.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert [session.recipient_domain for session in intake.taken] == ["example.com"]
    assert intake.restored == ["postfix"]


async def test_a_memory_that_is_unreadable_is_told_and_the_log_is_read_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mail.log"
    path.write_text(LINES)
    follower = FileFollower(path, "")
    end = follower.poll()
    assert end is not None
    follower.close()
    with path.open("a") as log:
        log.write(LINES.replace("example.com", "after.example"))
    store, intake = _Store({"log:postfix": end.position, "memory:postfix": "{nonsense"}), _Intake()
    store.opened = True
    following = asyncio.create_task(_mail_log(path, store, intake).run())
    async with asyncio.timeout(LIMIT_SECONDS):
        await intake.came.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert [session.recipient_domain for session in intake.taken] == ["after.example"]
    assert [record.message for record in caplog.records] == ["memory of a log in the store is unreadable"]


async def _stopped_early(path: Path, store: _Store, intake: _Intake, *, opens: bool) -> None:
    """A process that is stopped before it knows where the last one was; its database is open by then if `opens`."""
    mail_log = _mail_log(path, store, intake)
    following = asyncio.create_task(mail_log.run())
    async with asyncio.timeout(LIMIT_SECONDS):
        await store.asked.wait()
    with path.open("a") as log:
        log.write(LINES)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    store.opened = opens
    await mail_log.close()


async def test_who_is_stopped_before_the_database_was_open_leaves_its_place_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    path.write_text(LINES.replace("example.com", "before.example"))
    first = _Intake()
    await _stopped_early(path, _Store(), first, opens=True)
    assert first.taken == []

    store, second = _Store(first.positions), _Intake()
    store.opened = True
    following = asyncio.create_task(_mail_log(path, store, second).run())
    async with asyncio.timeout(LIMIT_SECONDS):
        await second.came.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert [session.recipient_domain for session in second.taken] == ["example.com"]


async def test_who_is_stopped_early_keeps_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    path.write_text(LINES)
    intake = _Intake()
    await _stopped_early(path, _Store({"log:postfix": "the place of the one before"}), intake, opens=True)
    assert intake.positions == {}


async def test_a_place_that_can_not_be_left_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mail.log"
    path.write_text(LINES)
    intake = _Intake()
    await _stopped_early(path, _Store(), intake, opens=False)
    assert intake.positions == {}
    [record] = caplog.records
    assert "sessions since the start may never be counted" in record.message
