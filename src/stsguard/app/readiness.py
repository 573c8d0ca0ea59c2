"""The two conditions of DANE, checked with real look-ups: our resolver validates, and Postfix itself can do DANE."""

import asyncio

from stsguard.adapters.resolver import DnsResolver
from stsguard.adapters.resolver.plain import DNSKEY
from stsguard.adapters.resolver.validation import answers_with_ad, check_validation
from stsguard.app.parts import Parts
from stsguard.config.model import Config
from stsguard.config.options import DnssecTrust, PostfixDane
from stsguard.core.errors import LookupFailed
from stsguard.discovery.dane_readiness import DaneReadiness, Finding


def resolver_readiness(config: Config, parts: Parts) -> DaneReadiness:
    """Whether the resolver's word on DNSSEC counts."""

    async def check() -> Finding:
        match config.dns.dnssec:
            case DnssecTrust.YES:
                return Finding(True, True, "trusted by configuration")
            case DnssecTrust.NO:
                return Finding(False, True, "switched off by [dns] dnssec")
            case DnssecTrust.AUTO:
                found = await check_validation(
                    parts.nameservers,
                    signed_name=config.dns.signed_name,
                    bogus_name=config.dns.bogus_name,
                    timeout_seconds=config.dns.timeout_seconds,
                )
                if not found.conclusive and not found.validates:
                    return Finding(parts.resolver.trust_ad, False, found.reason)
                return Finding(found.validates, found.conclusive, found.reason)

    readiness = DaneReadiness("resolver", check, assume=parts.resolver.trust_ad)

    def changed(ready: bool) -> None:
        parts.resolver.trust_ad = ready
        parts.demands.redecide_all()

    readiness.on_change = changed
    return readiness


def postfix_readiness(config: Config, parts: Parts) -> DaneReadiness:
    """Whether Postfix itself can do DANE: by its settings, and by the resolver that smtp(8) asks."""

    async def check() -> Finding:
        match config.lookup.postfix_dane:
            case PostfixDane.YES:
                return Finding(True, True, "Postfix can do DANE by configuration")
            case PostfixDane.NO:
                return Finding(False, True, "switched off by [lookup] postfix_dane")
            case PostfixDane.AUTO:
                return await _ask_postfix(config)

    readiness = DaneReadiness("postfix", check, assume=True)

    def changed(ready: bool) -> None:
        parts.demands.postfix_can_dane = ready
        parts.demands.redecide_all()

    readiness.on_change = changed
    return readiness


async def ask_resolver(config: Config, parts: Parts) -> None:
    """Ask the nameservers something that every one of them can answer.

    Raises:
        LookupFailed: there was no answer.
    """
    resolver = DnsResolver(parts.nameservers, timeout_seconds=config.dns.timeout_seconds)
    await resolver.look(config.dns.signed_name, DNSKEY)


async def _ask_postfix(config: Config) -> Finding:
    from stsguard.adapters.postfix_conf import postfix_dane_facts

    facts = await asyncio.to_thread(postfix_dane_facts, None)
    if not facts.has_postfix:
        return Finding(True, True, "no Postfix to read on this machine, so our own resolver decides")
    if facts.obstacles:
        return Finding(False, True, f"Postfix can't do DANE: {'; '.join(facts.obstacles)}")
    for path, addresses in facts.nameservers.items():
        for address in addresses:
            try:
                if not await answers_with_ad((address, 53), config.dns.signed_name):
                    return Finding(False, True, f"{address}, which Postfix asks by {path}, does not validate")
            except LookupFailed as exc:
                return Finding(True, False, f"{address}, which Postfix asks by {path}: {exc}")
    return Finding(True, True, "Postfix has a validating resolver and smtp_dns_support_level = dnssec")
