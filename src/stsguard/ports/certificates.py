"""What obtaining certificates for our Policy Hosts, and the watch of the operator's own, ask for."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from stsguard.core.hosted import AcmeChallenge, CertificateState
from stsguard.names import Domain


class CertificateStore(Protocol):
    """Keeps the state of certificates and of challenges under way, for every process. Raises `StoreUnavailable`."""

    async def load_certificate_states(self) -> Sequence[CertificateState]:
        """The states of all Policy Hosts that were ever tried."""

    async def save_certificate_state(self, state: CertificateState) -> None:
        """Write it in place of what is there, and end the claim of whoever has it."""

    async def claim_certificate(self, policy_host: Domain, node: str, now: datetime, lease_seconds: float) -> bool:
        """Whether `node` is now the one that orders a certificate for this host, or still is; the claim ends by
        itself."""

    async def save_challenge(self, challenge: AcmeChallenge) -> None:
        """Have every process answer it until it expires."""

    async def load_challenges(self, now: datetime) -> Sequence[AcmeChallenge]:
        """Those under way; expired ones are deleted."""

    async def load_challenge(self, kind: str, token: str, now: datetime) -> AcmeChallenge | None:
        """The one under way with this token, which may be anything that a stranger asks for."""

    async def delete_challenge(self, kind: str, token: str) -> None:
        """It is over."""


class CertificateAuthority(Protocol):
    """A CA that gives certificates by ACME (RFC 8555)."""

    async def order(
        self, host: Domain, kind: str, present: Callable[[AcmeChallenge], Awaitable[None]]
    ) -> tuple[bytes, bytes]:
        """A new key and the chain of its certificate for `host`, both in PEM. `present` has the challenge, of that
        `kind`, answered from then on.

        Raises:
            CertificateFailed: in every other case.
        """

    async def renewal_time(self, pem: bytes) -> datetime | None:
        """When the CA wants the certificate renewed (RFC 9773); None where it says nothing or can't be asked."""


class CertificateKeyFiles(Protocol):
    """The certificates of ours on this machine, each with its key. Methods raise `OSError`."""

    def lock(self) -> AbstractContextManager[bool]:
        """Whether this process is the one on this machine that orders certificates, while entered."""

    def is_by_hand(self, host: Domain) -> bool:
        """Whether the operator has put a certificate there, so that none is to be ordered for `host`."""

    def load(self, host: Domain) -> bytes | None:
        """Key and chain in PEM as last saved; None where there are none."""

    def save(self, host: Domain, key_pem: bytes, chain_pem: bytes) -> None:
        """Replace key and chain together."""


class ReachProver(Protocol):
    """Asks, over the public path, whether a name leads to us."""

    async def prove(self, challenge: AcmeChallenge) -> None:
        """Return if every public address of `challenge.host` answers the challenge, of the kind "reach" or "reach-tls".

        Raises:
            CertificateFailed: with the address and what it answered.
        """


class HandCertificateFiles(Protocol):
    """The certificates that nobody renews but the operator. `required` where there is nobody who gets those that are
    absent."""

    required: bool

    def file(self, host: Domain) -> Path:
        """Where the certificate of `host` is, or belongs."""

    def load(self, host: Domain) -> bytes | None:
        """The chain in PEM; None where there is none.

        Raises:
            OSError, ValueError: it is there, and can't be read or used with its key.
        """
