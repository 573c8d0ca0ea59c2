"""All stores over one database: opened once, written by one thread."""

from dataclasses import dataclass

from stsguard.store.access import DatabaseAccess
from stsguard.store.hosting import CertificateStoreSql, DomainStoreSql, FindingStoreSql, PolicyFetchStoreSql
from stsguard.store.policies import PolicyStoreSql
from stsguard.store.received import ReceivedStoreSql
from stsguard.store.received_views import ReceivedViewsSql
from stsguard.store.reports import ReportStoreSql
from stsguard.store.sessions import SessionStoreSql


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one database. Opening or closing one of them does it for all."""

    policies: PolicyStoreSql
    sessions: SessionStoreSql
    reports: ReportStoreSql
    domains: DomainStoreSql
    findings: FindingStoreSql
    policy_fetches: PolicyFetchStoreSql
    certificates: CertificateStoreSql
    received: ReceivedStoreSql
    received_views: ReceivedViewsSql


def open_stores(url: str) -> Stores:
    """The stores at `url`, spelled as [store] url, not opened yet."""
    access = DatabaseAccess(url)
    return Stores(
        policies=PolicyStoreSql(access),
        sessions=SessionStoreSql(access),
        reports=ReportStoreSql(access),
        domains=DomainStoreSql(access),
        findings=FindingStoreSql(access),
        policy_fetches=PolicyFetchStoreSql(access),
        certificates=CertificateStoreSql(access),
        received=ReceivedStoreSql(access),
        received_views=ReceivedViewsSql(access),
    )
