"""Probing real SMTP servers on loopback: good ones, broken ones and hostile ones."""

import asyncio
import hashlib
import ssl
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from stsguard.adapters.smtp_probe import SmtpProber
from stsguard.core.errors import ResultType
from stsguard.core.mxcheck import postfix_would_match
from stsguard.names import Domain
from tests.integration.probing import HOUR, LOOPBACK, MX, presenting, probed, prober
from tests.integration.scripted_smtp import ScriptedServer, closed_port
from tests.lab.ca import IssuedCertificate, ThrowAwayCA
from tests.unit.chains import make, raw_extension


@pytest.fixture
def ca(tmp_path: Path) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path / "ca")


# Certificates
async def test_a_valid_host(ca: ThrowAwayCA) -> None:
    server = presenting(ca.issue([MX, "*.example.org"], intermediate=True, common_name="a host"))
    probe = await probed(ca, server)
    assert probe.tls
    assert probe.trusted
    assert not probe.inconclusive
    assert (probe.result_type, probe.failure_reason_code) == (None, "")
    assert probe.dane_matched is None
    assert probe.tls_version == "TLSv1.3"
    assert probe.certificate is not None
    assert probe.certificate.dns_names == (MX, "*.example.org")
    assert probe.certificate.common_name == "a host"
    assert datetime.now(UTC) - HOUR < probe.at <= datetime.now(UTC)
    assert server.connections == 1


async def test_rfc8461_7_1_sni_is_the_mx_hostname(ca: ThrowAwayCA) -> None:
    server = presenting(ca.issue([MX]))
    await probed(ca, server, reference_identifiers=[Domain("base.example.org")])  # without TLSA records no DANE
    assert server.server_names == [MX]


async def test_the_server_is_greeted_by_the_configured_name_and_left_politely(ca: ThrowAwayCA) -> None:
    server = presenting(ca.issue([MX]))
    await probed(ca, server)
    assert server.commands == [b"EHLO sender.example.net\r\n", b"STARTTLS\r\n"]
    assert server.tls_commands == [b"QUIT\r\n"]


CERTIFICATES = {
    "wrong name": (ResultType.CERTIFICATE_HOST_MISMATCH, "", True),
    "CN and no SAN": (ResultType.CERTIFICATE_HOST_MISMATCH, "no-subjectAltName-dNSName", True),
    "expired": (ResultType.CERTIFICATE_EXPIRED, "certificate_has_expired", False),
    "not yet valid": (ResultType.CERTIFICATE_NOT_TRUSTED, "certificate_is_not_yet_valid", False),
    "self-signed": (ResultType.CERTIFICATE_NOT_TRUSTED, "self-signed_certificate", False),
    "unknown CA": (ResultType.CERTIFICATE_NOT_TRUSTED, "unable_to_get_local_issuer_certificate", False),
    "missing intermediate": (ResultType.CERTIFICATE_NOT_TRUSTED, "unable_to_get_local_issuer_certificate", False),
    "for clients only": (ResultType.CERTIFICATE_NOT_TRUSTED, "unsuitable_certificate_purpose", False),
}


def issue(case: str, ca: ThrowAwayCA, directory: Path) -> IssuedCertificate:
    now = datetime.now(UTC)
    match case:
        case "wrong name":
            return ca.issue(["mx2.example.com"])
        case "CN and no SAN":
            return ca.issue([], common_name=MX, san=False)
        case "expired":
            return ca.issue([MX], not_before=now - 2 * HOUR, not_after=now - HOUR)
        case "not yet valid":
            return ca.issue([MX], not_before=now + HOUR, not_after=now + 2 * HOUR)
        case "self-signed":
            return ca.issue([MX], self_signed=True)
        case "unknown CA":
            return ThrowAwayCA(directory / "other", name="Another CA").issue([MX])
        case "missing intermediate":
            return ca.issue([MX], intermediate=True, send_intermediate=False)
        case _:
            return ca.issue([MX], server_auth=False)


