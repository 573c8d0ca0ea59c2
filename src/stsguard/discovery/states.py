"""What is known of a policy domain, and until when."""

from dataclasses import dataclass

from stsguard.core.errors import PolicyFetchFailed
from stsguard.core.tlspolicy import StsState

NEVER = float("-inf")


@dataclass(slots=True)  # not frozen: see `dane.Answer`
class StateUntil:
    """A state and the monotonic instant until which it holds without a new look."""

    state: StsState
    until: float


@dataclass(slots=True)  # as above
class NegativeEntry(StateUntil):
    """A domain without a policy; after a failed fetch with when, how often, for which id, and the instant before which
    that id is not fetched again."""

    retry_at: float = NEVER
    failures: int = 0
    failed_id: str | None = None
    failure: PolicyFetchFailed | None = None
    failed_at: float = NEVER
