"""The keeper of certificates, built from the configuration."""

import random
import socket
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from stsguard.config.model import Config
from stsguard.core.addresses import AddressGuard
from stsguard.inbound.certificates import CertificateKeeper, CertificateSettings
from stsguard.inbound.order_pace import OrderPace
from stsguard.names import Domain
from stsguard.ports import Clock, Resolver
from stsguard.ports.certificates import CertificateStore

if TYPE_CHECKING:
    from stsguard.adapters.tls_certificates import HandCertificates


def build_certificates(
    config: Config,
    *,
    resolver: Resolver,
    clock: Clock,
    store: CertificateStore,
    policy_hosts: Callable[[], Collection[Domain]],
) -> CertificateKeeper | None:
    """The keeper over this store; None where certificates are somebody else's: a web server's in front, or put there by
    hand."""
    settings = config.policy_host
    if settings.certificate_dir is None or settings.acme_directory is None:
        return None
    from stsguard.adapters.acme_client.authority import AcmeAuthority
    from stsguard.adapters.reach import PublicPath
    from stsguard.adapters.tls_certificates import AcmeCertificates

    authority = AcmeAuthority(
        settings.acme_directory,
        settings.certificate_dir,
        now=clock.now,
        contact=settings.acme_contact,
        ca_file=settings.acme_ca_file,
    )
    return CertificateKeeper(
        CertificateSettings(challenge=settings.acme_challenge.value, node=socket.gethostname()),
        policy_hosts=policy_hosts,
        store=store,
        authority=authority,
        files=AcmeCertificates(settings.certificate_dir),
        reach=PublicPath(resolver, AddressGuard(config.network.allow_private_addresses)),
        clock=clock,
        pace=OrderPace(clock.monotonic, random.random),
        random=random.random,
    )


def hand_certificates(config: Config) -> "HandCertificates | None":
    """The certificates that the operator puts there; None where none are presented here: a web server in front does."""
    settings = config.policy_host
    if settings.certificate_dir is None or not settings.listen:
        return None
    from stsguard.adapters.tls_certificates import HandCertificates

    return HandCertificates(settings.certificate_dir, all_of_them=settings.acme_directory is None)


def caa_value(config: Config) -> str | None:
    """The value of a CAA record by which nobody but our account may get certificates (RFC 8657 §3); None where there is
    no account yet, or the CA told no name for it.

    Raises:
        OSError, ValueError: the file of the account can't be read.
    """
    settings = config.policy_host
    if settings.certificate_dir is None or settings.acme_directory is None:
        return None
    from stsguard.adapters.acme_client.account import load_account

    account = load_account(settings.certificate_dir, settings.acme_directory)
    if account is None or account.uri is None or account.caa_identity is None:
        return None
    return f'0 issue "{account.caa_identity}; accounturi={account.uri}"'
