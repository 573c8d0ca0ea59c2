"""What enforcement would defer, by the decision and our own verification of the MX hosts."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest

from stsguard.core.dane import MxEvidence, MxHost, MxLookupFailure, TlsaStatus
from stsguard.core.errors import LookupReason, ResultType
from stsguard.core.mxcheck import MxProbe
from stsguard.core.tlspolicy import StsState, StsStatus, decide
from stsguard.discovery.destination import Demand
from stsguard.discovery.forecast import would_defer
from stsguard.names import Domain
from tests.unit.fakes import START, TLSA, policy

ONE, TWO = Domain("mx1.example.com"), Domain("mx2.example.com")
ENFORCE = StsState(StsStatus.IN_FORCE, policy("enforce", mx=["*.example.com"]))
TESTING = StsState(StsStatus.IN_FORCE, policy("testing", mx=["*.example.com"]))
FOREIGN = StsState(StsStatus.IN_FORCE, policy("enforce", mx=["mx.other.test"]))
ABSENT = StsState(StsStatus.ABSENT)


def demand(sts: StsState, *hosts: tuple[Domain, TlsaStatus]) -> Demand:
    found = tuple(
        MxHost(name, 10, status, (), (TLSA,) if status is TlsaStatus.USABLE else ()) for name, status in hosts
    )
    mx = MxEvidence(found, secure=True, ttl=300)
    return Demand(mx, sts, None, decide(mx, sts), START)


def probe(name: Domain, result: ResultType | None, *, tls: bool = True, dane: bool | None = None) -> MxProbe:
    return MxProbe(name, ip_address("192.0.2.1"), START, tls, result is None, result, "", False, dane, None)


def inconclusive(name: Domain) -> MxProbe:
    return MxProbe(name, ip_address("192.0.2.2"), START, False, False, None, "", True, None, None)


EXPIRED = ResultType.CERTIFICATE_EXPIRED
UNTRUSTED = ResultType.CERTIFICATE_NOT_TRUSTED
NO_TLS = ResultType.STARTTLS_NOT_SUPPORTED
A, U, X = TlsaStatus.ABSENT, TlsaStatus.USABLE, TlsaStatus.UNUSABLE

ROWS = [
    # secure
    (demand(ENFORCE, (ONE, A)), [probe(ONE, EXPIRED)], f"{ONE}: certificate-expired"),
    (demand(ENFORCE, (ONE, A)), [probe(ONE, None)], None),
    (demand(ENFORCE, (ONE, A)), [], None),
    (demand(ENFORCE, (ONE, A)), [inconclusive(ONE)], None),
    (demand(ENFORCE, (ONE, A)), [probe(ONE, EXPIRED), probe(ONE, None)], None),  # another address is good
    (demand(ENFORCE, (ONE, A), (TWO, A)), [probe(ONE, EXPIRED), probe(TWO, None)], None),
    (demand(ENFORCE, (ONE, A), (TWO, A)), [probe(ONE, EXPIRED)], None),  # nothing speaks against the other
    (
        demand(ENFORCE, (ONE, A), (TWO, A)),
        [probe(ONE, EXPIRED), probe(TWO, NO_TLS, tls=False)],
        f"{ONE}: certificate-expired; {TWO}: starttls-not-supported",
    ),
    (demand(FOREIGN, (ONE, A)), [], "no MX host is permitted by the policy"),
    # not enforced
    (demand(TESTING, (ONE, A)), [probe(ONE, EXPIRED)], None),
    (demand(ABSENT, (ONE, A)), [probe(ONE, NO_TLS, tls=False)], None),
    # dane and dane-only: a certificate that no CA signed is none of their business
    (demand(ABSENT, (ONE, U)), [probe(ONE, UNTRUSTED, dane=True)], None),
    (demand(ABSENT, (ONE, U)), [probe(ONE, UNTRUSTED, dane=False)], f"{ONE}: no TLSA record matches"),
    (demand(ABSENT, (ONE, U)), [probe(ONE, None, dane=False)], f"{ONE}: no TLSA record matches"),
    (demand(ABSENT, (ONE, U)), [probe(ONE, NO_TLS, tls=False)], f"{ONE}: starttls-not-supported"),
    (demand(ABSENT, (ONE, U), (TWO, A)), [probe(ONE, None, dane=False)], None),
    (demand(ABSENT, (ONE, U), (TWO, X)), [probe(ONE, None, dane=False)], None),
    (demand(ABSENT, (ONE, U), (TWO, X)), [probe(ONE, None, dane=False), probe(TWO, UNTRUSTED)], None),
    (
        demand(ABSENT, (ONE, U), (TWO, X)),
        [probe(ONE, None, dane=False), probe(TWO, NO_TLS, tls=False)],
        f"{ONE}: no TLSA record matches; {TWO}: starttls-not-supported",
    ),
    (demand(ABSENT, (ONE, X)), [probe(ONE, NO_TLS, tls=False)], f"{ONE}: starttls-not-supported"),
    (demand(ENFORCE, (ONE, U), (TWO, A)), [probe(ONE, None, dane=False)], f"{ONE}: no TLSA record matches"),
    (demand(ENFORCE, (ONE, U), (TWO, TlsaStatus.FAILED)), [probe(ONE, None, dane=True)], None),
]


@pytest.mark.parametrize(("made", "probes", "expected"), ROWS)
def test_would_defer(made: Demand, probes: Sequence[MxProbe], expected: str | None) -> None:
    assert would_defer(made, lambda name: [one for one in probes if one.mx_hostname == name]) == expected


def test_a_failed_mx_lookup_defers() -> None:
    mx = MxLookupFailure(LookupReason.BOGUS, "example.com MX")
    assert would_defer(Demand(mx, ABSENT, None, decide(mx, ABSENT), START), lambda _name: ()) is not None
