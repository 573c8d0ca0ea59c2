"""Probes of SMTP servers on loopback."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stsguard.adapters.smtp_probe import SmtpProber
from stsguard.core.dane import TlsaRecord
from stsguard.core.mxcheck import MxProbe
from stsguard.names import Domain
from tests.integration.scripted_smtp import ScriptedServer
from tests.lab.ca import IssuedCertificate, ThrowAwayCA

MX = Domain("mx.example.com")
LOOPBACK = ip_address("127.0.0.1")
HOUR = timedelta(hours=1)


def prober(ca: ThrowAwayCA | None, port: int, *, timeout_seconds: float = 30, permit: bool = True) -> SmtpProber:
    return SmtpProber(
        helo="sender.example.net",
        permits=lambda _address: permit,
        now=lambda: datetime.now(UTC),
        port=port,
        ca_file=ca.ca_file if ca else None,
        timeout_seconds=timeout_seconds,
    )


async def probed(
    ca: ThrowAwayCA,
    server: ScriptedServer,
    *,
    tlsa: Sequence[TlsaRecord] = (),
    reference_identifiers: Sequence[Domain] = (),
    timeout_seconds: float = 30,
) -> MxProbe:
    async with server.running():
        one = prober(ca, server.port, timeout_seconds=timeout_seconds)
        probe = await one.probe(MX, LOOPBACK, tlsa, reference_identifiers=reference_identifiers)
        await server.until(lambda server: server.ended == server.connections)
    assert (probe.mx_hostname, probe.address) == (MX, LOOPBACK)
    return probe


def presenting(issued: IssuedCertificate) -> ScriptedServer:
    return ScriptedServer(issued.server_context())


# DANE
def tlsa(usage: int, selector: int, certificate: x509.Certificate) -> TlsaRecord:
    content = (
        certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if selector
        else certificate.public_bytes(Encoding.DER)
    )
    return TlsaRecord(usage, selector, 1, hashlib.sha256(content).digest())
