"""The options about our own domains; a part of the table in `options`."""

from enum import StrEnum

from stsguard.config import hosting_values, mail_values, values
from stsguard.config.option import Option


class ChallengeKind(StrEnum):
    """How the CA is shown that a policy host is ours."""

    HTTP_01 = "http-01"
    TLS_ALPN_01 = "tls-alpn-01"


class TsigAlgorithm(StrEnum):
    """The keyed hash of TSIG (RFC 8945 §6)."""

    HMAC_SHA256 = "hmac-sha256"
    HMAC_SHA384 = "hmac-sha384"
    HMAC_SHA512 = "hmac-sha512"


HOSTING_OPTIONS: tuple[Option, ...] = (
    Option(
        "policy_host",
        "listen",
        values.ListenList(),
        ["inet:[::]:443"],
        "Where policies are served over HTTPS; [::] takes IPv4 as well. [] where a web server in front does it.",
    ),
    Option(
        "policy_host",
        "http_listen",
        values.ListenList(),
        ["inet:[::]:80"],
        "Where plain HTTP is answered: the CA's questions at port 80, or, on loopback or a unix socket, a web server "
        "in front that does the TLS. [] for none.",
    ),
    Option(
        "policy_host",
        "workers",
        values.Integer(1, 64),
        1,
        "How many processes serve policies. One serves thousands a second.",
    ),
    Option(
        "policy_host",
        "certificate_dir",
        values.FilePath("none: a web server in front does the TLS"),
        "/var/lib/stsguard/certificates",
        "The directory of certificates: HOST.pem (chain) and HOST.key for each policy host put there by hand, else "
        "acme/HOST.pem (key and chain) by ACME; a changed file is picked up without a restart.",
    ),
    Option(
        "policy_host",
        "acme_directory",
        hosting_values.HttpsUrl("no ACME: certificates are put there by hand"),
        "https://acme-v02.api.letsencrypt.org/directory",
        "The directory of the CA that issues certificates (RFC 8555).",
    ),
    Option(
        "policy_host",
        "acme_contact",
        mail_values.MailAddress("no contact"),
        "",
        "The mail address by which the CA reaches you. With the first certificate you agree to the CA's terms of "
        "service.",
    ),
    Option(
        "policy_host",
        "acme_ca_file",
        values.FilePath("the system's"),
        "",
        "The CA certificates by which the ACME server itself is verified; for a CA inside the company.",
    ),
    Option(
        "policy_host",
        "acme_challenge",
        values.Choice(ChallengeKind),
        "http-01",
        '"http-01" needs port 80 to reach http_listen, "tls-alpn-01" needs port 443 to reach listen itself.',
    ),
    Option(
        "policy_host",
        "first_max_age",
        values.Duration("1d", "365d"),
        "7d",
        "max_age with which a policy begins to enforce: how long a sender may hold on to it.",
    ),
    Option(
        "policy_host",
        "max_age_cap",
        values.Duration("1d", "365d"),
        "30d",
        "The longest max_age to which a policy grows after 30 days without a finding.",
    ),
    Option(
        "policy_host",
        "rua",
        hosting_values.RuaList(),
        [],
        "Where others shall send their TLS reports on our domains: mailto: and https: URIs for the _smtp._tls record.",
    ),
    Option(
        "policy_host",
        "record_ttl",
        values.Duration("1m", "1d"),
        "5m",
        "The TTL proposed, and by [dns_update] published, for the TXT records.",
    ),
    Option(
        "policy_host",
        "inspect_every",
        values.Duration("1m", "7d"),
        "1h",
        "How often each domain is looked at from outside.",
    ),
    Option(
        "dns_update",
        "server",
        hosting_values.UpdateServer(),
        "",
        "The primary server that takes the updates. Empty: TXT records are shown, and you publish them.",
    ),
    Option(
        "dns_update",
        "zone",
        values.HostName("the zone that the name is in"),
        "",
        "The zone to update, where it is not to be found out by the SOA record.",
    ),
    Option("dns_update", "tsig_name", values.HostName("no TSIG"), "", "The name of the TSIG key."),
    Option(
        "dns_update", "tsig_algorithm", values.Choice(TsigAlgorithm), "hmac-sha256", "The algorithm of the TSIG key."
    ),
    Option(
        "dns_update",
        "tsig_key_file",
        values.FilePath("no TSIG"),
        "",
        "The file with the secret of the TSIG key, in base64 and nothing else; readable by stsguard alone.",
    ),
)
