"""The transport `stsguard-intake` as postfix/master.cf has it, through both Postfix versions: a report handed in by
SMTP reaches the spool by pipe(8), and waits in the queue while it can't be kept."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stsguard.core.arrival import SpoolEntry, Via
from stsguard.inbound.spool import Spool
from stsguard.names import Domain
from tests.e2e.conftest import VERSIONS, skip_without_lab
from tests.lab.additions import Additions, our_program, users
from tests.lab.chroots import BOOKWORM, TRIXIE
from tests.lab.daemon import toml
from tests.lab.lab import Lab, PostfixPlan
from tests.lab.maillog import Outcome
from tests.lab.milter import hand_in
from tests.lab.namespace import LAB
from tests.lab.postfix import Message
from tests.lab.receiver import Receiver
from tests.received import report_json
from tests.report_mail import key_record, signed_mail
from tests.signing import SELECTOR

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

LIMIT_SECONDS = 60.0
MASTER_CF = Path(__file__).parents[2] / "postfix/master.cf"
ADDRESS = "tlsrpt@example.com"
NUMBER = 4100  # of the user stsguard and of his group
# Two more transports, both of another user who is a member of that group as well.
MEMBER, NAMED = "member@example.com", "named@example.com"
ROOM, NO_ROOM = "200m", "1m"


def _sample() -> tuple[dict[str, str], str]:
    """The entry of master.cf, and what its comment says about main.cf."""
    text = MASTER_CF.read_text()
    begin = text.index("# Taking in the TLS reports")
    comment, service = text[begin:].split("\nstsguard-intake ")
    settings = dict(line.split(" = ", 1) for line in re.findall(r"(?m)^#   (\S.*)$", comment))
    return settings, f"stsguard-intake {service}"


def _directory(postfix: str) -> Path:
    return LAB / f"intake-{postfix}"


def _plan(name: str) -> PostfixPlan:
    release = (TRIXIE if name == "pf310" else BOOKWORM).path
    settings, service = _sample()
    settings["transport_maps"] += f", inline:{{ {MEMBER}=member:, {NAMED}=named: }}"
    others = {"member": "user=postman ", "named": "user=postman:stsguard "}
    services = [service.replace("stsguard-intake ", f"{n} ").replace("user=stsguard ", u) for n, u in others.items()]
    spool = _directory(name) / "spool"
    program = our_program()
    files = {
        **program.files,
        **users(release, {"stsguard": NUMBER, "postman": NUMBER + 1}, members={"stsguard": "postman"}),
        Path("/etc/stsguard/stsguard.toml"): toml({"intake": {"addresses": [ADDRESS], "spool": str(spool)}}),
    }
    # As `stsguard inbound` makes it: what it is like is tested where that is done. A disk of its own can be full.
    rights = f"size={ROOM},mode=3770,uid={NUMBER},gid={NUMBER}"
    first = f"mkdir -p {spool}\nmount -t tmpfs -o {rights} tmpfs {spool}"
    additions = Additions(files, program.directories, first)
    return PostfixPlan(
        name, release, policy_map="", settings=settings, services=service + "".join(services), additions=additions
    )


@dataclass
class Site:
    """The lab with both Postfix versions, and what takes in what they have put into their spools."""

    lab: Lab
    receivers: dict[str, Receiver]

    def spool(self, postfix: str) -> Path:
        return self.lab.outside(_directory(postfix) / "spool")

    def spooled(self, postfix: str) -> dict[Path, SpoolEntry | None]:
        with Spool(self.spool(postfix)).reading() as reader:
            return {self.spool(postfix) / name: reader.load(name) for name in reader.pending()}

    def send(self, postfix: str, report_id: str, recipient: str = ADDRESS) -> tuple[Message, Outcome]:
        """Hand in a signed report; the message, and how Postfix's first attempt to deliver it ended."""
        mail = signed_mail(report_json(report_id=report_id), sender=_sender(postfix), domain="example.com")
        instance = self.lab.postfix[postfix]
        handed = self.lab.call(hand_in(instance.address, 25, [recipient], mail))
        assert handed.reply.startswith("250"), handed
        message = Message(report_id, handed.queue_id)
        return message, self.lab.call(instance.outcome(message))

    def taken_in(self, postfix: str, report_id: str) -> list[dict[str, Any]]:
        """Have `stsguard inbound` empty the spool; what it has of that report then, in every group."""
        return self.lab.call(self._taken_in(self.receivers[postfix], postfix, report_id))

    async def _taken_in(self, receiver: Receiver, postfix: str, report_id: str) -> list[dict[str, Any]]:
        await receiver.start()
        limit = time.monotonic() + LIMIT_SECONDS
        try:
            while Spool(self.spool(postfix)).pending():
                assert time.monotonic() < limit, receiver.log()
                await asyncio.sleep(0.05)
        finally:
            await receiver.stop()
        exported = await receiver.received("export", "--group", "all", "--format", "jsonl", "--days", "10000")
        reports = [json.loads(line) for line in exported.splitlines()]
        return [report for report in reports if report["report_id"] == report_id]


