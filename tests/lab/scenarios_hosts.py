"""MX hosts under an enforced policy: good, bad in every way, spoofed, matched by wildcards, named in odd ways."""

from tests.lab.certificates import CertificateKind
from tests.lab.mx_servers import Behaviour
from tests.lab.scenario_model import (
    Addresses,
    Answer,
    Deliver,
    Demand,
    Mx,
    MxLookup,
    Publication,
    Scenario,
    Site,
    policy,
)


def _bad(name: str, says: str, mx: Mx, outcome: str) -> Scenario:
    return Scenario(name, says, Demand.WITHHOLD, "RFC 8461 §4.2", Publication(mx=(mx,)), "secure mx1", outcome)


BAD_HOSTS = (
    _bad("wrong-name", "a certificate for another name", Mx(certificate=CertificateKind.WRONG_NAME), "deferred 4.7.5"),
    _bad("expired", "an expired certificate", Mx(certificate=CertificateKind.EXPIRED), "deferred 4.7.5"),
    _bad("not-yet-valid", "a certificate of tomorrow", Mx(certificate=CertificateKind.NOT_YET_VALID), "deferred 4.7.5"),
    _bad("self-signed", "a self-signed certificate", Mx(certificate=CertificateKind.SELF_SIGNED), "deferred 4.7.5"),
    _bad("unknown-ca", "a CA that nobody trusts", Mx(certificate=CertificateKind.UNKNOWN_CA), "deferred 4.7.5"),
    _bad("no-starttls", "no STARTTLS", Mx(behaviour=Behaviour.NO_STARTTLS), "deferred 4.7.4 plaintext"),
    _bad("starttls-454", "STARTTLS refused", Mx(behaviour=Behaviour.REFUSES_STARTTLS), "deferred 4.7.0 plaintext"),
    _bad("handshake", "a broken handshake", Mx(behaviour=Behaviour.BREAKS_HANDSHAKE), "deferred 4.7.5 plaintext"),
)

# What Postfix lets through by itself, and must not get through with us from the second look-up on.
LET_THROUGH_BY_POSTFIX = (
    Scenario(
        "cn-only",
        "a certificate with a common name and no subjectAltName",
        Demand.WITHHOLD,
        "RFC 8461 §4.2",
        Publication(mx=(Mx(certificate=CertificateKind.CN_ONLY),)),
        "secure -",
        "deferred",
        steps=(Deliver("any"), Answer("secure -", eventually=True), Deliver("deferred")),
    ),
    Scenario(
        "other-hosts-certificate",
        "the best MX host has a certificate that is only another permitted host's",
        Demand.WITHHOLD,
        "RFC 8461 §4.2",
        Publication(
            site=policy("enforce", "{mx1}", "{mx2}"), mx=(Mx(10, names=("{mx2}",)), Mx(20, behaviour=Behaviour.DOWN))
        ),
        "secure mx2",
        "deferred",
        steps=(
            Deliver("any"),
            Answer("secure mx2", on_37="secure -", eventually=True),
            Deliver("deferred"),
        ),
    ),
    Scenario(
        "wildcard-two-labels",
        "a wildcard pattern stands for one label, the MX host has two",
        Demand.WITHHOLD,
        "RFC 8461 §4.1",
        Publication(site=policy("enforce", "*.{mx_zone}"), mx=(Mx(host="a.b"),)),
        "secure -",
        "deferred",
    ),
    Scenario(
        "spoofed-mx",
        "DNS names a foreign MX host, with a certificate valid for itself",
        Demand.WITHHOLD,
        "RFC 8461 §4.1",
        Publication(site=policy("enforce", "mail.{domain}")),
        "secure -",
        "deferred",
    ),
    Scenario(
        "spoofed-mx-beside-good",
        "DNS names a foreign MX host before the good one",
        Demand.DELIVER_VERIFIED,
        "RFC 8461 §4.1",
        Publication(site=policy("enforce", "{mx2}"), mx=(Mx(10), Mx(20))),
        "secure mx2",
        "sent Verified mx2",
    ),
    Scenario(
        "spoofed-mx-with-two-names",
        "a foreign MX host whose certificate is valid for itself and for a permitted host",
        Demand.WITHHOLD,
        "RFC 8461 §4.1",
        Publication(
            site=policy("enforce", "{mx2}"),
            mx=(Mx(10, names=("{mx1}", "{mx2}")), Mx(20, behaviour=Behaviour.DOWN)),
        ),
        "secure mx2",
        "deferred",
        steps=(
            Deliver("any"),
            Answer("secure mx2", on_37="secure -", eventually=True),
            Deliver("deferred"),
        ),
    ),
)

