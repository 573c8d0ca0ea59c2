"""The demo's reports on their way: the next day `stsguard outbound` mails them through Postfix, whose milter keeps
them, `stsguard inbound` verifies and stores them, and `stsguard received summary` says what is in them.

All of it is on a clock that is a day ahead, so that the day is over.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.lab.daemon import LOG_SHOWN, Settings, Stsguard
from tests.lab.hosting import ahead
from tests.lab.lab import Lab
from tests.lab.milter import ADDRESS, Milter, milters, smtpd
from tests.lab.namespace import LAB, LabFailed
from tests.lab.receiver import Receiver
from tests.signing import published, rsa_key

SENDER = "tlsrpt@sender.plain.test"
SELECTOR = "demo"
KEY_FILE = LAB / "dkim.pem"
SMTP_PORT = 2501
MILTER_PORT = 9001
HOURS = 26  # the counters of a day are final an hour after it
DIRECTORY = LAB / "receiver"
LIMIT_SECONDS = 30.0
PAUSE_SECONDS = 0.3
INTAKE = {"addresses": [ADDRESS], "domains": ["plain.test", "signed.test", "mxplain.test", "mxsigned.test"]}

REPORTS: Settings = {
    "reports": {
        "from": SENDER,
        "organization": "The demo",
        "dkim_selector": SELECTOR,
        "dkim_key_file": str(KEY_FILE),
        "send_via": f"smtp:127.0.1.1:{SMTP_PORT}",
        "spread": "0s",
    }
}


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of the reports: how many were sent and with how many sessions, how many count at the receiver, and
    what `stsguard received summary` prints there."""

    sent: int
    sessions: int
    failures: int
    counted: int
    summed: tuple[int, int]
    summary: str

    @property
    def agrees(self) -> bool:
        """Whether all reports that were sent count, with all their sessions."""
        return 0 < self.sent == self.counted and self.summed == (self.sessions - self.failures, self.failures)


def services() -> str:
    """The smtpd(8) for master.cf that asks the milter."""
    return smtpd("127.0.1.1", SMTP_PORT, milters(MILTER_PORT))


async def prepare(lab: Lab, domains: Sequence[str]) -> None:
    """Make a key, and publish it and the TLSRPT record of each domain in place of its own."""
    key = rsa_key()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    lab.outside(KEY_FILE).write_bytes(pem)
    lab.dns.zones.put_txt(f"{SELECTOR}._domainkey.{SENDER.partition('@')[2]}", published(key))
    for domain in domains:
        lab.dns.zones.put_txt(f"_smtp._tls.{domain}", f"v=TLSRPTv1; rua=mailto:{ADDRESS}")
    await lab.dns.publish()


async def taken_in(lab: Lab, sender: Stsguard, progress: Callable[[str], None]) -> Taken:
    """Have `sender`, which is stopped, send its reports, and take them in.

    Raises:
        LabFailed: a step failed; the message has the logs.
    """
    milter = Milter(
        lab.namespace,
        "demo",
        MILTER_PORT,
        {"milter": {"intake_action": "discard", "warm": False}},
        environment=ahead(f"{HOURS}h"),
    )
    receiver = Receiver(lab, DIRECTORY, milter.directory / "spool", intake=INTAKE, environment=ahead(f"{HOURS}h"))
    sender.environment |= ahead(f"{HOURS}h")
    try:
        await milter.start()
        await receiver.start()
        await sender.start()
        progress("a day later: the reports are mailed through Postfix and its milter")

        async def sent() -> list[dict[str, Any]]:
            done = await sender.command("report", "list", "--json", "--limit", "1000")
            found: list[dict[str, Any]] = json.loads(done.stdout)["reports"]
            over = [each for each in found if each["state"] not in {"pending", "building"}]
            return [each for each in over if each["state"] == "sent"] if over and len(over) == len(found) else []

        mailed = await _until(sent, lambda: f"the reports are not sent:\n{sender.log()[-LOG_SHOWN:]}")
        progress(f"{len(mailed)} reports are sent; stsguard inbound takes them in")

        async def counted() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(await receiver.received("list", "--json", "--limit", "1000"))[
                "reports"
            ]
            return found if len(found) >= len(mailed) else []

        listed = await _until(counted, lambda: _why(lab, milter, receiver))
        summed = json.loads(await receiver.received("summary", "--json"))
        return Taken(
            sent=len(mailed),
            sessions=sum(each["sessions"] for each in mailed),
            failures=sum(each["failures"] for each in mailed),
            counted=len(listed),
            summed=(summed["successes"], summed["failures"]),
            summary=await receiver.received("summary", "--top", "8"),
        )
    finally:
        await sender.stop()
        await receiver.stop()
        await milter.kill()


def _why(lab: Lab, milter: Milter, receiver: Receiver) -> str:
    logs = [receiver.log(), milter.log(), *(each.log.text() for each in lab.postfix.values())]
    return "\n".join(["the reports are not taken in:", *(text[-LOG_SHOWN:] for text in logs)])


async def _until(look: Any, what: Callable[[], str]) -> list[dict[str, Any]]:
    limit = time.monotonic() + LIMIT_SECONDS
    while not (found := await look()):
        if time.monotonic() > limit:
            raise LabFailed(what())
        await asyncio.sleep(PAUSE_SECONDS)
    result: list[dict[str, Any]] = found
    return result
