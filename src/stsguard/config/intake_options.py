"""The options about taking in the reports of others; a part of the table in `options`."""

from enum import StrEnum

from stsguard.config import mail_values, values
from stsguard.config.option import Option


class RequireDkim(StrEnum):
    """What becomes of a report whose DKIM signature is missing or broken."""

    KEEP = "keep"
    REJECT = "reject"


class IntakeAction(StrEnum):
    """What becomes of a report mail that the milter has kept."""

    ACCEPT = "accept"
    DISCARD = "discard"


INTAKE_OPTIONS: tuple[Option, ...] = (
    Option(
        "intake",
        "addresses",
        mail_values.MailAddresses(),
        [],
        "The addresses to which others send their reports, as in the mailto: of rua: mail to them is what the milter "
        "takes in.",
    ),
    Option(
        "intake",
        "domains",
        mail_values.HostNames(),
        [],
        "Domains that are ours beside those hosted here, each with the names below it. Reports about any other are "
        "marked foreign and not counted; with none listed and none hosted, all are ours.",
    ),
    Option(
        "intake",
        "http_path",
        mail_values.UrlPath("none are taken by HTTPS"),
        "",
        "The path at which stsguard inbound takes reports by POST (RFC 8460 §5.4), as in the https: of rua.",
    ),
    Option(
        "intake",
        "max_compressed",
        values.Integer(65536, 104857600, "bytes"),
        10485760,
        "The largest report as it comes; a larger one is refused.",
    ),
    Option(
        "intake",
        "max_decompressed",
        values.Integer(65536, 209715200, "bytes"),
        20971520,
        "The largest report once it is unpacked; a larger one is kept as refused.",
    ),
    Option(
        "intake",
        "require_dkim",
        values.Choice(RequireDkim),
        "keep",
        "What is done about a report without a valid DKIM signature of its sender. It never counts (RFC 8460 §3); "
        '"keep" shows it apart, with "reject" the milter refuses it, so that its sender takes notice.',
    ),
    Option(
        "intake",
        "trust_https",
        values.Flag(),
        False,
        "Whether reports that come by HTTPS count. Anybody can post one, and nothing says from whom it is.",
    ),
    Option(
        "intake",
        "spool",
        values.Directory(),
        "/var/spool/stsguard",
        "The directory where reports lie from their arrival until they are stored. Whoever takes one in may write "
        "there: the milter, and the user of the pipe transport.",
    ),
    Option(
        "intake",
        "keep_raw",
        values.Duration("1d", "3650d"),
        "400d",
        "How long reports are kept as they came, with all their details. The sums of each day stay for ever.",
    ),
    Option(
        "milter",
        "socket",
        values.Listen(),
        "inet:127.0.0.1:8462",
        "Where Postfix reaches the milter (smtpd_milters). A chrooted smtpd(8) sees only unix sockets inside its queue "
        "directory. Whoever can connect can hand in reports: keep it on this machine.",
    ),
    Option("milter", "socket_group", mail_values.Account("group"), "", "The group of a unix socket."),
    Option(
        "milter",
        "socket_mode",
        mail_values.SocketMode(),
        "0660",
        "Who may connect to a unix socket, for which it takes the right to write. smtpd(8) runs as postfix.",
    ),
    Option(
        "milter",
        "intake_action",
        values.Choice(IntakeAction),
        "accept",
        'What becomes of a report mail once it is kept: "accept" delivers it as well, "discard" takes the addresses of '
        "[intake] off, and drops a mail that is left with no other.",
    ),
    Option(
        "milter",
        "warm",
        values.Flag(),
        True,
        "Whether the outbound daemon is told of the domains of accepted recipients, so that it has looked them up "
        "before Postfix asks. It never delays mail.",
    ),
    Option(
        "milter",
        "warm_rate",
        values.Integer(1, 10000),
        50,
        "How many domains a second the outbound daemon is told of at most.",
    ),
)
