"""Certificates of the lab's hosts: one good kind, and one for each way in which a certificate can be bad."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.lab.ca import IssuedCertificate, ThrowAwayCA


class CertificateKind(StrEnum):
    """What is right or wrong with a host's certificate."""

    VALID = "valid"
    WRONG_NAME = "wrong-name"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    SELF_SIGNED = "self-signed"
    UNKNOWN_CA = "unknown-ca"
    CN_ONLY = "cn-only"


class Certificates:
    """Issues them. `ca_file` is what a client of the lab trusts."""

    def __init__(self, directory: Path) -> None:
        self._trusted = ThrowAwayCA(directory / "trusted", name="Lab root")
        self._unknown = ThrowAwayCA(directory / "unknown", name="Lab root that nobody trusts")
        self.ca_file = self._trusted.ca_file

    def issue(self, hostname: str, kind: CertificateKind, *, names: Sequence[str] = ()) -> IssuedCertificate:
        """A certificate of that kind for `hostname`, or for `names` where they are given."""
        now = datetime.now(UTC)
        wanted = list(names) or [hostname]
        match kind:
            case CertificateKind.VALID:
                return self._trusted.issue(wanted)
            case CertificateKind.WRONG_NAME:
                return self._trusted.issue(["somebody-else.test"])
            case CertificateKind.EXPIRED:
                return self._trusted.issue(
                    wanted, not_before=now - timedelta(days=20), not_after=now - timedelta(days=2)
                )
            case CertificateKind.NOT_YET_VALID:
                return self._trusted.issue(
                    wanted, not_before=now + timedelta(days=2), not_after=now + timedelta(days=20)
                )
            case CertificateKind.SELF_SIGNED:
                return self._trusted.issue(wanted, self_signed=True)
            case CertificateKind.UNKNOWN_CA:
                return self._unknown.issue(wanted)
            case CertificateKind.CN_ONLY:
                return self._trusted.issue([], san=False, common_name=wanted[0])


def tlsa_3_1_1(issued: IssuedCertificate) -> str:
    """The TLSA record data `3 1 1 …` that matches this certificate (RFC 7672 §3.1.1)."""
    key = issued.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {hashlib.sha256(key).hexdigest()}"
