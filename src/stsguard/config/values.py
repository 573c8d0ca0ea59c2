"""The kinds of values that the configuration knows: how each is read from TOML, and what each allows.

A kind turns one TOML value into a typed one and says in words what it allows; those words are part of every error
message and of the generated documentation. Whether a file or a host exists is left to the user of the value.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from stsguard.config.show import show
from stsguard.names import Domain, NameInvalid

MAX_UNIX_PATH_BYTES = 107  # sun_path of unix(7) less its final NUL
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


class ValueRefused(Exception):
    """The value is not of its kind; the message says in what way."""


@dataclass(frozen=True, slots=True)
class Nameserver:
    """One resolver to ask."""

    address: IPv4Address | IPv6Address
    port: int


@dataclass(frozen=True, slots=True)
class InetAddress:
    """`inet:HOST:PORT`. `host` is an address literal without brackets, or a host name."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """`unix:PATH`, an absolute path."""

    path: Path


ListenAddress = InetAddress | UnixAddress


class Kind(Protocol):
    """A kind of value. `unit` names what a number counts, and ends the name of the typed field; empty for the rest."""

    @property
    def unit(self) -> str:
        """The unit of the typed value, or the empty string."""

    @property
    def type_name(self) -> str:
        """The TOML form in a word or two, for the documentation."""

    @property
    def allowed(self) -> str:
        """What is allowed, as the end of a sentence that starts with "allowed:"."""

    def read(self, value: object) -> object:
        """The typed value of the TOML value `value`.

        Raises:
            ValueRefused: it is not of this kind.
        """


def read_text(value: object) -> str:
    """The string `value`, if it is one of printable characters.

    Raises:
        ValueRefused: it is not.
    """
    if not isinstance(value, str):
        raise ValueRefused("not a string")
    if not value.isprintable():
        raise ValueRefused("holds a character that can't be printed")
    return value


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueRefused(f"{show(text)} is no port")
    return int(text)


class Flag:
    """true or false."""

    unit = ""
    type_name = "boolean"
    allowed = "true or false"

    def read(self, value: object) -> bool:
        """The value itself."""
        if not isinstance(value, bool):
            raise ValueRefused("not a boolean")
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One member of a closed set of strings; read as that enumeration."""

    members: type[StrEnum]
    unit = ""
    type_name = "string"

    @property
    def allowed(self) -> str:
        *others, last = [f'"{member.value}"' for member in self.members]
        return f"{', '.join(others)} or {last}"

    def read(self, value: object) -> StrEnum:
        """The member of that name."""
        text = read_text(value)
        if text not in [member.value for member in self.members]:
            raise ValueRefused("not one of the choices")
        return self.members(text)


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from `least` to `most`; `unit` is "" for a plain count, "bytes" for a size."""

    least: int
    most: int
    unit: str = ""
    type_name = "integer"

    @property
    def allowed(self) -> str:
        return f"{self.least} to {self.most}" + (f" {self.unit}" if self.unit else "")

    def read(self, value: object) -> int:
        """The number itself."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueRefused("not a whole number")
        if not self.least <= value <= self.most:
            raise ValueRefused("out of range")
        return value


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time such as "90s"; read as seconds. `least` and `most` are in the same form."""

    least: str
    most: str
    unit = "seconds"
    type_name = "duration"

    @property
    def allowed(self) -> str:
        return f'"{self.least}" to "{self.most}", a whole number and s, m, h or d'

    def read(self, value: object) -> int:
        """The seconds."""
        seconds = parse_duration(read_text(value))
        if not parse_duration(self.least) <= seconds <= parse_duration(self.most):
            raise ValueRefused("out of range")
        return seconds


def parse_duration(text: str) -> int:
    """The seconds in `text`: a whole number followed by s, m, h or d.

    Raises:
        ValueRefused: it is no such thing.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueRefused("not a duration")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


@dataclass(frozen=True, slots=True)
class FilePath:
    """An absolute path of a file; the empty string, read as None, means `otherwise`."""

    otherwise: str
    unit = ""
    type_name = "string"

    @property
    def allowed(self) -> str:
        return f'an absolute path, or "" for {self.otherwise}'

    def read(self, value: object) -> Path | None:
        """The path, or None for the empty string."""
        text = read_text(value)
        if text and not text.startswith("/"):
            raise ValueRefused("not an absolute path")
        return Path(text) if text else None


class Directory:
    """An absolute path of a directory."""

    unit = ""
    type_name = "string"
    allowed = "an absolute path"

    def read(self, value: object) -> Path:
        """The path."""
        text = read_text(value)
        if not text.startswith("/"):
            raise ValueRefused("not an absolute path")
        return Path(text)


@dataclass(frozen=True, slots=True)
class HostName:
    """A domain name; where `otherwise` is set, the empty string, read as None, means that."""

    otherwise: str = ""
    unit = ""
    type_name = "string"

    @property
    def allowed(self) -> str:
        return "a domain name" + (f', or "" for {self.otherwise}' if self.otherwise else "")

    def read(self, value: object) -> Domain | None:
        """The name in canonical form."""
        text = read_text(value)
        if not text and self.otherwise:
            return None
        try:
            return Domain.parse(text)
        except NameInvalid as exc:
            raise ValueRefused(str(exc.args[0])) from exc


