"""Responses to a policy fetch, from a real TLS server on loopback: what is accepted, what fails and how."""

import asyncio

import pytest

from stsguard.core.errors import FetchReason, PolicyFetchFailed
from stsguard.core.mtasts import Mode
from tests.lab.ca import IssuedCertificate, ThrowAwayCA
from tests.lab.fetching import (
    DOMAIN,
    POLICY,
    POLICY_HOST,
    chunked,
    failure,
    fetch,
    fetcher,
    response,
)
from tests.lab.https_server import Answer as Reply
from tests.lab.https_server import HttpsServer, drip, flood, say, say_and_cut, say_and_stall


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def good(ca: ThrowAwayCA) -> IssuedCertificate:
    return ca.issue([POLICY_HOST])


@pytest.mark.parametrize(
    "data",
    [
        response(length=False),  # ended by a close_notify
        response(status="HTTP/1.0 200 OK", length=False),
        chunked(POLICY),
        chunked(*(POLICY[i : i + 1] for i in range(len(POLICY)))),
        chunked(POLICY, last=b"0\r\nExpires: never\r\n\r\n"),
        response(POLICY, "Content-Encoding: identity"),
        response(POLICY, content_type="Text/Plain; charset=utf-8"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(),
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" + response(),
        response(status="HTTP/1.1 200 "),
        response(status="HTTP/1.1 200"),
        response(POLICY, *(f"X-Padding-{i}: {'x' * 1000}" for i in range(10))),
    ],
)
async def test_response_in_any_legal_form(ca: ThrowAwayCA, good: IssuedCertificate, data: bytes) -> None:
    assert (await fetch(ca, good, say(data))).mode is Mode.ENFORCE


@pytest.mark.parametrize("data", [response(), chunked(POLICY)])
async def test_rfc9112_9_8_complete_response_needs_no_closure(
    ca: ThrowAwayCA, good: IssuedCertificate, data: bytes
) -> None:
    assert (await fetch(ca, good, say_and_stall(data))).mode is Mode.ENFORCE


async def test_policy_of_the_largest_size_is_accepted(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    body = POLICY + b"\r\n" * ((65536 - len(POLICY)) // 2)
    body += b" " * (65536 - len(body))
    assert (await fetch(ca, good, say(response(body)))).mode is Mode.ENFORCE


# How a response fails

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
TOO_MUCH = b"#" * 70000

RESPONSES: list[tuple[str, FetchReason, Reply]] = [
    # RFC 8461 §3.3: redirects must not be followed, and only 200 counts.
    *(
        (
            f"redirect {status}",
            FetchReason.HTTP_REDIRECT,
            say(response(POLICY, f"Location: https://{POLICY_HOST}/", status=f"HTTP/1.1 {status} Elsewhere")),
        )
        for status in (300, 301, 302, 303, 304, 307, 308)
    ),
    *(
        (f"status {status}", FetchReason.HTTP_STATUS, say(response(status=f"HTTP/1.1 {status} No")))
        for status in (201, 203, 204, 206, 401, 403, 404, 410, 429, 500, 503)
    ),
    ("another type", FetchReason.MEDIA_TYPE, say(response(content_type="text/html"))),
    ("a longer type", FetchReason.MEDIA_TYPE, say(response(content_type="text/plainly"))),
    ("empty type", FetchReason.MEDIA_TYPE, say(response(content_type=""))),
    ("no type", FetchReason.MEDIA_TYPE, say(response(content_type=None))),
    ("two types", FetchReason.MEDIA_TYPE, say(response(POLICY, "Content-Type: text/html"))),
    ("type beyond ASCII", FetchReason.MEDIA_TYPE, say(response(content_type="text/pläin"))),
    # Refused by its length alone: the body never comes.
    ("too large by length", FetchReason.TOO_LARGE, say_and_stall(HEAD + b"Content-Length: 65537\r\n\r\n")),
    ("huge length", FetchReason.TOO_LARGE, say_and_stall(HEAD + b"Content-Length: 99999999999999999999\r\n\r\n")),
    ("too large, until the end", FetchReason.TOO_LARGE, say(HEAD + b"\r\n" + TOO_MUCH)),
    ("too large, in chunks", FetchReason.TOO_LARGE, say(chunked(*[TOO_MUCH[:5000]] * 14))),
    ("endless", FetchReason.TOO_LARGE, flood(HEAD + b"\r\n", again=TOO_MUCH)),
    ("endless informational responses", FetchReason.TOO_LARGE, flood(b"", again=b"HTTP/1.1 100 Continue\r\n\r\n" * 50)),
    ("another protocol", FetchReason.HTTP_MALFORMED, say_and_stall(b"220 smtp.example.test ESMTP\r\n")),
    ("NUL", FetchReason.HTTP_MALFORMED, say_and_stall(b"\0")),
    ("lower case", FetchReason.HTTP_MALFORMED, say_and_stall(b"http/1.1 200 OK\r\n\r\n")),
    ("no status", FetchReason.HTTP_MALFORMED, say(b"HTTP/1.1 OK\r\n\r\n")),
    ("status of two digits", FetchReason.HTTP_MALFORMED, say(response(status="HTTP/1.1 20 OK"))),
    ("switching protocols", FetchReason.HTTP_MALFORMED, say(b"HTTP/1.1 101 Now\r\nUpgrade: h2\r\n\r\n")),
    ("field without colon", FetchReason.HTTP_MALFORMED, say(response(POLICY, "Nonsense"))),
    ("field name with blank", FetchReason.HTTP_MALFORMED, say(response(POLICY, "Bad Name: x"))),
    ("control character", FetchReason.HTTP_MALFORMED, say(response(POLICY, "X: a\0b"))),
    ("huge field", FetchReason.HTTP_MALFORMED, say_and_stall(response(POLICY, f"X: {'x' * 40000}"))),
    ("many fields", FetchReason.HTTP_MALFORMED, say_and_stall(response(POLICY, *["X: y"] * 10000))),
    ("negative length", FetchReason.HTTP_MALFORMED, say(HEAD + b"Content-Length: -1\r\n\r\n")),
    ("two lengths", FetchReason.HTTP_MALFORMED, say(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n")),
    ("length of 5000 digits", FetchReason.HTTP_MALFORMED, say(HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n")),
    ("transfer coding", FetchReason.HTTP_MALFORMED, say(HEAD + b"Transfer-Encoding: gzip\r\n\r\n")),
    ("bad chunk", FetchReason.HTTP_MALFORMED, say(chunked(last=b"zz\r\n"))),
    ("huge chunk header", FetchReason.HTTP_MALFORMED, say_and_stall(chunked(last=b"1;" + b"x" * 40000))),
    ("gzip", FetchReason.HTTP_MALFORMED, say(response(POLICY, "Content-Encoding: gzip"))),
    ("two codings", FetchReason.HTTP_MALFORMED, say(response(POLICY, "Content-Encoding: identity, br"))),
    # RFC 9112 §8: an incomplete message is no message.
    ("nothing", FetchReason.CONNECTION_LOST, say(b"")),
    ("nothing, cut", FetchReason.CONNECTION_LOST, say_and_cut(b"")),
    ("cut in the status line", FetchReason.CONNECTION_LOST, say(b"HTTP/1.1 2")),
    ("cut in the fields", FetchReason.CONNECTION_LOST, say(HEAD + b"Content-Len")),
    ("cut before the end of its length", FetchReason.CONNECTION_LOST, say(response()[:-1])),
    ("cut before the last chunk", FetchReason.CONNECTION_LOST, say(chunked(POLICY, last=b""))),
    ("cut within the last chunk", FetchReason.CONNECTION_LOST, say(chunked(POLICY, last=b"0\r\n"))),
    # RFC 9112 §9.8: this looks complete, but the closure alert is missing, so anyone may have cut it.
    ("body until an end that is none", FetchReason.CONNECTION_LOST, say_and_cut(response(length=False))),
    (
        "HTTP/1.0 that is cut",
        FetchReason.CONNECTION_LOST,
        say_and_cut(response(status="HTTP/1.0 200 OK", length=False)),
    ),
    ("no policy", FetchReason.POLICY_SYNTAX, say(response(b"<html>"))),
    ("empty body", FetchReason.POLICY_SYNTAX, say(response(b""))),
    ("no UTF-8", FetchReason.POLICY_SYNTAX, say(response(b"\xff\xfe"))),
]


@pytest.mark.parametrize(("reason", "reply"), [row[1:] for row in RESPONSES], ids=[row[0] for row in RESPONSES])
async def test_rfc8461_3_3_response_that_is_no_policy(
    ca: ThrowAwayCA, good: IssuedCertificate, reason: FetchReason, reply: Reply
) -> None:
    exc = await failure(ca, good, reply)
    assert exc.reason is reason
    assert len(str(exc)) < 300
    assert str(exc).isprintable()


async def test_rfc8461_3_3_redirect_is_not_followed(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async with HttpsServer(say(b""), good.server_context()) as server:
        location = f"Location: https://{POLICY_HOST}:{server.port}/.well-known/mta-sts.txt"
        server._answer = say(response(POLICY, location, status="HTTP/1.1 302 Found"))
        with pytest.raises(PolicyFetchFailed) as caught:
            await fetcher(ca, server.port).fetch(DOMAIN)
    assert caught.value.reason is FetchReason.HTTP_REDIRECT
    assert len(server.requests) == 1


# Time

STALLS: list[tuple[str, Reply]] = [
    ("before the response", say_and_stall(b"")),
    ("in the fields", say_and_stall(HEAD)),
    ("in the body", say_and_stall(response()[:-1])),
    ("before the end", say_and_stall(response(length=False))),
    ("dripping fields", drip(HEAD, again=b"X: y\r\n", seconds=0.05)),
    ("dripping body", drip(HEAD + b"\r\n", again=b"#", seconds=0.05)),
    ("dripping responses", drip(b"", again=b"HTTP/1.1 102 Wait\r\n\r\n", seconds=0.05)),
]


async def test_stall_anywhere_ends_at_the_one_deadline(ca: ThrowAwayCA, good: IssuedCertificate) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(failure(ca, good, reply, timeout_seconds=3)) for name, reply in STALLS}
    for name, task in tasks.items():
        assert task.result().reason is FetchReason.TIMEOUT, name
        assert "waiting for the response" in str(task.result()), name
