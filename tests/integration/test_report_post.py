"""Submitting reports to a real HTTPS server on loopback: what is sent, what counts, what is bounded, and where to."""

import asyncio
import gzip
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpx
import pytest
import uvloop

from stsguard import __version__
from stsguard.adapters.report_post import MAX_TEXT_LENGTH, POSTS, HttpsReportPoster
from stsguard.core.addresses import AddressGuard
from stsguard.core.errors import DeliveryFailed, LookupReason, OperatorError
from stsguard.core.tlsrpt_report import MEDIA_TYPE_GZIP, compress, parse_report, to_json
from tests.lab.ca import IssuedCertificate, ThrowAwayCA
from tests.lab.fetching import Addresses
from tests.lab.https_server import Answer, drip, flood, say, say_and_cut, say_and_stall
from tests.reports import EXPIRED, STS, report, row

HOST = "reports.example.test"
REPORT = report(row(STS, 5326, 303, {EXPIRED: 303}))
BODY = compress(to_json(REPORT))
OK = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def good(ca: ThrowAwayCA) -> IssuedCertificate:
    return ca.issue([HOST])


def status(code: int, *headers: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {code} X", "Content-Length: 0", *headers, "")).encode()


class Endpoint:
    """Reads requests with their bodies, one on a connection, and gives `answers` in turn, the last again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.heads: list[list[str]] = []
        self.bodies: list[bytes] = []
        self.server_names: list[str | None] = []
        self.port = 0
        self._answers = answers

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}/v1/tlsrpt?domain=example.net"

    @asynccontextmanager
    async def running(self, certificate: IssuedCertificate) -> AsyncIterator["Endpoint"]:
        """Serve on loopback with this certificate."""
        context = certificate.server_context()
        context.sni_callback = lambda _tls, name, _context: self.server_names.append(name)
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            with suppress(OSError, asyncio.IncompleteReadError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                [length] = [line.partition(":")[2] for line in head if line.lower().startswith("content-length:")]
                self.bodies.append(await reader.readexactly(int(length)))
                self.heads.append(head)
                await self._answers[min(len(self.heads), len(self._answers)) - 1](writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in writers:
                writer.transport.abort()


def poster(
    ca: ThrowAwayCA,
    resolver: Addresses | None = None,
    *,
    allow: bool = True,
    timeout_seconds: float = 30.0,
    accept_unverified_endpoints: bool = False,
) -> HttpsReportPoster:
    return HttpsReportPoster(
        resolver or Addresses(),
        AddressGuard(allow),
        ca_file=ca.ca_file,
        timeout_seconds=timeout_seconds,
        accept_unverified_endpoints=accept_unverified_endpoints,
    )


async def failed(
    ca: ThrowAwayCA, certificate: IssuedCertificate, answer: Answer, *, timeout_seconds: float = 30.0
) -> DeliveryFailed:
    """How a submission to an endpoint with `certificate` that answers so fails."""
    async with Endpoint(answer).running(certificate) as endpoint:
        with pytest.raises(DeliveryFailed) as caught:
            await poster(ca, timeout_seconds=timeout_seconds).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
    assert caught.value.text.isprintable()
    assert len(caught.value.text) <= MAX_TEXT_LENGTH
    return caught.value


# What is sent


async def test_rfc8460_5_4_the_request(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    resolver, before = Addresses(), POSTS.value("accepted")
    async with Endpoint(say(OK)).running(good) as endpoint:
        await poster(ca, resolver).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
    [head], [body] = endpoint.heads, endpoint.bodies
    assert head[0] == "POST /v1/tlsrpt?domain=example.net HTTP/1.1"
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    assert fields == {
        "host": f"{HOST}:{endpoint.port}",
        "content-type": "application/tlsrpt+gzip",
        "content-length": str(len(BODY)),
        "user-agent": f"stsguard/{__version__}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
    }
    assert parse_report(gzip.decompress(body)) == REPORT
    assert endpoint.server_names == [HOST]
    assert resolver.asked == [HOST]
    assert POSTS.value("accepted") == before + 1


async def test_rfc8460_5_4_500_twice_then_201(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async with Endpoint(say(status(500)), say(status(500)), say(OK)).running(good) as endpoint:
        reports = poster(ca)
        for _ in range(2):
            with pytest.raises(DeliveryFailed, match="the answer was 500") as caught:
                await reports.post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
            assert caught.value.temporary
        await reports.post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
    assert endpoint.bodies == [BODY] * 3


def test_under_uvloop(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async def run() -> None:
        async with Endpoint(say(OK)).running(good) as endpoint:
            await poster(ca).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
        assert (await failed(ca, good, say_and_stall(b""), timeout_seconds=0.5)).text == "no answer within 0.5 s"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_no_environment_leads_elsewhere(
    ca: ThrowAwayCA, good: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with Endpoint(say(OK)).running(good) as endpoint:
        await poster(ca).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)


# What an answer means


@pytest.mark.parametrize("code", [200, 201, 202, 204, 226])
async def test_rfc8460_5_4_every_2xx_is_success(ca: ThrowAwayCA, good: IssuedCertificate, code: int) -> None:
    async with Endpoint(say(status(code))).running(good) as endpoint:
        await poster(ca).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)


@pytest.mark.parametrize("code", [300, 304, 400, 403, 404, 413, 415, 429, 500, 503, 599])
async def test_rfc8460_5_4_other_answers_are_to_be_retried(ca: ThrowAwayCA, good: IssuedCertificate, code: int) -> None:
    exc = await failed(ca, good, say(status(code)))
    assert exc.temporary
    assert f"the answer was {code}" in exc.text


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(ca: ThrowAwayCA, good: IssuedCertificate, code: int) -> None:
    async with (
        Endpoint(say(OK)).running(good) as elsewhere,
        Endpoint(say(status(code, f"Location: {elsewhere.url}"))).running(good) as endpoint,
    ):
        with pytest.raises(DeliveryFailed, match=f"the answer was {code}, a redirect"):
            await poster(ca).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
    assert len(endpoint.bodies) == 1
    assert elsewhere.bodies == []


async def test_an_interim_answer_is_none(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async with Endpoint(say(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)).running(good) as endpoint:
        await poster(ca).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)


# What is bounded


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nX: "])
async def test_silence_is_bounded(ca: ThrowAwayCA, good: IssuedCertificate, said: bytes) -> None:
    exc = await failed(ca, good, say_and_stall(said), timeout_seconds=0.5)
    assert exc.temporary
    assert exc.text == "no answer within 0.5 s"


async def test_a_server_that_drips_is_bounded_as_a_whole(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    exc = await failed(ca, good, drip(b"HTTP/1.1 200 OK\r\nX: ", again=b"x", seconds=0.01), timeout_seconds=0.5)
    assert exc.text == "no answer within 0.5 s"


async def test_a_stall_in_the_look_up_is_bounded(ca: ThrowAwayCA) -> None:
    with pytest.raises(DeliveryFailed, match="no answer within"):
        await poster(ca, Addresses(stalls=True), timeout_seconds=0.1).post(f"https://{HOST}/", BODY, MEDIA_TYPE_GZIP)


async def test_a_huge_response_is_not_read(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\nContent-Encoding: gzip\r\n\r\n"
    async with Endpoint(flood(head, again=b"x" * 65536)).running(good) as endpoint:
        await poster(ca).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
    exc = await failed(ca, good, flood(head.replace(b"200 OK", b"500 No"), again=b"x" * 65536))
    assert exc.text == "the answer was 500"


async def test_an_endless_header_is_not_kept(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    exc = await failed(ca, good, flood(b"HTTP/1.1 200 OK\r\n", again=b"X: " + b"x" * 1000 + b"\r\n"))
    assert exc.temporary


@pytest.mark.parametrize(
    "answer",
    [
        say(b""),
        say_and_cut(b""),
        say_and_cut(b"HTTP/1.1 200"),
        say(b"SSH-2.0-x\r\n\r\n"),
        say(b"HTTP/1.1 99999 OK\r\n\r\n"),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"),
        say(b"\x00\xff\r\n\r\n"),
    ],
)
async def test_nonsense_is_no_answer(ca: ThrowAwayCA, good: IssuedCertificate, answer: Answer) -> None:
    assert (await failed(ca, good, answer)).temporary


# To whom


@pytest.mark.parametrize("kind", ["another name", "unknown CA", "self-signed"])
async def test_certificates_are_verified(ca: ThrowAwayCA, kind: str) -> None:
    certificate = {
        "another name": lambda: ca.issue(["other.test"]),
        "unknown CA": lambda: ThrowAwayCA(ca.directory / "unknown").issue([HOST]),
        "self-signed": lambda: ca.issue([HOST], self_signed=True),
    }[kind]()
    exc = await failed(ca, certificate, say(OK))
    assert exc.temporary
    assert "its certificate is not valid" in exc.text
    # RFC 8460 §3: "Report submitters MAY ignore certificate validation errors"; only where it is configured.
    async with Endpoint(say(OK)).running(certificate) as endpoint:
        await poster(ca, accept_unverified_endpoints=True).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)


async def test_refused_addresses_are_not_connected_to(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async with Endpoint(say(OK)).running(good) as endpoint:
        for url in (
            endpoint.url,
            f"https://127.0.0.1:{endpoint.port}/",
            f"https://[::ffff:127.0.0.1]:{endpoint.port}/",
        ):
            with pytest.raises(DeliveryFailed, match=r"no connection there: .*loopback") as caught:
                await poster(ca, allow=False).post(url, BODY, MEDIA_TYPE_GZIP)
            assert not caught.value.temporary
    assert endpoint.server_names == []


async def test_only_permitted_addresses_are_connected_to(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    """One address of a name is refused, the other is taken: the address that was judged is the one connected to."""
    resolver = Addresses((ip_address("10.0.0.1"), ip_address("127.0.0.1")))
    guard = AddressGuard([ip_network("127.0.0.0/8")])
    async with Endpoint(say(OK)).running(good) as endpoint:
        reports = HttpsReportPoster(resolver, guard, ca_file=ca.ca_file, timeout_seconds=30)
        await reports.post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
    assert len(endpoint.bodies) == 1
    assert resolver.asked == [HOST]


async def test_the_next_address_is_tried_where_one_refuses(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    resolver = Addresses((ip_address("127.0.0.2"), ip_address("127.0.0.1")))
    async with Endpoint(say(OK)).running(good) as endpoint:
        await poster(ca, resolver).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
    assert len(endpoint.bodies) == 1


async def test_nobody_listens(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async with Endpoint(say(OK)).running(good) as endpoint:
        resolver = Addresses((ip_address("127.0.0.2"),))
        with pytest.raises(DeliveryFailed, match=r"127\.0\.0\.2 port \d+: ") as caught:
            await poster(ca, resolver).post(endpoint.url, BODY, MEDIA_TYPE_GZIP)
    assert caught.value.temporary


@pytest.mark.parametrize("failure", LookupReason)
async def test_failed_look_ups(ca: ThrowAwayCA, failure: LookupReason) -> None:
    with pytest.raises(DeliveryFailed, match=failure.value) as caught:
        await poster(ca, Addresses(failure=failure)).post(f"https://{HOST}/", BODY, MEDIA_TYPE_GZIP)
    assert caught.value.temporary


async def test_name_without_an_address(ca: ThrowAwayCA) -> None:
    with pytest.raises(DeliveryFailed, match="has no address") as caught:
        await poster(ca, Addresses(())).post(f"https://{HOST}/", BODY, MEDIA_TYPE_GZIP)
    assert caught.value.temporary


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mailto:a@example.net",
        "http://reports.example.test/",
        "https:///path",
        "https:path",
        "https://user:password@reports.example.test/",
        "https://reports..example.test/",
        "https://reports.example.test:99999/",
        "https://reports.example.test:0x50/",
        "https://[::1/",
        "https://a b/",
        "https://reports.example.test/\r\nX: y",
        "https://" + "a." * 200 + "test/",
        "https://reports.example.test/" + "x" * 3000,
    ],
)
async def test_urls_that_cannot_be_used(ca: ThrowAwayCA, url: str) -> None:
    resolver = Addresses()
    with pytest.raises(DeliveryFailed) as caught:
        await poster(ca, resolver).post(url, BODY, MEDIA_TYPE_GZIP)
    assert not caught.value.temporary
    assert caught.value.text.isprintable()
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("written", "target"),
    [("", "/"), ("/a%2Cb%21?c=%20d#e", "/a%2Cb%21?c=%20d"), ("?x", "/?x"), ("/a/../b", "/b")],
)
async def test_the_path_stays_as_published(ca: ThrowAwayCA, good: IssuedCertificate, written: str, target: str) -> None:
    async with Endpoint(say(OK)).running(good) as endpoint:
        await poster(ca).post(f"https://{HOST}:{endpoint.port}{written}", BODY, MEDIA_TYPE_GZIP)
    assert endpoint.heads[0][0] == f"POST {target} HTTP/1.1"


def test_ca_file_that_holds_none(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "absent.pem"):
        with pytest.raises(OperatorError, match=name):
            HttpsReportPoster(Addresses(), AddressGuard(), ca_file=tmp_path / name)


def test_the_systems_ca_certificates_are_the_default() -> None:
    HttpsReportPoster(Addresses(), AddressGuard())


def test_no_exception_of_httpx_is_unmapped() -> None:
    """What a request can raise is an HTTPError, a StreamError or an InvalidURL; the poster turns these into its own."""
    kinds = [kind for kind in vars(httpx).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    mapped = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict)  # there are no cookies
    assert len(kinds) > 10
    assert [kind for kind in kinds if not issubclass(kind, mapped)] == []


def test_httpx_is_loaded_only_to_post() -> None:
    code = "import sys, stsguard.adapters.report_post; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
