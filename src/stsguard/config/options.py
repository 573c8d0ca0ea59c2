"""The table of configuration options, and nothing beside it: sample, manual page, documentation, `config show` and
every error message are made from it.

An option's default is in the form in which TOML would give it. A section whose issue is not done is not listed: its
keys are unknown, so that nobody believes them to have an effect.
"""

from enum import StrEnum

from stsguard.config import mail_values, values
from stsguard.config.hosting_options import HOSTING_OPTIONS
from stsguard.config.intake_options import INTAKE_OPTIONS
from stsguard.config.option import Option, TomlValue

__all__ = ["OPTIONS", "REPEATABLE", "SECTIONS", "Option", "TomlValue"]


class DnssecTrust(StrEnum):
    """From whom DANE evidence is taken."""

    AUTO = "auto"
    YES = "yes"
    NO = "no"


class LookupMode(StrEnum):
    """Whether Postfix gets the decision, or it is only recorded."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class PostfixDane(StrEnum):
    """Whether Postfix itself can do DANE."""

    AUTO = "auto"
    YES = "yes"
    NO = "no"


class LogLevel(StrEnum):
    """The least severe lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The form of a log line."""

    TEXT = "text"
    JSON = "json"


SECTIONS = {
    "store": "The database, in which policies outlive a restart.",
    "dns": "The resolver that is asked for everything.",
    "network": "Connections to names that strangers choose: policy hosts and MX hosts.",
    "policy_fetch": "Fetching policies over HTTPS (RFC 8461 §3.3).",
    "lookup": "The socketmap server that Postfix asks.",
    "verification": "The probes of MX hosts (RFC 8461 §4), made in the background.",
    "sessions": "How Postfix's TLS sessions are heard of. Several Postfix instances: [[sessions]] once for each.",
    "reports": "The TLS reports to those who ask for them (RFC 8460). None is sent before from is set.",
    "policy_host": "Serving the policies of our own domains, with their certificates (RFC 8461 §3.3).",
    "dns_update": "Publishing the TXT records of our own domains by dynamic update (RFC 2136).",
    "intake": "Taking in the TLS reports that others send about our domains (RFC 8460 §5).",
    "milter": "stsguard milter, a milter of Postfix: takes in report mail, and has recipient domains looked up ahead.",
    "admin": "The sockets of the stsguard commands, of /healthz and /metrics.",
    "log": "The log, on standard error.",
}

# A section of these may stand once as [section], or any number of times as [[section]].
REPEATABLE = frozenset({"sessions"})

OPTIONS: tuple[Option, ...] = (
    Option(
        "store",
        "url",
        values.DatabaseUrl(),
        "sqlite:////var/lib/stsguard/stsguard.db",
        "The database. SQLite needs nothing else and is migrated by itself, with a copy kept; several nodes share one "
        'PostgreSQL, which "stsguard db upgrade" migrates. A database that can\'t be opened never stops a look-up.',
    ),
    Option(
        "dns",
        "nameservers",
        values.Nameservers(),
        [],
        "The resolvers to ask, in this order. DANE needs one that validates DNSSEC, best on this machine.",
    ),
    Option(
        "dns", "timeout", values.Duration("1s", "60s"), "5s", "How long one DNS question may take, retries included."
    ),
    Option(
        "dns",
        "dnssec",
        values.Choice(DnssecTrust),
        "auto",
        'Whose word on DNSSEC counts. "auto": that of a resolver on a loopback address that passes the check with '
        'signed_name and bogus_name; "yes": also that of one at another address, if nobody can tamper with the way '
        'to it; "no": nobody\'s, so that every domain counts as one without TLSA records.',
    ),
    Option("dns", "signed_name", values.ZoneName(), ".", "A signed zone: its DNSKEY has to come back as secure."),
    Option(
        "dns",
        "bogus_name",
        values.HostName(),
        "dnssec-failed.org",
        "A name with broken signatures: a resolver that answers for it does not validate.",
    ),
    Option(
        "network",
        "ca_file",
        values.FilePath("the system's"),
        "",
        "The certificates of the CAs that are trusted, in PEM.",
    ),
    Option(
        "network",
        "allow_private_addresses",
        values.Networks(),
        False,
        "Which private, loopback and link-local addresses may be connected to. A stranger's DNS could otherwise point "
        "this machine at services inside the network.",
    ),
    Option(
        "policy_fetch",
        "wait",
        values.Duration("1s", "60s"),
        "10s",
        "How long the first look-up of a domain waits for its policy; the fetch itself goes on (RFC 8461 §5.1). "
        "Postfix waits 100 s for an answer.",
    ),
    Option("policy_fetch", "timeout", values.Duration("5s", "5m"), "60s", "How long one fetch may take altogether."),
    Option(
        "policy_fetch",
        "max_size",
        values.Integer(4096, 1048576, "bytes"),
        65536,
        "The largest policy; a larger one is invalid (RFC 8461 §3.3 suggests 64 KiB).",
    ),
    Option("policy_fetch", "port", values.Integer(1, 65535), 443, "The port of policy hosts; for tests."),
    Option(
        "lookup",
        "listen",
        values.ListenList(),
        ["inet:127.0.0.1:8461"],
        "Where Postfix asks. A chrooted smtp(8) sees only unix sockets inside its queue directory. Whoever can connect "
        "can have domains looked up: keep it on this machine. [] where systemd passes the sockets.",
    ),
    Option(
        "lookup",
        "mode",
        values.Choice(LookupMode),
        "enforce",
        '"observe" answers that there is no policy, whatever the domain, and records what "enforce" would have '
        "answered.",
    ),
    Option(
        "lookup",
        "overrides",
        values.FilePath("none"),
        "",
        "The file of the overrides: destinations whose policy is yours and not the domain's.",
    ),
    Option(
        "lookup",
        "postfix_dane",
        values.Choice(PostfixDane),
        "auto",
        "Whether Postfix can do DANE, which takes a validating resolver in its own resolv.conf and "
        'smtp_dns_support_level = dnssec. "auto" finds out; with "no" MTA-STS holds where DANE would.',
    ),
    Option(
        "lookup",
        "id_check",
        values.Duration("1m", "24h"),
        "5m",
        "How often the _mta-sts record of a domain in use is looked at for a new id.",
    ),
    Option(
        "lookup",
        "cache_size",
        values.Integer(1000, 10000000),
        100000,
        "How many domains are held in memory. Only those without a policy in force make room for others.",
    ),
    Option(
        "verification",
        "enabled",
        values.Flag(),
        True,
        "Whether the MX hosts of domains in use are probed. Without it a certificate that Postfix takes and RFC 8461 "
        "§4.1 does not goes unnoticed.",
    ),
    Option(
        "verification",
        "interval",
        values.Duration("1m", "7d"),
        "1h",
        "At most one probe of an MX host in this time; sooner only after a failed session.",
    ),
    Option("verification", "port", values.Integer(1, 65535), 25, "The port of MX hosts; for tests."),
    Option(
        "verification",
        "helo",
        values.HostName("the machine's host name"),
        "",
        "The name given in EHLO: the one that Postfix gives.",
    ),
    Option("verification", "timeout", values.Duration("5s", "5m"), "30s", "How long one probe may take altogether."),
    Option("verification", "concurrency", values.Integer(1, 100), 8, "How many probes run at a time."),
    Option(
        "sessions",
        "tlsrpt_socket",
        mail_values.SocketPath(),
        "/var/spool/postfix/stsguard/tlsrpt.sock",
        "The socket to which Postfix 3.10 and later tells how each TLS session ended (smtp_tlsrpt_socket_name). A "
        "chrooted smtp(8) sees only its queue directory. Its directory has to be there: without it the default is "
        "passed over with a warning, while a path set here stops the start. Where systemd passes the socket the path "
        "does not count.",
    ),
    Option(
        "sessions",
        "tlsrpt_owner",
        mail_values.Account("user"),
        "",
        "Who owns the socket. Only root can give it away.",
    ),
    Option(
        "sessions",
        "tlsrpt_group",
        mail_values.Account("group"),
        "",
        'The group of the socket. With "postfix" and the mode "0620" nobody but Postfix can make up sessions.',
    ),
    Option(
        "sessions",
        "tlsrpt_mode",
        mail_values.SocketMode(),
        "0622",
        "Who may send to the socket, for which it takes the right to write. smtp(8) runs as postfix.",
    ),
    Option(
        "sessions",
        "mail_log",
        mail_values.MailLog(),
        "",
        "The mail log, which tells of sessions with any Postfix version and of more than the socket does. Where it is "
        "set its lines are what is counted, and the socket adds details.",
    ),
    Option(
        "sessions",
        "syslog_name",
        mail_values.SyslogName(),
        "postfix",
        "syslog_name of the Postfix instance, by which its lines in the log are known.",
    ),
    Option(
        "reports",
        "enabled",
        values.Flag(),
        True,
        "Whether reports are sent, as soon as from is set. Sessions are counted in any case.",
    ),
    Option(
        "reports",
        "from",
        mail_values.MailAddress("no reports"),
        "",
        "The sender of the reports; its domain is the one that signs. Receivers may answer to it.",
    ),
    Option(
        "reports",
        "organization",
        mail_values.Words("the domain of from"),
        "",
        "organization-name in the reports: who you are.",
    ),
    Option(
        "reports",
        "contact",
        mail_values.MailAddress("that of from"),
        "",
        "contact-info in the reports: whom receivers can ask.",
    ),
    Option(
        "reports",
        "dkim_domain",
        values.HostName("the domain of from"),
        "",
        "The domain that signs report mail (d= of DKIM).",
    ),
    Option(
        "reports",
        "dkim_selector",
        values.HostName("no signature of stsguard's own"),
        "",
        "The selector of the DKIM key. Report mail has to be signed: without selector and key the local MTA has to.",
    ),
    Option(
        "reports",
        "dkim_key_file",
        values.FilePath("no signature of stsguard's own"),
        "",
        "The private DKIM key, in PEM. The published key should not exclude the service tlsrpt (s=).",
    ),
    Option(
        "reports",
        "send_via",
        mail_values.Delivery(),
        "smtp:127.0.0.1:25",
        "How report mail is handed to the local MTA.",
    ),
    Option(
        "reports",
        "https_verify",
        values.Flag(),
        True,
        "Whether the certificates of HTTPS endpoints are verified; RFC 8460 §3 allows to ignore them.",
    ),
    Option(
        "reports",
        "spread",
        values.Duration("0s", "24h"),
        "4h",
        "The time after the end of the UTC day over which its reports are spread (RFC 8460 §4.1).",
    ),
    Option(
        "reports",
        "retry_for",
        values.Duration("1h", "24h"),
        "24h",
        "How long the delivery of a report is tried again (RFC 8460 §5.5).",
    ),
    Option(
        "reports",
        "failures_only",
        values.Flag(),
        False,
        "Whether only reports with a failure are sent.",
    ),
    Option("reports", "never_to", mail_values.HostNames(), [], "Domains that get no report."),
    Option("reports", "dry_run", values.Flag(), False, "Whether reports are made and kept, and not sent."),
    Option(
        "reports",
        "keep_copies",
        values.FilePath("none"),
        "",
        "A directory that gets each report as a JSON file when it is made. Nothing there is ever deleted.",
    ),
    Option("reports", "keep", values.Duration("1d", "3650d"), "30d", "How long counters and reports are kept."),
    *HOSTING_OPTIONS,
    *INTAKE_OPTIONS,
    Option(
        "admin",
        "listen",
        values.Listen(),
        "unix:/run/stsguard/admin.sock",
        "Where the stsguard commands reach the daemon, by HTTP. Whoever can connect can change the cache.",
    ),
    Option(
        "admin",
        "inbound_listen",
        values.Listen(),
        "unix:/run/stsguard-inbound/admin.sock",
        "The same of stsguard inbound: its health and figures. Nothing can be changed there.",
    ),
    Option("log", "level", values.Choice(LogLevel), "info", "The least severe lines that are written."),
    Option(
        "log",
        "format",
        values.Choice(LogFormat),
        "text",
        '"text" is one line of name=value an outcome, "json" one object.',
    ),
)
