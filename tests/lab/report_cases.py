"""What the sessions of each scenario have to be reported as, from RFC 8460 §4.3, RFC 8461 §5 and §6, RFC 7672 §2.2.

One row a scenario of the look-up tests, in the order of their modules. Not one is taken from what the program says.
"""

from tests.lab.report_case import ReportCase, row, same
from tests.lab.reports import NOTHING

NO_POLICY_OK = "no-policy-found: 1 ok"
STS_OK = "sts: 1 ok"
TLSA_OK = "tlsa: 1 ok"
HOST_MISMATCH = "sts: 1 failed, certificate-host-mismatch"
EXPIRED = "sts: 1 failed, certificate-expired"
VALIDATION = "sts: 1 failed, validation-failure"
NO_STARTTLS = "sts: 1 failed, starttls-not-supported"
NOT_TRUSTED = "tlsa: 1 failed, certificate-not-trusted"
FETCH_ERROR = "sts: 1 failed, sts-policy-fetch-error"
INVALID = "sts: 1 failed, sts-policy-invalid"
WEBPKI = "sts: 1 failed, sts-webpki-invalid"
TWICE = "sts: 2 failed, validation-failure x2"
_OPERATOR = "what the operator laid down is no policy of the domain"

DECISION = (
    row("override-policy", NO_POLICY_OK, NOTHING, why=_OPERATOR),
    row("override-policy-beats-dane", "no-policy-found: 1 failed, certificate-host-mismatch", NOTHING, why=_OPERATOR),
    row("override-exempt", NO_POLICY_OK, NOTHING, varied=True, why=_OPERATOR),
    same("override-enforce", HOST_MISMATCH, varied=True),
    row("override-enforce-nothing", NOTHING, NOTHING, why="no session: the mail waits before any connection"),
    # The hosts that the operator pinned are none of the domain's statements: the one left out is no mismatch.
    same("override-pinned-mx", STS_OK),
    same("override-parent", VALIDATION),
    same("override-expired", EXPIRED),
    same("enforce-good", STS_OK, varied=True),
    # Postfix verifies nothing in testing mode, and a datagram does not name the MX host of a success: then what Postfix
    # says is counted, as unverified.
    row("testing-bad-certificate", NO_POLICY_OK, EXPIRED, by_datagram=STS_OK, varied=True),
    row("testing-no-starttls", NOTHING, NO_STARTTLS, by_datagram=NOTHING, varied=True),
    same("none-mode", NO_POLICY_OK, varied=True),
    same("no-record", NO_POLICY_OK, varied=True),
    same("two-records", NO_POLICY_OK),
    same("record-beside-others", STS_OK),
    same("record-alias", STS_OK),
    row("observe", NO_POLICY_OK, HOST_MISMATCH, by_datagram=STS_OK),
    same("port-in-key-dane", TLSA_OK, mx_host="mx1"),
    same("port-in-key-enforce", HOST_MISMATCH),
    # TLSRPT goes by the next hop, which has no record. The log names the recipient's domain alone, and it was a session
    # with its MX host that its policy would not have let pass.
    row("bracketed-key", NOTHING, HOST_MISMATCH, by_datagram=NOTHING),
)

