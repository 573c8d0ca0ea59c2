"""The demo's second half: a domain of our own is added, served with a certificate by ACME, and brought to enforce."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.lab.hosting import POLICY_HOST, ZONE, Hosting, mx_records
from tests.lab.lab import Lab

COLUMNS = (
    ("day", 4),
    ("what was done", 34),
    ("the policy host serves", 24),
    ("_mta-sts in DNS", 25),
    ("our outbound daemon tells Postfix", 33),
)
DAYS_OF_TESTING = 15


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the table, as it was seen from outside."""

    day: int
    done: str
    served: str
    record: str
    told: str

    def row(self) -> tuple[str, ...]:
        """The line."""
        return str(self.day), self.done, self.served, self.record, self.told


@dataclass(frozen=True, slots=True)
class Story:
    """All lines, the certificate's issuer, what `stsguard domain readiness` said before the last step."""

    moments: tuple[Moment, ...]
    issuer: str
    readiness: str

    @property
    def agrees(self) -> bool:
        """Whether the policy went from testing to enforce, and outside applies it."""
        first, *_, last = self.moments
        return (
            "mode: testing" in first.served
            and "mode: enforce" in last.served
            and last.told.startswith("secure")
            and "Pebble" in self.issuer
        )


async def hosting_story(lab: Lab, progress: Callable[[str], None]) -> Story:
    """Carry it out.

    Raises:
        LabFailed: a step failed; the message has the logs.
    """
    mx = await lab.mx.add(f"mx1.{ZONE}")
    hosting = Hosting(lab, {"mx1": str(mx.address)}, None)
    try:
        await hosting.start()
        await hosting.publish(ZONE, "MX", *mx_records("mx1"))
        await hosting.publish(f"mta-sts.{ZONE}", "A", POLICY_HOST)
        progress(f"stsguard domain add {ZONE} --mx-from-dns")
        await hosting.domain("add", ZONE, "--mx-from-dns")
        await _published(hosting)
        testing = await _moment(hosting, "stsguard domain add --mx-from-dns")
        progress(f"{DAYS_OF_TESTING} days pass")
        await hosting.days_later(DAYS_OF_TESTING)

        async def ready() -> bool:
            return (await hosting.domain("readiness", ZONE, check=False)).returncode == 0

        await hosting.until("it is ready to enforce", ready)
        readiness = (await hosting.domain("readiness", ZONE)).stdout
        waited = await _moment(hosting, "stsguard domain readiness: ready")
        progress(f"stsguard domain mode {ZONE} enforce")
        await hosting.domain("mode", ZONE, "enforce", "--confirm", ZONE)
        await _published(hosting)

        async def applied() -> bool:
            return (await hosting.ours(ZONE)).startswith("OK secure")

        await hosting.days_later(1)
        await hosting.until("a sender applies it", applied)
        enforcing = await _moment(hosting, "stsguard domain mode enforce")
        issuer = await hosting.issuer(f"mta-sts.{ZONE}")
        return Story((testing, waited, enforcing), issuer, readiness)
    finally:
        await hosting.stop()


async def _published(hosting: Hosting) -> None:
    async def seen() -> bool:
        return bool((await hosting.show(ZONE))["versions"][-1]["published_at"])

    await hosting.until("the policy is served and its id published", seen)


async def _moment(hosting: Hosting, done: str) -> Moment:
    served = (await hosting.curl(f"https://mta-sts.{ZONE}/.well-known/mta-sts.txt")).stdout
    lines = re.findall(r"^(?:mode|mx|max_age): .*$", served, re.MULTILINE)
    told = (await hosting.ours(ZONE)).removeprefix("OK ").strip()
    record = ", ".join(await hosting.texts(f"_mta-sts.{ZONE}"))
    return Moment(hosting.days, done, "\n".join(lines), record, told)
