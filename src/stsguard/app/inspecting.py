"""What looks at our own domains from outside, and what publishes their records, built from the configuration."""

import random
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address

from stsguard.adapters.authority import AuthoritativeServers
from stsguard.adapters.dns_update import DnsUpdater, TsigKey
from stsguard.adapters.policy_fetch.inspecting import HttpsPolicyInspector
from stsguard.app.parts import Parts
from stsguard.app.readiness import ask_resolver
from stsguard.config.model import Config
from stsguard.core.addresses import AddressGuard
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.core.findings import judge
from stsguard.inbound.inspecting import Inspector
from stsguard.inbound.inspection_rounds import InspectionRounds
from stsguard.names import Domain, NameInvalid
from stsguard.ports import Resolver
from stsguard.store.stores import Stores


def build_authority(config: Config, parts: Parts) -> AuthoritativeServers:
    """What asks the authoritative servers."""
    return AuthoritativeServers(parts.resolver, AddressGuard(config.network.allow_private_addresses))


def build_inspector(config: Config, parts: Parts) -> Inspector:
    """What looks at a domain.

    Raises:
        OperatorError: [network] ca_file can't be used.
    """
    policies = HttpsPolicyInspector(
        AddressGuard(config.network.allow_private_addresses),
        ca_file=config.network.ca_file,
        timeout_seconds=config.policy_fetch.timeout_seconds,
        max_size_bytes=config.policy_fetch.max_size_bytes,
        port=config.policy_fetch.port,
    )
    return Inspector(parts.resolver, build_authority(config, parts), policies, parts.verifier, parts.clock)


def build_inspecting(config: Config, parts: Parts, stores: Stores) -> InspectionRounds:
    """What looks at every domain again and again.

    Raises:
        OperatorError: [network] ca_file can't be used.
    """
    return InspectionRounds(
        stores.domains,
        stores.findings,
        build_inspector(config, parts),
        parts.clock,
        judge=partial(judge, ruas=config.policy_host.rua),
        ask_resolver=partial(ask_resolver, config, parts),
        random=random.random,
        every_seconds=config.policy_host.inspect_every_seconds,
    )


def build_publisher(config: Config, resolver: Resolver) -> DnsUpdater | None:
    """What writes TXT records into DNS; None where the operator does.

    Raises:
        OperatorError: the TSIG key can't be used.
    """
    update = config.dns_update
    if update.server is None:
        return None
    key = None
    if update.tsig_name is not None and update.tsig_key_file is not None:
        key = TsigKey(update.tsig_name, update.tsig_algorithm.value, update.tsig_key_file)
        key.load()  # a key that can't be used is told of now, not when a policy waits for it
    return DnsUpdater(update.server.host, update.server.port, partial(_addresses, resolver), zone=update.zone, key=key)


async def _addresses(resolver: Resolver, server: str) -> Sequence[str]:
    try:
        return [str(ip_address(server))]
    except ValueError:
        pass
    try:
        name = Domain.parse(server)
    except NameInvalid as exc:
        raise LookupFailed(LookupReason.MALFORMED, server, str(exc)) from exc
    return [str(address) for address in (await resolver.lookup_addresses(name)).records]
