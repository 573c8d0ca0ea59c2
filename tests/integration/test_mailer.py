"""Handing mail to an MTA: by SMTP to a real server, and by programs that behave as sendmail does."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from stsguard.adapters.mailer import MAILS, MAX_TEXT_LENGTH, SendmailMailer, SmtpMailer
from stsguard.core.errors import DeliveryFailed, OperatorError

SENDER = "noreply@example.com"
TO = ["reports@example.net"]
MESSAGE = b"From: noreply@example.com\r\nSubject: x\r\n\r\n.\r\n.dots\r\nend\r\n"


class Handler:
    """Answers as the test says and keeps what it has taken."""

    def __init__(self, **replies: str) -> None:
        self.replies = replies
        self.taken: list[Envelope] = []

    async def handle_EHLO(  # noqa: N802 (aiosmtpd's name)
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [self.replies["EHLO"]] if "EHLO" in self.replies else responses

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return self.replies.get("MAIL", "250 OK")

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self.replies.get(address.partition("@")[0], "250 OK")
        if reply.startswith("25"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        reply = self.replies.get("DATA", "250 OK")
        if reply.startswith("250"):
            self.taken.append(envelope)
        return reply


@asynccontextmanager
async def mta(handler: Handler) -> AsyncIterator[int]:
    """An SMTP server on loopback; its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(handler, hostname="mx.test", loop=loop), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def speaking(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> AsyncIterator[int]:
    """A server that does what `talk` does; its port."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        talk(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def send(handler: Handler, *recipients: str, sender: str = SENDER) -> None:
    async with mta(handler) as port:
        await SmtpMailer("127.0.0.1", port).send(sender, recipients or TO, MESSAGE)


async def failed(handler: Handler, *recipients: str) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        await send(handler, *recipients)
    return caught.value


# SMTP


async def test_a_message_is_handed_over_octet_for_octet() -> None:
    handler, before = Handler(), MAILS.value("taken")
    await send(handler, "reports@example.net", '"not@me"@example.org')
    [envelope] = handler.taken
    assert envelope.mail_from == SENDER
    assert envelope.rcpt_tos == ["reports@example.net", '"not@me"@example.org']
    assert envelope.original_content == MESSAGE
    assert MAILS.value("taken") == before + 1


async def test_rfc5321_4_5_5_null_reverse_path() -> None:
    handler = Handler()
    await send(handler, sender="")
    assert [envelope.mail_from for envelope in handler.taken] == ["<>"]


async def test_helo_is_tried_where_ehlo_is_refused() -> None:
    handler = Handler(EHLO="502 no")
    await send(handler)
    assert len(handler.taken) == 1


@pytest.mark.parametrize(
    ("replies", "temporary", "text"),
    [
        ({"MAIL": "451 later"}, True, "MAIL: 451 later"),
        ({"MAIL": "553 not you"}, False, "MAIL: 553 not you"),
        ({"reports": "450 greylisted"}, True, "RCPT reports@example.net: 450 greylisted"),
        ({"reports": "550 unknown"}, False, "RCPT reports@example.net: 550 unknown"),
        ({"DATA": "452 full"}, True, "DATA: 452 full"),
        ({"DATA": "554 no"}, False, "DATA: 554 no"),
    ],
)
async def test_rfc5321_4_2_1_refusals(replies: dict[str, str], temporary: bool, text: str) -> None:
    handler = Handler(**replies)
    exc = await failed(handler)
    assert (exc.temporary, exc.text) == (temporary, text)
    assert handler.taken == []


async def test_those_who_are_accepted_get_it_and_the_others_are_named() -> None:
    handler = Handler(a="550 unknown", c="450 later")
    exc = await failed(handler, "a@example.net", "b@example.net", "c@example.net")
    assert exc.temporary
    assert exc.text == "RCPT a@example.net: 550 unknown; RCPT c@example.net: 450 later"
    assert [envelope.rcpt_tos for envelope in handler.taken] == [["b@example.net"]]


async def test_no_mta() -> None:
    async with mta(Handler()) as port:
        pass
    with pytest.raises(DeliveryFailed) as caught:
        await SmtpMailer("127.0.0.1", port).send(SENDER, TO, MESSAGE)
    assert caught.value.temporary
    assert "Connection refused" in caught.value.text


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"554 go away\r\n", "connection: 554 go away"),  # says nothing of the message
        (b"421 busy\r\n", "connection: 421 busy"),
        (b"", "Connection unexpectedly closed"),
        (b"SSH-2.0-x\r\n", ""),
        (b"220 \xff\r\n", ""),
        (b"2" * 100_000, ""),
    ],
)
async def test_banners(said: bytes, text: str) -> None:
    def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with speaking(talk) as port:
        with pytest.raises(DeliveryFailed) as caught:
            await SmtpMailer("127.0.0.1", port).send(SENDER, TO, MESSAGE)
    assert caught.value.temporary
    assert text in caught.value.text
    assert caught.value.text.isprintable()
    assert len(caught.value.text) <= MAX_TEXT_LENGTH


async def test_data_refused_for_good() -> None:
    def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 x\r\n250 x\r\n250 x\r\n250 x\r\n554 no data\r\n")

    async with speaking(talk) as port:
        with pytest.raises(DeliveryFailed) as caught:
            await SmtpMailer("127.0.0.1", port).send(SENDER, TO, MESSAGE)
    assert (caught.value.temporary, caught.value.text) == (False, "DATA: 554 no data")


@pytest.mark.parametrize("said", [b"", b"220 x\r\n", b"220-"])
async def test_silence_is_bounded(said: bytes) -> None:
    async with speaking(lambda _reader, writer: writer.write(said)) as port:
        with pytest.raises(DeliveryFailed) as caught:
            await SmtpMailer("127.0.0.1", port, timeout_seconds=0.3).send(SENDER, TO, MESSAGE)
    assert caught.value.temporary
    assert "too long" in caught.value.text or "timed out" in caught.value.text


async def test_a_server_that_drips_is_bounded_as_a_whole() -> None:
    """Each octet comes in time, and the reply never ends."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"220-x\r\n")
            await asyncio.sleep(0.02)

    tasks: list[asyncio.Task[None]] = []
    async with speaking(lambda _reader, writer: tasks.append(asyncio.create_task(drip(writer)))) as port:
        with pytest.raises(DeliveryFailed, match="too long"):
            await SmtpMailer("127.0.0.1", port, timeout_seconds=0.5).send(SENDER, TO, MESSAGE)
    for task in tasks:
        task.cancel()


# sendmail


def program(directory: Path, script: str) -> SendmailMailer:
    """A program that keeps its arguments and its input, then does what `script` says."""
    path = directory / "sendmail"
    path.write_text(f"""#!/bin/sh
printf '%s\\n' "$@" > {directory}/arguments
cat > {directory}/message
{script}
""")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return SendmailMailer(path)


async def test_sendmail_gets_arguments_and_message(tmp_path: Path) -> None:
    await program(tmp_path, "exit 0").send(SENDER, ["a@example.net", '"-x;$(id)"@example.org'], MESSAGE)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments == ["-i", "-f", SENDER, "--", "a@example.net", '"-x;$(id)"@example.org']
    assert (tmp_path / "message").read_bytes() == MESSAGE.replace(b"\r\n", b"\n")


async def test_sendmail_with_a_null_reverse_path(tmp_path: Path) -> None:
    await program(tmp_path, "exit 0").send("", TO, MESSAGE)
    assert (tmp_path / "arguments").read_text().splitlines() == ["-i", "-f", "", "--", *TO]


@pytest.mark.parametrize(
    ("code", "temporary"),
    [
        (os.EX_TEMPFAIL, True),
        (os.EX_USAGE, False),
        (os.EX_DATAERR, False),
        (os.EX_NOUSER, False),
        (os.EX_NOHOST, False),
        (os.EX_UNAVAILABLE, True),
        (os.EX_OSERR, True),
        (os.EX_CONFIG, True),
        (1, True),
    ],
)
async def test_sysexits(tmp_path: Path, code: int, temporary: bool) -> None:
    with pytest.raises(DeliveryFailed) as caught:
        await program(tmp_path, f"echo 'it said: why' >&2; exit {code}").send(SENDER, TO, MESSAGE)
    assert caught.value.temporary is temporary
    assert caught.value.text == f"{tmp_path / 'sendmail'} ended with {code}: it said: why"[:MAX_TEXT_LENGTH]


async def test_sendmail_that_talks_without_end_is_read_to_a_bound(tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed) as caught:
        await program(tmp_path, "head -c 1000000 /dev/zero >&2; exit 75").send(SENDER, TO, MESSAGE)
    assert len(caught.value.text) <= MAX_TEXT_LENGTH


async def test_sendmail_that_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sendmail"
    path.write_text("#!/bin/sh\nexit 75\n")
    path.chmod(0o700)
    with pytest.raises(DeliveryFailed, match="ended with 75"):
        await SendmailMailer(path).send(SENDER, TO, b"x" * 5_000_000)


async def test_sendmail_that_hangs_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "sendmail"
    path.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    path.chmod(0o700)
    with pytest.raises(DeliveryFailed, match="it took too long") as caught:
        await SendmailMailer(path, timeout_seconds=1.0).send(SENDER, TO, MESSAGE)
    assert caught.value.temporary
    if (tmp_path / "pid").exists():  # else it was killed before it could write
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_sendmail_that_cannot_be_run(tmp_path: Path) -> None:
    mailer = program(tmp_path, "exit 0")
    (tmp_path / "sendmail").unlink()
    with pytest.raises(DeliveryFailed, match="No such file") as caught:
        await mailer.send(SENDER, TO, MESSAGE)
    assert caught.value.temporary


def test_no_such_program(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="there is no such program"):
        SendmailMailer(tmp_path / "absent")
