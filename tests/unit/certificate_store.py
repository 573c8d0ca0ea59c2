"""A `ports.CertificateStore` of values, with leases."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from stsguard.core.errors import StoreUnavailable
from stsguard.core.hosted import AcmeChallenge, CertificateState
from stsguard.names import Domain


class CertificateValues:
    """What is stored, to be shared by the keepers of several nodes. While `down`, nothing can be had."""

    def __init__(self) -> None:
        self.states: dict[Domain, CertificateState] = {}
        self.claims: dict[Domain, tuple[str, datetime]] = {}
        self.challenges: dict[tuple[str, str], AcmeChallenge] = {}
        self.history: list[CertificateState] = []
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("the database is away")

    async def load_certificate_states(self) -> Sequence[CertificateState]:
        self._check()
        return list(self.states.values())

    async def save_certificate_state(self, state: CertificateState) -> None:
        self._check()
        self.states[state.policy_host] = state
        self.history.append(state)

    async def claim_certificate(self, policy_host: Domain, node: str, now: datetime, lease_seconds: float) -> bool:
        self._check()
        owner, until = self.claims.get(policy_host, (node, now))
        if owner != node and now < until:
            return False
        self.claims[policy_host] = (node, now + timedelta(seconds=lease_seconds))
        return True

    async def save_challenge(self, challenge: AcmeChallenge) -> None:
        self._check()
        self.challenges[challenge.kind, challenge.token] = challenge

    async def load_challenges(self, now: datetime) -> Sequence[AcmeChallenge]:
        self._check()
        return [challenge for challenge in self.challenges.values() if now < challenge.expires_at]

    async def load_challenge(self, kind: str, token: str, now: datetime) -> AcmeChallenge | None:
        self._check()
        challenge = self.challenges.get((kind, token))
        return challenge if challenge is not None and now < challenge.expires_at else None

    async def delete_challenge(self, kind: str, token: str) -> None:
        self._check()
        self.challenges.pop((kind, token), None)
