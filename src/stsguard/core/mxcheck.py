"""What a probe of an MX host showed, and what it means (RFC 8461 §4, RFC 7672 §3, RFC 8460 §4.3.1).

Two readings of one certificate stand side by side, since they differ and the difference is what has to be closed:
what RFC 8461 §4.2 demands (a SAN dNSName for the MX host), and what Postfix accepts (a CN where there is no SAN, and
before 3.10.5 a certificate for any name in `match=` at any host).

Whether a chain is trusted is not judged here: that is OpenSSL's part, as it is in Postfix.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from stsguard.core.errors import ResultType
from stsguard.names import Domain

MAX_UNTRUSTED_NAMES = 50  # names nobody vouches for cost nothing to make and are only shown

HANDSHAKE_FAILED = "tls-handshake-failure"  # Postfix's failure-reason-code for the same fault
NO_DNS_ID = "no-subjectAltName-dNSName"
UNREADABLE = "certificate-unreadable"
INJECTED = "plaintext-after-starttls"

_WILDCARD = re.compile(r"\*(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?){2,}", re.ASCII)
_WILDCARD_LABEL = re.compile(r"[a-z0-9-]+", re.ASCII)

_X509_V_ERR_CERT_HAS_EXPIRED = 10
# OpenSSL's texts as Postfix writes them into a failure-reason-code: blanks become underscores. Own table, since the
# texts differ between OpenSSL's versions and equal faults have to merge in a report.
_VERIFY_ERRORS = {
    2: "unable_to_get_issuer_certificate",
    7: "certificate_signature_failure",
    9: "certificate_is_not_yet_valid",
    _X509_V_ERR_CERT_HAS_EXPIRED: "certificate_has_expired",
    18: "self-signed_certificate",
    19: "self-signed_certificate_in_certificate_chain",
    20: "unable_to_get_local_issuer_certificate",
    21: "unable_to_verify_the_first_certificate",
    22: "certificate_chain_too_long",
    24: "issuer_certificate_doesn't_have_a_public_key",
    25: "path_length_constraint_exceeded",
    26: "unsuitable_certificate_purpose",
    34: "unhandled_critical_extension",
    47: "permitted_subtree_violation",
    48: "excluded_subtree_violation",
    79: "invalid_CA_certificate",
}


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The leaf certificate as presented. `dns_names` are the SAN's dNSNames, lower case, wildcards as they stand.

    `common_name` is the subject's first CN and `common_names` all of them: Postfix accepts any. Names are what a
    stranger wrote, any character included: quote them where they are shown. `subject` and `issuer` are fit to print.
    """

    subject: str
    issuer: str
    common_name: str | None
    dns_names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    sha256: str
    common_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MxProbe:
    """One STARTTLS session with one MX host at one address.

    `result_type` None with `tls` true means that RFC 8461 §4.2 holds for `mx_hostname`. `inconclusive` marks a probe
    that says nothing of TLS (no connection, a rejecting banner, a local fault); then `result_type` is None as well.
    `trusted` says whether the chain is trusted and in date whatever its names: what Postfix checks beside the name.
    `dane_matched` is None where no usable TLSA record was given, or the probe got no chain to hold against one.
    """

    mx_hostname: Domain
    address: IPv4Address | IPv6Address
    at: datetime
    tls: bool
    trusted: bool
    result_type: ResultType | None
    failure_reason_code: str
    inconclusive: bool
    dane_matched: bool | None
    certificate: CertificateFacts | None
    tls_version: str = ""


def fold(name: str) -> str:
    """Lower case for ASCII names only: Unicode would make K of the Kelvin sign, and a match of no match."""
    return name.lower() if name.isascii() else name


def dns_id_matches(dns_name: str, host: Domain) -> bool:
    """Whether the presented DNS-ID `dns_name` matches `host` (RFC 8461 §4.1, RFC 6125 §6.4).

    A wildcard is the complete left-most label and stands for exactly one label. As in OpenSSL, and so in Postfix, at
    least two labels follow it.
    """
    name = fold(dns_name)
    if name == host:
        return True
    if not _WILDCARD.fullmatch(name):
        return False
    label, _, parent = host.partition(".")
    return parent == name[2:] and _WILDCARD_LABEL.fullmatch(label) is not None


