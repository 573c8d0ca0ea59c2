"""When a cached policy expires, is re-checked, refreshed and retried (RFC 8461 §3.3, §5.1, §10.2)."""

from dataclasses import dataclass
from datetime import datetime

from stsguard.core.mtasts import Policy
from stsguard.names import Domain


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as the store keeps it: it lives `policy.max_age` seconds from `fetched_at`, the last good fetch."""

    policy_domain: Domain
    policy: Policy
    record_id: str
    fetched_at: datetime
    last_used_at: datetime
