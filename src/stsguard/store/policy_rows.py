"""Rows of the table of policies as values, whatever has read them.

The policy is stored as served and parsed again when it is loaded, so that one parser decides what it says. A row that
does not parse, or says otherwise than its columns do, is reported and never deleted: it may be an enforce policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from stsguard.core.errors import PolicyInvalid
from stsguard.core.mtasts import parse_policy
from stsguard.core.policycache import StoredPolicy
from stsguard.names import Domain, NameInvalid
from stsguard.store.instants import from_micros

PARSED_TEXTS = 1000
# The columns in their order, as the newest schema has them; a test holds them against it.
COLUMNS = {
    "policy_domain": str,
    "record_id": str,
    "mode": str,
    "max_age": int,
    "policy_text": str,
    "fetched_at": int,
    "last_used_at": int,
}


class _RowInvalid(Exception):
    """A row that is no policy; the message says why."""


@dataclass(slots=True)
class Page:
    """Policies in the order of their names, and the rows among them that are none: name and reason."""

    policies: list[StoredPolicy] = field(default_factory=list)
    invalid: list[tuple[str, str]] = field(default_factory=list)


class PolicyRows:
    """Reads rows: their values in the order of `COLUMNS`."""

    def __init__(self) -> None:
        # Domains with the same mail provider mostly have the same policy: parsed once, and one value in memory.
        self._parse = lru_cache(maxsize=PARSED_TEXTS)(parse_policy)

    def add(self, page: Page, row: Sequence[Any]) -> None:
        """Add what the row says to `page`."""
        try:
            page.policies.append(self._read(row))
        except _RowInvalid as exc:
            page.invalid.append((str(row[0]), str(exc)))

    def _read(self, row: Sequence[Any]) -> StoredPolicy:
        policy_domain, record_id, mode, max_age, policy_text, fetched_at, last_used_at = row
        # SQLite keeps values of any type in any column.
        for (name, kind), value in zip(COLUMNS.items(), row, strict=True):
            if not isinstance(value, kind):
                raise _RowInvalid(f"{name} is no {kind.__name__}")
        try:
            policy = self._parse(policy_text.encode())
            stored = StoredPolicy(
                Domain.parse(policy_domain),
                policy,
                record_id,
                fetched_at=from_micros(fetched_at),
                last_used_at=from_micros(last_used_at),
            )
        except NameInvalid as exc:
            raise _RowInvalid(str(exc.args[0])) from exc
        except (PolicyInvalid, OverflowError, UnicodeError) as exc:
            raise _RowInvalid(str(exc)) from exc
        if (policy.mode.value, policy.max_age) != (mode, max_age):
            raise _RowInvalid(f"mode {mode} and max_age {max_age} are not those of the policy text")
        return stored
