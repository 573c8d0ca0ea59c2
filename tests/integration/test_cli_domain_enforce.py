"""`stsguard domain readiness`, `mode DOMAIN enforce`, `dns` and `export`: looked at from outside, with an authoritative
server at port 53 of a loopback address."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.message
import pytest

from stsguard.core.mtasts import MxPattern
from tests.integration.hosting_site import HOST, NAME, Site, hosting_site
from tests.integration.store.hosting import hosted, version
from tests.lab.nameserver import Handler, Nameserver, zone

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
AUTHORITY = (f"127.0.8.{53 + _WORKER}", 53)  # workers run at the same time
POLICY = b"version: STSv1\r\nmode: testing\r\nmx: a.example\r\nmax_age: 86400\r\n"
ZONE = (
    "a.example. 300 IN MX 0 .",
    "a.example. 300 IN NS ns.a.example.",
    "a.example. 300 IN SOA ns.a.example. h.a.example. 1 3600 600 86400 60",
    f"ns.a.example. 300 IN A {AUTHORITY[0]}",
    HOST,
)
FIRST = version(1, mx_patterns=(MxPattern.parse(NAME),), record_ttl=300)
RECORD = f'_mta-sts.a.example. 600 IN TXT "v=STSv1; id={FIRST.record_id};"'
TLSRPT = '_smtp._tls.a.example. 600 IN TXT "v=TLSRPTv1; rua=mailto:tlsrpt@a.example"'
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="an authoritative server at port 53 takes root"
)


def authoritative(*records: str) -> Handler:
    """As `zone`, with the AA bit."""
    inner = zone(*records)

    def handle(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        return [wire[:2] + bytes((wire[2] | 0x04,)) + wire[3:] for wire in inner(query, over_tcp)]

    return handle


@asynccontextmanager
async def in_testing(directory: Path, days: int, *more: str) -> AsyncIterator[Site]:
    """A parked domain that has been in testing for so many days, with `more` records."""
    at = datetime.now(UTC) - timedelta(days=days)
    async with (
        hosting_site(directory, *ZONE, *more, policy=POLICY) as site,
        Nameserver(authoritative(*ZONE, *more), address=AUTHORITY),
    ):
        site.config.write_text(site.config.read_text() + '[policy_host]\nrua = ["mailto:tlsrpt@a.example"]\n')
        made = version(1, mx_patterns=FIRST.mx_patterns, record_ttl=300, created_at=at, served_at=at, published_at=at)
        async with site.stores() as stores:
            await stores.domains.save_domain(hosted(NAME, made, stage_since=at, added_at=at), [])
        yield site


async def test_ready_domain_is_brought_to_enforce_by_typing_its_name(tmp_path: Path) -> None:
    async with in_testing(tmp_path, 15, RECORD) as site:
        out = await site.ok("readiness", NAME)
        assert out.endswith("ready to enforce\n")
        assert "ok       testing-time: 15 days in testing, where 14 are needed" in out
        refused = await site.run("mode", NAME, "enforce")
        assert (refused.exit_code, "give --confirm a.example. Nothing was changed" in refused.output) == (1, True)
        out = await site.ok("mode", NAME, "enforce", "--confirm", NAME)
        assert "ready to enforce\n\na.example enforces, max_age 604800 s (7 d 0 h)\n" in out
        assert "undo\n  stsguard domain mode a.example testing\n" in out
        shown = await site.json("show", NAME)
        assert (shown["stage"], shown["mode"], shown["max_age"]) == ("enforce", "enforce", 604800)


async def test_domain_that_is_not_ready_stays_in_testing_unless_forced(tmp_path: Path) -> None:
    async with in_testing(tmp_path, 3, RECORD) as site:
        found = await site.run("readiness", NAME, "--json")
        assert found.exit_code == 1
        refused = await site.run("mode", NAME, "enforce", "--confirm", NAME)
        assert refused.exit_code == 1
        date = datetime.now(UTC) + timedelta(days=11)
        assert "FAILED   testing-time: 3 of 14 days in testing" in refused.output
        assert f"will be from {date:%Y-%m-%d}" in refused.output
        assert "a.example stays in testing, which is safe; --force REASON" in refused.output
        await site.ok("mode", NAME, "enforce", "--confirm", NAME, "--force", "a customer demands it")
        assert "enforce without testing-time (forced: a customer demands it)" in await site.ok("history", NAME)


async def test_what_cant_be_looked_at_is_exit_3(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *ZONE, RECORD, policy=POLICY) as site:  # nobody at the authority's address
        at = datetime.now(UTC) - timedelta(days=20)
        made = version(1, mx_patterns=FIRST.mx_patterns, created_at=at, served_at=at, published_at=at)
        async with site.stores() as stores:
            await stores.domains.save_domain(hosted(NAME, made, stage_since=at, added_at=at), [])
        for command in (("readiness", NAME), ("dns", NAME), ("mode", NAME, "enforce", "--confirm", NAME)):
            done = await site.run(*command)
            assert (done.exit_code, "unknown" in done.output) == (3, True), done.output


async def test_dns_shows_each_record_with_a_mark(tmp_path: Path) -> None:
    async with in_testing(tmp_path, 1, RECORD) as site:
        done = await site.run("dns", NAME)
        assert done.exit_code == 1
        record = f'_mta-sts.a.example. 300 IN TXT "v=STSv1; id={FIRST.record_id};"'
        assert f"[ok] _mta-sts.a.example TXT\n    {record}\n" in done.output
        assert (
            "[missing] _smtp._tls.a.example TXT: add it\n"
            '    _smtp._tls.a.example. 300 IN TXT "v=TLSRPTv1; rua=mailto:tlsrpt@a.example"\n'
            "    published now: nothing\n"
        ) in done.output
        addresses = "[info] mta-sts.a.example A: the public addresses of this host\n    published now: 127.0.0.1\n"
        assert addresses in done.output
        assert "no CAA record to show: there is no ACME account yet" in done.output


async def test_dns_is_exit_0_when_all_is_there(tmp_path: Path) -> None:
    async with in_testing(tmp_path, 1, RECORD, TLSRPT) as site:
        found = await site.json("dns", NAME)
        assert [(record["type"], record["mark"]) for record in found["records"]] == [
            ("A", "info"),
            ("TXT", "ok"),
            ("TXT", "ok"),
        ]


async def test_id_of_a_policy_that_is_not_served_yet_has_to_wait(tmp_path: Path) -> None:
    async with in_testing(tmp_path, 1, RECORD, TLSRPT) as site:
        await site.ok("edit", NAME, "--add-mx", "mx.a.example")
        found = await site.json("dns", NAME)
        (record,) = [each for each in found["records"] if each["name"] == "_mta-sts.a.example"]
        assert (record["mark"], record["value"]) == ("ok", f"v=STSv1; id={FIRST.record_id};")
        assert "follows when version 2 is served at every address" in record["note"]


async def test_export_writes_a_folder_a_domain(tmp_path: Path) -> None:
    async with in_testing(tmp_path, 1, RECORD) as site:
        out = await site.ok("export", str(tmp_path / "out"))
        assert ".well-known/mta-sts.txt" in out
        assert (tmp_path / "out" / NAME / ".well-known/mta-sts.txt").read_bytes() == POLICY
        assert await site.ok("export", str(tmp_path / "out")) == f"nothing has changed in {tmp_path}/out\n"
        assert (await site.json("export", str(tmp_path / "out")))["domains"][0]["changed"] == []
        (tmp_path / "file").touch()
        refused = await site.run("export", str(tmp_path / "file" / "below"))
        assert (refused.exit_code, str(tmp_path / "file") in refused.output) == (1, True)