DANE = (
    *(
        row(scenario, NOTHING, NOTHING, why="no session: without its MX hosts nothing is connected to")
        for scenario in ("mx-bogus", "mx-servfail", "mx-timeout", "no-address-anywhere")
    ),
    row("tlsa-fails-everywhere", NOTHING, NOTHING, why="no session, and a SERVFAIL is not a bogus answer"),
    # No connection is made, and Postfix does not say why.
    # Without a log each look-up tells of an attempt, and the scenario asks once as Postfix would.
    row(
        "tlsa-bogus-everywhere",
        NOTHING,
        "tlsa: 1 failed, dnssec-invalid",
        by_datagram="tlsa: 2 failed, dnssec-invalid x2",
        mx_host="mx1",
        varied=True,
    ),
    # 3.7 contacts the host whose look-up failed, and refuses its good certificate since our reply does not name it.
    same("tlsa-fails-at-one-enforce", STS_OK, varied=True),
    same("tlsa-fails-at-one-dane", TLSA_OK, mx_host="mx2"),
    same("addresses-fail-at-one", STS_OK),
    same("dane-all-enforce", TLSA_OK, mx_host="mx1", varied=True),
    same("dane-mismatch-enforce", NOT_TRUSTED, mx_host="mx1", varied=True),
    same("dane-some-best-enforce", TLSA_OK, mx_host="mx1"),
    row(
        "dane-some-best-down-enforce", NOTHING, NOTHING, why="no session: one is down, the other not used by our choice"
    ),
    same("dane-some-not-best-enforce", STS_OK),
    same("dane-some-not-best-spoofed-enforce", VALIDATION),
    same("dane-no-policy", TLSA_OK, mx_host="mx1"),
    same("dane-mismatch-no-policy", NOT_TRUSTED, mx_host="mx1"),
    same("dane-mismatch-testing", NOT_TRUSTED, mx_host="mx1"),
    same("dane-some-no-policy", NO_POLICY_OK),
    same("dane-through-cname", TLSA_OK, mx_host="real.mx1"),  # the TLSA base domain (RFC 7672 §2.2.2)
    row("tlsa-unusable-enforce", STS_OK, "sts: 1 ok; tlsa: tlsa-invalid", varied=True),
    row("tlsa-unusable-enforce-bad", HOST_MISMATCH, f"{HOST_MISMATCH}; tlsa: tlsa-invalid"),
    same("tlsa-unusable-no-policy", "tlsa: 1 failed, tlsa-invalid", mx_host="mx1", varied=True),
    row(
        "tlsa-unusable-no-starttls",
        "tlsa: 1 failed, starttls-not-supported",
        "tlsa: 1 failed, starttls-not-supported, tlsa-invalid",
        mx_host="mx1",
    ),
    same("mx-insecure-tlsa-enforce", STS_OK),
    same("mx-insecure-tlsa-enforce-bad", VALIDATION),
    same("mx-insecure-tlsa-no-policy", TLSA_OK, mx_host="mx1"),
    same("no-dane-in-postfix", STS_OK),
)

HOSTS = (
    same("wrong-name", HOST_MISMATCH, varied=True),
    same("expired", EXPIRED, varied=True),
    same("not-yet-valid", VALIDATION),
    same("self-signed", VALIDATION, varied=True),
    same("unknown-ca", VALIDATION),
    same("no-starttls", NO_STARTTLS, varied=True),
    same("starttls-454", NO_STARTTLS, varied=True),
    same("handshake", VALIDATION, varied=True),
    # Delivered to while nobody knew; then not, and Postfix does not say so but in its log.
    row("cn-only", STS_OK, "sts: 1 ok, 1 failed, certificate-host-mismatch", by_datagram=STS_OK),
    row(
        "other-hosts-certificate",
        HOST_MISMATCH,
        "sts: 2 failed, certificate-host-mismatch x2",
        by_datagram=HOST_MISMATCH,
        on_37="sts: 1 ok, 1 failed, certificate-host-mismatch",  # which takes any permitted name the first time
    ),
    # Postfix skips a host outside the policy in silence, but for its log. 3.7 contacts it.
    row("wildcard-two-labels", NOTHING, VALIDATION, by_datagram=NOTHING),
    row("spoofed-mx", NOTHING, VALIDATION, by_datagram=NOTHING, varied=True),
    row("spoofed-mx-beside-good", STS_OK, "sts: 1 ok, 1 failed, validation-failure", by_datagram=STS_OK, varied=True),
    row("spoofed-mx-with-two-names", NOTHING, TWICE, by_datagram=NOTHING),
    same("wildcard-one-label", STS_OK, varied=True),
    same("wildcard-certificate", STS_OK),
    # One failure and one success: the MX host that failed is not delivered to, the next one is.
    same("first-host-bad", "sts: 1 ok, 1 failed, certificate-expired", varied=True),
    same("first-host-down", STS_OK),
    same("ipv6-only", STS_OK),
    same("implicit-mx", STS_OK),
    same("mx-alias", STS_OK),
    row("null-mx", NOTHING, NOTHING, why="no session: the domain accepts no mail"),
    same("idn-recipient", STS_OK, varied=True),
    same("idn-recipient-bad", VALIDATION),
    same("upper-case-recipient", HOST_MISMATCH),
    # The only mx value is none, so the policy is invalid.
    row("policy-attribute-in-mx", NO_POLICY_OK, INVALID),
    row("policy-braces", NOTHING, VALIDATION, by_datagram=NOTHING),
    same("policy-large", STS_OK),
    same("policy-order-and-line-ends", STS_OK),
    same("policy-first-field-wins", VALIDATION),
)


