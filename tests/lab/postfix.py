"""A real Postfix with configuration, queue and log of its own, of a Debian chroot or of this system.

Its root directory is the chroot (or `/`), bound read-only into the lab, so nothing outside the lab can change. smtp(8)
runs chrooted to its queue directory, as Debian has it, and follows whatever policy map it is given.
"""

import asyncio
import itertools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.additions import Additions
from tests.lab.maillog import MailLog, Outcome
from tests.lab.namespace import LAB, LIMIT_SECONDS, LabFailed, Namespace

PROGRAMS = ("postfix", "postqueue", "postconf")
SYSTEM_ROOT = Path("/")
_QUEUED = re.compile(r"queued as (\w+)")
# The services that a sending Postfix needs; smtp is chrooted, the sockets of its policy map lie in the queue directory.
_SERVICES = """
{listen} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 3600 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
tlsproxy unix - - y - 0 tlsproxy
postlog unix-dgram n - n - 1 postlogd
smtp unix - - y - - smtp
"""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that Postfix took: its Subject, its queue id."""

    subject: str
    queue_id: str


class Postfix:
    """One instance, listening for mail on `address`:25 of the loopback network."""

    def __init__(
        self,
        namespace: Namespace,
        name: str,
        root: Path,
        *,
        address: str,
        policy_map: str,
        ca_file: Path,
        security_level: str = "may",
        settings: Mapping[str, str] | None = None,
        transports: Mapping[str, str] | None = None,
        transport_settings: Mapping[str, Mapping[str, str]] | None = None,
        services: str = "",
        additions: Additions | None = None,
    ) -> None:
        """Describe it; nothing runs before `start`.

        Args:
            name: names its directories.
            root: the chroot to run it from, or SYSTEM_ROOT.
            address: of 127.0.0.0/8, where it takes mail in.
            policy_map: smtp_tls_policy_maps, with unix sockets relative to the queue directory.
            ca_file: smtp_tls_CAfile, a path inside the lab.
            security_level: smtp_tls_security_level, what holds where the map has no answer.
            settings: more for main.cf; these win.
            transports: further smtp(8) services by name, each with a policy map of its own, for mail to
                `*.NAME.DOMAIN…`, where NAME is the service's.
            transport_settings: more for some of these services, as `-o` in master.cf.
            services: further lines for master.cf.
            additions: what stands in its root directory as well.
        """
        self._namespace = namespace
        self._root = root
        self.name = name
        self.address = address
        self.directory = LAB / name
        self.queue = self.directory / "queue"
        self._policy_map = policy_map
        self._ca_file = ca_file
        self._security_level = security_level
        self._settings = dict(settings or {})
        self._transports = dict(transports or {})
        self._transport_settings = dict(transport_settings or {})
        self._services = services
        self._additions = additions
        self.log = MailLog(namespace.outside(self.directory / "maillog"))
        self._numbers = itertools.count(1)
        self.version = ""

    @property
    def _inner_root(self) -> Path:
        return self.directory / "root"

    async def start(self) -> None:
        """Write the configuration, start it, and return when it takes mail in."""
        await asyncio.to_thread(self._start)
        self.log.start()
        limit = time.monotonic() + LIMIT_SECONDS
        while True:
            try:
                _, writer = await asyncio.open_connection(self.address, 25)
            except OSError as exc:
                if time.monotonic() > limit:
                    raise LabFailed(f"{self.name} does not listen: {self.log.text()}") from exc
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return

    def _start(self) -> None:
        outside = self._namespace.outside(self.directory)
        for directory in ("etc", "queue/etc", "queue/stsguard", "data", "root"):
            (outside / directory).mkdir(parents=True)
        (outside / "maillog").touch()
        (outside / "etc/main.cf").write_text("".join(f"{name} = {value}\n" for name, value in self._main_cf().items()))
        (outside / "etc/master.cf").write_text(self._master_cf())
        (outside / "etc/transport").write_text(
            "".join(f".{name}.{zone} {name}:\n" for name in self._transports for zone in ("plain.test", "signed.test"))
        )
        root = self._inner_root
        scratch = root / "tmp"
        # Bound read-only: neither the chroot's files nor this system's can be changed by what runs in there.
        mount = f"mount --rbind {self._root} {root}\nmount -o remount,bind,ro {root}"
        if self._additions is not None:
            over = self.directory / "over"
            self._additions.write(self._namespace.outside(over))
            mount = self._additions.mount(over, self._root, root)
        script = f"""set -e
            {mount}
            for kept in /run /dev /proc; do mount --rbind $kept {root}$kept; done
            mount -t tmpfs tmpfs {scratch}
            mount --bind /run/lab/resolv.conf "$(readlink -f {root}/etc/resolv.conf)"
            cp /run/lab/resolv.conf {root}/etc/services {root}/etc/nsswitch.conf {self.queue}/etc/
            chroot {root} chown postfix {self.directory}/data"""
        self._namespace.run(["sh", "-c", script])
        self.version = self._command("postconf", "-h", "mail_version").strip()
        try:
            self._command("postfix", "start")
        except LabFailed as exc:
            raise LabFailed(f"{exc}\n{self.log.text()}") from exc

    async def send(self, domain: str, *, local_part: str = "user", header: str = "") -> Message:
        """Hand it one message to `local_part`@`domain`.

        Raises:
            LabFailed: it was not accepted.
        """
        subject = f"{self.name}-{next(self._numbers)}"
        recipient = f"{local_part}@{domain}"
        utf8 = "" if recipient.isascii() else " SMTPUTF8"
        reader, writer = await asyncio.open_connection(self.address, 25)
        try:
            reply = await _reply(reader)
            for command in (
                "EHLO client.test",
                f"MAIL FROM:<>{utf8}",
                f"RCPT TO:<{recipient}>",
                "DATA",
                f"From: <sender@sender.test>\r\nTo: <{recipient}>\r\nSubject: {subject}\r\n{header}\r\nHello.\r\n.",
            ):
                if not reply.startswith(("2", "3")):
                    break
                writer.write(f"{command}\r\n".encode())
                reply = await _reply(reader)
            queued = _QUEUED.search(reply)
            if queued is None:
                raise LabFailed(f"{self.name} did not accept mail to {recipient}: {reply}")
            writer.write(b"QUIT\r\n")
            await _reply(reader)
        finally:
            writer.close()
            await writer.wait_closed()
        return Message(subject, queued[1])

    async def outcome(self, message: Message, *, attempt: int = 1) -> Outcome:
        """How the first (or a later) delivery attempt of a message ended, waiting for it."""
        return await self.log.outcome(message.queue_id, attempt)

    async def deliver(self, domain: str) -> Outcome:
        """Send one message and wait for its first attempt's end."""
        return await self.outcome(await self.send(domain))

    async def retry(self, message: Message) -> Outcome:
        """Try a deferred message again at once, as `postqueue -i` does, and wait for that attempt's end."""
        attempt = self.log.attempts(message.queue_id) + 1
        await asyncio.to_thread(self._command, "postqueue", "-i", message.queue_id)
        return await self.outcome(message, attempt=attempt)

    async def route(self, nexthops: Mapping[str, str]) -> None:
        """From now on send mail for these domains to these next hops."""
        file = self._namespace.outside(self.directory / "etc/transport")
        with file.open("a") as transport:
            transport.writelines(f"{domain} smtp:{nexthop}\n" for domain, nexthop in nexthops.items())
        await asyncio.to_thread(self._command, "postfix", "reload")

    async def stop(self) -> None:
        """Stop following its log. The namespace's end ends the daemons, and nothing of theirs is kept."""
        await self.log.stop()

    def _command(self, program: str, *arguments: str) -> str:
        command = ["chroot", str(self._inner_root), program, "-c", str(self.directory / "etc"), *arguments]
        return self._namespace.run(command).stdout

    def _main_cf(self) -> dict[str, str]:
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": str(self.queue),
            "data_directory": str(self.directory / "data"),
            "maillog_file": str(self.directory / "maillog"),
            "maillog_file_prefixes": str(LAB),
            "myhostname": "mta.sender.test",
            "mydestination": "",
            "local_recipient_maps": "",
            "local_transport": "error:no local delivery",
            "alias_maps": "",
            "alias_database": "",
            "inet_interfaces": "loopback-only",
            "inet_protocols": "all",
            "mynetworks": "127.0.0.0/8",
            "smtpd_recipient_restrictions": "permit_mynetworks, reject",
            "notify_classes": "",
            # A deferral is to be seen at once, a second attempt comes only when asked for.
            "queue_run_delay": "1h",
            "minimal_backoff_time": "1s",
            "smtp_connect_timeout": "5s",
            "smtp_helo_timeout": "10s",
            "default_destination_concurrency_failed_cohort_limit": "0",
            "default_process_limit": "200",
            "smtp_host_lookup": "dns",
            "smtp_dns_support_level": "dnssec",
            "smtp_tls_security_level": self._security_level,
            "smtp_tls_policy_maps": self._policy_map,
            "smtp_tls_CAfile": str(self._ca_file),
            "smtp_tls_loglevel": "1",
            "smtp_tls_session_cache_database": "",
            "transport_maps": f"texthash:{self.directory}/etc/transport",
        }
        return settings | self._settings

    def _master_cf(self) -> str:
        more = []
        for name, policy_map in self._transports.items():
            settings = {"smtp_tls_policy_maps": policy_map, **self._transport_settings.get(name, {})}
            more.append(f"{name} unix - - y - - smtp")
            more += [f"  -o {setting}={value}" for setting, value in settings.items()]
        return _SERVICES.format(listen=f"{self.address}:25") + "\n".join([*more, self._services]) + "\n"


async def _reply(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(LIMIT_SECONDS):
        lines = [(await reader.readline()).decode("utf-8", "replace")]
        while lines[-1][3:4] == "-":
            lines.append((await reader.readline()).decode("utf-8", "replace"))
        return "".join(lines)
