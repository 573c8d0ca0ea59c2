"""What a milter is told of a recipient: its address (RFC 5321 §4.1.2), and where Postfix would send the mail.

The macros are those of Postfix's MILTER_README: {rcpt_mailer} is the transport, {rcpt_host} its next hop.
"""

from stsguard.core.socketmap import KeyKind, parse_next_hop
from stsguard.names import Domain, NameInvalid

# Transports of Postfix, and usual names of ones that deliver here or nowhere. Any other may be smtp(8) by another name.
NOT_REMOTE = frozenset(
    {
        *("local", "virtual", "lmtp", "error", "retry", "discard", "bounce", "uucp"),
        *("dovecot", "cyrus", "maildrop", "mailman", "procmail", "stsguard-intake"),
    }
)
MAX_PATH_OCTETS = 1000  # RFC 5321 §4.5.3.1.3 says 256; longer ones name none of ours


def parse_path(path: bytes) -> str:
    """The address in a forward-path, local part as written and domain in canonical form; empty where there is none,
    as for `<postmaster>`."""
    if len(path) > MAX_PATH_OCTETS:
        return ""
    text = path.decode("utf-8", "replace").strip().removeprefix("<").removesuffix(">")
    local_part, at, domain = text.rpartition("@")
    local_part = local_part.removeprefix('"').removesuffix('"')
    if not at or not local_part:
        return ""
    try:
        return f"{local_part}@{Domain.parse(domain)}"
    except NameInvalid:
        return ""


def folded(address: str) -> str:
    """The form in which addresses are compared: nobody has two mailboxes that differ in case only."""
    return address.lower()


def next_hop_to_warm(mailer: str, host: str) -> str | None:
    """The key that smtp(8) will look up for a recipient with these macros; None where it is delivered here, or where
    a look-up would be answered without any question to DNS (an address, a host in brackets)."""
    if not mailer or mailer.lower() in NOT_REMOTE:
        return None
    next_hop = parse_next_hop(host.encode("utf-8", "replace"))
    if next_hop.kind is not KeyKind.DOMAIN or next_hop.host is None or "." not in next_hop.host:
        return None
    return host.lower()