@pytest.mark.parametrize("case", CERTIFICATES)
async def test_rfc8461_4_2_bad_certificates(ca: ThrowAwayCA, tmp_path: Path, case: str) -> None:
    result_type, reason, trusted = CERTIFICATES[case]
    issued = issue(case, ca, tmp_path)
    server = presenting(issued)
    probe = await probed(ca, server)
    assert (probe.result_type, probe.failure_reason_code, probe.trusted) == (result_type, reason, trusted)
    assert probe.tls
    assert not probe.inconclusive
    # The facts are there whether the chain verifies or not; only an untrusted one takes a second connection.
    assert probe.certificate is not None
    assert probe.certificate.sha256 == hashlib.sha256(issued.certificate.public_bytes(Encoding.DER)).hexdigest()
    assert server.connections == (1 if trusted else 2)
    assert server.server_names == [MX] * server.connections
    assert server.tls_commands == [b"QUIT\r\n"]


async def test_a_chain_with_a_cn_only_is_what_postfix_accepts(ca: ThrowAwayCA) -> None:
    probe = await probed(ca, presenting(ca.issue([], common_name=MX, san=False)))
    assert probe.trusted
    assert probe.certificate is not None
    assert postfix_would_match(probe.certificate, MX)


async def test_what_a_host_shows_only_once_does_not_change_the_verdict(ca: ThrowAwayCA) -> None:
    """The second connection is for facts alone: a good certificate on it makes no bad one good."""
    server = presenting(ca.issue([MX], self_signed=True))
    good = ca.issue([MX]).server_context()

    def switch(tls: ssl.SSLObject, _name: str | None, _context: object) -> None:
        if server.connections == 2:
            tls.context = good

    async with server.running():
        assert server.tls is not None
        server.tls.sni_callback = switch
        probe = await prober(ca, server.port).probe(MX, LOOPBACK, [])
    assert (probe.result_type, probe.trusted) == (ResultType.CERTIFICATE_NOT_TRUSTED, False)


# STARTTLS
@pytest.mark.parametrize(
    "ehlo",
    [
        b"250 mx.example.com\r\n",
        b"250-mx.example.com\r\n250 PIPELINING\r\n",
        b"250-STARTTLS\r\n250 PIPELINING\r\n",  # the first line is the host's name
        b"250-mx.example.com\r\n250-XSTARTTLS\r\n250 8BITMIME STARTTLS\r\n",
        b"250-mx.example.com\r\n250- \r\n250\r\n",
    ],
)
async def test_rfc3207_a_host_that_does_not_offer_starttls(ca: ThrowAwayCA, ehlo: bytes) -> None:
    server = ScriptedServer(ehlo=ehlo)
    probe = await probed(ca, server)
    assert (probe.result_type, probe.failure_reason_code) == (ResultType.STARTTLS_NOT_SUPPORTED, "")
    assert not probe.tls
    assert not probe.trusted
    assert not probe.inconclusive
    assert server.commands == [b"EHLO sender.example.net\r\n", b"QUIT\r\n"]


@pytest.mark.parametrize("code", [454, 500, 502, 530, 554])
async def test_a_host_that_refuses_starttls(ca: ThrowAwayCA, code: int) -> None:
    server = ScriptedServer(starttls=f"{code} 4.7.0 not now\r\n".encode())
    probe = await probed(ca, server)
    assert probe.result_type is ResultType.STARTTLS_NOT_SUPPORTED
    assert probe.failure_reason_code == f"STARTTLS-refused-{code}"
    assert server.commands[-1] == b"QUIT\r\n"


@pytest.mark.parametrize(
    "ehlo",
    [
        b"250-mx.example.com\r\n250 starttls\r\n",
        b"250-mx.example.com\n250-STARTTLS \n250 HELP\n",  # bare line feeds
        b"250-\r\n250 STARTTLS\r\n",
        b"250-mx.example.com\r\n" + b"250-X\r\n" * 100 + b"250 STARTTLS\r\n",
    ],
)
async def test_odd_replies_that_offer_starttls(ca: ThrowAwayCA, ehlo: bytes) -> None:
    server = presenting(ca.issue([MX]))
    server.ehlo = ehlo
    assert (await probed(ca, server)).result_type is None


async def test_a_greeting_of_several_lines(ca: ThrowAwayCA) -> None:
    server = presenting(ca.issue([MX]))
    server.greeting = b"220-welcome\r\n220-to this host\r\n220 ESMTP\r\n"
    assert (await probed(ca, server)).result_type is None