class ZoneName:
    """A domain name or the root, which is read as "."."""

    unit = ""
    type_name = "string"
    allowed = 'a domain name, or "." for the root'

    def read(self, value: object) -> str:
        """The name in canonical form, or "."."""
        return "." if value == "." else str(HostName().read(value))


class DatabaseUrl:
    """Where the store is: a file as SQLAlchemy spells it, or libpq's URL; only the forms that stsguard supports."""

    unit = ""
    type_name = "string"
    allowed = '"sqlite:////PATH" (an absolute path) or "postgresql://USER@HOST/DATABASE"'

    def read(self, value: object) -> str:
        """The text itself."""
        text = read_text(value)
        if text.startswith("sqlite:////"):
            path = text.removeprefix("sqlite:///")
            if "?" in path or "#" in path or path.endswith("/"):
                raise ValueRefused("the path may not hold ? or #, nor end with /")
            return text
        if text.startswith("sqlite:"):
            raise ValueRefused("not an absolute path")
        if not text.startswith("postgresql://"):
            raise ValueRefused("not the URL of a database that stsguard supports")
        try:
            named = urlsplit(text)
            database, _ = named.path.removeprefix("/"), named.port
        except ValueError as exc:
            raise ValueRefused("not a URL") from exc
        if not database:
            raise ValueRefused("names no database")
        return text


def parse_listen(text: str) -> ListenAddress:
    """The address in `inet:HOST:PORT` or `unix:PATH`.

    Raises:
        ValueRefused: it is neither.
    """
    if path := text.removeprefix("unix:") if text.startswith("unix:") else "":
        if not path.startswith("/"):
            raise ValueRefused(f"{show(path)} is not an absolute path")
        if len(path.encode()) > MAX_UNIX_PATH_BYTES:
            raise ValueRefused(f"the path is longer than {MAX_UNIX_PATH_BYTES} bytes")
        return UnixAddress(Path(path))
    if not text.startswith("inet:") or text.count(":") < 2:
        raise ValueRefused(f"{show(text)} is no address to listen at")
    host, _, port = text.removeprefix("inet:").rpartition(":")
    return InetAddress(_listen_host(host), _port(port))


def _listen_host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ip_address(bare)
        bracketed = bare is not text
        if bracketed != isinstance(address, IPv6Address):
            raise ValueRefused(f"{show(text)}: brackets belong around an IPv6 address and around nothing else")
        return str(address)
    except ValueError:
        pass
    try:
        return Domain.parse(text)
    except NameInvalid as exc:
        raise ValueRefused(f"{show(text)} is neither an address nor a host name") from exc


class Listen:
    """One address to listen at."""

    unit = ""
    type_name = "string"
    allowed = '"inet:HOST:PORT" or "unix:/PATH"'

    def read(self, value: object) -> ListenAddress:
        """The address."""
        return parse_listen(read_text(value))


def _texts(value: object) -> Sequence[str]:
    if not isinstance(value, list):
        raise ValueRefused("not a list")
    return [read_text(each) for each in value]


class ListenList:
    """Any number of addresses to listen at, each once."""

    unit = ""
    type_name = "list of strings"
    allowed = 'a list of "inet:HOST:PORT" and "unix:/PATH", each once'

    def read(self, value: object) -> tuple[ListenAddress, ...]:
        """The addresses in their order."""
        addresses = tuple(parse_listen(text) for text in _texts(value))
        if len(set(addresses)) < len(addresses):
            raise ValueRefused("names an address twice")
        return addresses


class Nameservers:
    """Resolvers by address; none means those of /etc/resolv.conf."""

    unit = ""
    type_name = "list of strings"
    allowed = 'a list of "ADDRESS", "IPV4:PORT" and "[IPV6]:PORT"; [] for those of /etc/resolv.conf'

    def read(self, value: object) -> tuple[Nameserver, ...]:
        """The resolvers in their order."""
        return tuple(_nameserver(text) for text in _texts(value))


def _nameserver(text: str) -> Nameserver:
    host, port = text, 53
    if text.startswith("["):
        host, _, rest = text.removeprefix("[").partition("]")
        if rest and not rest.startswith(":"):
            raise ValueRefused(f"{show(text)} is no address")
        port = _port(rest.removeprefix(":")) if rest else 53
    elif text.count(":") == 1:
        host, _, rest = text.partition(":")
        port = _port(rest)
    try:
        return Nameserver(ip_address(host), port)
    except ValueError as exc:
        # Names would need a resolver to find the resolver.
        raise ValueRefused(f"{show(host)} is not an IP address") from exc


class Networks:
    """Networks; false means none and true means all of them."""

    unit = ""
    type_name = "boolean or list of strings"
    allowed = 'false, true, or a list of networks such as "10.0.0.0/8"'

    def read(self, value: object) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks."""
        if isinstance(value, bool):
            return (IPv4Network("0.0.0.0/0"), IPv6Network("::/0")) if value else ()
        if not isinstance(value, list):
            raise ValueRefused("neither a boolean nor a list")
        return tuple(_network(text) for text in _texts(value))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        # An address inside the network is more likely a slip than meant: name what it could be, and ask.
        raise ValueRefused(f"{show(text)} has bits set behind its prefix, {ip_network(text, False)} has none")
    except ValueError as exc:
        raise ValueRefused(f"{show(text)} is not a network") from exc
