"""The admin socket: its routes over a real unix socket, and clients that speak no HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stsguard.adapters import http_server
from stsguard.adapters.http_server import HttpRequest, HttpResponse, HttpServer, json_response, long_json_response
from stsguard.adapters.prometheus import render_metrics
from stsguard.core.dane import MxRecord
from stsguard.core.errors import FetchReason
from stsguard.core.overrides import parse_overrides
from stsguard.discovery.health import Health, PartHealth, PartState
from stsguard.names import Domain
from stsguard.outbound.admin import Admin
from stsguard.outbound.warming import Warming
from tests.integration.lookup_client import until
from tests.unit.fakes import Clock, World

NAME = "good.example"


@dataclass
class AdminSocket:
    """The admin socket of a daemon over a fake world."""

    world: World
    path: Path
    part: PartHealth
    http: HttpServer

    async def talk(self, octets: bytes) -> bytes:
        """Everything that comes back for these bytes."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(octets)
        async with asyncio.timeout(20):
            found = await reader.read()
        writer.close()
        return found

    async def ask(self, target: str, method: str = "GET") -> tuple[int, bytes]:
        found = await self.talk(f"{method} {target} HTTP/1.1\r\nHost: stsguard\r\n\r\n".encode())
        head, _, body = found.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    async def json(self, target: str, method: str = "GET") -> tuple[int, Any]:
        status, body = await self.ask(target, method)
        return status, json.loads(body)


@asynccontextmanager
async def admin_socket(path: Path, *, observe: bool = False) -> AsyncIterator[AdminSocket]:
    world = World(Clock())
    world.publish(NAME)
    world.publish("none.example", "")
    world.cache.store_tried.set()
    saving = asyncio.create_task(world.cache.saver.run())
    health = Health()

    async def rendered() -> bytes:
        return render_metrics()

    admin = Admin(
        demands=world.demands,
        cache=world.cache,
        tender=world.tender,
        verifier=world.verifier,
        resolver=world.resolver,
        fetcher=world.fetcher,
        clock=world.clock,
        health=health,
        observe=observe,
        status=lambda: {"version": "1"},
        warm=(warming := Warming(world.demands)).add,
        render_metrics=rendered,
    )

    async def handle(request: HttpRequest) -> HttpResponse:
        result = await admin.handle(request)
        if isinstance(result.content, bytes):
            return HttpResponse(result.status, result.content, "text/plain")
        return await long_json_response(result.content, result.status)

    http = HttpServer(handle)
    at = AdminSocket(world, path / "admin.sock", PartHealth(PartState.OK, "all read"), http)
    health.add("store", lambda: at.part)
    server = await asyncio.start_unix_server(http.serve, str(at.path))
    working = asyncio.create_task(warming.run())
    try:
        yield at
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        server.close()
        await http.close()
        saving.cancel()
        await world.stop()


@pytest.mark.parametrize(("state", "status"), [(PartState.OK, 200), (PartState.LIMITED, 200), (PartState.FAILED, 503)])
async def test_healthz(tmp_path: Path, state: PartState, status: int) -> None:
    async with admin_socket(tmp_path) as at:
        at.part = PartHealth(state, "because")
        found, content = await at.json("/healthz")
        assert found == status
        assert content["parts"]["store"] == {"state": state.value, "detail": "because"}
        found, content = await at.json("/status")
        assert found == status
        assert content["version"] == "1"
        assert content["cache"]["policies"] == 0


