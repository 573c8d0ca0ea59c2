"""A store that keeps nothing, for commands that run without the daemon."""

from collections.abc import Sequence

from stsguard.core.policycache import StoredPolicy
from stsguard.names import Domain


class NoStore:
    """`ports.PolicyStore` without a database."""

    async def open(self) -> None:
        """There is nothing to open."""

    async def open_early(self) -> bool:
        """There is nothing to wait for."""
        return True

    async def close(self) -> None:
        """There is nothing to close."""

    async def load_policy(self, policy_domain: Domain) -> StoredPolicy | None:
        """None is stored."""
        return None

    async def load_policies(self, after: Domain | None, limit: int) -> Sequence[StoredPolicy]:
        """None is stored."""
        return ()

    def may_hold_more(self, policy_domain: Domain) -> bool:
        """None is stored."""
        return False

    async def save_policies(self, policies: Sequence[StoredPolicy]) -> None:
        """Nothing is kept."""

    async def forget_policies(self, policy_domains: Sequence[Domain]) -> None:
        """Nothing was kept."""
