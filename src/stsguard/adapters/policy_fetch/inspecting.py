"""A policy from one given address of its Policy Host, and the dates of its certificate: `ports.PolicyInspector`.

Fetched by the same rules as any sender's (RFC 8461 §3.3). A second look without verification, of which nothing but
the certificate's last day is taken, follows where the certificate itself was why the first one failed.
"""

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from stsguard.adapters.policy_fetch.connecting import failure_of
from stsguard.adapters.policy_fetch.exchange import Exchange
from stsguard.adapters.policy_fetch.response import HTTPS_PORT
from stsguard.adapters.policy_fetch.session import (
    DEFAULT_MAX_SIZE_BYTES,
    DEFAULT_TIMEOUT_SECONDS,
    IPAddress,
    PolicyHostSessions,
)
from stsguard.adapters.policy_fetch.tls import tls_context, tls_context_for_dates_without_verification
from stsguard.core.addresses import AddressGuard
from stsguard.core.certificate_reader import certificate_facts
from stsguard.core.errors import CertificateInvalid, FetchReason, PolicyFetchFailed, PolicyInvalid
from stsguard.core.inspection import PolicyAt
from stsguard.core.mtasts import Policy, parse_policy
from stsguard.metrics import Counter
from stsguard.names import Domain, NameInvalid

INSPECTED = Counter("policy_host_inspections", "Addresses of our Policy Hosts looked at, by outcome.", "outcome")

_BY_CERTIFICATE = {
    FetchReason.CERTIFICATE_EXPIRED,
    FetchReason.CERTIFICATE_HOST_MISMATCH,
    FetchReason.CERTIFICATE_NOT_TRUSTED,
    FetchReason.CERTIFICATE_NOT_YET_VALID,
}


@dataclass(slots=True)
class _Look:
    """What is known so far."""

    phase: object = "waiting for its turn"  # its text says it
    body: bytes = b""
    not_after: datetime | None = None


class HttpsPolicyInspector:
    """Implements `ports.PolicyInspector`; the arguments are those of `HttpsPolicyFetcher`.

    Raises:
        OperatorError: there are no CA certificates, or they can't be read.
    """

    def __init__(
        self,
        guard: AddressGuard,
        *,
        ca_file: Path | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        max_size_bytes: int = DEFAULT_MAX_SIZE_BYTES,
        port: int = HTTPS_PORT,
        concurrency: int = 32,
    ) -> None:
        self._guard = guard
        self._timeout = timeout_seconds
        self._slots = asyncio.Semaphore(concurrency)

        def sessions(context: ssl.SSLContext) -> PolicyHostSessions:
            return PolicyHostSessions(context, max_size_bytes=max_size_bytes, port=port)

        self._sessions = sessions(tls_context(ca_file))
        self._sessions_for_dates = sessions(tls_context_for_dates_without_verification())

    async def fetch_at(self, policy_domain: Domain, address: IPAddress) -> PolicyAt:
        """What that address serves, whatever goes wrong as a value; never raises."""
        look = _Look()
        try:
            async with self._slots:
                policy = await self._fetch(policy_domain, address, look)
        except PolicyFetchFailed as exc:
            INSPECTED.inc(exc.reason.code)
            return PolicyAt(address, None, look.body, exc.detail, exc.reason.code, look.not_after)
        INSPECTED.inc("fetched")
        return PolicyAt(address, policy, look.body, "", "", look.not_after)

    async def _fetch(self, policy_domain: Domain, address: IPAddress, look: _Look) -> Policy:
        refusal = self._guard.refusal(address)
        if refusal is not None:
            raise PolicyFetchFailed(FetchReason.ADDRESS_REFUSED, f"no connection there: {refusal}")
        try:
            policy_host = policy_domain.child("mta-sts")  # RFC 8461 §3.3
            async with asyncio.timeout(self._timeout):
                await self._fetch_body(policy_host, address, look)
            return parse_policy(look.body)
        except TimeoutError as exc:
            detail = f"more than {self._timeout:g} s: {look.phase}"
            raise PolicyFetchFailed(FetchReason.TIMEOUT, detail) from exc
        except NameInvalid as exc:
            raise PolicyFetchFailed(FetchReason.NO_ADDRESS, f"there is no such Policy Host: {exc}") from exc
        except PolicyInvalid as exc:
            raise PolicyFetchFailed(FetchReason.POLICY_SYNTAX, str(exc)) from exc
        except OSError as exc:
            raise failure_of(exc, str(look.phase)) from exc

    async def _fetch_body(self, policy_host: Domain, address: IPAddress, look: _Look) -> None:
        try:
            with self._sessions.ask(policy_host, address) as exchange:
                look.phase = exchange
                exchange.on_secured = partial(_note_certificate, look, exchange)
                look.body = await exchange.done
        except PolicyFetchFailed as exc:
            if exc.reason in _BY_CERTIFICATE:
                await self._note_unverified_certificate(look, policy_host, address)
            raise

    async def _note_unverified_certificate(self, look: _Look, policy_host: Domain, address: IPAddress) -> None:
        """The last day of a certificate that does not hold; none where a second handshake fails as well."""
        with (
            suppress(PolicyFetchFailed, OSError),
            self._sessions_for_dates.shake_hands(policy_host, address) as exchange,
        ):
            exchange.on_secured = partial(_note_certificate, look, exchange)
            await exchange.done


def _note_certificate(look: _Look, exchange: Exchange) -> None:
    with suppress(CertificateInvalid):
        look.not_after = certificate_facts(exchange.presented_certificate()).not_after
