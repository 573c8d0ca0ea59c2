"""A report on its way: through the lab's Postfix into a mailbox, and by HTTPS to a server that fails at first."""

import asyncio
import base64
import email
import email.policy
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from stsguard.core.errors import ResultType
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail, PolicyType
from stsguard.core.tlsrpt_report import decompress, filename, parse_report
from stsguard.names import Domain
from stsguard.store.stores import open_stores
from tests.e2e.conftest import VERSIONS, skip_without_lab
from tests.lab import policy_hosts
from tests.lab.certificates import CertificateKind
from tests.lab.chroots import BOOKWORM, TRIXIE
from tests.lab.daemon import Stsguard
from tests.lab.lab import Lab, PostfixPlan
from tests.lab.mx_servers import Accepted
from tests.lab.policy_hosts import PolicySite
from tests.lab.report_endpoint import ADDRESS, Posted, ReportEndpoint
from tests.lab.reports import built, built_as_expected
from tests.lab.runner import Version

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

LIMIT_SECONDS = 60.0
MASTER_CF = Path(__file__).parents[2] / "postfix/master.cf"
OTHER_MAIL = "sts: 1 failed, certificate-expired"
ENDPOINT = "collector.plain.test"
SENDER = "tlsrpt@sender.plain.test"
SELECTOR = "reports"
RETRIED = ("500 Internal Server Error", "500 Internal Server Error", "201 Created")
# Two days ago: over and final at whatever time of the day this runs.
DAY = datetime.now(UTC).date() - timedelta(days=2)
DETAIL = FailureDetail(
    ResultType.CERTIFICATE_EXPIRED, "192.0.2.1", "mx.example.com", "mx.example.com", "192.0.2.2", "", "expired"
)
POLICY = AppliedPolicy(PolicyType.STS, "example.com", ("version: STSv1", "mode: enforce"), ("mx.example.com",))


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of one day's report of one domain."""

    version: Version
    report_domain: Domain
    mails: list[Accepted]
    posts: list[Posted]
    key_record: bytes
    commands: list[tuple[int, str]]
    listed: dict[str, object]
    today: dict[str, str]
    log: str


