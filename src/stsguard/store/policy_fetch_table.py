"""The table of who fetched our policies: rows and `PolicyFetchRow` values. Every call blocks."""

from collections import Counter
from collections.abc import Sequence
from datetime import date

from sqlalchemy import delete, select, tuple_

from stsguard.core.hosted import PolicyFetchRow
from stsguard.names import Domain
from stsguard.store.alchemy import AlchemyDatabase, insert_into
from stsguard.store.hosting_schema import policy_fetches
from stsguard.store.rows import one_line

MAX_USER_AGENT_LENGTH = 200
MAX_NETWORK_LENGTH = 64
_FETCHES = policy_fetches.c
_KEY = tuple_(*policy_fetches.primary_key)


class PolicyFetchTable:
    """The table in an open database. Reads may come from one thread and writes from another.

    Every call raises `StoreUnavailable` for every fault of the database; a write is then not done.
    """

    def __init__(self, database: AlchemyDatabase) -> None:
        self._database = database

    def add(self, rows: Sequence[PolicyFetchRow]) -> None:
        """Add these counts, in the order of their keys, so that two nodes never wait for each other in a circle."""
        sums: Counter[tuple[str, str, str, str]] = Counter()
        for row in rows:
            agent, network = one_line(row.user_agent, MAX_USER_AGENT_LENGTH), one_line(row.network, MAX_NETWORK_LENGTH)
            sums[row.day, str(row.policy_domain), agent, network] += row.fetches
        names = tuple(column.name for column in policy_fetches.columns)
        values = [dict(zip(names, (*key, sums[key]), strict=True)) for key in sorted(sums)]
        if not values:
            return
        with self._database.writing() as connection:
            statement = insert_into(connection, policy_fetches)
            statement = statement.on_conflict_do_update(
                index_elements=["day", "policy_domain", "user_agent", "network"],
                set_={"fetches": _FETCHES.fetches + statement.excluded.fetches},
            )
            connection.execute(statement, values)

    def load(self, policy_domain: Domain, since: date) -> list[PolicyFetchRow]:
        """What was counted from that day on, latest day and highest count first."""
        query = select(policy_fetches).where(
            _FETCHES.policy_domain == str(policy_domain), _FETCHES.day >= since.isoformat()
        )
        order = (_FETCHES.day.desc(), _FETCHES.fetches.desc(), _FETCHES.user_agent, _FETCHES.network)
        with self._database.scanning() as connection:
            rows = connection.execute(query.order_by(*order))
            return [
                PolicyFetchRow(row.day, Domain(row.policy_domain), row.user_agent, row.network, row.fetches)
                for row in rows
            ]

    def delete_some(self, before: date, limit: int) -> int:
        """Delete up to `limit` rows of the days before that: how many."""
        query = select(*policy_fetches.primary_key).where(_FETCHES.day < before.isoformat()).limit(limit)
        with self._database.writing() as connection:
            keys = [tuple(row) for row in connection.execute(query)]
            connection.execute(delete(policy_fetches).where(_KEY.in_(keys)))
        return len(keys)
