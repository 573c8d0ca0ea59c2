"""A throw-away certification authority: certificates as good or as bad as a test needs them.

Every private key is an EC P-256 key, made in a millisecond; nothing outlives the directory given.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """An issued certificate: `chain_file` (leaf first, intermediates after it), `key_file`, and the leaf itself."""

    chain_file: Path
    key_file: Path
    certificate: x509.Certificate

    def server_context(self) -> ssl.SSLContext:
        """A server's TLS context that presents this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain_file, self.key_file)
        return context


class ThrowAwayCA:
    """A root, and on demand an intermediate, in `directory`. `ca_file` is what a client has to trust."""

    def __init__(self, directory: Path, *, name: str = "Throw-away test CA") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.ca_file = directory / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        self.certificate = _sign(
            subject=_name(name),
            issuer=_name(name),
            public_key=self._key.public_key(),
            signing_key=self._key,
            not_before=now - timedelta(days=30),
            not_after=now + timedelta(days=3650),
            extensions=_ca_extensions(self._key.public_key(), self._key.public_key(), path_length=None),
        )
        self.ca_file.write_bytes(_pem(self.certificate))
        self._issued = 0

    def issue(
        self,
        names: Sequence[str],
        *,
        addresses: Sequence[IPv4Address | IPv6Address] = (),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        common_name: str | None = None,
        self_signed: bool = False,
        san: bool = True,
        intermediate: bool = False,
        send_intermediate: bool = True,
        server_auth: bool = True,
    ) -> IssuedCertificate:
        """A server certificate for `names` (wildcards as they stand), valid from an hour ago to 90 days ahead.

        Args:
            addresses: iPAddress entries beside the names.
            not_before, not_after: other dates, for expired and not yet valid certificates.
            common_name: the subject's CN; None leaves the subject to an organisation name.
            self_signed: signed by its own key, not by this CA.
            san: False leaves the subjectAltName out, for certificates that have a CN only.
            intermediate: signed by a fresh intermediate of this CA.
            send_intermediate: False leaves that intermediate out of `chain_file`: an incomplete chain.
            server_auth: False restricts the key to TLS clients.
        """
        now = datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(common_name) if common_name is not None else _organisation("Test host")
        signing_key, issuer, between = key if self_signed else self._key, self.certificate.subject, b""
        if intermediate and not self_signed:
            signing_key, certificate = self._intermediate()
            issuer, between = certificate.subject, _pem(certificate) if send_intermediate else b""
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server_auth else ExtendedKeyUsageOID.CLIENT_AUTH
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), False),
        ]
        if san:
            entries: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
            entries += [x509.IPAddress(address) for address in addresses]
            extensions.append((x509.SubjectAlternativeName(entries), False))
        certificate = _sign(
            subject=subject,
            issuer=subject if self_signed else issuer,
            public_key=key.public_key(),
            signing_key=signing_key,
            not_before=not_before or now - timedelta(hours=1),
            not_after=not_after or now + timedelta(days=90),
            extensions=extensions,
        )
        self._issued += 1
        chain_file = self.directory / f"issued-{self._issued}.pem"
        key_file = self.directory / f"issued-{self._issued}.key"
        chain_file.write_bytes(_pem(certificate) + between)
        key_file.touch(mode=0o600)
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return IssuedCertificate(chain_file, key_file, certificate)

    def client_context(self) -> ssl.SSLContext:
        """A client's TLS context that trusts this CA and no other."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def _intermediate(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(
            subject=_name(f"Throw-away intermediate {self._issued + 1}"),
            issuer=self.certificate.subject,
            public_key=key.public_key(),
            signing_key=self._key,
            not_before=self.certificate.not_valid_before_utc,
            not_after=self.certificate.not_valid_after_utc,
            extensions=_ca_extensions(key.public_key(), self._key.public_key(), path_length=0),
        )
        return key, certificate


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _organisation(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])


def _ca_extensions(
    public_key: ec.EllipticCurvePublicKey, issuer_key: ec.EllipticCurvePublicKey, *, path_length: int | None
) -> list[tuple[x509.ExtensionType, bool]]:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False),
    ]


def _sign(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    signing_key: ec.EllipticCurvePrivateKey,
    not_before: datetime,
    not_after: datetime,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signing_key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
