"""The reporter and its ways out, built from the configuration."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stsguard.app.node import node_name
from stsguard.app.parts import Parts
from stsguard.config.mail_values import SendmailCommand
from stsguard.config.model import Config
from stsguard.config.values import InetAddress
from stsguard.core.addresses import AddressGuard
from stsguard.core.errors import ConfigInvalid, StoreUnavailable
from stsguard.discovery.health import PartHealth, PartState
from stsguard.log import logger, outcome
from stsguard.names import Domain
from stsguard.ports import Clock, Mailer, ReportPoster, Resolver

if TYPE_CHECKING:
    from stsguard.adapters.dkim_signer import DkimSigner
    from stsguard.core.tlsrpt_report_model import Report
    from stsguard.outbound.reporter import Reporter
    from stsguard.store.stores import Stores

log = logger(__name__)

STORE_RETRY_SECONDS = 60.0
NO_SENDER = "tlsrpt@invalid"  # for `report build` where nothing is configured: the file says so itself


class Reporting:
    """The daemon's side of reports: the reporter, where reports are sent at all, and the look at the DKIM key."""

    def __init__(self, config: Config, stores: "Stores", parts: Parts) -> None:
        self._config = config
        self._stores = stores
        self._resolver = parts.resolver
        self._signer = build_signer(config) if config.reports.sending else None
        self._reporter: Reporter | None = None
        if config.reports.sending:
            self._reporter = build_reporter(config, stores, parts.resolver, parts.clock, self._signer)
        self._warnings: list[str] = []

    async def start(self) -> None:
        """Warn of what receivers would not like: no signature, or a published key that they may not use."""
        if self._reporter is None:
            return
        if self._signer is None:
            outcome(log, logging.INFO, "report mail is not signed here: the local MTA has to (RFC 8460 §3)")
            return
        from stsguard.adapters.dkim_signer import check_published_key

        signer = self._signer
        self._warnings = await check_published_key(self._resolver, signer.domain, signer.selector, signer.public_key)
        for warning in self._warnings:
            outcome(log, logging.WARNING, "DKIM key of reports", reason=warning)

    async def run(self) -> None:
        """Build and send reports, for ever; without a sender there is nothing to do."""
        if self._reporter is None:
            await asyncio.Event().wait()
        else:
            await self._store_is_open()
            await self._reporter.run()

    async def _store_is_open(self) -> None:
        """Wait for the database, which is opened while the daemon answers already; whoever opens it tells of faults."""
        while True:
            try:
                await self._stores.reports.open()
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_SECONDS)
            else:
                return

    def health(self) -> PartHealth:
        """Whether reports are sent, and what receivers would not like about them."""
        if self._reporter is None:
            return PartHealth(PartState.LIMITED, "none is sent: [reports] from is not set, or reports are switched off")
        if self._warnings:
            return PartHealth(PartState.LIMITED, "; ".join(self._warnings))
        return PartHealth(PartState.OK, f"sent as {self._config.reports.from_}")


def build_reporter(
    config: Config, stores: "Stores", resolver: Resolver, clock: Clock, signer: "DkimSigner | None" = None
) -> "Reporter":
    """The reporter over these stores.

    Raises:
        ConfigInvalid, OperatorError: a file or program that the configuration names can't be used.
    """
    # A site that sends no reports need not load all that makes them.
    from stsguard.outbound.destinations import Destinations
    from stsguard.outbound.dispatch import Dispatcher
    from stsguard.outbound.reporter import Reporter, ReportSettings

    reports = config.reports
    sender = reports.from_ or NO_SENDER
    settings = ReportSettings(
        organization=reports.organization or sender.rpartition("@")[2],
        contact=reports.contact or sender,
        node=node_name(),
        spread=timedelta(seconds=reports.spread_seconds),
        retry_for=timedelta(seconds=reports.retry_for_seconds),
        keep=timedelta(seconds=reports.keep_seconds),
        failures_only=reports.failures_only,
        never_to=frozenset(reports.never_to),
        dry_run=reports.dry_run,
    )
    return Reporter(
        settings,
        counters=stores.sessions,
        reports=stores.reports,
        destinations=Destinations(resolver),
        dispatcher=Dispatcher(
            sender, mailer=_mailer(config), poster=_poster(config, resolver), signer=signer, clock=clock
        ),
        clock=clock,
        random=random.random,
        keep_copy=_keeper(reports.keep_copies),
    )


def _mailer(config: Config) -> Mailer:
    from stsguard.adapters.mailer import SendmailMailer, SmtpMailer

    match config.reports.send_via:
        case InetAddress(host, port):
            helo = config.verification.helo
            return SmtpMailer(host, port, helo=helo)
        case SendmailCommand(path):
            return SendmailMailer(path)


def _poster(config: Config, resolver: Resolver) -> ReportPoster:
    from stsguard.adapters.report_post import HttpsReportPoster

    return HttpsReportPoster(
        resolver,
        AddressGuard(config.network.allow_private_addresses),
        ca_file=config.network.ca_file,
        accept_unverified_endpoints=not config.reports.https_verify,
    )


def build_signer(config: Config) -> "DkimSigner | None":
    """The DKIM signer; None where the local MTA signs.

    Raises:
        ConfigInvalid: selector and key file are not both given.
        OperatorError: the key can't be used.
    """
    reports = config.reports
    if reports.dkim_key_file is None and reports.dkim_selector is None:
        return None
    if reports.dkim_key_file is None or reports.dkim_selector is None:
        raise ConfigInvalid(f"{config.path}: [reports] dkim_selector and dkim_key_file go together: give both or none")
    from stsguard.adapters.dkim_signer import DkimSigner

    domain = reports.dkim_domain or Domain.parse((reports.from_ or NO_SENDER).rpartition("@")[2])
    return DkimSigner(domain=domain, selector=reports.dkim_selector, key_file=reports.dkim_key_file)


def _keeper(directory: Path | None) -> "Callable[[Report, Domain, bytes], object] | None":
    return None if directory is None else partial(write_report, directory)


def write_report(directory: Path, report: "Report", report_domain: Domain, report_json: bytes) -> Path:
    """Write a report as a JSON file named by RFC 8460 §5.1, whole or not at all; its path.

    Raises:
        OSError: it can't be written.
    """
    from stsguard.core.tlsrpt_report import filename

    path = directory / filename(report, report_domain, compressed=False)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(report_json)
    temporary.replace(path)
    return path
