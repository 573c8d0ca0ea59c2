"""The kinds of values that have to do with mail: Postfix's sockets and logs, addresses, and how mail is handed over.

As in `values`, whether a file, a user or a host exists is left to the user of the value.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from stsguard.config.show import show
from stsguard.config.values import (
    MAX_UNIX_PATH_BYTES,
    HostName,
    InetAddress,
    ValueRefused,
    parse_listen,
    read_text,
)
from stsguard.names import Domain

_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
_ANYONE_WRITES = 0o222
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", re.ASCII)
_SYSLOG_NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}(?:/[A-Za-z0-9_.-]{1,32}){0,3}", re.ASCII)
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL_PART = re.compile(rf"{_ATOM}(?:\.{_ATOM})*", re.ASCII)
_MAX_LOCAL_PART = 64  # RFC 5321 §4.5.3.1.1
_URL_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]{0,199}", re.ASCII)
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class MailLogFile:
    """A mail log that is a file."""

    path: Path


@dataclass(frozen=True, slots=True)
class Journal:
    """systemd's journal in place of a file."""


MailLogSource = MailLogFile | Journal


@dataclass(frozen=True, slots=True)
class SendmailCommand:
    """`sendmail:PATH`, an absolute path."""

    path: Path


SendVia = InetAddress | SendmailCommand


class SocketPath:
    """The path of a unix socket; the empty string, read as None, means none."""

    unit = ""
    type_name = "string"
    allowed = f'an absolute path of up to {MAX_UNIX_PATH_BYTES} bytes, or "" for none'

    def read(self, value: object) -> Path | None:
        """The path, or None for the empty string."""
        text = read_text(value)
        if text and not text.startswith("/"):
            raise ValueRefused("not an absolute path")
        if len(text.encode()) > MAX_UNIX_PATH_BYTES:
            raise ValueRefused("too long for a socket")
        return Path(text) if text else None


@dataclass(frozen=True, slots=True)
class Account:
    """A user or a group, by name or number; the empty string means that of the daemon."""

    what: str
    unit = ""
    type_name = "string"

    @property
    def allowed(self) -> str:
        return f'the name or number of a {self.what}, or "" for that of the daemon'

    def read(self, value: object) -> str:
        """The text itself."""
        text = read_text(value)
        if text and not _ACCOUNT.fullmatch(text):
            raise ValueRefused(f"not the name of a {self.what}")
        return text


class SocketMode:
    """The access mode of a socket to which others send."""

    unit = ""
    type_name = "string"
    allowed = 'an octal mode such as "0622", which lets somebody write'

    def read(self, value: object) -> int:
        """The mode as a number."""
        text = read_text(value)
        if not _MODE.fullmatch(text):
            raise ValueRefused("not an octal mode")
        mode = int(text, 8)
        if not mode & _ANYONE_WRITES:
            raise ValueRefused("nobody could send")
        return mode


class MailLog:
    """Where Postfix logs; the empty string, read as None, means that no log is read."""

    unit = ""
    type_name = "string"
    allowed = 'an absolute path, "journal", or "" for none'

    def read(self, value: object) -> MailLogSource | None:
        """The log, or None for the empty string."""
        text = read_text(value)
        if text in ("", "journal"):
            return Journal() if text else None
        if not text.startswith("/"):
            raise ValueRefused('neither an absolute path nor "journal"')
        return MailLogFile(Path(text))


class SyslogName:
    """syslog_name of Postfix, which begins the name of each of its processes in the log."""

    unit = ""
    type_name = "string"
    allowed = "letters, digits, _ . - and /, as in syslog_name of main.cf"

    def read(self, value: object) -> str:
        """The name."""
        text = read_text(value)
        if not _SYSLOG_NAME.fullmatch(text):
            raise ValueRefused("not a syslog_name")
        return text


@dataclass(frozen=True, slots=True)
class Words:
    """Any text on one line; the empty string means `otherwise`."""

    otherwise: str
    unit = ""
    type_name = "string"

    @property
    def allowed(self) -> str:
        return f'text of up to {_MAX_TEXT} characters, or "" for {self.otherwise}'

    def read(self, value: object) -> str:
        """The text itself."""
        text = read_text(value)
        if len(text) > _MAX_TEXT:
            raise ValueRefused("too long")
        return text


@dataclass(frozen=True, slots=True)
class MailAddress:
    """A mail address (RFC 5322 §3.4.1, dot-atom only); the empty string, read as None, means `otherwise`."""

    otherwise: str
    unit = ""
    type_name = "string"

    @property
    def allowed(self) -> str:
        return f'a mail address such as "tlsrpt@example.com", or "" for {self.otherwise}'

    def read(self, value: object) -> str | None:
        """The address with its domain in canonical form, or None for the empty string."""
        text = read_text(value)
        if not text:
            return None
        local_part, at, domain = text.rpartition("@")
        if not at or not _LOCAL_PART.fullmatch(local_part) or len(local_part) > _MAX_LOCAL_PART:
            raise ValueRefused("not a mail address")
        return f"{local_part}@{HostName().read(domain)}"


class MailAddresses:
    """Any number of mail addresses, each once."""

    unit = ""
    type_name = "list of strings"
    allowed = 'a list of mail addresses such as "tlsrpt@example.com", each once'

    def read(self, value: object) -> tuple[str, ...]:
        """The addresses with their domains in canonical form, in their order."""
        if not isinstance(value, list):
            raise ValueRefused("not a list")
        found = [MailAddress("").read(each) for each in value]
        addresses = tuple(address for address in found if address is not None)
        if len(addresses) < len(found):
            raise ValueRefused("names an empty address")
        if len({address.lower() for address in addresses}) < len(addresses):
            raise ValueRefused("names an address twice")
        return addresses


@dataclass(frozen=True, slots=True)
class UrlPath:
    """The path of a URL (RFC 3986 §3.3) as a request has it; the empty string, read as None, means `otherwise`."""

    otherwise: str
    unit = ""
    type_name = "string"

    @property
    def allowed(self) -> str:
        return f'a path such as "/tlsrpt", or "" for {self.otherwise}'

    def read(self, value: object) -> str | None:
        """The path itself, or None for the empty string."""
        text = read_text(value)
        if not text:
            return None
        if not _URL_PATH.fullmatch(text):
            raise ValueRefused("not the path of a URL")
        if text.startswith("/.well-known/"):
            raise ValueRefused("below /.well-known/ policies and challenges are served")
        return text


class HostNames:
    """Any number of domain names."""

    unit = ""
    type_name = "list of strings"
    allowed = "a list of domain names"

    def read(self, value: object) -> tuple[Domain, ...]:
        """The names in canonical form, in their order."""
        if not isinstance(value, list):
            raise ValueRefused("not a list")
        names = [HostName().read(each) for each in value]
        return tuple(name for name in names if name is not None)


class Delivery:
    """How mail is handed to the local MTA."""

    unit = ""
    type_name = "string"
    allowed = '"smtp:HOST:PORT" or "sendmail:/PATH"'

    def read(self, value: object) -> SendVia:
        """The host and port, or the command."""
        text = read_text(value)
        scheme, _, rest = text.partition(":")
        if scheme == "sendmail":
            if not rest.startswith("/"):
                raise ValueRefused(f"{show(rest)} is not an absolute path")
            return SendmailCommand(Path(rest))
        address = parse_listen(f"inet:{rest}") if scheme == "smtp" and ":" in rest else None
        if not isinstance(address, InetAddress):
            raise ValueRefused("no way to hand over mail")
        return address
