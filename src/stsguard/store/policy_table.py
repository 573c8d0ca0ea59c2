"""The table of policies: rows and `StoredPolicy` values. Every call blocks.

What a row says is found out by `policy_rows`.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, case, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from stsguard.core.policycache import StoredPolicy
from stsguard.names import Domain
from stsguard.store.database import Database
from stsguard.store.instants import to_micros
from stsguard.store.policy_rows import Page, PolicyRows
from stsguard.store.schema import policies

# An instant so far ahead was written under a wrong clock, and must not keep every later policy out.
CLOCK_TOLERANCE = timedelta(minutes=1)
NAMES_AT_ONCE = 500  # in one statement; SQLite takes no more than 999 parameters in its older versions
_COLUMNS = policies.c


def _save(insert: Any) -> Any:
    """Statements are made once: to make one costs several times its execution."""
    statement = insert(policies).values({column.name: bindparam(column.name) for column in _COLUMNS})
    new, old, horizon = statement.excluded, _COLUMNS, bindparam("horizon", type_=_COLUMNS.fetched_at.type)
    later_use = or_(new.last_used_at > old.last_used_at, old.last_used_at > horizon)
    return statement.on_conflict_do_update(
        index_elements=[old.policy_domain],
        set_={
            **{name: new[name] for name in ("record_id", "mode", "max_age", "policy_text", "fetched_at")},
            "last_used_at": case((later_use, new.last_used_at), else_=old.last_used_at),
        },
        where=or_(new.fetched_at >= old.fetched_at, old.fetched_at > horizon),
    )


_SAVE = {"sqlite": _save(sqlite.insert), "postgresql": _save(postgresql.insert)}
_SELECT_SOME = select(policies).where(_COLUMNS.policy_domain.in_(bindparam("names", expanding=True)))


class PolicyTable:
    """The table in an open database. Reads may come from one thread and writes from another.

    Every call raises `StoreUnavailable` for every fault of the database; a write is then not done.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = PolicyRows()

    def load_some(self, policy_domains: Collection[Domain]) -> Page:
        """Those policies of `policy_domains` that there are."""
        page = Page()
        names = [str(name) for name in policy_domains]
        with self._database.reading() as connection:
            for start in range(0, len(names), NAMES_AT_ONCE):
                for row in connection.execute(_SELECT_SOME, {"names": names[start : start + NAMES_AT_ONCE]}):
                    self._rows.add(page, row)
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
                    self._rows.add(page, row)
                if len(rows) < wanted:
                    break
        return page

    def save(self, stored: Sequence[StoredPolicy], now: datetime) -> None:
        """Write these. Where another node has stored a policy fetched later, that one stays."""
        if not stored:
            return
        horizon = to_micros(now + CLOCK_TOLERANCE)
        with self._database.writing() as connection:
            statement = _SAVE[connection.dialect.name]
            connection.execute(statement, [{**_values(each), "horizon": horizon} for each in stored])

    def forget(self, policy_domains: Sequence[Domain]) -> None:
        """Delete these; unknown names are passed over."""
        if not policy_domains:
            return
        statement = delete(policies).where(_COLUMNS.policy_domain == bindparam("name"))
        with self._database.writing() as connection:
            connection.execute(statement, [{"name": str(name)} for name in policy_domains])


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
