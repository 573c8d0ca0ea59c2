"""Reports by HTTPS POST (RFC 8460 §5.4): what is taken and lies in the spool, what is refused, and in what bounds."""

import asyncio
import gzip
import json
import os
import socket
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from stsguard.adapters.clock import SystemClock
from stsguard.core.arrival import Arrival, Via
from stsguard.core.errors import SpoolFailed, SpoolFull
from stsguard.core.tlsrpt_report import MEDIA_TYPE_GZIP, MEDIA_TYPE_JSON
from stsguard.core.unpack import Limits
from stsguard.inbound import report_post
from stsguard.inbound.report_post import BURST, READING_OF_ONE, ReportPost
from stsguard.inbound.spool import Spool
from tests import received
from tests.integration.policy_hosting import PATH, PolicyHostAt, parse, policy_host, request
from tests.integration.test_inbound_process import HOST, Inbound
from tests.unit.hosting import HostingStore, hosted

REPORTS = "/reports"
LIMIT = 100_000
DATES = {"start-datetime": "2026-03-01T00:00:00Z", "end-datetime": "2026-03-01T23:59:59Z"}
JSON = json.dumps({"organization-name": "Example Inc.", "date-range": DATES, "policies": []}).encode()
GZIP = gzip.compress(JSON)
TWICE = gzip.compress(gzip.compress(b"{" + b" " * 3 * LIMIT))


@asynccontextmanager
async def hosting(
    tmp_path: Path, spool: object = None, *, request_seconds: float = 10.0
) -> AsyncIterator[PolicyHostAt]:
    kept = Spool(tmp_path / "spool")
    kept.prepare()
    application = ReportPost(spool or kept, SystemClock(), Limits(LIMIT, 2 * LIMIT))  # type: ignore[arg-type]
    store = HostingStore(hosted("a.example"))
    async with policy_host(
        tmp_path, store, elsewhere={REPORTS: application}, request_seconds=request_seconds
    ) as running:
        yield running