def certificate_holds(facts: CertificateFacts, mx_hostname: Domain) -> bool:
    """Whether the certificate is valid for `mx_hostname` by its SAN (RFC 8461 §4.2: a DNS-ID, never the CN)."""
    return any(dns_id_matches(name, mx_hostname) for name in facts.dns_names)


def postfix_would_match(facts: CertificateFacts, name: Domain) -> bool:
    """Whether Postfix accepts the certificate for `name` in `match=`, its chain being trusted.

    DNS-IDs if there is any, else any CN: what RFC 7672 §3.2.3 permits for DANE-TA(2), but RFC 8461 §4.2 does not.
    """
    if facts.dns_names:
        return certificate_holds(facts, name)
    common_names = facts.common_names or ((facts.common_name,) if facts.common_name else ())
    return any(dns_id_matches(common_name, name) for common_name in common_names)


@dataclass(frozen=True, slots=True)
class TlsSession:
    """How far a session got that says something of the host's TLS.

    `starttls` False with `refusal` what it was refused with, or "" where STARTTLS was not offered at all.
    `handshake_error` is a failure-reason-code for every way to fail but the chain's, or "". `verify_code` is OpenSSL's
    X509_V_ERR number, 0 for a trusted chain that is in date, whatever its names. `certificate` None can't be read.
    """

    starttls: bool
    refusal: str = ""
    handshake_error: str = ""
    verify_code: int = 0
    certificate: CertificateFacts | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a session is by RFC 8461 §4.2: `result_type` None is a pass. See `MxProbe` for the fields."""

    result_type: ResultType | None
    failure_reason_code: str
    trusted: bool


def judge(session: TlsSession, mx_hostname: Domain) -> Judgement:
    """The result-type of a session (RFC 8460 §4.3.1), one row a way to fail."""
    if not session.starttls:
        return Judgement(ResultType.STARTTLS_NOT_SUPPORTED, session.refusal, trusted=False)
    if session.handshake_error:
        return Judgement(ResultType.VALIDATION_FAILURE, session.handshake_error, trusted=False)
    if session.verify_code:
        reason = _VERIFY_ERRORS.get(session.verify_code, f"X509_V_ERR_{session.verify_code}")
        if session.verify_code == _X509_V_ERR_CERT_HAS_EXPIRED:
            return Judgement(ResultType.CERTIFICATE_EXPIRED, reason, trusted=False)
        # RFC 8460 §4.3.1: unknown CAs, name constraints, chain errors and the like are all certificate-not-trusted.
        return Judgement(ResultType.CERTIFICATE_NOT_TRUSTED, reason, trusted=False)
    if session.certificate is None:
        return Judgement(ResultType.VALIDATION_FAILURE, UNREADABLE, trusted=True)
    if certificate_holds(session.certificate, mx_hostname):
        return Judgement(None, "", trusted=True)
    # RFC 8461 §4.2: without a DNS-ID there is nothing to match, whatever the CN says.
    reason = "" if session.certificate.dns_names else NO_DNS_ID
    return Judgement(ResultType.CERTIFICATE_HOST_MISMATCH, reason, trusted=True)


def bounded(facts: CertificateFacts, *, trusted: bool) -> CertificateFacts:
    """`facts` as they are kept: of an untrusted certificate only the first names, for they are shown and never used."""
    if trusted or len(facts.dns_names) + len(facts.common_names) <= MAX_UNTRUSTED_NAMES:
        return facts
    return replace(
        facts, dns_names=facts.dns_names[:MAX_UNTRUSTED_NAMES], common_names=facts.common_names[:MAX_UNTRUSTED_NAMES]
    )


def agree(first: MxProbe, second: MxProbe) -> bool:
    """Whether two conclusive probes found the same: the result, and the names that a trusted chain vouches for.

    Not the certificate itself: hosts behind a load balancer often have one each.
    """
    return (first.result_type, first.trusted, _names(first)) == (second.result_type, second.trusted, _names(second))


def _names(probe: MxProbe) -> tuple[frozenset[str], frozenset[str]] | None:
    if probe.certificate is None or not probe.trusted:
        return None
    return frozenset(probe.certificate.dns_names), frozenset(probe.certificate.common_names)


@dataclass(frozen=True, slots=True)
class Finding:
    """The newest conclusive probe of one address, or an inconclusive one where there is no other.

    `confirmed` for a fault means that two probes agreed, the second made after the first had found it.
    """

    probe: MxProbe
    confirmed: bool


@dataclass(frozen=True, slots=True)
class MxVerdict:
    """What is known of one MX host, over all its addresses.

    `rfc_valid` is False if RFC 8461 §4.2 fails at any address, None where no probe was conclusive. `trusted` says that
    some address presents a trusted chain. `confirmed` belongs to `rfc_valid`: a success needs no second probe (no
    passing fault makes a trusted certificate), a fault does. `at` is the time of the newest probe behind it.
    `certificates` are those a decision may rest on: with a trusted chain, and good or confirmed.
    """

    mx_hostname: Domain
    rfc_valid: bool | None
    trusted: bool
    confirmed: bool
    at: datetime
    certificates: tuple[CertificateFacts, ...] = ()

    def matched_by_postfix(self, names: Sequence[Domain]) -> frozenset[Domain]:
        """Those of `names` for which Postfix would accept what this host presents, although it must not.

        Meant for a permitted host: a certificate that holds for the host itself is accepted rightly.
        """
        wrong = [facts for facts in self.certificates if not certificate_holds(facts, self.mx_hostname)]
        return _accepted(wrong, names)


def _accepted(certificates: Sequence[CertificateFacts], names: Sequence[Domain]) -> frozenset[Domain]:
    return frozenset(name for name in names if any(postfix_would_match(facts, name) for facts in certificates))


def merge(mx_hostname: Domain, findings: Sequence[Finding]) -> MxVerdict | None:
    """The verdict on a host from the findings at its addresses; None where nothing was probed."""
    if not findings:
        return None
    conclusive = [finding for finding in findings if not finding.probe.inconclusive]
    faults = [finding for finding in conclusive if finding.probe.result_type is not None]
    reliable = [finding.probe for finding in conclusive if finding.probe.result_type is None or finding.confirmed]
    certificates = [probe.certificate for probe in reliable if probe.trusted and probe.certificate is not None]
    return MxVerdict(
        mx_hostname=mx_hostname,
        rfc_valid=not faults if conclusive else None,
        trusted=any(finding.probe.trusted for finding in conclusive),
        confirmed=any(finding.confirmed for finding in faults) if faults else bool(conclusive),
        at=max(finding.probe.at for finding in conclusive or findings),
        certificates=tuple(dict.fromkeys(certificates)),
    )


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Permitted names that a reply must not offer: as `mx_host_pattern`, and as names in `match=`."""

    patterns: frozenset[Domain]
    match_names: frozenset[Domain]


def names_to_leave_out(permitted: Sequence[Domain], verdicts: Mapping[Domain, MxVerdict]) -> LeftOut:
    """What a `secure` reply must not name, so that Postfix accepts no certificate that RFC 8461 §4 refuses.

    `verdicts` covers every MX host of the next hop, permitted or not. `patterns` are the permitted hosts themselves
    whose certificate fails RFC 8461 §4.2 and would yet be accepted for a permitted name. `match_names` are the names
    by which it would be: Postfix before 3.10.5 accepts a certificate for any listed name at any host, so a host that
    is not permitted, or whose certificate is another's, is kept out only by not listing that name. Inconclusive and
    unconfirmed probes leave nothing out.
    """
    patterns: set[Domain] = set()
    match_names: set[Domain] = set()
    for mx_hostname, verdict in verdicts.items():
        if mx_hostname in permitted:
            accepted = verdict.matched_by_postfix(permitted)
            if accepted:
                patterns.add(mx_hostname)
        else:
            # RFC 8461 §4.1: a host that no pattern matches is not delivered to, be its certificate ever so good.
            accepted = _accepted(verdict.certificates, permitted)
        match_names |= accepted
    return LeftOut(frozenset(patterns), frozenset(match_names))
