"""All stores over one database: opened once, written by one thread."""

from functools import cached_property
from typing import TYPE_CHECKING

from stsguard.store.access import DatabaseAccess
from stsguard.store.policies import PolicyStoreSql
from stsguard.store.sessions import SessionStoreSql

if TYPE_CHECKING:
    from stsguard.store.hosting import CertificateStoreSql, DomainStoreSql, FindingStoreSql, PolicyFetchStoreSql
    from stsguard.store.received import ReceivedStoreSql
    from stsguard.store.received_views import ReceivedViewsSql
    from stsguard.store.reports import ReportStoreSql


class Stores:
    """The stores of one database. Opening or closing one of them does it for all. What the sending side
    can do without is loaded when it is first asked for."""

    def __init__(self, access: DatabaseAccess) -> None:
        self._access = access
        self.policies = PolicyStoreSql(access)
        self.sessions = SessionStoreSql(access)

    @cached_property
    def reports(self) -> "ReportStoreSql":
        """Our own reports."""
        from stsguard.store.reports import ReportStoreSql  # noqa: PLC0415 (as said above)

        return ReportStoreSql(self._access)

    @cached_property
    def domains(self) -> "DomainStoreSql":
        """The domains of ours."""
        from stsguard.store.hosting import DomainStoreSql  # noqa: PLC0415

        return DomainStoreSql(self._access)

    @cached_property
    def findings(self) -> "FindingStoreSql":
        """What is wrong with them."""
        from stsguard.store.hosting import FindingStoreSql  # noqa: PLC0415

        return FindingStoreSql(self._access)

    @cached_property
    def policy_fetches(self) -> "PolicyFetchStoreSql":
        """How often their policies were fetched."""
        from stsguard.store.hosting import PolicyFetchStoreSql  # noqa: PLC0415

        return PolicyFetchStoreSql(self._access)

    @cached_property
    def certificates(self) -> "CertificateStoreSql":
        """Their certificates."""
        from stsguard.store.hosting import CertificateStoreSql  # noqa: PLC0415

        return CertificateStoreSql(self._access)

    @cached_property
    def received(self) -> "ReceivedStoreSql":
        """The reports that others sent."""
        from stsguard.store.received import ReceivedStoreSql  # noqa: PLC0415

        return ReceivedStoreSql(self._access)

    @cached_property
    def received_views(self) -> "ReceivedViewsSql":
        """What they say, summed up."""
        from stsguard.store.received_views import ReceivedViewsSql  # noqa: PLC0415

        return ReceivedViewsSql(self._access)


def open_stores(url: str, *, lean: bool = False) -> Stores:
    """The stores at `url`, spelled as [store] url, not opened yet; `lean` as of `DatabaseAccess`."""
    return Stores(DatabaseAccess(url, lean=lean))