def post(body: bytes = GZIP, media_type: str = MEDIA_TYPE_GZIP, *fields: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = request(
        REPORTS, "mta-sts.a.example", f"Content-Type: {media_type}", f"Content-Length: {size}", *fields, method="POST"
    )
    return head + body


def spooled(tmp_path: Path) -> list[tuple[Arrival, bytes]]:
    with Spool(tmp_path / "spool").reading() as reader:
        entries = [reader.load(name) for name in reader.pending()]
    return [(entry.arrival, entry.octets) for entry in entries if entry is not None]


@pytest.mark.parametrize(
    ("body", "media_type", "fields", "kept"),
    [
        (GZIP, MEDIA_TYPE_GZIP, [], GZIP),
        (JSON, MEDIA_TYPE_JSON, [], JSON),
        (JSON, f"{MEDIA_TYPE_JSON}; charset=utf-8", ["Content-Encoding: identity"], JSON),
        (GZIP, MEDIA_TYPE_JSON, ["Content-Encoding: gzip"], GZIP),
        (GZIP, MEDIA_TYPE_GZIP.upper(), ["Content-Encoding: gzip"], GZIP),  # says it twice, did it once
        (gzip.compress(GZIP), MEDIA_TYPE_GZIP, ["Content-Encoding: GZIP"], GZIP),
        (JSON, MEDIA_TYPE_GZIP, [], JSON),  # seen in the wild: plain JSON called gzip
    ],
)
async def test_rfc8460_5_4_a_report_is_in_the_spool_when_it_is_answered(
    tmp_path: Path, body: bytes, media_type: str, fields: Sequence[str], kept: bytes
) -> None:
    async with hosting(tmp_path) as at:
        status, _, text = parse(await at.talk(post(body, media_type, *fields)))
        assert (status, text) == (201, b"The report has been taken in.\n")
        ((arrival, octets),) = spooled(tmp_path)
    assert octets == kept
    assert (arrival.via, arrival.client, arrival.is_mail) == (Via.HTTPS, "127.0.0.1", False)
    assert arrival.media_type == media_type.partition(";")[0].lower()


async def test_one_report_in_an_archive_is_enough(tmp_path: Path) -> None:
    async with hosting(tmp_path) as at:
        assert parse(await at.talk(post(received.archive_of(b"{}", JSON))))[0] == 201
        assert parse(await at.talk(post(received.archive_of(b"{}", b"{x"))))[0] == 400


async def test_a_chunked_body(tmp_path: Path) -> None:
    async with hosting(tmp_path) as at:
        head = request(
            REPORTS,
            "mta-sts.a.example",
            f"Content-Type: {MEDIA_TYPE_GZIP}",
            "Transfer-Encoding: chunked",
            method="POST",
        )
        chunks = b"".join(b"1\r\n%c\r\n" % octet for octet in GZIP) + b"0\r\n\r\n"
        assert parse(await at.talk(head + chunks))[0] == 201
        assert [octets for _, octets in spooled(tmp_path)] == [GZIP]
        endless = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        assert parse(await at.talk(head + 2 * endless))[0] == 413


async def test_a_client_that_asks_first(tmp_path: Path) -> None:
    async with hosting(tmp_path) as at:
        head = post(GZIP, MEDIA_TYPE_GZIP, "Expect: 100-continue")
        assert (await at.talk(head)).startswith(b"HTTP/1.1 100 ")
        assert len(spooled(tmp_path)) == 1


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (request(REPORTS), 405, b"POST"),
        (post(b"<html>", MEDIA_TYPE_JSON), 400, b"This is no report: neither JSON, gzip nor zip: it is an HTML page"),
        (post(b""), 400, b"it is empty"),
        (post(GZIP[:2] + b"rubbish"), 400, b"broken gzip"),
        (post(gzip.compress(GZIP)), 400, b"packed twice"),
        (post(GZIP[: len(GZIP) // 2]), 400, b"This is no report"),
        (post(b"{x", MEDIA_TYPE_JSON), 400, b"This is no report"),
        (post(b"{}", MEDIA_TYPE_JSON), 400, b"neither policies nor a date-range"),
        (post(gzip.compress(b"{" + b" " * 3 * LIMIT)), 400, b"more than 200000 bytes in gzip"),
        (post(TWICE, MEDIA_TYPE_GZIP, "Content-Encoding: gzip"), 400, b"more than"),
        (post("{€".encode(), MEDIA_TYPE_JSON, "Content-Encoding: br"), 415, b"Content-Encoding"),
        (post(JSON, "application/json"), 415, b"application/tlsrpt+gzip or application/tlsrpt+json"),
        (post(JSON, ""), 415, b"Content-Type"),
        (post(b"", length=LIMIT + 1), 413, b"100000 bytes"),
    ],
)
async def test_what_is_refused_is_told_why(tmp_path: Path, sent: bytes, status: int, reason: bytes) -> None:
    async with hosting(tmp_path) as at:
        answer = parse(await at.talk(sent))
        assert answer[0] == status
        assert reason in answer[2]
        assert answer[1]["connection"] == "close"
        assert spooled(tmp_path) == []
        assert parse(await at.talk(request(PATH)))[0] == 200, "policies are served as before"


async def test_a_body_that_ends_early_is_not_kept(tmp_path: Path) -> None:
    async with hosting(tmp_path) as at:
        reader, writer = await asyncio.open_unix_connection(str(at.unix))
        writer.write(post(GZIP, length=len(GZIP) + 1))
        writer.write_eof()
        await reader.read()
        writer.close()
        assert spooled(tmp_path) == []


async def test_over_plain_http_only_from_the_web_server_in_front(tmp_path: Path) -> None:
    async with hosting(tmp_path) as at:
        forwarded = post(GZIP, MEDIA_TYPE_GZIP, "X-Forwarded-For: 198.51.100.7, 192.0.2.9")
        assert parse(await at.talk_plainly(forwarded, unix=True))[0] == 201
        assert parse(await at.talk_plainly(post()))[0] == 201
        assert sorted(arrival.client for arrival, _ in spooled(tmp_path)) == ["127.0.0.1", "192.0.2.9"]


async def test_one_client_gets_only_so_much_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_post, "RATE", 1e-6)
    async with hosting(tmp_path) as at:

        async def by(address: str, body: bytes = JSON) -> int:
            sent = post(body, MEDIA_TYPE_JSON, f"X-Forwarded-For: {address}")
            answer = parse(await at.talk_plainly(sent, unix=True))
            assert (answer[0] == 429) == ("retry-after" in answer[1])
            return answer[0]

        for _ in range(int(BURST) - 1):  # what its octets cost beside is less than one
            assert await by("192.0.2.1") == 201
        assert [await by("192.0.2.1") for _ in range(2)][-1] == 429
        assert await by("192.0.2.2") == 201
        large = JSON[:-1] + b', "x": "' + os.urandom(LIMIT // 2 - len(JSON)).hex().encode() + b'"}'
        answers = [await by(f"2001:db8::{number:x}", large) for number in range(1, 201)]  # one /64 is one client
        assert answers[0] == 201
        assert answers[-1] == 429
        assert answers.index(429) == sorted(answers).index(429)
        assert answers.count(201) < 100, "size counts as well"


async def test_slow_ones_keep_nobody_else_out(tmp_path: Path) -> None:
    async with hosting(tmp_path) as at:
        slow = []
        for _ in range(READING_OF_ONE):
            reader, writer = await asyncio.open_unix_connection(str(at.unix))
            writer.write(post(GZIP, MEDIA_TYPE_GZIP, "X-Forwarded-For: 192.0.2.1", "Expect: 100-continue", length=9999))
            await reader.readuntil(b"\r\n\r\n")
            slow.append(writer)
        refused = parse(await at.talk_plainly(post(GZIP, MEDIA_TYPE_GZIP, "X-Forwarded-For: 192.0.2.1"), unix=True))
        assert (refused[0], refused[1]["retry-after"]) == (503, "5")
        assert parse(await at.talk(post()))[0] == 201
        for writer in slow:
            writer.close()


async def test_a_large_report_gets_more_time_than_a_policy(tmp_path: Path) -> None:
    async with hosting(tmp_path, request_seconds=1.0) as at:
        reader, writer = await asyncio.open_unix_connection(str(at.unix))
        sent = post()
        writer.write(sent[:-1])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.0):  # past the second, and past the sweep after it
                await reader.read(1)
        writer.write(sent[-1:])
        assert parse(await reader.read())[0] == 201
        writer.close()


class Failing:
    """A spool that fails."""

    def __init__(self, fault: Exception) -> None:
        self._fault = fault

    def add(self, _arrival: Arrival, _octets: bytes) -> str:
        raise self._fault


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (SpoolFailed("/spool: Permission denied"), 503),
        (SpoolFull("/spool: its disk is full, or nearly so"), 503),
        (SpoolFull("/spool: too large", temporary=False), 413),
        (ZeroDivisionError("a bug"), 500),
    ],
)
async def test_what_can_not_be_kept_is_not_called_taken(
    tmp_path: Path, fault: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosting(tmp_path, Failing(fault)) as at:
        answer = parse(await at.talk(post()))
        assert answer[0] == status
        assert b"spool" not in answer[2], "where it lies is nobody's business"
        assert ("retry-after" in answer[1]) == (status == 503)
        assert (status == 413) or caplog.records


@pytest.mark.parametrize("workers", [1, 2])
def test_the_daemon_takes_it_in_and_stores_it(tmp_path: Path, workers: int) -> None:
    """From the POST to the database, by one process and by workers."""
    daemon = Inbound(tmp_path, workers=workers)
    config = tmp_path / "stsguard.toml"
    config.write_text(config.read_text() + f'[intake]\nhttp_path = "{REPORTS}"\nspool = "{tmp_path}/spool"\n')
    daemon.start()
    try:
        daemon.wait_for_log(" serves policies ")
        for number in range(4):
            body = gzip.compress(JSON.replace(b"Example", b"Example %d" % number))
            context = daemon.ca.client_context()
            plain = socket.create_connection(("127.0.0.1", daemon.port), 20)
            with plain, context.wrap_socket(plain, server_hostname=HOST) as secure:
                secure.sendall(post(body))
                assert secure.recv(65_536).startswith(b"HTTP/1.1 201 ")

        def stored() -> bool:
            with closing(sqlite3.connect(tmp_path / "stsguard.db")) as database:
                return database.execute("SELECT count(*) FROM received_intakes WHERE via = 'https'").fetchall() == [
                    (4,)
                ]

        daemon.wait(stored)
        daemon.wait(lambda: not Spool(tmp_path / "spool").pending())
    finally:
        daemon.process.terminate()
        assert daemon.process.wait(60) == 0
