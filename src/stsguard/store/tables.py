"""The tables of an open database, by family."""

from functools import cached_property
from typing import TYPE_CHECKING

from stsguard.store.counter_pages import CounterPages
from stsguard.store.counter_table import CounterTable
from stsguard.store.database import Database, open_database
from stsguard.store.policy_table import PolicyTable
from stsguard.store.report_table import ReportTable
from stsguard.store.versions import Migrations

if TYPE_CHECKING:
    from stsguard.store.certificate_table import CertificateTable
    from stsguard.store.domain_table import DomainTable
    from stsguard.store.finding_table import FindingTable
    from stsguard.store.policy_fetch_table import PolicyFetchTable
    from stsguard.store.received_queries import ReceivedQueries
    from stsguard.store.received_table import ReceivedTable


class Tables:
    """Those of the sending side, by the driver alone; and the others, through SQLAlchemy, which is loaded when one of
    them is first asked for."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.policies = PolicyTable(database)
        self.counters = CounterTable(database)
        self.counter_pages = CounterPages(database)
        self.reports = ReportTable(database)

    @cached_property
    def domains(self) -> "DomainTable":
        """The domains of ours."""
        from stsguard.store.domain_table import DomainTable  # noqa: PLC0415 (as said above)

        return DomainTable(self.database.alchemy)

    @cached_property
    def findings(self) -> "FindingTable":
        """What is wrong with them."""
        from stsguard.store.finding_table import FindingTable  # noqa: PLC0415

        return FindingTable(self.database.alchemy)

    @cached_property
    def policy_fetches(self) -> "PolicyFetchTable":
        """How often their policies were fetched."""
        from stsguard.store.policy_fetch_table import PolicyFetchTable  # noqa: PLC0415

        return PolicyFetchTable(self.database.alchemy)

    @cached_property
    def certificates(self) -> "CertificateTable":
        """Their certificates."""
        from stsguard.store.certificate_table import CertificateTable  # noqa: PLC0415

        return CertificateTable(self.database.alchemy)

    @cached_property
    def received(self) -> "ReceivedTable":
        """The reports that others sent."""
        from stsguard.store.received_table import ReceivedTable  # noqa: PLC0415

        return ReceivedTable(self.database.alchemy)

    @cached_property
    def received_queries(self) -> "ReceivedQueries":
        """What they say, summed up."""
        from stsguard.store.received_queries import ReceivedQueries  # noqa: PLC0415

        return ReceivedQueries(self.database.alchemy)


def open_tables(url: str, migrations: Migrations, *, lean: bool) -> Tables:
    """The tables of the database `url`, opened as by `open_database`. Unless `lean`, SQLAlchemy is loaded here: a read
    would be kept waiting for it.

    Raises:
        StoreUnavailable: as by `open_database`.
    """
    tables = Tables(open_database(url, migrations, lean=lean))
    if not lean:
        _ = tables.database.alchemy
    return tables