def _fetch(reported: str, *scenarios: str) -> tuple[ReportCase, ...]:
    """No policy is cached and it can't be had: Postfix delivers and knows nothing of it."""
    return tuple(
        row(
            f"fetch-{name}",
            NO_POLICY_OK,
            reported,
            varied=name in ("certificate-not-trusted", "http-status-404", "syntax"),
        )
        for name in scenarios
    )


FETCH = (
    *_fetch(FETCH_ERROR, "no-address", "refused", "tls-failed", "http-malformed", "http-redirect", "http-status-404"),
    *_fetch(FETCH_ERROR, "http-status-503", "http-status-204", "connection-lost"),
    *_fetch(WEBPKI, "certificate-not-trusted", "certificate-self-signed", "certificate-expired"),
    *_fetch(WEBPKI, "certificate-host-mismatch", "certificate-cn-only"),
    *_fetch(INVALID, "media-type", "too-large", "syntax", "no-version", "no-max-age", "empty"),
    # RFC 8460 §4.3.4: what may be the network's fault, our guard's or our clock's is not reported as theirs.
    *_fetch(NO_POLICY_OK, "dns-failed", "dns-unanswered", "connect-failed", "timeout", "slow", "address-refused"),
    *_fetch(NO_POLICY_OK, "certificate-not-yet-valid"),
    # Without its record nobody knows that there is a policy.
    *_fetch(NO_POLICY_OK, "record-servfail"),
)


def _cached(detail: str, *scenarios: str) -> tuple[ReportCase, ...]:
    """The policy in force can't be refreshed: the sessions have their own result, and each failure a detail."""
    reported = f"sts: 2 failed, {detail}, validation-failure x2" if detail else TWICE
    return tuple(row(f"cached-{name}", TWICE, reported, refreshed=bool(detail)) for name in scenarios)


CACHED = (
    *_cached("", "record-vanishes"),  # the policy is still served, and is the same
    *_cached("", "host-servfail"),  # it may be our resolver's fault
    *_cached("sts-policy-fetch-error", "record-and-host-vanish", "record-doubled", "host-vanishes"),
    *_cached("sts-policy-fetch-error", "redirect", "not-found"),
    *_cached("sts-webpki-invalid", "certificate-expires", "none-with-bad-certificate"),
    *_cached("sts-policy-invalid", "none-as-html", "syntax"),
)

_LOST = "the store can't be read, so counters stay in memory, and end with the daemon, which says so"
TIME = (
    # Two policies, so two entries. The second does not permit the better MX host.
    *(
        row(
            scenario,
            "sts: 2 ok",
            "sts: 1 ok; sts: 1 ok, 1 failed, validation-failure",
            by_datagram="sts: 1 ok; sts: 1 ok",
        )
        for scenario in ("change-by-new-id", "change-by-refresh")
    ),
    same("change-to-none", f"{NO_POLICY_OK}; {VALIDATION}"),
    # RFC 8460 §4.3.1: in testing mode we say certificate-not-trusted ourselves of what Postfix has no name for.
    *(
        row(
            scenario,
            f"{NO_POLICY_OK}; {VALIDATION}",
            f"sts: 1 failed, certificate-not-trusted; {VALIDATION}",
            by_datagram=f"{VALIDATION}; {STS_OK}",
        )
        for scenario in ("change-to-testing", "change-to-enforce")
    ),
    same("certificate-mended", "sts: 1 ok, 1 failed, certificate-expired"),
    same("mx-changes", "sts: 2 ok"),
    same("tlsa-removed", "sts: 1 ok; tlsa: 1 ok", mx_host="mx1", of_mx_host=TLSA_OK),
    same("mx-lookup-breaks", STS_OK),
    same("expired-policy", f"{NO_POLICY_OK}; {VALIDATION}"),
    same("flood", TWICE),
    # A log is read on where it was. What a datagram told in the last second is lost with the process.
    same("killed", TWICE, or_by_datagram=(VALIDATION, NOTHING)),
    same("daemon-down", STS_OK),
    row("store-unreadable-fetch-fails", NOTHING, NOTHING, why=_LOST),
    row("store-unreadable-fetch-works", STS_OK, NOTHING, why=_LOST),
    row("store-unreadable-no-record", NO_POLICY_OK, NOTHING, why=_LOST),
)

REPORT_CASES = (*DECISION, *DANE, *HOSTS, *FETCH, *CACHED, *TIME)
BY_SCENARIO = {case.scenario: case for case in REPORT_CASES}
