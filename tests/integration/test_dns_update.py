"""Dynamic updates to a real primary server (Knot DNS) with TSIG, and what each of its refusals is told as."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import dns.rcode
import pytest
import uvloop

from stsguard.adapters.dns_update import DnsUpdater, TsigKey
from stsguard.core.errors import LookupFailed, LookupReason, OperatorError, UpdateFailed
from stsguard.names import Domain
from tests.lab import knot
from tests.lab.knot import KEY_NAME, OTHER_SECRET, SECRET, Knot, free_port, run_knot
from tests.lab.nameserver import Nameserver, respond

ADDRESS = "127.0.0.21"
ZONE = """
@ 300 IN SOA ns1 hostmaster 1 3600 600 86400 60
@ 300 IN NS ns1
@ 300 IN TXT "v=spf1 -all"
ns1 300 IN A 127.0.0.21
_mta-sts 300 IN TXT "v=STSv1; id=1;"
_mta-sts 300 IN TXT "left over"
_mta-sts 300 IN TYPE65280 \\# 1 00
_mta-sts.alias 300 IN CNAME elsewhere
"""
NAME = Domain("_mta-sts.example.test")


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Knot]:
    if not knot.is_installed():
        pytest.skip("knot is not installed")
    with run_knot(tmp_path / "knot", [ADDRESS], free_port([ADDRESS]), {"example.test": ZONE}) as server:
        yield server


def key_file(directory: Path, secret: str = SECRET, mode: int = 0o640) -> Path:
    path = directory / "tsig.key"
    path.write_text(secret + "\n")
    path.chmod(mode)
    return path


def tsig(directory: Path, name: str = KEY_NAME, algorithm: str = "hmac-sha256", secret: str = SECRET) -> TsigKey:
    return TsigKey(Domain(name), algorithm, key_file(directory, secret))


async def addresses_of(server: str) -> Sequence[str]:
    return [server]


def updater(port: int, key: TsigKey | None, *, zone: str = "", server: str = ADDRESS) -> DnsUpdater:
    return DnsUpdater(server, port, addresses_of, zone=Domain(zone) if zone else None, key=key, timeout_seconds=10)


async def refused(updates: DnsUpdater, name: Domain = NAME) -> str:
    with pytest.raises(UpdateFailed) as caught:
        await updates.publish_txt(name, "v=STSv1; id=2;", 300)
    return str(caught.value)


@pytest.mark.parametrize("zone", ["", "example.test"])
async def test_rfc2136_the_txt_record_set_alone_is_replaced(primary: Knot, tmp_path: Path, zone: str) -> None:
    updates = updater(primary.port, tsig(tmp_path), zone=zone)
    await updates.publish_txt(NAME, "v=STSv1; id=2;", 300)
    assert primary.ask(NAME, "TXT") == ['"v=STSv1; id=2;"']
    assert primary.ask(NAME, "TYPE65280") == ["\\# 1 00"]
    assert primary.ask("example.test", "TXT") == ['"v=spf1 -all"']
    await updates.remove_txt(NAME)
    assert primary.ask(NAME, "TXT") == []
    assert primary.ask(NAME, "TYPE65280") == ["\\# 1 00"]


async def test_sent_again_it_changes_nothing_more(primary: Knot, tmp_path: Path) -> None:
    updates = updater(primary.port, tsig(tmp_path))
    for _ in range(2):
        await updates.publish_txt(NAME, "v=STSv1; id=2;", 300)
        assert primary.ask(NAME, "TXT") == ['"v=STSv1; id=2;"']
    for _ in range(2):
        await updates.remove_txt(NAME)
        assert primary.ask(NAME, "TXT") == []


async def test_rfc1035_3_3_14_long_text_goes_into_several_strings(primary: Knot, tmp_path: Path) -> None:
    name = Domain("_smtp._tls.example.test")
    text = "v=TLSRPTv1; rua=" + ",".join(f"mailto:reports-{number:03}@example.test" for number in range(20))
    await updater(primary.port, tsig(tmp_path)).publish_txt(name, text, 300)
    [record] = primary.ask(name, "TXT")
    assert record.replace('" "', "").strip('"') == text.replace(";", "\\;") or record.replace('" "', "") == f'"{text}"'
    assert len(text) > 255


def test_under_uvloop(primary: Knot, tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(updater(primary.port, tsig(tmp_path)).publish_txt(NAME, "v=STSv1; id=2;", 300))
    assert primary.ask(NAME, "TXT") == ['"v=STSv1; id=2;"']


@pytest.mark.parametrize("name", ["example.test", "www.example.test", "_dmarc.example.test", "x._mta-sts.example.test"])
async def test_no_other_name_is_written(primary: Knot, tmp_path: Path, name: str) -> None:
    updates = updater(primary.port, tsig(tmp_path))
    before = primary.ask("example.test", "SOA")
    with pytest.raises(ValueError, match="no name that stsguard may write to"):
        await updates.publish_txt(Domain(name), "text", 300)
    with pytest.raises(ValueError, match="no name that stsguard may write to"):
        await updates.remove_txt(Domain(name))
    assert primary.ask("example.test", "SOA") == before


async def test_rfc2136_3_4_2_2_an_alias_is_told_of(primary: Knot, tmp_path: Path) -> None:
    message = await refused(updater(primary.port, tsig(tmp_path)), Domain("_mta-sts.alias.example.test"))
    assert message == (
        f"{ADDRESS} port {primary.port}, zone example.test: YXRRSET for _mta-sts.alias.example.test: there is a CNAME "
        "at that name, beside which no TXT record can be: remove it, or publish at its target"
    )


async def test_refused_to_this_key(primary: Knot, tmp_path: Path) -> None:
    message = await refused(updater(primary.port, tsig(tmp_path, "powerless.example.test"), zone="example.test"))
    assert message.startswith(f"{ADDRESS} port {primary.port}, zone example.test: BADKEY: it knows no key powerless.")
    assert "or does not let it update this zone" in message


async def test_rfc2136_2_2_refused(tmp_path: Path) -> None:
    async with Nameserver(lambda query, _over_tcp: [respond(query, rcode=dns.rcode.REFUSED)]) as server:
        updates = updater(server.address[1], tsig(tmp_path), zone="example.test", server=server.address[0])
        message = await refused(updates)
    assert f"zone example.test: REFUSED for {NAME}: the server does not allow it: allow this key" in message


async def test_unsigned_is_refused(primary: Knot) -> None:
    message = await refused(updater(primary.port, None, zone="example.test"))
    assert f"zone example.test: NOTAUTH for {NAME}: " in message


async def test_rfc8945_5_2_badkey(primary: Knot, tmp_path: Path) -> None:
    message = await refused(updater(primary.port, tsig(tmp_path, "unknown.example.test"), zone="example.test"))
    assert "zone example.test: BADKEY: it knows no key unknown.example.test" in message


async def test_rfc8945_5_2_badsig(primary: Knot, tmp_path: Path) -> None:
    message = await refused(updater(primary.port, tsig(tmp_path, secret=OTHER_SECRET), zone="example.test"))
    assert f"BADSIG: its secret of key {KEY_NAME} is another one: compare it with {tmp_path}/tsig.key" in message


async def test_rfc8945_5_2_badtime(tmp_path: Path) -> None:
    if not knot.is_installed():
        pytest.skip("knot is not installed")
    port = free_port([ADDRESS])
    zones = {"example.test": ZONE}
    with run_knot(tmp_path / "knot", [ADDRESS], port, zones, fake_time="-1h"):
        updates = updater(port, tsig(tmp_path), zone="example.test")
        with pytest.raises(UpdateFailed) as caught:
            await updates.publish_txt(NAME, "v=STSv1; id=2;", 300)
    assert "BADTIME: the two clocks differ" in str(caught.value)
    assert caught.value.temporary


async def test_another_zone(primary: Knot, tmp_path: Path) -> None:
    key = tsig(tmp_path)
    assert "is not within it" in await refused(updater(primary.port, key, zone="other.test"))
    elsewhere = Domain("_mta-sts.other.test")
    assert "zone other.test: NOTAUTH" in await refused(updater(primary.port, key, zone="other.test"), elsewhere)
    assert "set [dns_update] zone" in await refused(updater(primary.port, key), elsewhere)


async def test_nobody_there(tmp_path: Path) -> None:
    port = free_port([ADDRESS])
    with pytest.raises(UpdateFailed) as caught:
        await updater(port, tsig(tmp_path), zone="example.test").remove_txt(NAME)
    assert caught.value.temporary
    assert f"{ADDRESS} port {port}, zone example.test: no connection to {ADDRESS}: " in str(caught.value)


async def test_the_server_s_name_can_t_be_looked_up(tmp_path: Path) -> None:
    async def fails(server: str) -> Sequence[str]:
        raise LookupFailed(LookupReason.TIMEOUT, f"{server} A")

    async def nothing(_server: str) -> Sequence[str]:
        return []

    for find, temporary in ((fails, True), (nothing, False)):
        updates = DnsUpdater("ns.example.test", 53, find, key=tsig(tmp_path))
        with pytest.raises(UpdateFailed, match=r"ns\.example\.test port 53: ") as caught:
            await updates.remove_txt(NAME)
        assert caught.value.temporary is temporary


async def test_rfc8945_5_3_an_unsigned_yes_is_not_believed(tmp_path: Path) -> None:
    async with Nameserver(lambda query, _over_tcp: [respond(query)]) as impostor:
        updates = updater(impostor.address[1], tsig(tmp_path), zone="example.test", server=impostor.address[0])
        assert "it is not believed" in await refused(updates)


async def test_silence(tmp_path: Path) -> None:
    async with Nameserver(lambda _query, _over_tcp: []) as silent:
        updates = DnsUpdater(
            silent.address[0],
            silent.address[1],
            addresses_of,
            zone=Domain("example.test"),
            key=tsig(tmp_path),
            timeout_seconds=0.3,
        )
        with pytest.raises(UpdateFailed, match=r"whether _mta-sts\.example\.test was changed is not known") as caught:
            await updates.remove_txt(NAME)
        assert caught.value.temporary


@pytest.mark.parametrize(
    ("secret", "mode", "told"),
    [
        (SECRET, 0o644, r"anybody on this machine may read or write the TSIG key \(mode 0644\): chmod 0640"),
        ("not base64!", 0o600, "not a TSIG secret in base64 alone"),
        ("", 0o600, "it is empty"),
        ("\u00e9", 0o600, "the TSIG key can't be read"),
    ],
)
async def test_key_files_that_are_not_used(tmp_path: Path, secret: str, mode: int, told: str) -> None:
    path = key_file(tmp_path, secret, mode)
    with pytest.raises(OperatorError, match=told):
        TsigKey(Domain(KEY_NAME), "hmac-sha256", path).load()
    with pytest.raises(UpdateFailed, match=told):
        await updater(1, TsigKey(Domain(KEY_NAME), "hmac-sha256", path)).remove_txt(NAME)
    path.unlink()
    with pytest.raises(OperatorError, match="can't be read"):
        TsigKey(Domain(KEY_NAME), "hmac-sha256", path).load()