# The handshake
async def test_rfc8461_7_2_tls_1_1_is_a_failed_handshake(ca: ThrowAwayCA) -> None:
    context = ca.issue([MX]).server_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this is what is to be refused
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    probe = await probed(ca, ScriptedServer(context))
    assert (probe.result_type, probe.failure_reason_code) == (ResultType.VALIDATION_FAILURE, "tls-handshake-failure")
    assert not probe.tls
    assert not probe.trusted


async def test_tls_1_2_is_enough(ca: ThrowAwayCA) -> None:
    context = ca.issue([MX]).server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    probe = await probed(ca, ScriptedServer(context))
    assert (probe.result_type, probe.tls_version) == (None, "TLSv1.2")


async def test_the_chain_is_seen_with_tls_1_2_as_well(ca: ThrowAwayCA) -> None:
    context = ca.issue([MX], self_signed=True).server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    probe = await probed(ca, ScriptedServer(context))
    assert probe.result_type is ResultType.CERTIFICATE_NOT_TRUSTED
    assert probe.certificate is not None


@pytest.mark.parametrize("sent", [None, b"500 what?\r\n", b"\x15\x03\x01\x00\x02\x02\x28", bytes(range(100, 164))])
async def test_a_host_that_breaks_the_handshake(ca: ThrowAwayCA, sent: bytes | None) -> None:
    probe = await probed(ca, ScriptedServer(instead_of_handshake=sent))
    assert (probe.result_type, probe.failure_reason_code) == (ResultType.VALIDATION_FAILURE, "tls-handshake-failure")
    assert not probe.inconclusive


async def test_a_host_that_resets_the_handshake(ca: ThrowAwayCA) -> None:
    probe = await probed(ca, ScriptedServer(reset=True))
    assert (probe.result_type, probe.failure_reason_code) == (ResultType.VALIDATION_FAILURE, "tls-handshake-failure")


async def test_a_trusted_certificate_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    """OpenSSL does not look at every extension; what it passes over may yet be no certificate."""
    authority = make("ca", ca=True, days=(-4000, 40000))
    leaf = make(
        "leaf",
        issuer=authority,
        names=[MX],
        days=(-4000, 40000),
        extensions=[raw_extension("1.3.6.1.5.5.7.1.1", b"\xff")],
    )
    files = tmp_path / "ca.pem", tmp_path / "chain.pem", tmp_path / "key.pem"
    files[0].write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(leaf.certificate.public_bytes(Encoding.PEM))
    files[2].write_bytes(leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[2])
    server = ScriptedServer(context)
    async with server.running():
        one = SmtpProber(
            helo="x",
            permits=lambda _address: True,
            now=lambda: datetime.now(UTC),
            port=server.port,
            ca_file=files[0],
        )
        probe = await one.probe(MX, LOOPBACK, [])
    assert (probe.result_type, probe.failure_reason_code) == (ResultType.VALIDATION_FAILURE, "certificate-unreadable")
    assert probe.certificate is None


async def test_rfc3207_5_plaintext_after_starttls_is_refused(ca: ThrowAwayCA) -> None:
    server = presenting(ca.issue([MX]))
    server.starttls = b"220 go ahead\r\n250 injected\r\n"
    probe = await probed(ca, server)
    assert (probe.result_type, probe.failure_reason_code) == (ResultType.VALIDATION_FAILURE, "plaintext-after-starttls")
    assert server.server_names == []  # no handshake was begun


