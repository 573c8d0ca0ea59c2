"""Hands report mail to the local MTA, by SMTP (RFC 5321) or by its sendmail program: `ports.Mailer` twice.

The peer is our own MTA, and bounds in time are what is needed. A message that was taken for some recipients only is not
taken back; the failure names the others. What becomes of a message whose end was not confirmed nobody knows: it may
go out twice then, with one Message-ID.

Left out on purpose: authentication and TLS, which a relay on this machine needs not; SMTPUTF8, since nothing of ours
asks for it.
"""

import asyncio
import contextlib
import os
import shutil
import smtplib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stsguard.core.errors import DeliveryFailed, OperatorError
from stsguard.metrics import Counter

MAILS = Counter("report_mails", "Report mails handed to the local MTA, by what came of them.", "outcome")

DEFAULT_TIMEOUT_SECONDS = 120.0  # of one message as a whole; a local MTA may run its filters before it answers
MAX_TEXT_LENGTH = 300
_READ_SIZE = 4096

# sysexits.h: what is wrong with the message itself. Anything else is the machine's trouble, which may pass.
_PERMANENT_EXITS = frozenset({os.EX_USAGE, os.EX_DATAERR, os.EX_NOUSER, os.EX_NOHOST})


@dataclass(frozen=True, slots=True)
class _Reply:
    """What the MTA said to `command`."""

    code: int
    text: bytes
    command: str

    @property
    def temporary(self) -> bool:
        """RFC 5321 §4.2.1: 5yz says that the same can't succeed. A code that is none of SMTP says nothing."""
        return self.code // 100 != 5

    def __str__(self) -> str:
        return _one_line(f"{self.command}: {self.code} {self.text.decode('utf-8', 'replace')}")


class SmtpMailer:
    """Implements `ports.Mailer` by SMTP to `host` and `port`, an MTA that relays for this machine.

    Args:
        helo: the name to greet with; None for this machine's.
        timeout_seconds: for a message as a whole.
    """

    def __init__(
        self, host: str, port: int = 25, *, helo: str | None = None, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        self._host = host
        self._port = port
        self._helo = helo
        self._timeout = timeout_seconds

    async def send(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Hand over one complete message.

        Raises:
            DeliveryFailed: it was not taken for at least one recipient, or nobody knows whether it was.
        """
        where = f"{self._host} port {self._port}"
        client = smtplib.SMTP(timeout=self._timeout, local_hostname=self._helo or "localhost")
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.to_thread(self._converse, client, sender, recipients, message)
        except DeliveryFailed as exc:
            MAILS.inc("deferred" if exc.temporary else "refused")
            raise
        except (OSError, smtplib.SMTPException) as exc:  # TimeoutError as well
            MAILS.inc("deferred")
            raise DeliveryFailed(True, _one_line(f"{where}: {_what(exc)}")) from exc
        finally:
            _abort(client)
        MAILS.inc("taken")

    def _converse(self, client: smtplib.SMTP, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """One SMTP session, in a thread."""
        # Before MAIL a refusal says nothing of the message: whoever runs the MTA may still repair it.
        _demand(_Reply(*client.connect(self._host, self._port), "connection"), 220, temporary=True)
        if client.ehlo()[0] != 250:
            _demand(_Reply(*client.helo(), "HELO"), 250, temporary=True)
        _demand(_Reply(*client.docmd("MAIL", f"FROM:<{sender}>"), "MAIL"), 250)
        replies = [_Reply(*client.docmd("RCPT", f"TO:<{recipient}>"), f"RCPT {recipient}") for recipient in recipients]
        refused = [reply for reply in replies if reply.code not in {250, 251}]
        if len(refused) < len(replies):
            _demand(_data(client, message), 250)
        with contextlib.suppress(OSError, smtplib.SMTPException):  # it has been taken
            client.quit()
        if refused:
            text_of_all = "; ".join(str(reply) for reply in refused)
            raise DeliveryFailed(any(reply.temporary for reply in refused), _one_line(text_of_all))


class SendmailMailer:
    """Implements `ports.Mailer` by the sendmail program of the local MTA.

    Args:
        program: its path, or its name to be found on PATH.
        timeout_seconds: for a message as a whole.

    Raises:
        OperatorError: there is no such program.
    """

    def __init__(self, program: Path, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        found = shutil.which(program)
        if found is None:
            raise OperatorError(f"{program}: there is no such program to send mail with")
        self._program = found
        self._timeout = timeout_seconds

    async def send(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Hand over one complete message.

        Raises:
            DeliveryFailed: it was not taken, or nobody knows whether it was.
        """
        # -i: a line with a dot is no end. An empty -f is the null reverse-path. Lines end as in any file here.
        command = (self._program, "-i", "-f", sender, "--", *recipients)
        try:
            code, said = await self._run(command, message.replace(b"\r\n", b"\n"))
        except OSError as exc:  # TimeoutError as well
            MAILS.inc("deferred")
            raise DeliveryFailed(True, _one_line(f"{self._program}: {_what(exc)}")) from exc
        if code != os.EX_OK:
            temporary = code not in _PERMANENT_EXITS
            MAILS.inc("deferred" if temporary else "refused")
            text = said.decode("utf-8", "replace")
            raise DeliveryFailed(temporary, _one_line(f"{self._program} ended with {code}: {text}"))
        MAILS.inc("taken")

    async def _run(self, command: Sequence[str], message: bytes) -> tuple[int, bytes]:
        """Exit code, and the beginning of what it said."""
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=nothing, stderr=pipe)
        try:
            async with asyncio.timeout(self._timeout), asyncio.TaskGroup() as group:
                group.create_task(_feed(process, message))
                said = group.create_task(_listen(process))
                code = await process.wait()
            return code, said.result()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _feed(process: asyncio.subprocess.Process, message: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 (narrows the type)
    with contextlib.suppress(ConnectionError):  # it may end before it has read everything; its exit code says why
        process.stdin.write(message)
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()


async def _listen(process: asyncio.subprocess.Process) -> bytes:
    assert process.stderr is not None  # noqa: S101 (narrows the type)
    kept = b""
    while said := await process.stderr.read(_READ_SIZE):
        kept = (kept + said)[:_READ_SIZE]
    return kept


def _data(client: smtplib.SMTP, message: bytes) -> _Reply:
    try:
        return _Reply(*client.data(message), "DATA")
    except smtplib.SMTPDataError as exc:  # no 354
        text = exc.smtp_error
        return _Reply(exc.smtp_code, text.encode() if isinstance(text, str) else text, "DATA")


def _demand(reply: _Reply, code: int, *, temporary: bool = False) -> None:
    if reply.code != code:
        raise DeliveryFailed(temporary or reply.temporary, str(reply))


def _abort(client: smtplib.SMTP) -> None:
    """Close the connection; a thread that still waits on it wakes up at once."""
    sock: socket.socket | None = getattr(client, "sock", None)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    client.close()


def _what(exc: OSError | smtplib.SMTPException) -> str:
    if isinstance(exc, TimeoutError):
        return "it took too long"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:MAX_TEXT_LENGTH]
