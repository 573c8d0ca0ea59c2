"""What a mail log has told so far of a delivery that is not finished: its connections, and which line belongs to which.

An smtp(8) process makes one delivery at a time, with one connection after the other; `postfix_log` says what becomes
of them.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from stsguard.core.errors import ResultType
from stsguard.core.postfix_log_lines import Endpoint, MxSkipped, PolicyFailed, TlsReport
from stsguard.names import Domain

MAX_ATTEMPTS = 32  # of one delivery: smtp_mx_session_limit is 2, smtp_mx_address_limit 5, more by configuration

Failure = tuple[ResultType, str]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(slots=True)
class Attempt:
    """One connection to one MX host, as far as it is known."""

    endpoint: Endpoint
    word: str = ""  # of the TLS line; empty before it
    reused: bool = False
    suspected: Failure | None = None  # what is wrong with the certificate, whether or not the level minds
    handshake_failed: bool = False
    tlsa_unusable: bool = False
    failure: Failure | None = None
    reported: bool = False  # by a TLSRPT line


@dataclass(slots=True)
class Process:
    """One smtp(8) process: the delivery that it is at, and which one it finished last."""

    at: datetime
    attempts: list[Attempt] = field(default_factory=list)
    skipped: dict[MxSkipped | PolicyFailed, None] = field(default_factory=dict)
    finished: tuple[str, Endpoint | None, str] | None = None


@dataclass(slots=True)
class Proxied:
    """What tlsproxy(8) said of one MX host and address."""

    at: datetime
    suspected: Failure | None = None
    handshake_failed: bool = False
    tlsa_unusable: bool = False
    reported: dict[Domain | None, int] = field(default_factory=dict)


@dataclass(slots=True)
class LogMemory:
    """What a reader has to know of the lines before the next one.

    `processes` by process id and `proxied` by MX host and address, the oldest first. `tls_services` have logged TLS.
    Everything since `complete_since` was seen and is in here; None: nothing was read yet.
    """

    complete_since: datetime | None = None
    tls_services: OrderedDict[str, None] = field(default_factory=OrderedDict)
    processes: OrderedDict[int, Process] = field(default_factory=OrderedDict)
    proxied: OrderedDict[tuple[str, str], Proxied] = field(default_factory=OrderedDict)


def keep(table: OrderedDict[_Key, _Value], limit: int) -> bool:
    """Forget the oldest entry of a table that has grown beyond `limit`; whether there was one to forget."""
    if len(table) <= limit:
        return False
    table.popitem(last=False)
    return True


def is_literal(endpoint: Endpoint) -> bool:
    """A next hop given as an address: no domain's MX host (RFC 8461 §3.4 has nothing to say of it)."""
    return endpoint.host == endpoint.address


def last_attempt(process: Process, endpoint: Endpoint | None) -> Attempt | None:
    """The latest attempt at `endpoint`, of all where it is None."""
    for attempt in reversed(process.attempts):
        if endpoint is None or attempt.endpoint == endpoint:
            return attempt
    return None


def new_attempt(process: Process, endpoint: Endpoint) -> Attempt:
    """A further attempt; of very many the oldest is forgotten."""
    if len(process.attempts) >= MAX_ATTEMPTS:
        del process.attempts[0]
    attempt = Attempt(endpoint)
    process.attempts.append(attempt)
    return attempt


def open_attempt(process: Process, endpoint: Endpoint) -> Attempt:
    """The attempt that a TLS line belongs to: the latest if its handshake is not over yet, else a new one."""
    attempt = process.attempts[-1] if process.attempts else None
    if attempt is None or attempt.endpoint[:2] != endpoint[:2] or attempt.word or attempt.handshake_failed:
        return new_attempt(process, endpoint)
    attempt.endpoint = endpoint
    return attempt


def reported_attempt(process: Process, event: TlsReport) -> Attempt:
    """The attempt that a TLSRPT line belongs to: the latest at that host unless it has one already."""
    endpoint = Endpoint(event.host.lower(), event.address.lower(), 25)
    attempt = process.attempts[-1] if process.attempts else None
    if attempt is None or attempt.endpoint[:2] != endpoint[:2] or attempt.reported:
        return new_attempt(process, endpoint)
    return attempt


def by_word(word: str) -> Failure:
    """Why a certificate was refused of which no line says so, as Postfix 3.10 concludes (a resumed TLS session)."""
    match word:
        case "Trusted":
            return ResultType.CERTIFICATE_HOST_MISMATCH, ""
        case "Untrusted" | "Anonymous":
            return ResultType.CERTIFICATE_NOT_TRUSTED, ""
        case _:
            return ResultType.VALIDATION_FAILURE, ""
