"""The milter's connections by the octets that Postfix sends: who waits for what, and for what fault of ours."""

import asyncio
import struct
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

import pytest

from stsguard.core import milter_protocol as protocol
from stsguard.core.arrival import Arrival
from stsguard.core.milter_protocol import packet
from stsguard.milter.connection import Connections
from stsguard.milter.mail import Held, Intake
from tests.integration.lookup_client import until
from tests.unit.fakes import Clock

REPORTS = b"<tlsrpt@example.net>\0"
OTHER = b"<user@example.org>\0"
OFFER = packet(b"O", struct.pack(">III", 6, 0x1FF, 0x1FFFFF))
OLD_OFFER = packet(b"O", struct.pack(">III", 2, 0x3F, 0x7F))


class SlowSpool:
    """Keeps what it is given once `ready` is set, or fails."""

    def __init__(self) -> None:
        self.ready = Event()
        self.ready.set()
        self.kept: list[bytes] = []
        self.fault: Exception | None = None

    def add(self, _arrival: Arrival, octets: bytes) -> str:
        assert self.ready.wait(20)
        if self.fault is not None:
            raise self.fault
        self.kept.append(octets)
        return "name"


class Postfix:
    """One connection of an smtpd(8)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def ask(self, *packets: bytes) -> bytes:
        """Send these at once; the answer."""
        self.writer.write(b"".join(packets))
        async with asyncio.timeout(20):
            (length,) = struct.unpack(">I", await self._reader.readexactly(4))
            return await self._reader.readexactly(length)

    async def ended(self) -> bool:
        async with asyncio.timeout(20):
            try:
                return await self._reader.read() == b""
            except ConnectionResetError:
                return True


def recipient(path: bytes, host: bytes = b"example.org") -> bytes:
    macros = b"{rcpt_mailer}\0smtp\0{rcpt_host}\0" + host + b"\0{client_addr}\x00192.0.2.1\0"
    return packet(b"D", b"R" + macros) + packet(b"R", path)


MAIL = (
    packet(b"L", b"Subject\0 x\0"),
    packet(b"L", b"X-Folded\0 a\n\tb\0"),
    packet(b"N"),
    packet(b"B", b"body"),
    packet(b"D", b"Ei\x004ABC\0"),
    packet(b"E"),
)


@asynccontextmanager
async def connected(tmp_path: Path, spool: SlowSpool, warmed: list[str] | None = None) -> AsyncIterator[Postfix]:
    intake = Intake(
        frozenset({"tlsrpt@example.net"}),
        spool,
        Clock(),
        Held(),
        1000,
        discard=False,
        verify=None,
        warm=(warmed if warmed is not None else []).append,
    )
    with ThreadPoolExecutor(2) as executor:
        connections = Connections(intake, executor)
        path = str(tmp_path / "milter.sock")
        server = await asyncio.get_running_loop().create_unix_server(connections, path)
        postfix = Postfix(*await asyncio.open_unix_connection(path))
        try:
            yield postfix
        finally:
            spool.ready.set()
            server.close()
            await connections.close(10)
            postfix.writer.close()


async def test_other_mail_is_let_go_at_data(tmp_path: Path) -> None:
    warmed: list[str] = []
    async with connected(tmp_path, SlowSpool(), warmed) as postfix:
        assert (await postfix.ask(OFFER))[:1] == b"O"
        for _ in range(2):
            assert await postfix.ask(recipient(OTHER), packet(b"D", b"Ti\x004ABC\0"), packet(b"T")) == b"a"
        assert warmed == ["example.org", "example.org"]


async def test_a_report_is_answered_once_it_is_kept(tmp_path: Path) -> None:
    spool = SlowSpool()
    spool.ready.clear()
    async with connected(tmp_path, spool) as postfix:
        await postfix.ask(OFFER)
        assert await postfix.ask(recipient(OTHER), recipient(REPORTS), packet(b"T")) == b"c"
        answering = asyncio.create_task(postfix.ask(*MAIL))
        await asyncio.sleep(0)
        assert not answering.done()
        spool.ready.set()
        assert await answering == b"a"
        assert spool.kept == [b"Subject: x\r\nX-Folded: a\r\n\tb\r\n\r\nbody"]
        assert await postfix.ask(recipient(OTHER), packet(b"T")) == b"a", "the next mail is another one"


async def test_a_mail_that_is_given_up_is_forgotten(tmp_path: Path) -> None:
    spool = SlowSpool()
    async with connected(tmp_path, spool) as postfix:
        await postfix.ask(OFFER)
        assert await postfix.ask(recipient(REPORTS), packet(b"A"), recipient(OTHER), packet(b"T")) == b"a"
        assert await postfix.ask(recipient(REPORTS), packet(b"K"), OFFER) != b"c"
        assert await postfix.ask(packet(b"L", b"X\0 y\0"), packet(b"E")) == b"a"
        postfix.writer.write(packet(b"Q"))
        assert await postfix.ended()
        assert spool.kept == []


async def test_a_postfix_that_waits_for_every_answer(tmp_path: Path) -> None:
    """Before 2.6, or with milter_protocol = 2: nothing may be left out."""
    spool = SlowSpool()
    async with connected(tmp_path, spool) as postfix:
        await postfix.ask(OLD_OFFER)
        assert await postfix.ask(recipient(REPORTS)) == b"c"
        assert await postfix.ask(packet(b"L", b"Subject\0x\0")) == b"c"
        assert await postfix.ask(packet(b"N")) == b"c"
        assert await postfix.ask(packet(b"B", b"body")) == b"c"
        assert await postfix.ask(packet(b"E", b" and more")) == b"a"
        assert spool.kept == [b"Subject: x\r\n\r\nbody and more"]


async def test_after_a_fault_of_ours_only_a_report_waits(tmp_path: Path) -> None:
    spool = SlowSpool()
    spool.fault = ZeroDivisionError("a bug")
    async with connected(tmp_path, spool) as postfix:
        await postfix.ask(OFFER)
        await postfix.ask(recipient(REPORTS), packet(b"T"))
        assert (await postfix.ask(*MAIL)).startswith(b"y451 4.3.0 ")
        await postfix.ask(recipient(REPORTS), recipient(OTHER), packet(b"T"))
        assert await postfix.ask(*MAIL) == b"a"


async def test_postfix_goes_away_while_its_mail_is_kept(tmp_path: Path) -> None:
    spool = SlowSpool()
    spool.ready.clear()
    async with connected(tmp_path, spool) as postfix:
        await postfix.ask(OFFER)
        await postfix.ask(recipient(REPORTS), packet(b"T"))
        postfix.writer.write(b"".join(MAIL))
        postfix.writer.close()
        await postfix.writer.wait_closed()
        spool.ready.set()
        await until(lambda: len(spool.kept) == 1)


@pytest.mark.parametrize("octets", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0", packet(b"O", b"short")])
async def test_what_is_not_the_protocol_is_hung_up_on(
    tmp_path: Path, octets: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(tmp_path, SlowSpool()) as postfix:
        postfix.writer.write(octets)
        assert await postfix.ended()
        assert "not the milter protocol" in caplog.text


async def test_who_talks_on_while_a_mail_is_kept_is_hung_up_on(tmp_path: Path) -> None:
    spool = SlowSpool()
    spool.ready.clear()
    async with connected(tmp_path, spool) as postfix:
        await postfix.ask(OFFER)
        await postfix.ask(recipient(REPORTS), packet(b"T"))
        postfix.writer.write(b"".join(MAIL) + b"x" * (protocol.MAX_PACKET_BYTES + 1))
        assert await postfix.ended()
