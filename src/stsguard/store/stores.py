"""All stores over one database: opened once, written by one thread."""

from dataclasses import dataclass

from stsguard.store.access import DatabaseAccess
from stsguard.store.policies import PolicyStoreSql
from stsguard.store.reports import ReportStoreSql
from stsguard.store.sessions import SessionStoreSql


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one database. Opening or closing one of them does it for all."""

    policies: PolicyStoreSql
    sessions: SessionStoreSql
    reports: ReportStoreSql


def open_stores(url: str) -> Stores:
    """The stores at `url`, spelled as [store] url, not opened yet."""
    access = DatabaseAccess(url)
    return Stores(PolicyStoreSql(access), SessionStoreSql(access), ReportStoreSql(access))
