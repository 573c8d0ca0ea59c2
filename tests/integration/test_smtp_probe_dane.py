"""Probing real SMTP servers on loopback: DANE, trust, and what surrounds a probe."""

import asyncio
import logging
import ssl
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvloop

from stsguard.adapters.smtp_probe import SmtpProber
from stsguard.core.errors import OperatorError, ResultType
from stsguard.core.mxcheck import MxProbe
from stsguard.names import Domain
from tests.integration.probing import HOUR, LOOPBACK, MX, presenting, probed, prober, tlsa
from tests.integration.scripted_smtp import ScriptedServer
from tests.lab.ca import IssuedCertificate, ThrowAwayCA


@pytest.fixture
def ca(tmp_path: Path) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path / "ca")


def with_root(ca: ThrowAwayCA, issued: IssuedCertificate) -> IssuedCertificate:
    """The certificate, presenting the root as well, as DANE-TA(2) demands (RFC 7672 §3.1.2)."""
    issued.chain_file.write_bytes(issued.chain_file.read_bytes() + ca.ca_file.read_bytes())
    return issued


async def test_rfc7672_3_1_1_dane_ee(ca: ThrowAwayCA) -> None:
    now = datetime.now(UTC)
    issued = ca.issue(["wrong.example"], self_signed=True, not_before=now - 2 * HOUR, not_after=now - HOUR)
    probe = await probed(ca, presenting(issued), tlsa=[tlsa(3, 1, issued.certificate)])
    assert probe.dane_matched is True
    assert not probe.trusted  # what MTA-STS would say of it is told beside
    other = await probed(ca, presenting(issued), tlsa=[tlsa(3, 1, ca.certificate)])
    assert other.dane_matched is False


async def test_rfc7672_3_1_2_dane_ta(ca: ThrowAwayCA, tmp_path: Path) -> None:
    unknown = ThrowAwayCA(tmp_path / "private")
    issued = with_root(unknown, unknown.issue([MX], intermediate=True))
    records = [tlsa(2, 0, unknown.certificate)]
    probe = await probed(ca, presenting(issued), tlsa=records)
    assert (probe.dane_matched, probe.trusted) == (True, False)
    assert (await probed(ca, presenting(issued), tlsa=[tlsa(2, 0, ca.certificate)])).dane_matched is False


async def test_rfc7672_3_2_2_dane_ta_checks_the_reference_identifiers(ca: ThrowAwayCA) -> None:
    issued = with_root(ca, ca.issue(["example.com"]))
    records = [tlsa(2, 0, ca.certificate)]
    assert (await probed(ca, presenting(issued), tlsa=records)).dane_matched is False
    identifiers = [MX, Domain("example.com")]
    probe = await probed(ca, presenting(issued), tlsa=records, reference_identifiers=identifiers)
    assert (probe.dane_matched, probe.result_type) == (True, ResultType.CERTIFICATE_HOST_MISMATCH)


async def test_rfc7672_8_1_with_dane_sni_is_the_tlsa_base_domain(ca: ThrowAwayCA) -> None:
    issued = ca.issue([MX])
    server = presenting(issued)
    await probed(
        ca, server, tlsa=[tlsa(3, 1, issued.certificate)], reference_identifiers=[Domain("base.example.org"), MX]
    )
    assert server.server_names == ["base.example.org"]


async def test_without_a_chain_nothing_is_said_of_dane(ca: ThrowAwayCA) -> None:
    records = [tlsa(3, 1, ca.certificate)]
    assert (await probed(ca, ScriptedServer(greeting=b"554 no\r\n"), tlsa=records)).dane_matched is None
    assert (await probed(ca, ScriptedServer(ehlo=b"250 mx\r\n"), tlsa=records)).dane_matched is None


# Surroundings
async def test_each_probe_leaves_one_line_at_debug(
    ca: ThrowAwayCA, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, logger="stsguard")
    monkeypatch.setattr(logging.getLogger("stsguard"), "propagate", True)
    await probed(ca, presenting(ca.issue([MX], self_signed=True)))
    (record,) = [record for record in caplog.records if record.name == "stsguard.adapters.smtp_probe"]
    assert record.getMessage() == "probed MX host"
    fields: dict[str, object] = record.__dict__["fields"]
    assert fields["mx_hostname"] == MX
    assert fields["result"] == "certificate-not-trusted"
    assert fields["reason"] == "self-signed_certificate"


async def test_the_systems_roots_are_the_default(ca: ThrowAwayCA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.ca_file))
    server = presenting(ca.issue([MX]))
    async with server.running():
        probe = await prober(None, server.port).probe(MX, LOOPBACK, [])
    assert probe.result_type is None


def test_a_system_without_roots_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    for directory in (tmp_path / "none", tmp_path):
        monkeypatch.setenv("SSL_CERT_DIR", str(directory))
        with pytest.raises(OperatorError, match="no CA certificates"):
            prober(None, 25)


async def test_a_system_whose_roots_are_none_is_no_fault_of_the_host(
    ca: ThrowAwayCA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_text("# emptied by an update")
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    server = presenting(ca.issue([MX]))
    async with server.running():
        one = prober(None, server.port)
        probe = await one.probe(MX, LOOPBACK, [])
        assert (probe.inconclusive, probe.failure_reason_code) == (True, "no-CA-certificates")
        roots.write_bytes(ca.ca_file.read_bytes())
        probe = await one.probe(MX, LOOPBACK, [])  # they are sought again
    assert (probe.inconclusive, probe.result_type) == (False, None)


async def test_the_systems_roots_are_read_when_the_first_host_is_probed(
    ca: ThrowAwayCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[ssl.SSLContext] = []
    load = ssl.SSLContext.load_default_certs

    def counted(context: ssl.SSLContext) -> None:
        loads.append(context)
        load(context)

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", counted)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca.ca_file))
    server = presenting(ca.issue([MX]))
    async with server.running():
        one = prober(None, server.port)
        assert not loads
        probes = await asyncio.gather(*(one.probe(MX, LOOPBACK, []) for _ in range(3)))
    assert [probe.result_type for probe in probes] == [None] * 3
    assert len(loads) == 1


def test_an_unusable_ca_file_is_refused(tmp_path: Path) -> None:
    for content in (None, b"", b"no certificate"):
        ca_file = tmp_path / "roots.pem"
        if content is not None:
            ca_file.write_bytes(content)
        with pytest.raises(OperatorError, match=r"roots\.pem"):
            SmtpProber(helo="x", permits=lambda _address: True, now=lambda: datetime.now(UTC), ca_file=ca_file)


def test_it_works_on_uvloop(ca: ThrowAwayCA) -> None:
    async def both() -> list[MxProbe]:
        good = await probed(ca, presenting(ca.issue([MX])))
        return [good, await probed(ca, presenting(ca.issue([MX], self_signed=True)))]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(both())
    assert [probe.result_type for probe in results] == [None, ResultType.CERTIFICATE_NOT_TRUSTED]


async def test_ipv6(ca: ThrowAwayCA) -> None:
    address = ip_address("::1")
    server = presenting(ca.issue([MX]))
    try:
        async with server.running(str(address)):
            probe = await prober(ca, server.port).probe(MX, address, [])
    except OSError:  # a machine without IPv6 on loopback: then that is no finding
        probe = await prober(ca, 1).probe(MX, address, [])
        assert probe.inconclusive
    else:
        assert (probe.result_type, probe.address) == (None, address)
