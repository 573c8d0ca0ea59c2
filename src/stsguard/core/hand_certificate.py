"""A policy host's certificate that nobody renews but the operator: whether senders accept it, and how long they will.

A sender fetches the policy only where the certificate is valid for the Policy Host by its SAN (RFC 8461 §3.3). Where it
is not, senders that hold the policy go on by it until `max_age` is over, and others know of none. Left out on purpose:
whether the chain ends at a CA that senders trust; the inspections fetch the policy back as a sender does.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from stsguard.core.certificate_reader import pem_facts
from stsguard.core.errors import CertificateInvalid
from stsguard.core.mxcheck import certificate_holds
from stsguard.core.syntax import quoted
from stsguard.names import Domain

SOON = timedelta(days=14)
URGENT = timedelta(days=7)
_MAX_NAMES = 5


@dataclass(frozen=True, slots=True)
class HandCertificate:
    """The certificate in `file`. `problem` is empty where all is well, else what is wrong with it and what to do;
    `urgent` where senders refuse it, or will within a week. `not_after` None where it can't be read."""

    file: str
    not_after: datetime | None = None
    problem: str = ""
    urgent: bool = False


def judge(file: str, pem: bytes, policy_host: Domain, now: datetime) -> HandCertificate:
    """The first certificate in `pem`, as it is at `now`."""
    try:
        facts = pem_facts(pem)
    except CertificateInvalid as exc:
        return unusable(file, str(exc))
    end = f"{facts.not_after:%Y-%m-%d %H:%M} UTC"
    if not certificate_holds(facts, policy_host):
        names = ", ".join(map(quoted, facts.dns_names[:_MAX_NAMES])) or "no name at all"
        problem = f"its SAN has {names} and not {policy_host}: no sender fetches the policy; get one for this name"
    elif now >= facts.not_after:
        problem = f"it has expired, at {end}: no sender fetches the policy; put a new one there"
    elif now < facts.not_before:
        problem = (
            f"it is not valid before {facts.not_before:%Y-%m-%d %H:%M} UTC: no sender fetches the policy until then"
        )
    elif now < facts.not_after - SOON:
        return HandCertificate(file, facts.not_after)
    else:
        days = (facts.not_after - now) // timedelta(days=1)
        left = f"{days} days" if days > 1 else "a day" if days else "less than a day"
        problem = f"it expires in {left}, at {end}: put a new one there, else no sender fetches the policy"
        return HandCertificate(file, facts.not_after, problem, urgent=now >= facts.not_after - URGENT)
    return HandCertificate(file, facts.not_after, problem, urgent=True)


def unusable(file: str, reason: str) -> HandCertificate:
    """One that is there and can't be presented."""
    return HandCertificate(file, problem=f"it can't be used: {reason}", urgent=True)


def absent(file: str) -> HandCertificate:
    """None, where nobody else gets one."""
    problem = (
        "there is none, and [policy_host] acme_directory is empty: put chain and key there, else no sender fetches"
    )
    return HandCertificate(file, problem=f"{problem} the policy", urgent=True)
