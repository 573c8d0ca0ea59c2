"""The context that answers tls-alpn-01 (RFC 8737 §3) and our own question whether port 443 reaches us."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from stsguard.adapters.acme_challenge import challenge_context
from stsguard.core.acme_identifier import carries_identifier
from stsguard.core.hosted import AcmeChallenge
from stsguard.names import Domain

HOST = Domain("mta-sts.example.test")


def ask(server: ssl.SSLContext, *protocols: str) -> ssl.SSLObject:
    """A client that verifies nothing, after its handshake."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.set_alpn_protocols(protocols)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname=HOST)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (theirs, ours, theirs, ours):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return theirs


@pytest.mark.parametrize(("kind", "protocol"), [("tls-alpn-01", "acme-tls/1"), ("reach-tls", "stsguard-reach/1")])
def test_it_proves_the_content_to_who_asks_by_the_protocol(kind: str, protocol: str) -> None:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    context = challenge_context(AcmeChallenge(kind, HOST, "token", "token.thumbprint", expires_at))
    session = ask(context, protocol)
    assert session.selected_alpn_protocol() == protocol
    der = session.getpeercert(binary_form=True)
    assert der is not None
    assert carries_identifier(der, "token.thumbprint")
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.DNSName(HOST)]
