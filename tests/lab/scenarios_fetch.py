"""Every way in which a policy can fail to be had: without a cached policy mail goes on, with one it stays in force.

Each row's MX host has a bad certificate, so that a delivered message shows that nothing is enforced.
"""

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

# FetchReason code -> what is wrong, and how long the look-up takes for it.
FAULTS: tuple[tuple[str, str, Site, str], ...] = (
    ("dns-failed", "SERVFAIL for the policy host", policy("enforce", address=PolicyHostAddress.FAILING), MAIN_DAEMON),
    (
        "dns-unanswered",
        "no answer for the policy host's name",
        policy("enforce", address=PolicyHostAddress.UNANSWERED),
        "impatient",
    ),
    ("no-address", "the policy host has no address", policy("enforce", address=PolicyHostAddress.NONE), MAIN_DAEMON),
    (
        "address-refused",
        "the policy host's address is a private one",
        policy("enforce", address=PolicyHostAddress.PRIVATE),
        MAIN_DAEMON,
    ),
    ("connect-failed", "nothing listens", policy("enforce", address=PolicyHostAddress.REFUSING), MAIN_DAEMON),
    ("timeout", "a policy host that never speaks", policy("enforce", address=PolicyHostAddress.SILENT), "impatient"),
    ("timeout-slow", "an answer after 20 s", policy("enforce", delay_seconds=20.0), "impatient"),
    ("tls-failed", "a TLS alert", policy("enforce", refuses_tls=True), MAIN_DAEMON),
    (
        "certificate-not-trusted",
        "a certificate of an unknown CA",
        policy("enforce", certificate=CertificateKind.UNKNOWN_CA),
        MAIN_DAEMON,
    ),
    (
        "certificate-self-signed",
        "a self-signed certificate",
        policy("enforce", certificate=CertificateKind.SELF_SIGNED),
        MAIN_DAEMON,
    ),
    ("certificate-expired", "an expired one", policy("enforce", certificate=CertificateKind.EXPIRED), MAIN_DAEMON),
    (
        "certificate-not-yet-valid",
        "a certificate of tomorrow",
        policy("enforce", certificate=CertificateKind.NOT_YET_VALID),
        MAIN_DAEMON,
    ),
    (
        "certificate-host-mismatch",
        "a certificate for another name",
        policy("enforce", certificate=CertificateKind.WRONG_NAME),
        MAIN_DAEMON,
    ),
    (
        "certificate-cn-only",
        "a certificate with a common name only",
        policy("enforce", certificate=CertificateKind.CN_ONLY),
        MAIN_DAEMON,
    ),
    ("http-malformed", "no HTTP", policy("enforce", raw=b"Good morning, this is no HTTP.\r\n\r\n"), MAIN_DAEMON),
    (
        "http-redirect",
        "a redirect",
        policy(
            "enforce",
            status="301 Moved Permanently",
            more_headers=("Location: https://mta-sts.elsewhere.test/.well-known/mta-sts.txt",),
        ),
        MAIN_DAEMON,
    ),
    ("http-status-404", "404", policy("enforce", status="404 Not Found"), MAIN_DAEMON),
    ("http-status-503", "503", policy("enforce", status="503 Service Unavailable"), MAIN_DAEMON),
    ("http-status-204", "204, which is not 200", policy("enforce", status="204 No Content"), MAIN_DAEMON),
    ("connection-lost", "the answer breaks off", policy("enforce", cut=150), MAIN_DAEMON),
    ("media-type", "text/html", policy("enforce", content_type="text/html"), MAIN_DAEMON),
    (
        "too-large",
        "more than 64 KiB",
        policy("enforce", more="".join(f"x{number}: y\r\n" for number in range(8000))),
        MAIN_DAEMON,
    ),
    ("policy-syntax", "a field without a colon", policy("enforce", more="nonsense\r\n"), MAIN_DAEMON),
    ("policy-no-version", "no version", Site("mode: enforce\nmx: {mx1}\nmax_age: 86400\n"), MAIN_DAEMON),
    ("policy-no-max-age", "no max_age", Site("version: STSv1\nmode: enforce\nmx: {mx1}\n"), MAIN_DAEMON),
    ("policy-empty", "nothing at all", Site(""), MAIN_DAEMON),
)

WITHOUT_CACHE = tuple(
    Scenario(
        f"fetch-{name}",
        f"no policy is cached, and it can't be had: {says}",
        Demand.DELIVER,
        "RFC 8461 §3.3",
        Publication(site=site, mx=BAD_MX),
        "NOTFOUND",
        "sent Untrusted",
        daemon=daemon,
    )
    for name, says, site, daemon in FAULTS
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
