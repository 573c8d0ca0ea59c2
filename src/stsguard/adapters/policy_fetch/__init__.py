"""Fetches policies over HTTPS (RFC 8461 §3.3): a `ports.PolicyFetcher` of h11 over one TLS connection of our own.

One connection, one Policy Host, one request. Names are resolved by the one configured resolver; the address that the
guard has judged is the address connected to; one deadline bounds look-up, connections, TLS, headers and body together,
so that a server which drips an octet a second gains nothing. Whatever goes wrong is one of `FetchReason`.

Left out on purpose: HTTP proxies (they would resolve and connect for us, past the guard), redirects, caching,
revocation checks (RFC 8461 §3.3: MAY).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Protocol

from stsguard.adapters.policy_fetch.connecting import choose_addresses, failure_of, most_telling
from stsguard.adapters.policy_fetch.response import HTTPS_PORT
from stsguard.adapters.policy_fetch.session import DEFAULT_MAX_SIZE_BYTES, DEFAULT_TIMEOUT_SECONDS, PolicyHostSessions
from stsguard.adapters.policy_fetch.tls import tls_context
from stsguard.core.addresses import AddressGuard
from stsguard.core.dane import Answer
from stsguard.core.errors import FetchReason, LookupFailed, PolicyFetchFailed, PolicyInvalid
from stsguard.core.mtasts import Policy, parse_policy
from stsguard.metrics import Counter
from stsguard.names import Domain, NameInvalid

FETCHES = Counter("policy_fetches", "Policy fetches over HTTPS, by what came of them.", "outcome")

IPAddress = IPv4Address | IPv6Address


class AddressLookup(Protocol):
    """The part of `ports.Resolver` that is needed here."""

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        """A and AAAA records together; raises LookupFailed only."""


@dataclass(slots=True)
class _Progress:
    """How far a fetch has come, for the reason when its time is up. `deadline` by the loop's clock."""

    deadline: float
    phase: object = "waiting for its turn"  # its text says it
    begun: bool = False


class HttpsPolicyFetcher:
    """Implements `ports.PolicyFetcher`.

    Args:
        resolver: for the addresses of Policy Hosts.
        guard: decides to which of them a connection is permitted.
        ca_file: the trusted CA certificates; None for the system's.
        timeout_seconds: for a whole fetch.
        max_size_bytes: the largest policy; no more of a body is read.
        port: of the Policy Hosts; another than 443 is for tests.
        concurrency: fetches under way at the same time. A fetch waits for its turn within its own time.

    Raises:
        OperatorError: there are no CA certificates, or they can't be read.
    """

    def __init__(
        self,
        resolver: AddressLookup,
        guard: AddressGuard,
        *,
        ca_file: Path | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        max_size_bytes: int = DEFAULT_MAX_SIZE_BYTES,
        port: int = HTTPS_PORT,
        concurrency: int = 256,
    ) -> None:
        self._resolver = resolver
        self._guard = guard
        self._policy_host = PolicyHostSessions(tls_context(ca_file), max_size_bytes=max_size_bytes, port=port)
        self._timeout = timeout_seconds
        self._slots = asyncio.Semaphore(concurrency)

    async def fetch(self, policy_domain: Domain) -> Policy:
        """The live policy of `policy_domain`.

        Raises:
            PolicyFetchFailed: for every way to fail, the policy's syntax included.
        """
        try:
            policy = await self._fetch(policy_domain)
        except PolicyFetchFailed as exc:
            FETCHES.inc(exc.reason.code)
            raise
        FETCHES.inc("fetched")
        return policy

    async def _fetch(self, policy_domain: Domain) -> Policy:
        progress = _Progress(deadline=asyncio.get_running_loop().time() + self._timeout)
        try:
            policy_host = policy_domain.child("mta-sts")  # RFC 8461 §3.3
            async with asyncio.timeout_at(progress.deadline), self._slots:
                body = await self._fetch_body(policy_host, progress)
            return parse_policy(body)
        except TimeoutError as exc:
            # Nobody but us is to blame for a fetch that never had its turn.
            reason = FetchReason.TIMEOUT if progress.begun else FetchReason.LOCAL
            raise PolicyFetchFailed(reason, f"more than {self._timeout:g} s: {progress.phase}") from exc
        except NameInvalid as exc:
            raise PolicyFetchFailed(FetchReason.NO_ADDRESS, f"there is no such Policy Host: {exc}") from exc
        except PolicyInvalid as exc:
            raise PolicyFetchFailed(FetchReason.POLICY_SYNTAX, str(exc)) from exc
        except OSError as exc:
            raise failure_of(exc, policy_domain) from exc

    async def _fetch_body(self, policy_host: Domain, progress: _Progress) -> bytes:
        progress.begun, progress.phase = True, "looking up the addresses"
        try:
            answer = await self._resolver.lookup_addresses(policy_host)
        except LookupFailed as exc:
            raise PolicyFetchFailed(FetchReason.DNS_FAILED, str(exc)) from exc
        addresses = choose_addresses(answer.records, self._guard)
        if len(addresses) > 1:
            return await self._ask_in_turns(policy_host, addresses, progress)
        with self._policy_host.ask(policy_host, addresses[0]) as exchange:
            progress.phase = exchange
            return await exchange.done  # within the time of the whole

    async def _ask_in_turns(self, policy_host: Domain, addresses: Sequence[IPAddress], progress: _Progress) -> bytes:
        """The policy's octets from the first of the addresses where a certificate is valid, whatever it says then.

        Until then one address is as good as the next: what counts is who proves to be the Policy Host.
        """
        loop = asyncio.get_running_loop()
        failures: list[PolicyFetchFailed] = []
        for tried, address in enumerate(addresses):
            # An address that swallows packets must not use up the time of the others, nor all of the response's.
            left = max(0.0, progress.deadline - self._timeout / 10 - loop.time())
            try:
                exchange = self._policy_host.ask(policy_host, address)
            except PolicyFetchFailed as exc:
                failures.append(exc)
                continue
            progress.phase = exchange
            try:
                async with asyncio.timeout(left / (len(addresses) - tried)) as limit:
                    with exchange:
                        exchange.on_secured = partial(limit.reschedule, None)
                        return await exchange.done
            except (PolicyFetchFailed, OSError) as exc:  # TimeoutError as well
                if exchange.is_secured:
                    raise
                failures.append(exc if isinstance(exc, PolicyFetchFailed) else failure_of(exc, str(exchange)))
        raise most_telling(failures)
