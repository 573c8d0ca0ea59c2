"""Every way in which a policy can fail to be had: without a cached policy mail goes on, with one it stays in force.

Each row's MX host has a bad certificate, so that a delivered message shows that nothing is enforced.
"""

from dataclasses import dataclass

from stsguard.core.errors import FetchReason
from tests.lab.certificates import CertificateKind
from tests.lab.scenario_model import (
    MAIN_DAEMON,
    Answer,
    Command,
    Deliver,
    Demand,
    Mx,
    PolicyHostAddress,
    Publication,
    Publish,
    Scenario,
    Site,
    policy,
)

BAD_MX = (Mx(certificate=CertificateKind.SELF_SIGNED),)
NEW_RECORD = ("v=STSv1; id=2;",)
ENFORCE = policy("enforce")


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail; `slow` ones go to the daemon that does not wait long."""

    name: str
    says: str
    reason: FetchReason
    site: Site
    slow: bool = False


def _address(address: PolicyHostAddress) -> Site:
    return policy("enforce", address=address)


def _certificate(kind: CertificateKind) -> Site:
    return policy("enforce", certificate=kind)


def _status(status: str, *more_headers: str) -> Site:
    return policy("enforce", status=status, more_headers=more_headers)


ELSEWHERE = "Location: https://mta-sts.elsewhere.test/.well-known/mta-sts.txt"
LONG = "".join(f"x{number}: y\r\n" for number in range(8000))
FAULTS = (
    Fault("dns-failed", "SERVFAIL", FetchReason.DNS_FAILED, _address(PolicyHostAddress.FAILING)),
    Fault("dns-unanswered", "no DNS answer", FetchReason.DNS_FAILED, _address(PolicyHostAddress.UNANSWERED), slow=True),
    Fault("no-address", "no address", FetchReason.NO_ADDRESS, _address(PolicyHostAddress.NONE)),
    Fault("address-refused", "a private address", FetchReason.ADDRESS_REFUSED, _address(PolicyHostAddress.PRIVATE)),
    Fault("connect-failed", "no way there", FetchReason.CONNECT_FAILED, _address(PolicyHostAddress.UNREACHABLE)),
    Fault("refused", "nothing listens", FetchReason.CONNECTION_REFUSED, _address(PolicyHostAddress.REFUSING)),
    Fault("timeout", "a host that never speaks", FetchReason.TIMEOUT, _address(PolicyHostAddress.SILENT), slow=True),
    Fault("slow", "20 s for an answer", FetchReason.TIMEOUT, policy("enforce", delay_seconds=20.0), slow=True),
    Fault("tls-failed", "a TLS alert", FetchReason.TLS_FAILED, policy("enforce", refuses_tls=True)),
    Fault(
        "certificate-not-trusted",
        "a certificate of an unknown CA",
        FetchReason.CERTIFICATE_NOT_TRUSTED,
        _certificate(CertificateKind.UNKNOWN_CA),
    ),
    Fault(
        "certificate-self-signed",
        "a self-signed certificate",
        FetchReason.CERTIFICATE_NOT_TRUSTED,
        _certificate(CertificateKind.SELF_SIGNED),
    ),
    Fault(
        "certificate-expired",
        "an expired certificate",
        FetchReason.CERTIFICATE_EXPIRED,
        _certificate(CertificateKind.EXPIRED),
    ),
    Fault(
        "certificate-not-yet-valid",
        "a certificate of tomorrow",
        FetchReason.CERTIFICATE_NOT_YET_VALID,
        _certificate(CertificateKind.NOT_YET_VALID),
    ),
    Fault(
        "certificate-host-mismatch",
        "a certificate for another name",
        FetchReason.CERTIFICATE_HOST_MISMATCH,
        _certificate(CertificateKind.WRONG_NAME),
    ),
    Fault(
        "certificate-cn-only",
        "a certificate with a common name only",
        FetchReason.CERTIFICATE_HOST_MISMATCH,
        _certificate(CertificateKind.CN_ONLY),
    ),
    Fault("http-malformed", "no HTTP", FetchReason.HTTP_MALFORMED, policy("enforce", raw=b"Good morning.\r\n\r\n")),
    Fault("http-redirect", "a redirect", FetchReason.HTTP_REDIRECT, _status("301 Moved Permanently", ELSEWHERE)),
    Fault("http-status-404", "404", FetchReason.HTTP_STATUS, _status("404 Not Found")),
    Fault("http-status-503", "503", FetchReason.HTTP_STATUS, _status("503 Service Unavailable")),
    Fault("http-status-204", "204, which is not 200", FetchReason.HTTP_STATUS, _status("204 No Content")),
    Fault("connection-lost", "the answer breaks off", FetchReason.CONNECTION_LOST, policy("enforce", cut=150)),
    Fault("media-type", "text/html", FetchReason.MEDIA_TYPE, policy("enforce", content_type="text/html")),
    Fault("too-large", "more than 64 KiB", FetchReason.TOO_LARGE, policy("enforce", more=LONG)),
    Fault("syntax", "a line that is no field", FetchReason.POLICY_SYNTAX, policy("enforce", more="nonsense\r\n")),
    Fault("no-version", "no version", FetchReason.POLICY_SYNTAX, Site("mode: enforce\nmx: {mx1}\nmax_age: 86400\n")),
    Fault("no-max-age", "no max_age", FetchReason.POLICY_SYNTAX, Site("version: STSv1\nmode: enforce\nmx: {mx1}\n")),
    Fault("empty", "nothing at all", FetchReason.POLICY_SYNTAX, Site("")),
)

WITHOUT_CACHE = tuple(
    Scenario(
        f"fetch-{fault.name}",
        f"no policy is cached, and it can't be had: {fault.says}",
        Demand.DELIVER,
        "RFC 8461 §3.3",
        Publication(site=fault.site, mx=BAD_MX),
        "NOTFOUND",
        "sent Untrusted",
        fetch_reason=fault.reason,
        daemon="impatient" if fault.slow else MAIN_DAEMON,
    )
    for fault in FAULTS
)

RECORD_FAILS = (
    Scenario(
        "fetch-record-servfail",
        "the look-up of the record fails, and no policy is cached",
        Demand.DELIVER,
        "RFC 8461 §3.3",
        Publication(record_fails=True, mx=BAD_MX),
        "NOTFOUND",
        "sent Untrusted",
    ),
)


def _cached(name: str, says: str, broken: Publication, *, refresh_exit_status: int = 1) -> Scenario:
    return Scenario(
        f"cached-{name}",
        f"a policy is cached, and then {says}",
        Demand.WITHHOLD,
        "RFC 8461 §3.3",
        Publication(mx=BAD_MX),
        "secure mx1",
        "deferred 4.7.5",
        steps=(
            Deliver("deferred 4.7.5"),
            Answer("secure mx1"),
            Publish(broken),
            Command(("cache", "refresh", "{domain}"), refresh_exit_status),
            Answer("secure mx1"),
            Deliver("deferred 4.7.5"),
        ),
    )


def _broken(site: Site | None, records: tuple[str, ...] | None = NEW_RECORD) -> Publication:
    return Publication(records=records, site=site, mx=BAD_MX)


WITH_CACHE = (
    _cached("record-vanishes", "its record vanishes", _broken(ENFORCE, records=None), refresh_exit_status=0),
    _cached("record-and-host-vanish", "its record and its policy host vanish", _broken(None, records=None)),
    _cached("record-doubled", "there are two records", _broken(None, records=("v=STSv1; id=1;", "v=STSv1; id=2;"))),
    _cached("host-vanishes", "the policy host vanishes", _broken(None)),
    _cached(
        "host-servfail",
        "the policy host's name gets SERVFAIL",
        _broken(policy("enforce", address=PolicyHostAddress.FAILING)),
    ),
    _cached("redirect", "the policy host redirects", _broken(policy("enforce", status="302 Found"))),
    _cached("not-found", "the policy host says 404", _broken(policy("enforce", status="404 Not Found"))),
    _cached(
        "certificate-expires",
        "the policy host's certificate expires",
        _broken(policy("enforce", certificate=CertificateKind.EXPIRED)),
    ),
    _cached(
        "none-with-bad-certificate",
        "a policy `none` is served with a certificate of an unknown CA",
        _broken(policy("none", certificate=CertificateKind.UNKNOWN_CA)),
    ),
    _cached(
        "none-as-html", "a policy `none` is served as text/html", _broken(policy("none", content_type="text/html"))
    ),
    _cached("syntax", "the policy becomes invalid", _broken(policy("enforce", more="nonsense\r\n"))),
)

ROWS: tuple[Scenario, ...] = (*WITHOUT_CACHE, *RECORD_FAILS, *WITH_CACHE)
