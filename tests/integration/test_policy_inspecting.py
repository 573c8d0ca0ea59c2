"""A policy from one address of its Policy Host, real TLS servers on loopback: what they serve, and their certificates'
last day also where nothing could be fetched."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import uvloop

from stsguard.adapters.policy_fetch.inspecting import HttpsPolicyInspector
from stsguard.core.addresses import AddressGuard
from stsguard.core.errors import FetchReason
from stsguard.core.inspection import PolicyAt
from stsguard.core.mtasts import Mode
from stsguard.names import Domain
from tests.lab.ca import IssuedCertificate, ThrowAwayCA
from tests.lab.fetching import DOMAIN, LOOPBACK, POLICY, POLICY_HOST, response
from tests.lab.https_server import Answer, HttpsServer, say, say_and_cut, say_and_stall
from tests.lab.nameserver import refusing_port


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path_factory.mktemp("ca"))


def inspector(ca: ThrowAwayCA, port: int, *, allow: bool = True, timeout_seconds: float = 30) -> HttpsPolicyInspector:
    return HttpsPolicyInspector(AddressGuard(allow), ca_file=ca.ca_file, port=port, timeout_seconds=timeout_seconds)


async def look(ca: ThrowAwayCA, issued: IssuedCertificate, answer: Answer, *, timeout_seconds: float = 30) -> PolicyAt:
    async with HttpsServer(answer, issued.server_context()) as server:
        return await inspector(ca, server.port, timeout_seconds=timeout_seconds).fetch_at(DOMAIN, LOOPBACK)


async def test_rfc8461_3_3_what_a_sender_gets(ca: ThrowAwayCA) -> None:
    issued = ca.issue([POLICY_HOST])
    async with HttpsServer(say(response()), issued.server_context()) as server:
        found = await inspector(ca, server.port).fetch_at(DOMAIN, LOOPBACK)
    assert found.policy is not None
    assert found.policy.mode is Mode.ENFORCE
    assert (found.address, found.body, found.problem, found.reason) == (LOOPBACK, POLICY, "", "")
    assert found.not_after == issued.certificate.not_valid_after_utc
    assert server.server_names == [POLICY_HOST]


AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
AHEAD = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)


@pytest.mark.parametrize(
    ("reason", "issue"),
    [
        (FetchReason.CERTIFICATE_EXPIRED, lambda ca: ca.issue([POLICY_HOST], not_before=AGO, not_after=AGO)),
        (FetchReason.CERTIFICATE_HOST_MISMATCH, lambda ca: ca.issue(["other.test"], not_after=AHEAD)),
        (FetchReason.CERTIFICATE_NOT_TRUSTED, lambda ca: ca.issue([POLICY_HOST], self_signed=True)),
        (FetchReason.CERTIFICATE_NOT_YET_VALID, lambda ca: ca.issue([POLICY_HOST], not_before=AHEAD)),
    ],
)
async def test_the_last_day_of_a_certificate_that_does_not_hold(
    ca: ThrowAwayCA, reason: FetchReason, issue: Callable[[ThrowAwayCA], IssuedCertificate]
) -> None:
    issued = issue(ca)
    found = await look(ca, issued, say(response()))
    assert (found.policy, found.body, found.reason) == (None, b"", reason.code)
    assert found.not_after == issued.certificate.not_valid_after_utc
    assert found.problem


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (say(response(status="HTTP/1.1 404 Not Found")), FetchReason.HTTP_STATUS),
        (say(response(b"", "Location: https://example.test/", status="HTTP/1.1 301 Moved")), FetchReason.HTTP_REDIRECT),
        (say(response(content_type="text/html")), FetchReason.MEDIA_TYPE),
        (say(response(b"x" * 70_000)), FetchReason.TOO_LARGE),
        (say_and_cut(response()[:-1]), FetchReason.CONNECTION_LOST),
    ],
)
async def test_the_last_day_where_the_fetch_failed_after_the_handshake(
    ca: ThrowAwayCA, answer: Answer, reason: FetchReason
) -> None:
    issued = ca.issue([POLICY_HOST])
    found = await look(ca, issued, answer)
    assert (found.policy, found.reason) == (None, reason.code)
    assert found.not_after == issued.certificate.not_valid_after_utc


async def test_what_is_no_policy_is_shown(ca: ThrowAwayCA) -> None:
    found = await look(ca, ca.issue([POLICY_HOST]), say(response(b"version: STSv2\r\n")))
    assert (found.policy, found.body, found.reason) == (None, b"version: STSv2\r\n", FetchReason.POLICY_SYNTAX.code)


async def test_the_deadline(ca: ThrowAwayCA) -> None:
    issued = ca.issue([POLICY_HOST])
    found = await look(ca, issued, say_and_stall(b"HTTP/1.1 200 OK\r\n"), timeout_seconds=0.5)
    assert found.problem == "more than 0.5 s: waiting for the response"
    assert (found.reason, found.not_after) == (FetchReason.TIMEOUT.code, issued.certificate.not_valid_after_utc)


async def test_no_connection(ca: ThrowAwayCA) -> None:
    with refusing_port() as (_, port):
        found = await inspector(ca, port).fetch_at(DOMAIN, LOOPBACK)
    assert (found.reason, found.not_after) == (FetchReason.CONNECTION_REFUSED.code, None)


async def test_addresses_that_the_guard_refuses(ca: ThrowAwayCA) -> None:
    found = await inspector(ca, 443, allow=False).fetch_at(DOMAIN, LOOPBACK)
    assert (found.reason, found.problem) == (
        FetchReason.ADDRESS_REFUSED.code,
        "no connection there: 127.0.0.1 is loopback",
    )


async def test_a_domain_whose_policy_host_has_too_long_a_name(ca: ThrowAwayCA) -> None:
    domain = Domain(".".join(["a" * 61] * 4))
    assert (await inspector(ca, 443).fetch_at(domain, LOOPBACK)).reason == FetchReason.NO_ADDRESS.code


def test_under_uvloop(ca: ThrowAwayCA) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(look(ca, ca.issue([POLICY_HOST]), say(response())))
    assert found.policy is not None
