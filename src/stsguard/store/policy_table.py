"""The table of policies: rows and `StoredPolicy` values. Every call blocks.

The policy is stored as served and parsed again when it is loaded, so that one parser decides what it says. A row that
does not parse, or says otherwise than its columns do, is reported and never deleted: it may be an enforce policy.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, bindparam, case, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from stsguard.core.errors import PolicyInvalid
from stsguard.core.mtasts import parse_policy
from stsguard.core.policycache import StoredPolicy
from stsguard.names import Domain, NameInvalid
from stsguard.store.database import Database
from stsguard.store.schema import from_micros, policies, to_micros

# An instant so far ahead was written under a wrong clock, and must not keep every later policy out.
CLOCK_TOLERANCE = timedelta(minutes=1)
PARSED_TEXTS = 1000
NAMES_AT_ONCE = 500  # in one statement; SQLite takes no more than 999 parameters in its older versions
_COLUMNS = policies.c
_TYPES = {column.name: column.type.python_type for column in policies.columns}


class _RowInvalid(Exception):
    """A row that is no policy; the message says why."""


@dataclass(slots=True)
class Page:
    """Policies in the order of their names, and the rows among them that are none: name and reason."""

    policies: list[StoredPolicy] = field(default_factory=list)
    invalid: list[tuple[str, str]] = field(default_factory=list)


class PolicyTable:
    """The table in an open database. Reads may come from one thread and writes from another.

    Every call raises `StoreUnavailable` for every fault of the database; a write is then not done.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # Domains with the same mail provider mostly have the same policy: parsed once, and one value in memory.
        self._parse = lru_cache(maxsize=PARSED_TEXTS)(parse_policy)

    def load_some(self, policy_domains: Collection[Domain]) -> Page:
        """Those policies of `policy_domains` that there are."""
        page = Page()
        names = [str(name) for name in policy_domains]
        with self._database.reading() as connection:
            for start in range(0, len(names), NAMES_AT_ONCE):
                wanted = _COLUMNS.policy_domain.in_(names[start : start + NAMES_AT_ONCE])
                for row in connection.execute(select(policies).where(wanted)):
                    self._add(page, row)
        return page

    def load_page(self, after: Domain | None, limit: int) -> Page:
        """`limit` policies from the first name after `after` on, fewer only at the end of the table."""
        page = Page()
        query = select(policies).where(_COLUMNS.policy_domain > str(after or "")).order_by(_COLUMNS.policy_domain)
        with self._database.reading() as connection:
            while (wanted := limit - len(page.policies)) > 0:
                seen = len(page.policies) + len(page.invalid)
                rows = connection.execute(query.limit(wanted).offset(seen)).all()
                for row in rows:
                    self._add(page, row)
                if len(rows) < wanted:
                    break
        return page

    def save(self, stored: Sequence[StoredPolicy], now: datetime) -> None:
        """Write these. Where another node has stored a policy fetched later, that one stays."""
        if not stored:
            return
        with self._database.writing() as connection:
            insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
            statement = insert(policies)
            new, old = statement.excluded, _COLUMNS
            horizon = to_micros(now + CLOCK_TOLERANCE)
            later_use = or_(new.last_used_at > old.last_used_at, old.last_used_at > horizon)
            statement = statement.on_conflict_do_update(
                index_elements=[old.policy_domain],
                set_={
                    **{name: new[name] for name in ("record_id", "mode", "max_age", "policy_text", "fetched_at")},
                    "last_used_at": case((later_use, new.last_used_at), else_=old.last_used_at),
                },
                where=or_(new.fetched_at >= old.fetched_at, old.fetched_at > horizon),
            )
            connection.execute(statement, [_values(each) for each in stored])

    def forget(self, policy_domains: Sequence[Domain]) -> None:
        """Delete these; unknown names are passed over."""
        if not policy_domains:
            return
        statement = delete(policies).where(_COLUMNS.policy_domain == bindparam("name"))
        with self._database.writing() as connection:
            connection.execute(statement, [{"name": str(name)} for name in policy_domains])

    def _add(self, page: Page, row: Row[Any]) -> None:
        try:
            page.policies.append(self._read(row))
        except _RowInvalid as exc:
            page.invalid.append((str(row.policy_domain), str(exc)))

    def _read(self, row: Row[Any]) -> StoredPolicy:
        # SQLite keeps values of any type in any column.
        for (name, kind), value in zip(_TYPES.items(), row, strict=True):
            if not isinstance(value, kind):
                raise _RowInvalid(f"{name} is no {kind.__name__}")
        try:
            policy = self._parse(row.policy_text.encode())
            stored = StoredPolicy(
                Domain.parse(row.policy_domain),
                policy,
                row.record_id,
                fetched_at=from_micros(row.fetched_at),
                last_used_at=from_micros(row.last_used_at),
            )
        except NameInvalid as exc:
            raise _RowInvalid(str(exc.args[0])) from exc
        except (PolicyInvalid, OverflowError, UnicodeError) as exc:
            raise _RowInvalid(str(exc)) from exc
        if (policy.mode.value, policy.max_age) != (row.mode, row.max_age):
            raise _RowInvalid(f"mode {row.mode} and max_age {row.max_age} are not those of the policy text")
        return stored


def _values(stored: StoredPolicy) -> dict[str, object]:
    return {
        "policy_domain": str(stored.policy_domain),
        "record_id": stored.record_id,
        "mode": stored.policy.mode.value,
        "max_age": stored.policy.max_age,
        # Each line ended, so that a last line that is blank is one again when it is read.
        "policy_text": "".join(f"{line}\n" for line in stored.policy.policy_text),
        "fetched_at": to_micros(stored.fetched_at),
        "last_used_at": to_micros(stored.last_used_at),
    }
