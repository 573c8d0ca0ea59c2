"""The table of policies: rows and `StoredPolicy` values. Every call blocks.

What a row says is found out by `policy_rows`.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from itertools import chain

from stsguard.core.policycache import StoredPolicy
from stsguard.names import Domain
from stsguard.store.connection import Row
from stsguard.store.database import Database
from stsguard.store.instants import to_micros
from stsguard.store.policy_rows import COLUMNS, Page, PolicyRows

# An instant so far ahead was written under a wrong clock, and must not keep every later policy out.
CLOCK_TOLERANCE = timedelta(minutes=1)
NAMES_AT_ONCE = 500  # in one statement; SQLite takes no more than 999 parameters in its older versions
_NAMES = ", ".join(COLUMNS)
_LOAD_SOME = f"SELECT {_NAMES} FROM policies WHERE policy_domain IN (:names)"
_LOAD_PAGE = f"""
    SELECT {_NAMES} FROM policies WHERE policy_domain > :after ORDER BY policy_domain LIMIT :wanted OFFSET :seen"""
_ROW = f"({', '.join('?' * len(COLUMNS))})"
_SAVE = f"""
    INSERT INTO policies ({_NAMES}) VALUES {{rows}}
    ON CONFLICT (policy_domain) DO UPDATE SET
        record_id = excluded.record_id, mode = excluded.mode, max_age = excluded.max_age,
        policy_text = excluded.policy_text, fetched_at = excluded.fetched_at,
        last_used_at = CASE
            WHEN excluded.last_used_at > policies.last_used_at OR policies.last_used_at > ?
            THEN excluded.last_used_at ELSE policies.last_used_at END
    WHERE excluded.fetched_at >= policies.fetched_at OR policies.fetched_at > ?"""
# Rows in one statement: at each statement, and each row of `executemany`, a driver gives the interpreter away and waits
# for it anew, and so does the event loop then. Few numbers, for few statements to be kept prepared.
SAVED_AT_ONCE = (64, 16, 4, 1)
_FORGET = "DELETE FROM policies WHERE policy_domain = :name"


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
                for row in connection.query(_LOAD_SOME, {"names": names[start : start + NAMES_AT_ONCE]}):
                    self._rows.add(page, row)
        return page

    def load_page(self, after: Domain | None, limit: int) -> Page:
        """`limit` policies from the first name after `after` on, fewer only at the end of the table."""
        page = Page()
        with self._database.reading() as connection:
            while (wanted := limit - len(page.policies)) > 0:
                seen = len(page.policies) + len(page.invalid)
                rows = connection.query(_LOAD_PAGE, {"after": str(after or ""), "wanted": wanted, "seen": seen})
                for row in rows:
                    self._rows.add(page, row)
                if len(rows) < wanted:
                    break
        return page

    def save(self, stored: Sequence[StoredPolicy], now: datetime) -> None:
        """Write these, each of another domain. Where another node has stored a policy fetched later, that one stays."""
        if not stored:
            return
        horizon = to_micros(now + CLOCK_TOLERANCE)
        rows = [_values(each) for each in stored]
        with self._database.writing() as connection:
            start = 0
            while start < len(rows):
                some = rows[start : start + next(count for count in SAVED_AT_ONCE if count <= len(rows) - start)]
                statement = _SAVE.format(rows=", ".join([_ROW] * len(some)))
                connection.execute_many(statement, [(*chain.from_iterable(some), horizon, horizon)])
                start += len(some)

    def forget(self, policy_domains: Sequence[Domain]) -> None:
        """Delete these; unknown names are passed over."""
        if not policy_domains:
            return
        with self._database.writing() as connection:
            connection.execute_many(_FORGET, [{"name": str(name)} for name in policy_domains])


def _values(stored: StoredPolicy) -> Row:
    """In the order of `COLUMNS`."""
    return (
        str(stored.policy_domain),
        stored.record_id,
        stored.policy.mode.value,
        stored.policy.max_age,
        # Each line ended, so that a last line that is blank is one again when it is read.
        "\n".join((*stored.policy.policy_text, "")),
        to_micros(stored.fetched_at),
        to_micros(stored.last_used_at),
    )