# What says nothing of TLS
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (partial(ScriptedServer, greeting=b"554 no mail from you\r\n"), "banner: 554"),
        (partial(ScriptedServer, greeting=b"450 greylisted\r\n"), "banner: 450"),
        (partial(ScriptedServer, greeting=b"421 busy\r\n"), "banner: 421"),
        (partial(ScriptedServer, greeting=b"250 odd\r\n"), "banner: 250"),
        (partial(ScriptedServer, ehlo=b"550 I do not like your name\r\n"), "EHLO: 550"),
        (partial(ScriptedServer, ehlo=b"421 busy\r\n"), "EHLO: 421"),
        (partial(ScriptedServer, starttls=b"421 shutting down\r\n"), "STARTTLS: 421"),
        (partial(ScriptedServer, greeting=None), "banner: connection closed"),
        (partial(ScriptedServer, ehlo=None), "EHLO: connection closed"),
        (partial(ScriptedServer, starttls=None), "STARTTLS: connection closed"),
        (partial(ScriptedServer, greeting=b"HTTP/1.1 400 Bad Request\r\n"), "banner: no SMTP reply"),
        (partial(ScriptedServer, greeting=b"\xff\x00\x16\x03\r\n"), "banner: no SMTP reply"),
        (partial(ScriptedServer, greeting=b"220x\r\n"), "banner: no SMTP reply"),
        (partial(ScriptedServer, ehlo=b"\r\n"), "EHLO: no SMTP reply"),
        (partial(ScriptedServer, starttls=b"199 no such code\r\n"), "STARTTLS: no SMTP reply"),
        (partial(ScriptedServer, ehlo=b"", forever=b"250-X\r\n"), "EHLO: endless reply"),
        (partial(ScriptedServer, ehlo=b"", forever=b"250-XXXXXXXXX"), "EHLO: endless line"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_rfc8460_4_3_4_what_is_no_finding(
    ca: ThrowAwayCA, script: Callable[[], ScriptedServer], reason: str
) -> None:
    probe = await probed(ca, script())
    assert probe.inconclusive
    assert probe.failure_reason_code == reason
    assert probe.result_type is None
    assert not probe.tls
    assert not probe.trusted
    assert probe.certificate is None


@pytest.mark.parametrize("code", [554, 450])
async def test_a_host_that_rejects_us_is_left_politely(ca: ThrowAwayCA, code: int) -> None:
    server = ScriptedServer(greeting=f"{code} go away\r\n".encode())
    await probed(ca, server)
    assert server.commands == [b"QUIT\r\n"]


@pytest.mark.parametrize(
    "script",
    [
        partial(ScriptedServer, greeting=b""),
        partial(ScriptedServer, greeting=b"220-and so on"),
        partial(ScriptedServer, ehlo=b""),
        partial(ScriptedServer, starttls=b""),
        partial(ScriptedServer, instead_of_handshake=b""),
    ],
    ids=["banner", "half a line", "EHLO", "STARTTLS", "handshake"],
)
async def test_rfc8460_4_3_4_silence_ends_at_the_deadline(
    ca: ThrowAwayCA, script: Callable[[], ScriptedServer]
) -> None:
    probe = await probed(ca, script(), timeout_seconds=0.5)
    assert probe.inconclusive
    assert probe.failure_reason_code.endswith(": timeout")
    assert probe.result_type is None


@pytest.mark.parametrize("reply", [b"", None])
async def test_a_host_that_does_not_answer_quit_changes_nothing(
    ca: ThrowAwayCA, monkeypatch: pytest.MonkeyPatch, reply: bytes | None
) -> None:
    monkeypatch.setattr("stsguard.adapters.smtp_probe.QUIT_SECONDS", 0.1)
    server = presenting(ca.issue([MX]))
    server.quit = reply
    assert (await probed(ca, server)).result_type is None
    plain = ScriptedServer(ehlo=b"250 mx.example.com\r\n", quit=reply)
    assert (await probed(ca, plain)).result_type is ResultType.STARTTLS_NOT_SUPPORTED


async def test_nobody_listens(ca: ThrowAwayCA) -> None:
    sock, port = closed_port()
    with sock:
        probe = await prober(ca, port).probe(MX, LOOPBACK, [])
    assert probe.inconclusive
    assert probe.failure_reason_code == "connect: ECONNREFUSED"


async def test_an_address_that_the_guard_refuses_is_not_connected_to(ca: ThrowAwayCA) -> None:
    server = presenting(ca.issue([MX]))
    async with server.running():
        probe = await prober(ca, server.port, permit=False).probe(MX, LOOPBACK, [])
    assert probe.inconclusive
    assert probe.failure_reason_code == "address-refused"
    assert server.connections == 0


async def test_out_of_file_descriptors_is_our_fault(ca: ThrowAwayCA, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prober(ca, 25)

    def no_socket(*_arguments: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("socket.socket", no_socket)
    probe = await one.probe(MX, LOOPBACK, [])
    assert probe.inconclusive
    assert probe.failure_reason_code == "socket: EMFILE"


async def test_a_cancelled_probe_ends_at_once(ca: ThrowAwayCA) -> None:
    server = ScriptedServer(greeting=b"")
    async with server.running():
        task = asyncio.create_task(prober(ca, server.port).probe(MX, LOOPBACK, []))
        await server.until(lambda server: server.connections == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda server: server.ended == 1)
