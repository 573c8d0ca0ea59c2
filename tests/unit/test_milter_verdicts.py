"""What the milter's threads are told of a signature: a fault of ours is no verdict."""

import asyncio
from datetime import datetime

from stsguard.app.milter import FAULT, verdicts_of
from stsguard.core.dkim_verdict import UNSIGNED, DkimStatus, DkimVerdict
from stsguard.discovery import supervisor
from tests.unit.fakes import START


class Verifier:
    """Fails on every mail but an empty one."""

    async def verify(self, message: bytes, received_at: datetime) -> DkimVerdict:
        assert received_at == START
        if message:
            raise ZeroDivisionError("a bug")
        return UNSIGNED


async def test_a_fault_in_verification_keeps_the_mail_to_be_verified_again() -> None:
    verify = verdicts_of(Verifier())
    before = supervisor.crashes.value("verifying a report mail")
    assert await asyncio.to_thread(verify, b"x", START) == FAULT
    assert FAULT.status is DkimStatus.TEMPORARY, "with which a mail is kept, see test_milter_mail"
    assert await asyncio.to_thread(verify, b"", START) == UNSIGNED
    assert supervisor.crashes.value("verifying a report mail") == before + 1