class _Delivery:
    """Has one daemon report on a domain that wants its reports by mail and by HTTPS."""

    def __init__(self, lab: Lab, version: Version, endpoint: ReportEndpoint) -> None:
        self._lab = lab
        self._version = version
        self._endpoint = endpoint
        self._report_domain = Domain.parse(f"example-{version.tag}.plain.test")
        self._mailbox = f"reports@mailbox-{version.tag}.plain.test"
        self._path = f"/take/{version.tag}"
        self._daemon = Stsguard(
            lab.namespace,
            version.postfix,
            port=8461 + VERSIONS.index(version),
            queues=[lab.postfix[version.postfix].queue],
            ca_file=lab.ca_file,
            settings={
                "reports": {
                    "from": SENDER,
                    "organization": "Sender & Sons",
                    "dkim_selector": SELECTOR,
                    "dkim_key_file": "/run/lab/dkim.pem",
                    "send_via": f"smtp:{lab.postfix[version.postfix].address}:25",
                }
            },
            sessions=[_heard(lab, version)],
        )

    async def prepare(self) -> None:
        """Count sessions on a day that is over; publish the TLSRPT record, and the mailbox's MX host and policy."""
        await self._count_sessions()
        zones = self._lab.dns.zones
        domain = self._mailbox.partition("@")[2]
        # RFC 8460 §3: reports are delivered "despite any TLS-related failures".
        expired = CertificateKind.EXPIRED
        server = await self._lab.mx.add(f"mx.mailbox-{self._version.tag}.mxplain.test", certificate=expired)
        zones.put(server.hostname, "A", str(server.address))
        zones.put(domain, "MX", f"10 {server.hostname}.")
        zones.put_txt(f"_mta-sts.{domain}", "v=STSv1; id=1;")
        zones.put(f"mta-sts.{domain}", "A", policy_hosts.ADDRESS)
        policy = f"version: STSv1\nmode: enforce\nmx: {server.hostname}\nmax_age: 86400\n"
        self._lab.policy_hosts.sites[f"mta-sts.{domain}"] = PolicySite(policy)
        zones.put_txt(f"_smtp._tls.{domain}", f"v=TLSRPTv1; rua=mailto:{self._mailbox}")
        uris = f"mailto:{self._mailbox},https://{ENDPOINT}{self._path}"
        zones.put_txt(f"_smtp._tls.{self._report_domain}", f"v=TLSRPTv1; rua={uris}")
        self._endpoint.answers[self._path] = RETRIED

    async def carry_out(self) -> Delivered:
        """Start the daemon, and wait for the report at both ends."""
        await self._daemon.start()
        await self._until("a report in the mailbox", lambda: self._mails)
        await self._until("a report posted", lambda: self._posts)
        await self._until("a failed delivery", lambda: "report not sent, trying again" in self._daemon.log())
        before = await self._send(), await self._send()
        commands = [*before, await self._send()]  # the last one has nothing left to do
        await self._deliver_other_mail()
        listed = json.loads((await self._daemon.command("report", "list", "--json")).stdout)
        await self._daemon.stop()
        key = await self._lab.dns.lookup(f"{SELECTOR}._domainkey.sender.plain.test", "TXT")
        return Delivered(
            self._version,
            self._report_domain,
            self._mails,
            self._posts,
            b"".join(key.answer[0][0].strings),
            commands,
            listed["reports"][0] if len(listed["reports"]) == 1 else listed,
            await built(self._daemon, self._lab.outside, ["today"]),
            self._lab.postfix[self._version.postfix].log.text(),
        )

    async def _deliver_other_mail(self) -> None:
        """Send the same host mail that is no report: what is enforced for it shows what the report was spared."""
        domain = self._mailbox.partition("@")[2]
        outcome = await self._lab.postfix[self._version.postfix].deliver(domain)
        assert outcome.status == "deferred", outcome
        agreeing = {domain: OTHER_MAIL.__eq__}
        await built_as_expected(self._daemon, self._lab.outside, agreeing, limit_seconds=LIMIT_SECONDS)

    async def stop(self) -> None:
        """Stop the daemon, if it runs."""
        await self._daemon.stop()

    @property
    def _mails(self) -> list[Accepted]:
        return self._lab.mx.mailbox(self._mailbox)

    @property
    def _posts(self) -> list[Posted]:
        return self._endpoint.posted.get(self._path, [])

    async def _count_sessions(self) -> None:
        row = CounterRow(DAY, self._report_domain, self._report_domain, False, POLICY, 3, 2, 0, {DETAIL: 2})
        # SQLite does not open files by way of /proc: the database is made out here and moved in.
        with tempfile.TemporaryDirectory() as directory:
            database = Path(directory) / self._daemon.database.name
            stores = open_stores(f"sqlite:///{database}")
            await stores.sessions.open()
            await stores.sessions.add_counters([row], {})
            await stores.sessions.close()
            shutil.copytree(directory, self._lab.outside(self._daemon.directory))

    async def _send(self) -> tuple[int, str]:
        done = await self._daemon.command("report", "send")
        return done.returncode, done.stdout + done.stderr

    async def _until(self, what: str, holds: Callable[[], object]) -> None:
        limit = time.monotonic() + LIMIT_SECONDS
        while not holds():
            assert time.monotonic() < limit, f"not in time: {what}\n{self._daemon.log()}"
            await asyncio.sleep(0.05)


def _heard(lab: Lab, version: Version) -> dict[str, str]:
    """3.10 by its datagrams, and 3.7 by its log."""
    directory = lab.postfix[version.postfix].directory
    socket = {"tlsrpt_socket": str(directory / "queue/stsguard/ours.sock")}
    return {**socket, "mail_log": str(directory / "maillog")} if version.is_37 else socket


def _report_service() -> str:
    """The transport for our own reports, as postfix/master.cf has it for Postfix before 3.10."""
    lines = MASTER_CF.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("stsguard-report "))
    return "\n".join(lines[start:])


@pytest.fixture(scope="module")
def delivered() -> Iterator[dict[str, Delivered]]:
    """A report delivered through each Postfix, by its name."""
    skip_without_lab()
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    plans = [
        PostfixPlan(
            version.postfix,
            (BOOKWORM if version.is_37 else TRIXIE).path,
            policy_map=f"socketmap:unix:stsguard/{version.postfix}.sock:{version.map_name}",
            settings={"sender_dependent_default_transport_maps": f"inline:{{ {{ {SENDER} = stsguard-report: }} }}"}
            if version.is_37
            else {"smtp_tlsrpt_enable": "yes", "smtp_tlsrpt_socket_name": "stsguard/ours.sock"},
            services=_report_service() if version.is_37 else "",
        )
        for version in VERSIONS
    ]
    with Lab(plans) as lab:
        key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (lab.outside(lab.ca_file.parents[2]) / "dkim.pem").write_bytes(key)
        public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        yield lab.call(_deliver(lab, public), limit_seconds=200)


