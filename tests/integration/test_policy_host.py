"""The policy host over real TLS (RFC 8461 §3.2, §3.3): what it serves to whom, what it refuses, how long it waits."""

import asyncio
import os
import re
import shutil
import socket
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from stsguard.core.hosted import AcmeChallenge, Stage, serialize_policy
from stsguard.core.mtasts import Mode, MxPattern
from stsguard.names import Domain
from tests.integration.lookup_client import until
from tests.integration.policy_hosting import PATH, parse, policy_host, request
from tests.unit.hosting import HostingStore, hosted

A = serialize_policy(Mode.TESTING, 86_400, (MxPattern.parse("mx.example.net"),))
HOST = "mta-sts.a.example"
U_LABEL = "mta-sts.xn--bcher-kva.example"


def store() -> HostingStore:
    return HostingStore(hosted("a.example"), hosted("xn--bcher-kva.example", mode=Mode.ENFORCE))


async def test_rfc8461_3_2_the_policy_byte_for_byte(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        status, fields, body = parse(await at.talk(request()))
        assert (status, body) == (200, A)
        assert body.count(b"\r\n") == body.count(b"\n") == 4
        assert fields.pop("etag").startswith('"')
        assert fields.pop("date").endswith(" GMT")
        assert fields == {
            "content-type": "text/plain",
            "content-length": str(len(A)),
            "cache-control": "public, max-age=60",
            "connection": "close",
        }


async def test_head_has_the_same_fields_and_no_body(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        got, head = parse(await at.talk(request())), parse(await at.talk(request(method="HEAD")))
        assert head[0] == 200
        assert head[2] == b""
        assert {**head[1], "date": ""} == {**got[1], "date": ""}


async def test_rfc9110_13_1_2_a_known_etag_is_304_until_the_policy_changes(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        etag = parse(await at.talk(request()))[1]["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            status, fields, body = parse(await at.talk(request(PATH, HOST, f"If-None-Match: {known}")))
            assert (status, body, fields["etag"]) == (304, b"", etag)
            assert "content-type" not in fields
        at.store.put(hosted("a.example", mode=Mode.ENFORCE))
        await at.hosting.refresh()
        status, fields, body = parse(await at.talk(request(PATH, HOST, f"If-None-Match: {etag}")))
        assert status == 200
        assert fields["etag"] != etag
        assert b"mode: enforce\r\n" in body


@pytest.mark.parametrize(
    "host",
    [
        "MTA-STS.A.Example",
        "mta-sts.a.example:443",
        "mta-sts.a.example.",
        "mta-sts.a.example.:8443",
        "Mta-Sts.A.Example.:443",
    ],
)
async def test_one_host_in_every_spelling(tmp_path: Path, host: str) -> None:
    async with policy_host(tmp_path, store()) as at:
        assert parse(await at.talk(request(PATH, host)))[2] == A


@pytest.mark.parametrize("host", [U_LABEL, "mta-sts.bücher.example", "mta-sts.BÜCHER.example:443"])
async def test_u_labels(tmp_path: Path, host: str) -> None:
    async with policy_host(tmp_path, store(), names=[U_LABEL]) as at:
        status, _, body = parse(await at.talk(request(PATH, host), sni=U_LABEL))
        assert status == 200
        assert b"mode: enforce\r\n" in body


@pytest.mark.parametrize(
    "host",
    [
        "mta-sts.other.example",
        "a.example",
        "mta-sts.mta-sts.a.example",
        "x.mta-sts.a.example",
        "mta-sts.a.example..",
        "[::1]",
        "[::1]:443",
        "127.0.0.1",
        "",
        "user@mta-sts.a.example",
        b"mta-sts.\xff.example",
    ],
)
async def test_no_other_host(tmp_path: Path, host: str | bytes) -> None:
    async with policy_host(tmp_path, store()) as at:
        for answer in (await at.talk(request(PATH, host)), await at.talk_plainly(request(PATH, host), unix=True)):
            status, fields, _ = parse(answer)
            assert (status, fields["content-type"]) == (404, "text/plain")


async def test_rfc9110_15_5_20_host_and_sni_must_agree(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store(), names=[HOST, U_LABEL]) as at:
        status, fields, _ = parse(await at.talk(request(PATH, U_LABEL), sni=HOST))
        assert (status, fields["content-type"]) == (421, "text/plain")
        assert parse(await at.talk(request(PATH, U_LABEL), sni=U_LABEL))[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/index.html",
        "/.well-known/mta-sts.txt/",
        "/.well-known/MTA-STS.txt",
        "/.well-known/",
        "/.well-known//mta-sts.txt",
        "/x/../.well-known/mta-sts.txt",
        "/.well-known/acme-challenge/",
        "/.well-known/acme-challenge/unknown",
        "/.well-known/stsguard-reach/unknown",
        "/.well-known/stsguard-reach/a%2Fb",
        "https://mta-sts.a.example/.well-known/mta-sts.txt",
        "*",
    ],
)
async def test_anything_else_is_not_there(tmp_path: Path, path: str) -> None:
    async with policy_host(tmp_path, store()) as at:
        status, fields, body = parse(await at.talk(request(path)))
        assert (status, fields["content-type"], body) == (404, "text/plain", b"Not found.\n")
        assert "location" not in fields
        assert "set-cookie" not in fields


@pytest.mark.parametrize("path", [f"{PATH}?", f"{PATH}?x=1", "/%2Ewell-known/mta%2Dsts.txt"])
async def test_the_same_resource_by_other_spelling(tmp_path: Path, path: str) -> None:
    async with policy_host(tmp_path, store()) as at:
        assert parse(await at.talk(request(path)))[2] == A


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "TRACE", "get"])
async def test_reading_is_all_that_is_allowed(tmp_path: Path, method: str) -> None:
    async with policy_host(tmp_path, store()) as at:
        status, fields, _ = parse(await at.talk(request(PATH, HOST, "Content-Length: 0", method=method)))
        assert (status, fields["allow"], fields["content-type"]) == (405, "GET, HEAD", "text/plain")
        assert parse(await at.talk(request("/", HOST, "Content-Length: 0", method=method)))[0] == 404


@pytest.mark.parametrize(
    "octets",
    [
        b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n\r\n",  # no Host
        b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"EHLO mail.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000,
        b"GET /" + b"x" * 70_000,
    ],
)
async def test_what_is_no_request_is_answered_in_plain_text(tmp_path: Path, octets: bytes) -> None:
    async with policy_host(tmp_path, store()) as at:
        status, fields, _ = parse(await at.talk_plainly(octets))
        assert status == 400
        assert fields["content-type"].startswith("text/plain")


async def test_http_1_0_and_keep_alive(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        assert parse(await at.talk(request(version="1.0")))[2] == A
        twice = await at.talk(request().replace(b"Connection: close\r\n", b"") + request())
        assert twice.count(A) == 2


async def test_a_retired_domain_is_gone(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        at.store.put(hosted("a.example", stage=Stage.RETIRED))
        await at.hosting.refresh()
        assert parse(await at.talk(request()))[0] == 404


async def test_before_the_database_was_read_nobody_is_told_that_there_is_no_policy(tmp_path: Path) -> None:
    empty = store()
    empty.problem = "no"
    async with policy_host(tmp_path, empty) as at:
        status, fields, _ = parse(await at.talk(request()))
        assert (status, fields["retry-after"]) == (503, "5")
        empty.problem = None
        await until(at.hosting.loaded.is_set)
        assert parse(await at.talk(request()))[2] == A


async def test_a_change_is_served_within_a_second_and_survives_the_database(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        at.store.put(hosted("a.example", max_age=604_800))
        began = time.monotonic()
        while b"max_age: 604800\r\n" not in await at.talk(request()):
            assert time.monotonic() < began + 1.0
        at.store.problem = "gone"
        assert not await at.hosting.refresh()
        assert b"max_age: 604800\r\n" in await at.talk(request())


async def test_plain_http_serves_policies_to_this_machine_alone(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        assert parse(await at.talk_plainly(request(), unix=True))[2] == A
        assert parse(await at.talk_plainly(request()))[2] == A


def challenge(kind: str, token: str, host: str = HOST) -> AcmeChallenge:
    return AcmeChallenge(kind, Domain(host), token, f"{token}.thumbprint", datetime.now(UTC) + timedelta(hours=1))


async def test_rfc8555_8_3_challenges_over_plain_http(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        at.store.challenges += [challenge("http-01", "Token_-1"), challenge("reach", "nonce")]
        acme, reach = "/.well-known/acme-challenge/Token_-1", "/.well-known/stsguard-reach/nonce"
        status, fields, body = parse(await at.talk_plainly(request(acme, "MTA-STS.a.example:80")))
        assert (status, body) == (200, b"Token_-1.thumbprint")
        assert (fields["content-type"], fields["cache-control"]) == ("application/octet-stream", "no-store")
        assert parse(await at.talk_plainly(request(acme, "mta-sts.b.example")))[0] == 404
        assert parse(await at.talk_plainly(request(acme, "[::1]")))[0] == 404
        assert parse(await at.talk_plainly(request(acme, HOST, method="POST")))[0] == 405
        assert parse(await at.talk(request(acme)))[0] == 404  # the CA asks at port 80
        for answer in (await at.talk_plainly(request(reach)), await at.talk(request(reach))):
            assert parse(answer)[2] == b"nonce.thumbprint"
        assert parse(await at.talk_plainly(request(acme.replace("acme-challenge", "stsguard-reach"))))[0] == 404
        at.store.problem = "gone"
        assert parse(await at.talk_plainly(request(acme)))[0] == 503


async def test_fetches_are_counted_by_network(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        await at.talk(request(PATH, HOST, "User-Agent: direct"))
        await at.talk(request(PATH, HOST, "User-Agent: head", method="HEAD"))
        await at.talk(request("/", HOST, "User-Agent: lost"))
        forged = "X-Forwarded-For: 198.51.100.1, 203.0.113.9"
        await at.talk_plainly(request(PATH, HOST, "User-Agent: proxied", forged), unix=True)
        await at.talk_plainly(request(PATH, HOST, "User-Agent: bare"), unix=True)
        await at.fetches.flush()
        counted = {(row.user_agent, row.network, row.fetches) for row in at.store.fetches}
        assert counted == {("direct", "127.0.0.0/24", 1), ("proxied", "203.0.113.0/24", 1), ("bare", "local", 1)}


@pytest.mark.parametrize("sni", ["mta-sts.other.example", "a.example", None])
async def test_rfc6066_3_an_unknown_name_is_refused_by_alert(tmp_path: Path, sni: str | None) -> None:
    async with policy_host(tmp_path, store()) as at:
        context = at.context()
        context.check_hostname = False
        with socket.create_connection(("127.0.0.1", at.port)) as sock:
            sock.settimeout(20)
            with pytest.raises(ssl.SSLError) as caught:
                await asyncio.to_thread(context.wrap_socket, sock, server_hostname=sni)
        assert "UNRECOGNIZED_NAME" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "works"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_rfc9325_3_1_1_tls_1_2_is_the_least(tmp_path: Path, version: ssl.TLSVersion, *, works: bool) -> None:
    async with policy_host(tmp_path, store()) as at:
        context = at.context()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1_1 if not works else version
        context.maximum_version = version
        if works:
            assert parse(await at.talk(request(), context=context))[2] == A
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await at.talk(request(), context=context)


async def test_a_client_hello_may_come_in_pieces(tmp_path: Path) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    async with policy_host(tmp_path, store()) as at:
        tls = at.context().wrap_bio(incoming, outgoing, server_hostname=HOST)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        for start in range(0, len(hello), 100):
            writer.write(hello[start : start + 100])
            await writer.drain()
            await asyncio.sleep(0.001)
        while tls.version() is None or not tls.getpeercert():
            incoming.write(await asyncio.wait_for(reader.read(65_536), 20))
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
        writer.close()


@pytest.mark.parametrize("octets", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_whole_client_hello_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, octets: bytes
) -> None:
    monkeypatch.setattr("stsguard.adapters.asgi_server.HELLO_SECONDS", 0.3)
    async with policy_host(tmp_path, store()) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(octets)
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await until(lambda: at.server.connections == 0)


@pytest.mark.parametrize("octets", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\nX"])
async def test_a_request_that_does_not_come_to_its_end_is_given_up(tmp_path: Path, octets: bytes) -> None:
    async with policy_host(tmp_path, store(), request_seconds=0.3) as at:
        for over_tls in (True, False):
            began = time.monotonic()
            try:
                answer = await (at.talk(octets) if over_tls else at.talk_plainly(octets))
            except ConnectionError:
                answer = b""
            assert answer == b""
            assert time.monotonic() - began < 5.0
        await until(lambda: at.server.connections == 0)


async def test_a_request_dripped_after_a_good_one_is_given_up(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store(), request_seconds=0.5) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.http_port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: ")
        began = time.monotonic()
        while not reader.at_eof() and time.monotonic() < began + 10:
            try:
                writer.write(b"x")
                await asyncio.wait_for(reader.read(1000), 0.1)
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() - began < 5
        writer.close()


async def test_a_body_is_neither_read_nor_kept(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.http_port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000000\r\nExpect: 100-continue\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(1000), 10)
        assert answer.startswith(b"HTTP/1.1 404 ")
        writer.close()


async def test_too_many_connections_cost_the_one_that_waits_longest(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store(), max_connections=20) as at:
        idle = [await asyncio.open_connection("127.0.0.1", at.http_port) for _ in range(20)]
        await until(lambda: at.server.connections == 20)
        assert parse(await at.talk_plainly(request()))[2] == A
        assert parse(await at.talk(request()))[2] == A
        ended = []
        for reader, writer in idle:
            try:
                await asyncio.wait_for(reader.read(), 0.01)
                ended.append(reader)
            except ConnectionError:
                ended.append(reader)
            except TimeoutError:
                pass
            writer.close()
        assert 1 <= len(ended) <= 2
        assert ended[0] is idle[0][0]


async def test_ten_thousand_domains(tmp_path: Path) -> None:
    many = HostingStore(hosted("a.example"), *(hosted(f"d{number}.example") for number in range(10_000)))
    async with policy_host(tmp_path, many, names=[HOST, "mta-sts.d9999.example"]) as at:
        name = "mta-sts.d9999.example"
        assert parse(await at.talk(request(PATH, name), sni=name))[0] == 200
        assert parse(await at.talk_plainly(request(PATH, "mta-sts.D5000.example"), unix=True))[0] == 200


async def test_curl_and_httpx(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("curl is not installed")
    async with policy_host(tmp_path, store()) as at:
        url = f"https://{HOST}:{at.port}{PATH}"
        curl = await asyncio.create_subprocess_exec(
            *("curl", "--silent", "--show-error", "--fail", "--include", "--max-redirs", "0", "--noproxy", "*"),
            *("--cacert", str(at.ca.ca_file), "--connect-to", f"{HOST}:{at.port}:127.0.0.1:{at.port}", url),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await curl.communicate()
        assert curl.returncode == 0
        status, fields, body = parse(output)
        assert (status, fields["content-type"], body) == (200, "text/plain", A)
        async with httpx.AsyncClient(verify=at.context(), trust_env=False) as client:
            answer = await client.get(
                f"https://127.0.0.1:{at.port}{PATH}", headers={"Host": HOST}, extensions={"sni_hostname": HOST}
            )
        assert answer.content == A
        assert answer.headers["content-type"] == "text/plain"
        assert re.fullmatch(r'"[0-9a-f]{32}"', answer.headers["etag"])