GOOD_HOSTS = (
    Scenario(
        "wildcard-one-label",
        "a wildcard pattern and an MX host one label below",
        Demand.DELIVER_VERIFIED,
        "RFC 8461 §4.1",
        Publication(site=policy("enforce", "*.{mx_zone}")),
        "secure mx1",
        "sent Verified",
    ),
    Scenario(
        "wildcard-certificate",
        "a certificate whose name is a wildcard",
        Demand.DELIVER_VERIFIED,
        "RFC 8461 §4.2",
        Publication(mx=(Mx(names=("*.{mx_zone}",)),)),
        "secure mx1",
        "sent Verified",
    ),
    Scenario(
        "first-host-bad",
        "the best MX host has a bad certificate, the next one is good",
        Demand.DELIVER_VERIFIED,
        "RFC 8461 §5",
        Publication(site=policy("enforce", "{mx1}", "{mx2}"), mx=(Mx(10, certificate=CertificateKind.EXPIRED), Mx(20))),
        "secure mx1 mx2",
        "sent Verified mx2",
    ),
    Scenario(
        "first-host-down",
        "the best MX host is down, the next one is good",
        Demand.DELIVER_VERIFIED,
        "RFC 5321 §5.1",
        Publication(site=policy("enforce", "{mx1}", "{mx2}"), mx=(Mx(10, behaviour=Behaviour.DOWN), Mx(20))),
        "secure mx1 mx2",
        "sent Verified mx2",
    ),
    Scenario(
        "ipv6-only",
        "an MX host with an IPv6 address only",
        Demand.DELIVER_VERIFIED,
        "RFC 8461 §5",
        Publication(mx=(Mx(addresses=Addresses.IPV6),)),
        "secure mx1",
        "sent Verified",
    ),
    Scenario(
        "implicit-mx",
        "no MX record: the domain is its own MX host",
        Demand.DELIVER_VERIFIED,
        "RFC 5321 §5.1",
        Publication(site=policy("enforce", "{domain}"), mx_lookup=MxLookup.NONE),
        "secure mx1",
        "sent Verified",
    ),
    Scenario(
        "mx-alias",
        "the MX name is a CNAME: the policy and the certificate are for the MX name",
        Demand.DELIVER_VERIFIED,
        "RFC 8461 §4.1",
        Publication(mx=(Mx(alias=True),)),
        "secure mx1",
        "sent Verified",
    ),
    Scenario(
        "null-mx",
        "the domain accepts no mail",
        Demand.BOUNCE,
        "RFC 7505 §4",
        Publication(mx_lookup=MxLookup.NULL),
        "TEMP",
        "bounced 5.1.0",
    ),
    Scenario(
        "idn-recipient",
        "an internationalised domain, which Postfix passes on in U-labels",
        Demand.DELIVER_VERIFIED,
        "RFC 8461 §3.1, RFC 5891 §4.4",
        Publication(),
        "secure mx1",
        "sent Verified",
        steps=(
            Deliver("sent Verified", recipient_domain="{unicode}"),
            Answer("secure mx1", key="{unicode}"),
            Answer("secure mx1"),
        ),
        unicode_label="bücher",
    ),
    Scenario(
        "idn-recipient-bad",
        "an internationalised domain whose MX host has a bad certificate",
        Demand.WITHHOLD,
        "RFC 8461 §5, RFC 5891 §4.4",
        Publication(mx=(Mx(certificate=CertificateKind.SELF_SIGNED),)),
        "secure mx1",
        "deferred 4.7.5",
        steps=(Deliver("deferred 4.7.5", recipient_domain="{unicode}"), Answer("secure mx1", key="{unicode}")),
        unicode_label="straße",
    ),
    Scenario(
        "upper-case-recipient",
        "the key is not folded by Postfix",
        Demand.WITHHOLD,
        "RFC 8461 §3.1, RFC 4343 §3",
        Publication(mx=(Mx(certificate=CertificateKind.WRONG_NAME),)),
        "secure mx1",
        "deferred 4.7.5",
        steps=(
            Deliver("deferred 4.7.5", recipient_domain="{DOMAIN}"),
            Answer("secure mx1", key="{DOMAIN}"),
            Answer("secure mx1", key="{domain}."),
            Answer("NOTFOUND", key=".{domain}"),
        ),
    ),
)

ODD_POLICIES = (
    Scenario(
        "policy-attribute-in-mx",
        "an mx value with a blank, as if it were another attribute of the reply",
        Demand.DELIVER,
        "RFC 8461 §3.2",
        Publication(site=policy("enforce", "{mx1} ciphers=null"), mx=(Mx(certificate=CertificateKind.SELF_SIGNED),)),
        "NOTFOUND",
        "sent Untrusted",
    ),
    Scenario(
        "policy-braces",
        "an extension field with braces, as if it were another attribute of the reply",
        Demand.WITHHOLD,
        "RFC 8461 §3.2",
        Publication(
            site=policy("enforce", "mail.{domain}", more="note: } match=somebody-else.test {\r\nother: }{ }\r\n"),
            mx=(Mx(certificate=CertificateKind.WRONG_NAME),),
        ),
        "secure -",
        "deferred",
    ),
    Scenario(
        "policy-large",
        "a policy of nearly 64 KiB",
        Demand.DELIVER_VERIFIED,
        "RFC 8461 §3.3",
        Publication(
            site=Site(
                "version: STSv1\nmode: enforce\nmx: {mx1}\nmax_age: 86400\n"
                + "".join(f"mx: host-{number}.elsewhere.test\n" for number in range(2000))
            )
        ),
        "secure mx1",
        "sent Verified",
    ),
    Scenario(
        "policy-order-and-line-ends",
        "fields in another order, LF and CRLF mixed, no final line end, unknown fields",
        Demand.DELIVER_VERIFIED,
        "RFC 8461 §3.2",
        Publication(site=Site("version: STSv1\nmax_age: 86400\r\nx_new: y\nmx: {mx1}\nmode: enforce")),
        "secure mx1",
        "sent Verified",
    ),
    Scenario(
        "policy-first-field-wins",
        "the mode is given twice: the first one counts",
        Demand.WITHHOLD,
        "RFC 8461 §3.2",
        Publication(site=policy("enforce", more="mode: none\r\n"), mx=(Mx(certificate=CertificateKind.SELF_SIGNED),)),
        "secure mx1",
        "deferred 4.7.5",
    ),
)

ROWS: tuple[Scenario, ...] = (*BAD_HOSTS, *LET_THROUGH_BY_POSTFIX, *GOOD_HOSTS, *ODD_POLICIES)