async def _deliver(lab: Lab, public_key: bytes) -> dict[str, Delivered]:
    endpoint = ReportEndpoint(lab.certificates, ENDPOINT)
    await endpoint.start()
    deliveries = {version.postfix: _Delivery(lab, version, endpoint) for version in VERSIONS}
    for delivery in deliveries.values():
        await delivery.prepare()
    lab.dns.zones.put(ENDPOINT, "A", ADDRESS)
    record = f"v=DKIM1; k=rsa; s=tlsrpt; p={base64.b64encode(public_key).decode()}"
    lab.dns.zones.put_txt(f"{SELECTOR}._domainkey.sender.plain.test", record)
    await lab.dns.publish()
    try:
        done = await asyncio.gather(*(delivery.carry_out() for delivery in deliveries.values()))
    finally:
        await endpoint.stop()
        for delivery in deliveries.values():
            await delivery.stop()
    return dict(zip(deliveries, done, strict=True))


@pytest.fixture(params=VERSIONS, ids=lambda version: version.postfix)
def delivery(request: pytest.FixtureRequest, delivered: dict[str, Delivered]) -> Delivered:
    """What came of it through this Postfix."""
    return delivered[request.param.postfix]


def test_rfc8460_5_3_report_mail_reaches_the_mailbox_once(delivery: Delivered) -> None:
    [mail] = delivery.mails
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert message.get_content_type() == "multipart/report"
    assert message["From"] == SENDER
    assert message["TLS-Report-Domain"] == delivery.report_domain
    assert message["TLS-Report-Submitter"] == "sender.plain.test"
    _, attachment = message.iter_parts()
    assert attachment.get_content_type() == "application/tlsrpt+gzip"
    content = attachment.get_content()
    report = parse_report(decompress(content))
    assert attachment.get_filename() == filename(report, delivery.report_domain)
    assert (report.start_at.date(), report.organization, report.contact) == (DAY, "Sender & Sons", SENDER)
    [policy] = report.policies
    assert (policy.policy, policy.successes, policy.failures) == (POLICY, 3, 2)
    assert policy.details == ((DETAIL, 2),)
    assert {post.body for post in delivery.posts} == {content}


def test_rfc8460_3_report_mail_is_signed(delivery: Delivered) -> None:
    [mail] = delivery.mails
    asked = []

    def lookup(name: bytes, timeout: int = 5) -> bytes:
        del timeout
        asked.append(name.rstrip(b"."))
        return delivery.key_record

    verifier = dkim.DKIM(mail.content, tlsrpt=True)
    assert verifier.verify(dnsfunc=lookup)
    assert asked == [b"reports._domainkey.sender.plain.test"]
    # Postfix has only added fields in front of the signature, and a changed body is noticed.
    assert not dkim.verify(mail.content.replace(b"TLS-Report-Submitter: s", b"TLS-Report-Submitter: x"), dnsfunc=lookup)


def test_rfc8460_5_4_post_is_repeated_until_it_is_taken(delivery: Delivered) -> None:
    assert [post.status for post in delivery.posts] == list(RETRIED)
    for post in delivery.posts:
        assert post.request_line.startswith("POST /take/")
        assert post.fields["content-type"] == "application/tlsrpt+gzip"
        assert post.fields["host"] == ENDPOINT
    assert [status for status, _ in delivery.commands] == [1, 0, 0], delivery.commands
    assert "the answer was 500" in delivery.commands[0][1]
    assert delivery.listed["state"] == "sent"


def test_rfc8460_3_session_of_a_report_is_not_reported(delivery: Delivered) -> None:
    """With an enforced policy that the mailbox's MX host does not meet: a report is delivered all the same, by its
    header on 3.10 and by its transport on 3.7. Any other mail is not, and that alone is reported."""
    assert delivery.today == {f"mailbox-{delivery.version.tag}.plain.test": OTHER_MAIL}
    service = "postfix/stsguard-report" if delivery.version.is_37 else "postfix"
    host = re.escape(f"mx.mailbox-{delivery.version.tag}.mxplain.test")
    untrusted = rf" {service}/smtp\[(\d+)\]: Untrusted TLS connection established to {host}\["
    processes = re.findall(untrusted, delivery.log)
    sent = re.findall(rf" {service}/smtp\[(\d+)\]: \w+: to=<reports@\S+, relay={host}\[.* status=sent ", delivery.log)
    assert len(sent) == 1
    assert sent[0] in processes