def _sender(postfix: str) -> str:
    return f"{postfix}.signer.plain.test"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    skip_without_lab()
    with Lab([_plan(version.postfix) for version in VERSIONS]) as lab:
        for version in VERSIONS:
            lab.dns.zones.put_txt(f"{SELECTOR}._domainkey.{Domain(_sender(version.postfix))}", key_record())
        lab.call(lab.dns.publish())
        names = [version.postfix for version in VERSIONS]
        intake = {"addresses": [ADDRESS]}
        yield Site(lab, {n: Receiver(lab, _directory(n), _directory(n) / "spool", intake=intake) for n in names})


both = pytest.mark.parametrize("postfix", [version.postfix for version in VERSIONS])


@both
def test_report_reaches_the_spool_as_master_cf_says_and_is_taken_in(site: Site, postfix: str) -> None:
    _, outcome = site.send(postfix, "whole")
    assert (outcome.status, outcome.relay) == ("sent", "stsguard-intake"), outcome
    ((path, entry),) = site.spooled(postfix).items()
    rights = path.stat()
    assert (rights.st_uid, rights.st_gid, rights.st_mode & 0o7777) == (NUMBER, NUMBER, 0o640), "the user of master.cf"
    assert entry is not None
    assert (entry.arrival.via, entry.arrival.recipient) == (Via.PIPE, ADDRESS)
    assert entry.arrival.client.startswith("127.0.")
    (report,) = site.taken_in(postfix, "whole")
    assert (report["group"], report["reporter"]) == ("counted", _sender(postfix))
    assert (report["came_in"]["via"], report["came_in"]["dkim"]["status"]) == ("pipe", "pass")


@contextmanager
def _denied(site: Site, postfix: str) -> Iterator[None]:
    """The spool is another's, and closed to everybody else."""
    site.lab.namespace.run(["chown", "0:0", str(_directory(postfix) / "spool")])
    yield
    site.lab.namespace.run(["chown", f"{NUMBER}:{NUMBER}", str(_directory(postfix) / "spool")])
    site.lab.namespace.run(["chmod", "3770", str(_directory(postfix) / "spool")])


@contextmanager
def _full(site: Site, postfix: str) -> Iterator[None]:
    """The spool's disk has no room any more."""
    spool = str(_directory(postfix) / "spool")
    site.lab.namespace.run(["mount", "-o", f"remount,size={NO_ROOM}", spool])
    yield
    site.lab.namespace.run(["mount", "-o", f"remount,size={ROOM}", spool])


FAULTS = {"denied": (_denied, "Permission denied"), "full": (_full, "its disk is full, or nearly so")}


@both
@pytest.mark.parametrize("fault", FAULTS)
def test_report_that_can_not_be_kept_waits_in_the_queue_and_is_stored_once(
    site: Site, postfix: str, fault: str
) -> None:
    """Exit 75 (EX_TEMPFAIL) is temporary to pipe(8), and the words on standard error are in its log."""
    broken, words = FAULTS[fault]
    spool = _directory(postfix) / "spool"
    with broken(site, postfix):
        message, outcome = site.send(postfix, fault)
        assert (outcome.status, outcome.dsn) == ("deferred", "4.3.0"), outcome
        assert outcome.text.startswith(f"temporary failure. Command output: the report can't be kept: {spool}: {words}")
        assert site.spooled(postfix) == {}
    outcome = site.lab.call(site.lab.postfix[postfix].retry(message))
    assert outcome.status == "sent", outcome
    assert len(site.spooled(postfix)) == 1
    (report,) = site.taken_in(postfix, fault)
    assert (report["group"], report["came_in"]["dkim"]["status"]) == ("counted", "pass")


@both
def test_group_of_the_spool_has_to_be_the_one_that_master_cf_names(site: Site, postfix: str) -> None:
    """pipe(8) runs a command in one group, that of `user` or the one after the colon: no membership helps."""
    _, outcome = site.send(postfix, "member", MEMBER)
    assert outcome.status == "deferred", outcome
    assert "Permission denied" in outcome.text
    _, outcome = site.send(postfix, "named", NAMED)
    assert outcome.status == "sent", outcome
    ((path, _),) = site.spooled(postfix).items()
    assert (path.stat().st_uid, path.stat().st_gid) == (NUMBER + 1, NUMBER)
    path.unlink()