async def test_metrics_are_what_prometheus_reads(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        await at.world.ask(NAME)
        status, body = await at.ask("/metrics")
        assert status == 200
        families = {family.name: family for family in text_string_to_metric_families(body.decode())}
        decided = families["stsguard_decisions"]
        assert decided.type == "counter"
        assert any(sample.labels == {"reply": "secure", "row": "no_tlsa_enforce"} for sample in decided.samples)
        assert all(family.documentation for family in families.values() if family.name.startswith("stsguard"))


async def test_lookup_explains_itself(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        status, content = await at.json(f"/lookup?domain={NAME}&explain=1")
        assert status == 200
        assert content["replies"]["policy"] == f"OK secure match=mx.{NAME} servername=hostname"
        assert content["decision"]["section"] == "RFC 8461 §5"
        assert content["sts"]["status"] == "in-force"
        assert content["policy"]["id"] == "1"
        steps = {step["step"] for step in content["steps"]}
        assert steps == {"TXT", "MX", "A/AAAA", "cached policy", "decision"}
        assert content["fresh"]["decision"]["reply"] == "secure"
        assert content["expires_in"] > 0


async def test_explain_fetches_where_nothing_is_cached_and_changes_nothing(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        at.world.fetcher.policies[NAME] = FetchReason.CERTIFICATE_EXPIRED
        _, content = await at.json(f"/lookup?domain={NAME}&explain=1")
        assert content["sts"]["status"] == "unavailable"
        fetch = [step for step in content["steps"] if step["step"] == "policy"]
        assert fetch[0]["outcome"].startswith("failed: certificate-expired")
        assert len(at.world.cache) == 0


@pytest.mark.parametrize(
    ("key", "expected"),
    [(".x.example", "NOTFOUND "), ("[192.0.2.1]:25", "NOTFOUND "), ("[mx.example]", "NOTFOUND "), ("a..b", "TEMP ")],
)
async def test_lookup_of_keys_without_a_lookup(tmp_path: Path, key: str, expected: str) -> None:
    async with admin_socket(tmp_path) as at:
        status, content = await at.json(f"/lookup?domain={key}")
        assert status == 200
        assert content["replies"]["policy"].startswith(expected)
        assert at.world.resolver.asked == []


async def test_lookup_in_observe_mode_shows_both(tmp_path: Path) -> None:
    async with admin_socket(tmp_path, observe=True) as at:
        _, content = await at.json(f"/lookup?domain={NAME}")
        assert content["replies"]["policy"] == "NOTFOUND "
        assert content["enforce_replies"]["policy"].startswith("OK secure")
        _, content = await at.json("/lookup?domain=a..b")
        assert content["replies"]["policy"] == "NOTFOUND "


async def test_lookup_shows_an_override(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        at.world.demands.overrides = parse_overrides({NAME: {"policy": "encrypt", "reason": "ticket 1"}})
        _, content = await at.json(f"/lookup?domain={NAME}")
        assert content["override"] == {"entry": NAME, "kind": "policy", "reason": "ticket 1", "expires": None}
        assert content["expired_override"] is None
        assert content["replies"]["policy"] == "OK encrypt"


async def test_the_cache_is_listed_shown_refreshed_and_forgotten(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        assert await at.json(f"/cache/show?domain={NAME}") == (404, {"error": f"nothing is cached for {NAME}"})
        assert (await at.json(f"/cache/refresh?domain={NAME}", "POST"))[0] == 200
        status, content = await at.json("/cache")
        assert (status, content["total"], [row["domain"] for row in content["rows"]]) == (200, 1, [NAME])
        _, content = await at.json(f"/cache/show?domain={NAME}")
        assert "mode: enforce" in content["policy_text"]
        await until(lambda: NAME in at.world.store.rows)
        status, content = await at.json(f"/cache/forget?domain={NAME}", "POST")
        assert (status, content["forgotten"]) == (200, True)
        await until(lambda: NAME not in at.world.store.rows)
        assert (await at.json(f"/cache/forget?domain={NAME}", "POST"))[1]["forgotten"] is False


async def test_refresh_tells_why_it_failed_and_keeps_the_policy(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        await at.world.ask(NAME)
        at.world.fetcher.policies[NAME] = FetchReason.HTTP_STATUS
        status, content = await at.json(f"/cache/refresh?domain={NAME}", "POST")
        assert status == 502
        assert "http-status" in content["detail"]
        assert len(at.world.cache) == 1
        at.world.cache.forget(Domain(NAME))
        status, content = await at.json(f"/cache/refresh?domain={NAME}", "POST")
        assert (status, content["state"]) == (502, "unavailable")
        status, content = await at.json("/cache/refresh?domain=none.example", "POST")
        assert (status, content["state"]) == (200, "absent")


async def test_refresh_takes_nothing_away(tmp_path: Path) -> None:
    """A policy that is stored and not in memory is not deleted by a refresh that fails."""
    async with admin_socket(tmp_path) as at:
        await at.world.ask(NAME)
        await until(lambda: NAME in at.world.store.rows)
        stored = at.world.store.rows[Domain(NAME)]
        at.world.cache.forget(Domain(NAME))
        await until(lambda: NAME not in at.world.store.rows)
        at.world.store.rows[Domain(NAME)] = stored
        at.world.fetcher.policies[NAME] = FetchReason.HTTP_STATUS
        status, _ = await at.json(f"/cache/refresh?domain={NAME}", "POST")
        assert status == 200  # the stored one is in force again
        assert at.world.store.rows[Domain(NAME)] is stored


async def test_refresh_with_dns_down_does_not_call_it_absent(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        at.world.resolver.fail("TXT", f"_mta-sts.{NAME}")
        status, content = await at.json(f"/cache/refresh?domain={NAME}", "POST")
        assert (status, content["state"]) == (502, "unknown")


async def test_a_negative_is_shown(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        await at.world.ask("none.example")
        status, content = await at.json("/cache/show?domain=none.example")
        assert (status, content["state"]) == (200, "absent")


async def test_the_list_has_a_limit(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        for number in range(450):
            at.world.publish(f"d{number:03}.example")
            await at.world.cache.fetch(Domain(f"d{number:03}.example"), "1")
        _, content = await at.json("/cache?limit=3")
        assert [row["domain"] for row in content["rows"]] == ["d000.example", "d001.example", "d002.example"]
        assert content["total"] == 450
        assert len((await at.json("/cache"))[1]["rows"]) == 450


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1e3", "%D9%A3", "10000000", "9" * 5000])
async def test_a_bad_limit(tmp_path: Path, limit: str) -> None:
    async with admin_socket(tmp_path) as at:
        status, content = await at.json(f"/cache?limit={limit}")
        assert status == 400
        assert "limit must be a number" in content["error"]


async def test_would_defer(tmp_path: Path) -> None:
    async with admin_socket(tmp_path, observe=True) as at:
        await at.world.ask(NAME)
        at.world.publish("spoofed.example", mx=["mx.other.test"])
        await at.world.ask("spoofed.example")
        _, content = await at.json("/cache?would_defer=1")
        (row,) = content["rows"]
        assert row["domain"] == "spoofed.example"
        assert row["reason"] == "no MX host is permitted by the policy"


async def test_verify(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        status, content = await at.json(f"/verify?domain={NAME}")
        assert status == 200
        assert [probe["permitted"] for probe in content["probes"]] == [True]
        assert at.world.prober.probed == [f"mx.{NAME}"]
        at.world.resolver.give("MX", NAME, MxRecord(0, None))
        assert (await at.json(f"/verify?domain={NAME}"))[1]["probes"] == []
        at.world.resolver.fail("MX", NAME)
        assert "servfail" in (await at.json(f"/verify?domain={NAME}"))[1]["failed"]


@pytest.mark.parametrize("target", ["/lookup", "/lookup?domain=", "/verify?domain=[x]", "/cache/show?domain=a..b"])
async def test_a_bad_or_missing_domain(tmp_path: Path, target: str) -> None:
    async with admin_socket(tmp_path) as at:
        status, content = await at.json(target)
        assert status == 400
        assert content["error"]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/nothing", 404),
        ("POST", "/healthz", 405),
        ("GET", f"/cache/forget?domain={NAME}", 405),
        ("DELETE", "/cache", 405),
        ("GET", "//[", 400),
    ],
)
async def test_no_such_resource(tmp_path: Path, method: str, target: str, status: int) -> None:
    async with admin_socket(tmp_path) as at:
        assert (await at.json(target, method))[0] == status


async def test_head_gives_the_headers_alone(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        found = await at.talk(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = found.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"content-length: 0" not in head.lower()
        assert body == b""


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"rubbish\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"POST /cache/forget HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"POST /cache HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000, b"413"),
    ],
)
async def test_what_is_no_request_gets_an_error_and_harms_nobody(tmp_path: Path, octets: bytes, status: bytes) -> None:
    async with admin_socket(tmp_path) as at:
        try:
            found = await at.talk(octets)
        except ConnectionError:  # closed while a long request was still being written
            found = b""
        if found:
            assert found.split()[1] in (status, b"413")
        else:
            assert len(octets) > http_server.MAX_REQUEST_BYTES
        assert (await at.ask("/healthz"))[0] == 200


async def test_a_slow_client_is_told_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.05)
    async with admin_socket(tmp_path) as at:
        assert (await at.talk(b"GET /healthz HTTP/1.1\r\nHo")).startswith(b"HTTP/1.1 408")
        await until(lambda: not at.http._tasks)


async def test_a_client_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "SEND_SECONDS", 0.05)
    async with admin_socket(tmp_path) as at:
        names = [Domain(f"d{number}.example") for number in range(4000)]
        for name in names:
            at.world.publish(name)
        # All at once: a transaction of the store serves many then, and one after the other waits for each.
        await asyncio.gather(*(at.world.cache.fetch(name, "1") for name in names))
        _reader, writer = await asyncio.open_unix_connection(str(at.path), limit=1024)
        writer.write(b"GET /cache?limit=10000 HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: bool(at.http._tasks))
        await until(lambda: not at.http._tasks)
        writer.close()
        assert (await at.ask("/healthz"))[0] == 200


async def test_a_client_that_goes_away_harms_nobody(tmp_path: Path) -> None:
    async with admin_socket(tmp_path) as at:
        for octets in (b"", b"GET", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
            _, writer = await asyncio.open_unix_connection(str(at.path))
            writer.write(octets)
            writer.close()
        await until(lambda: not at.http._tasks)
        assert (await at.ask("/healthz"))[0] == 200


@pytest.mark.parametrize("count", [0, 1, 50, 51, 1000])
async def test_a_long_listing_reads_the_same_as_one_made_in_one_go(count: int) -> None:
    rows = [{"domain": f"ü{number}.example", "text": ["a", None, 1.5]} for number in range(count)]
    for content in ({}, {"rows": rows}, {"total": 7, "rows": rows, "more": {"rows": rows}}):
        assert (await long_json_response(content)).body == json_response(content).body
