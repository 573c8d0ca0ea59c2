"""The milter beside both Postfix versions: report mail is kept before it is answered, no other mail waits for it."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from stsguard.adapters.dkim_verifier import read_signatures, verify_signatures
from stsguard.core.arrival import Via
from stsguard.core.dane import Answer, AnswerStatus
from stsguard.core.dkim_verdict import DkimStatus
from stsguard.core.public_suffix import PublicSuffixes
from stsguard.names import Domain
from tests.e2e.conftest import VERSIONS, skip_without_lab
from tests.lab.chroots import BOOKWORM, TRIXIE
from tests.lab.daemon import Stsguard
from tests.lab.lab import Lab, PostfixPlan
from tests.lab.milter import ADDRESS, Handed, Milter, hand_in, milters, smtpd, spool_path
from tests.lab.namespace import LAB
from tests.signing import MAIL, SELECTOR, published, rsa_key, signed, signed_otherwise

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LIMIT_SECONDS = 30.0
OTHER = "user@remote.plain.test"
HERE = "user@reports.test"
# Where each smtpd(8) listens, and which milter it asks.
PORTS = {"accept": 2501, "discard": 2502, "reject": 2503, "nobody": 2504, "must": 2505}
MILTER_PORTS = {"accept": 9001, "discard": 9002, "reject": 9003, "nobody": 9004, "must": 9005}
SETTINGS = {
    "accept": {"admin": {"listen": "unix:/run/lab/stsguard-warm/admin.sock"}},
    "discard": {"milter": {"intake_action": "discard"}},
    "reject": {"intake": {"addresses": [ADDRESS], "require_dkim": "reject"}},
    "must": {},
}
KILLS = 50
REPORTS = 1000
SENDERS = 8
KILL_SECONDS = 180.0


@dataclass
class Site:
    """The lab with its milters, which stay for all tests of this module, and the outbound daemon they tell."""

    lab: Lab
    milters: dict[str, Milter]
    daemon: Stsguard

    def address(self, postfix: str) -> str:
        return self.lab.postfix[postfix].address

    def hand_in(self, postfix: str, which: str, message: bytes, *recipients: str) -> Handed:
        return self.lab.call(hand_in(self.address(postfix), PORTS[which], recipients, message))

    def log(self, postfix: str) -> str:
        return self.lab.postfix[postfix].log.text()


def _plan(name: str, number: int) -> PostfixPlan:
    services = "".join(
        smtpd(f"127.0.1.{number}", PORTS[which], milters(port, "tempfail" if which == "must" else "accept"))
        for which, port in MILTER_PORTS.items()
    )
    return PostfixPlan(
        name,
        (TRIXIE if name == "pf310" else BOOKWORM).path,
        policy_map="",
        settings={
            "transport_maps": "inline:{ { reports.test = discard: } }",
            "notify_classes": "",
            "smtpd_client_connection_count_limit": "0",
        },
        services=services,
    )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    skip_without_lab()
    with Lab([_plan(version.postfix, number) for number, version in enumerate(VERSIONS, 1)]) as lab:
        daemon = Stsguard(lab.namespace, "warm", port=8461, queues=[], ca_file=lab.ca_file)
        running = {name: Milter(lab.namespace, name, MILTER_PORTS[name], SETTINGS[name]) for name in SETTINGS}
        lab.call(daemon.start())
        for milter in running.values():
            lab.call(milter.start())
        yield Site(lab, running, daemon)
        for milter in running.values():
            lab.call(milter.kill())
        lab.call(daemon.stop())


both = pytest.mark.parametrize("postfix", [version.postfix for version in VERSIONS])


def until(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.02)


def mail(subject: str, message: bytes = MAIL) -> bytes:
    return message.replace(b"Subject: ", f"Subject: {subject} ".encode())


def kept(site: Site, which: str, subject: str) -> list[bytes]:
    return [entry.octets for entry in site.milters[which].spooled() if subject.encode() in entry.octets]


@both
@pytest.mark.parametrize("canonicalize", [(b"simple", b"simple"), (b"relaxed", b"relaxed")])
def test_a_report_is_kept_so_that_its_signature_holds(
    site: Site, postfix: str, canonicalize: tuple[bytes, bytes]
) -> None:
    subject = f"whole-{postfix}-{canonicalize[0].decode()}"
    folded = MAIL.replace(b"Subject:", b"X-Odd:no blank\r\nX-Folded:  two\r\n\t lines \r\nSubject:")
    folded += b".a dot\r\n..two dots\r\n" + b"\xff\x00-free 8 bit\r\n".replace(b"\x00", b"")
    fields = (b"from", b"to", b"subject", b"x-odd", b"x-folded")
    message = signed_otherwise(mail(subject, folded), canonicalize=canonicalize, fields=fields)
    handed = site.hand_in(postfix, "accept", message, ADDRESS)
    assert handed.reply.startswith("250"), handed
    (octets,) = kept(site, "accept", subject)
    entry = next(entry for entry in site.milters["accept"].spooled() if entry.octets == octets)
    assert (entry.arrival.via, entry.arrival.recipient) == (Via.MILTER, ADDRESS)
    assert entry.arrival.client.startswith("127.0.")
    parsed = read_signatures(octets, datetime.now(UTC))
    assert parsed is not None
    (name,) = parsed.key_names
    answer = Answer(AnswerStatus.FOUND, (published(rsa_key()).encode(),), name, 300, secure=False)
    assert verify_signatures(parsed, {name: answer}, PublicSuffixes(())).status is DkimStatus.PASS
    until(lambda: f"{handed.queue_id}: to=<{ADDRESS}>" in site.log(postfix), "it is delivered as well")


@both
def test_addresses_are_compared_as_mailboxes_are(site: Site, postfix: str) -> None:
    subject = f"case-{postfix}"
    assert site.hand_in(postfix, "accept", mail(subject), "TLSrpt@Reports.TEST").reply.startswith("250")
    assert len(kept(site, "accept", subject)) == 1
    assert site.hand_in(postfix, "accept", mail(f"not-{subject}"), f"x{ADDRESS}").reply.startswith("250")
    assert kept(site, "accept", f"not-{subject}") == []


@both
def test_discard_takes_the_report_addresses_off(site: Site, postfix: str) -> None:
    alone = site.hand_in(postfix, "discard", mail(f"alone-{postfix}"), ADDRESS)
    assert alone.reply.startswith("250"), alone
    shared = site.hand_in(postfix, "discard", mail(f"shared-{postfix}"), ADDRESS, HERE)
    assert shared.reply.startswith("250"), shared
    until(lambda: f"{shared.queue_id}: to=<{HERE}>" in site.log(postfix), "the other recipient gets it")
    assert f"{shared.queue_id}: to=<{ADDRESS}>" not in site.log(postfix)
    assert f"{alone.queue_id}: to=" not in site.log(postfix)
    assert len(kept(site, "discard", f"alone-{postfix}")) == len(kept(site, "discard", f"shared-{postfix}")) == 1


@both
def test_several_mails_of_one_connection_are_told_apart(site: Site, postfix: str) -> None:
    async def session() -> list[str]:
        reader, writer = await asyncio.open_connection(site.address(postfix), PORTS["discard"])
        replies = [await reader.readline()]
        dialogue: list[tuple[str, ...]] = [
            ("EHLO client.test",),
            ("MAIL FROM:<>", f"RCPT TO:<{ADDRESS}>", "RSET"),
            ("MAIL FROM:<>", f"RCPT TO:<{HERE}>", "DATA", f"Subject: second-{postfix}\r\n\r\n."),
            ("MAIL FROM:<>", f"RCPT TO:<{ADDRESS}>", "DATA", f"Subject: third-{postfix}\r\n\r\n."),
            ("MAIL FROM:<>", f"RCPT TO:<{HERE}>", "DATA", f"Subject: fourth-{postfix}\r\n\r\n.", "QUIT"),
        ]
        for commands in dialogue:
            for command in commands:
                writer.write(f"{command}\r\n".encode())
                line = await reader.readline()
                while line[3:4] == b"-":
                    line = await reader.readline()
                replies.append(line)
        writer.close()
        return [reply.decode() for reply in replies]

    replies = site.lab.call(session())
    assert all(reply[0] in "23" for reply in replies), replies
    assert len(kept(site, "discard", f"third-{postfix}")) == 1
    for other in ("second", "fourth"):
        assert kept(site, "discard", f"{other}-{postfix}") == []


@both
def test_domains_of_remote_recipients_are_looked_up_ahead(site: Site, postfix: str) -> None:
    def decided(host: str) -> bool:
        return f"decided policy_domain={host}" in site.daemon.log()

    mixed = [f"a@{postfix}-one.plain.test", f"b@{postfix}-TWO.plain.test", "c@[192.0.2.1]", HERE]

    async def session() -> None:
        # No mail is sent: Postfix itself asks for nothing.
        await hand_in(site.address(postfix), PORTS["accept"], mixed, b"", stop_before_data=True)

    site.lab.call(session())
    for name in ("one", "two"):
        until(lambda name=name: decided(f"{postfix}-{name}.plain.test"), site.milters["accept"].log())  # type: ignore[misc]
    assert not decided("reports.test")


@both
def test_without_the_milter_mail_flows(site: Site, postfix: str) -> None:
    for recipient in (OTHER, ADDRESS):
        handed = site.hand_in(postfix, "nobody", mail("nobody"), recipient)
        assert handed.reply.startswith("250"), handed


@both
def test_with_a_milter_that_hangs_mail_flows(site: Site, postfix: str) -> None:
    milter = site.milters["discard"]
    milter.pause()
    try:
        handed = site.hand_in(postfix, "discard", mail("hangs"), OTHER)
        assert handed.reply.startswith("250"), handed
        assert handed.seconds < 15, "two seconds for a step, and a busy machine"
    finally:
        milter.resume()


def test_with_an_outbound_daemon_that_hangs_mail_flows(site: Site) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = site.lab.outside(LAB / "hung.sock")
    listener.bind(str(path))
    listener.listen(1)  # connections are taken by the kernel, and nobody reads
    milter = Milter(site.lab.namespace, "hung", MILTER_PORTS["nobody"], {"admin": {"listen": f"unix:{LAB}/hung.sock"}})
    site.lab.call(milter.start())
    try:
        begun = time.monotonic()
        for number in range(20):
            handed = site.hand_in("pf310", "nobody", mail("hung"), f"a@n{number}.hung.plain.test")
            assert handed.reply.startswith("250"), handed
        assert time.monotonic() - begun < 15
        until(lambda: "domains can't be looked up ahead" in milter.log(), milter.log())
        assert site.lab.call(milter.stop()) == 0
    finally:
        listener.close()


@both
def test_a_spool_that_can_not_be_written(site: Site, postfix: str) -> None:
    milter = site.milters["accept"]
    spool = spool_path(milter, site.lab.namespace)
    aside = spool.with_name("aside")
    spool.rename(aside)
    spool.touch()
    try:
        alone = site.hand_in(postfix, "accept", mail(f"unwritten-{postfix}"), ADDRESS)
        assert alone.reply.startswith("451 4.3.0"), "its sender comes again"
        shared = site.hand_in(postfix, "accept", mail(f"unwritten-{postfix}"), HERE, ADDRESS)
        assert shared.reply.startswith("250"), "the other recipient's mail does not wait"
        other = site.hand_in(postfix, "accept", mail("other"), OTHER)
        assert other.reply.startswith("250")
    finally:
        spool.unlink()
        aside.rename(spool)
    assert "report mail deferred" in milter.log()
    assert "report mail passed by" in milter.log()
    again = site.hand_in(postfix, "accept", mail(f"unwritten-{postfix}"), ADDRESS)
    assert again.reply.startswith("250")
    assert len(kept(site, "accept", f"unwritten-{postfix}")) == 1


@both
def test_rfc8460_3_an_unsigned_report_is_refused_where_that_is_asked_for(site: Site, postfix: str) -> None:
    domain = Domain(f"{postfix}.signer.plain.test")
    key_name = f"{SELECTOR}._domainkey.{domain}"
    site.lab.dns.zones.put_txt(key_name, published(rsa_key()))
    site.lab.call(site.lab.dns.publish())
    message = mail(f"reject-{postfix}").replace(b"mail.example.com", domain.encode())
    for sent, refused in [
        (message, True),
        (signed(message, domain), False),
        (signed(message, domain).replace(b"of the day", b"of a day"), True),
    ]:
        handed = site.hand_in(postfix, "reject", sent, ADDRESS)
        assert handed.reply.startswith("550 5.7.20" if refused else "250"), site.milters["reject"].log()
    assert len(kept(site, "reject", f"reject-{postfix}")) == 1
    shared = site.hand_in(postfix, "reject", message, ADDRESS, HERE)
    assert shared.reply.startswith("250"), "somebody else's mail is not refused"
    assert site.hand_in(postfix, "reject", message, OTHER).reply.startswith("250")


def test_killed_at_any_moment_no_accepted_report_is_lost(site: Site) -> None:
    """default_action = tempfail: whatever Postfix has accepted is in the spool. Senders come again, as they do."""
    milter = site.milters["must"]

    async def send(numbers: Iterator[int], accepted: set[int]) -> None:
        for number in numbers:
            subject = f"killed-{number:04d}."
            while True:
                try:
                    handed = await hand_in(site.address("pf310"), PORTS["must"], [ADDRESS], mail(subject))
                except (OSError, EOFError):
                    continue
                if handed.reply.startswith("250"):
                    break
                assert handed.reply.startswith("4"), handed
                await asyncio.sleep(0.05)
            accepted.add(number)

    async def kill(accepted: set[int]) -> int:
        kills = 0
        while len(accepted) < REPORTS and kills < KILLS:
            # Spread over the reports, whatever they take.
            while len(accepted) < REPORTS * kills // KILLS + 1:  # noqa: ASYNC110 (they are tried again and again)
                await asyncio.sleep(0.001)
            await milter.kill()
            await milter.start()
            kills += 1
        return kills

    async def campaign() -> tuple[int, int]:
        numbers, accepted = iter(range(REPORTS)), set[int]()
        async with asyncio.timeout(KILL_SECONDS), asyncio.TaskGroup() as group:
            killing = group.create_task(kill(accepted))
            for _ in range(SENDERS):
                group.create_task(send(numbers, accepted))
        return killing.result(), len(accepted)

    kills, accepted = site.lab.call(campaign(), limit_seconds=KILL_SECONDS + 10)
    assert (kills, accepted) == (KILLS, REPORTS)
    found = [entry.octets for entry in milter.spooled()]
    for number in range(REPORTS):
        assert any(f"killed-{number:04d}.".encode() in octets for octets in found), number
    assert len(found) < REPORTS + KILLS * SENDERS
