"""Certificates that the operator puts there: seen as they are presented, told in status and by `domain show`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stsguard.adapters.tls_certificates import HandCertificates
from stsguard.discovery.health import PartState
from stsguard.inbound.hand_certificates import HandCertificateWatch, look_at
from stsguard.names import Domain
from tests.integration.hosting_site import NAME, hosting_site
from tests.integration.policy_hosting import put_certificate
from tests.lab.ca import ThrowAwayCA
from tests.unit.fakes import Clock

NOW = datetime.now(UTC)
HOSTS = [Domain(f"mta-sts.{letter}.example") for letter in "abcde"]


def put(directory: Path, host: Domain, *names: str, days: float = 90.5) -> None:
    issued = ThrowAwayCA(directory / "ca").issue(names or [host], not_after=NOW + timedelta(days=days))
    (directory / f"{host}.pem").write_bytes(issued.chain_file.read_bytes())
    (directory / f"{host}.key").write_bytes(issued.key_file.read_bytes())


async def test_status_says_which_senders_refuse_or_soon_will(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, soon, other, broken, _ = HOSTS
    clock = Clock(NOW)
    watch = HandCertificateWatch(HandCertificates(tmp_path, all_of_them=False), lambda: HOSTS, clock)
    await watch.look()
    assert (watch.health().state, watch.health().detail) == (PartState.OK, "none is put there by hand")
    put(tmp_path, good)
    await watch.look()
    assert (watch.health().state, watch.health().detail) == (PartState.OK, "1 put there by hand")
    put(tmp_path, soon, days=12.5)
    await watch.look()
    assert watch.health().state is PartState.LIMITED
    assert watch.health().detail.startswith(f"{tmp_path}/{soon}.pem: it expires in 12 days, at ")
    put(tmp_path, other, "www.c.example")
    put(tmp_path, broken)
    put_certificate(ThrowAwayCA(tmp_path / "other"), tmp_path, "x")
    (tmp_path / f"{broken}.key").write_bytes((tmp_path / "x.key").read_bytes())
    for _ in range(2):
        await watch.look()
    assert watch.health().state is PartState.FAILED
    parts = watch.health().detail.split("; ")
    assert parts[0].startswith(f"{tmp_path}/{other}.pem: its SAN has 'www.c.example' and not {other}")
    assert f"{tmp_path}/{broken}.pem: it can't be used: KEY_VALUES_MISMATCH" in watch.health().detail
    assert caplog.text.count("certificate put there by hand needs attention") == 3  # once each
    clock.advance(86_400)
    await watch.look()
    assert "it expires in 11 days" in watch.health().detail


def test_what_is_there_and_can_not_be_read_is_no_absence(tmp_path: Path) -> None:
    host, *_ = HOSTS
    files = HandCertificates(tmp_path, all_of_them=False)
    assert look_at(files, host, NOW) is None
    (tmp_path / f"{host}.pem").symlink_to(tmp_path / "gone.pem")
    found = look_at(files, host, NOW)
    assert found is not None
    assert found.problem == "it can't be used: No such file or directory"


def test_without_acme_all_are_the_operators(tmp_path: Path) -> None:
    host, *_ = HOSTS
    files = HandCertificates(tmp_path, all_of_them=True)
    found = look_at(files, host, NOW)
    assert found is not None
    assert found.file == f"{tmp_path}/{host}.pem"
    assert found.problem.startswith("there is none, and [policy_host] acme_directory is empty")
    issued = ThrowAwayCA(tmp_path / "ca").issue([host], not_after=NOW + timedelta(days=3))
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / f"{host}.pem").write_bytes(issued.key_file.read_bytes() + issued.chain_file.read_bytes())
    found = look_at(files, host, NOW)
    assert found is not None
    assert (found.file, found.urgent) == (f"{tmp_path}/acme/{host}.pem", True)


async def test_domain_show_tells_of_it(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, "mta-sts.a.example. 60 IN A 127.0.0.1") as site:
        certificates = tmp_path / "certificates"
        certificates.mkdir()
        text = site.config.read_text()
        site.config.write_text(f'{text}[policy_host]\ncertificate_dir = "{certificates}"\n')
        await site.ok("add", NAME, "--mx", "mx1.a.example")
        assert "certificate  none by ACME yet\n" in await site.ok("show", NAME)
        assert (await site.json("show", NAME))["certificate_by_hand"] is None
        put(certificates, HOSTS[0], days=12.5)
        out = await site.ok("show", NAME)
        file = certificates / f"{HOSTS[0]}.pem"
        assert (
            f"certificate  put there by hand, until {NOW + timedelta(days=12.5):%Y-%m-%d %H:%M} UTC; {file}: it" in out
        )
        shown = (await site.json("show", NAME))["certificate_by_hand"]
        assert shown["file"] == str(file)
        assert shown["problem"].startswith("it expires in 12 days")
        put(certificates, HOSTS[0])
        assert (await site.json("show", NAME))["certificate_by_hand"]["problem"] is None
