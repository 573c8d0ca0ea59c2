"""The parts that look up, fetch, probe and decide, built from the configuration."""

import random
import socket
from dataclasses import dataclass

from stsguard.adapters.clock import SystemClock
from stsguard.adapters.policy_fetch import HttpsPolicyFetcher
from stsguard.adapters.resolver import DnsResolver
from stsguard.adapters.resolver.validation import is_trusted_path, load_resolv_conf
from stsguard.adapters.smtp_probe import SmtpProber
from stsguard.config.model import Config
from stsguard.config.options import DnssecTrust
from stsguard.core.addresses import AddressGuard
from stsguard.discovery.demand import Demands
from stsguard.discovery.policies import PolicyCache
from stsguard.discovery.tending import PolicyTender
from stsguard.discovery.verification import MxVerifier
from stsguard.ports import PolicyStore


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that look up, fetch, probe and decide."""

    clock: SystemClock
    resolver: DnsResolver
    nameservers: tuple[tuple[str, int], ...]
    fetcher: HttpsPolicyFetcher
    verifier: MxVerifier
    cache: PolicyCache
    tender: PolicyTender
    demands: Demands


def build_resolver(config: Config) -> tuple[DnsResolver, tuple[tuple[str, int], ...]]:
    """The one resolver that is asked for everything, and its nameservers."""
    configured = tuple((str(server.address), server.port) for server in config.dns.nameservers)
    nameservers = configured or tuple(load_resolv_conf())
    trust_ad = assumed_trust(config, nameservers)
    return DnsResolver(nameservers, timeout_seconds=config.dns.timeout_seconds, trust_ad=trust_ad), nameservers


def build_parts(config: Config, store: PolicyStore) -> Parts:
    """All parts of discovery, over `store`."""
    clock = SystemClock()
    resolver, nameservers = build_resolver(config)
    guard = AddressGuard(config.network.allow_private_addresses)
    fetcher = HttpsPolicyFetcher(
        resolver,
        guard,
        ca_file=config.network.ca_file,
        timeout_seconds=config.policy_fetch.timeout_seconds,
        max_size_bytes=config.policy_fetch.max_size_bytes,
        port=config.policy_fetch.port,
    )
    prober = SmtpProber(
        permits=guard.permits,
        now=clock.now,
        helo=config.verification.helo or _own_name(),
        port=config.verification.port,
        timeout_seconds=config.verification.timeout_seconds,
        ca_file=config.network.ca_file,
    )
    verifier = MxVerifier(
        prober,
        clock,
        enabled=config.verification.enabled,
        interval_seconds=config.verification.interval_seconds,
        concurrency=config.verification.concurrency,
        random=random.random,
    )
    cache = PolicyCache(
        resolver=resolver,
        fetcher=fetcher,
        store=store,
        clock=clock,
        random=random.random,
        size=config.lookup.cache_size,
        id_check_seconds=config.lookup.id_check_seconds,
    )
    verifier.has_to_yield = lambda: cache.is_fetching
    tender = PolicyTender(cache, resolver=resolver, store=store)
    demands = Demands(
        resolver=resolver,
        cache=cache,
        tender=tender,
        verifier=verifier,
        clock=clock,
        wait_seconds=config.policy_fetch.wait_seconds,
        size=config.lookup.cache_size,
    )
    return Parts(clock, resolver, nameservers, fetcher, verifier, cache, tender, demands)


def _own_name() -> str:
    return socket.getfqdn() or "localhost"


def assumed_trust(config: Config, nameservers: tuple[tuple[str, int], ...]) -> bool:
    """Whether AD is believed before a check was conclusive: on loopback it is, since the check that fails there is
    one that got no answer, and then nothing else does either."""
    match config.dns.dnssec:
        case DnssecTrust.YES:
            return True
        case DnssecTrust.NO:
            return False
        case DnssecTrust.AUTO:
            return all(is_trusted_path(nameserver) for nameserver in nameservers)
