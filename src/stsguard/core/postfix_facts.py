"""What is known of an installed Postfix, and the parsers of what its own commands print.

The commands are postconf(1) and postmulti(1); `main.cf` and `master.cf` themselves are not parsed. `resolv.conf` is,
since no command shows the copy in a chroot. Nothing here decides anything: see `postfix_advice`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from stsguard.core.errors import PostfixUnreadable

# What postconf is asked for. A name that a version does not know is absent from its answer, and that is how a
# feature is told: distributions carry features back into older versions.
PARAMETERS = (
    "compatibility_level",
    "ignore_mx_lookup_error",
    "mail_version",
    "milter_default_action",
    "multi_instance_name",
    "non_smtpd_milters",
    "queue_directory",
    "relayhost",
    "smtp_dns_resolver_options",
    "smtp_dns_support_level",
    "smtp_enforce_tls",
    "smtp_host_lookup",
    "smtp_tls_CAfile",
    "smtp_tls_CApath",
    "smtp_tls_connection_reuse",
    "smtp_tls_dane_insecure_mx_policy",
    "smtp_tls_enforce_sts_mx_patterns",
    "smtp_tls_loglevel",
    "smtp_tls_mandatory_protocols",
    "smtp_tls_per_site",
    "smtp_tls_policy_maps",
    "smtp_tls_security_level",
    "smtp_tls_session_cache_database",
    "smtp_tlsrpt_enable",
    "smtp_tlsrpt_skip_reused_handshakes",
    "smtp_tlsrpt_socket_name",
    "smtp_use_tls",
    "smtpd_milters",
    "tls_append_default_CA",
)
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?![\d.])", re.ASCII)
_NAMESERVERS_USED = 3  # MAXNS of the C library's resolver: further lines are not read
_DEFAULT_NAMESERVER = "127.0.0.1"  # what the C library asks where resolv.conf names none or is absent


class Validation(StrEnum):
    """Whether a name server validates: whether it set AD for a name that is signed (RFC 4035 §3.2.3)."""

    YES = "yes"
    NO = "no"
    NO_ANSWER = "no answer"
    NOT_ASKED = "not asked"  # no smtp(8) asks it either


class CaState(StrEnum):
    """What is at the place where Postfix looks for certificate authorities."""

    NOT_SET = "not set"
    GOOD = "good"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NO_CERTIFICATE = "no certificate in it"


@dataclass(frozen=True, slots=True)
class SmtpService:
    """A service of master.cf that smtp(8) serves. `overrides` are its own `-o name=value`."""

    name: str
    chroot: bool
    overrides: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Nameserver:
    """One name server, and what it showed when it was asked."""

    address: str
    validation: Validation

    @property
    def loopback(self) -> bool:
        """Whether nobody on the network can forge what it says."""
        return ip_address(self.address).is_loopback


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """A resolv.conf. Where it is absent or names nobody, the C library asks 127.0.0.1, and so does `nameservers`."""

    path: str
    present: bool
    nameservers: tuple[Nameserver, ...]


@dataclass(frozen=True, slots=True)
class CaFacts:
    """Where smtp(8) finds certificate authorities. The file is read before the chroot, the directory within it."""

    file: CaState
    directory: CaState
    directory_in_chroot: CaState
    system_file: str | None


@dataclass(frozen=True, slots=True)
class PostfixFacts:
    """One Postfix instance.

    `settings` has the values in force with `$name` expanded, `written` as they stand in main.cf. `chroot_resolv_conf`
    is None where no smtp(8) runs in a chroot.
    """

    config_directory: str
    settings: Mapping[str, str]
    written: Mapping[str, str]
    services: tuple[SmtpService, ...]
    resolv_conf: ResolvConf
    chroot_resolv_conf: ResolvConf | None
    authorities: CaFacts
    queue_directory_exists: bool = True

    @property
    def version(self) -> tuple[int, int, int]:
        """mail_version as numbers; a snapshot counts as the release it leads to."""
        return parse_version(self.settings.get("mail_version", ""))

    @property
    def queue_directory(self) -> str:
        """The root of the chroot, without a final slash."""
        return self.settings.get("queue_directory", "/var/spool/postfix").rstrip("/")

    @property
    def chrooted(self) -> tuple[str, ...]:
        """The smtp(8) services that run in a chroot."""
        return tuple(service.name for service in self.services if service.chroot)

    @property
    def resolver_files(self) -> tuple[ResolvConf, ...]:
        """The resolv.conf files that some smtp(8) reads, each once."""
        used = []
        if self.chroot_resolv_conf is not None:
            used.append(self.chroot_resolv_conf)
        if len(self.chrooted) < len(self.services) or not used:
            used.append(self.resolv_conf)
        return tuple(used)

    @property
    def nameservers(self) -> tuple[Nameserver, ...]:
        """Every name server that some smtp(8) asks, each once."""
        return tuple(dict.fromkeys(server for file in self.resolver_files for server in file.nameservers))

    def is_on(self, name: str) -> bool:
        """Whether a yes/no parameter is known to this version and set to yes."""
        return self.settings.get(name, "no").lower() == "yes"


@dataclass(frozen=True, slots=True)
class PostfixDaneFacts:
    """What `[lookup] postfix_dane = "auto"` needs to know.

    `nameservers` are those of each resolv.conf that smtp(8) reads, by its path. `obstacles` are the settings that keep
    DANE off whatever the resolver does, smtp_dns_support_level among them. Without a Postfix everything is empty, and
    the daemon's own resolver decides.
    """

    has_postfix: bool
    dns_support_level: str
    nameservers: Mapping[str, tuple[str, ...]]
    obstacles: tuple[str, ...]


def parse_version(text: str) -> tuple[int, int, int]:
    """`3.10.13`, `3.12-20260821`, `3.11-RC1` as numbers.

    Raises:
        PostfixUnreadable: the text is no version.
    """
    found = _VERSION.match(text)
    if found is None:
        raise PostfixUnreadable(f"mail_version {text[:40]!r} is not the version of a Postfix")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def parse_settings(output: str) -> dict[str, str]:
    """What `postconf NAME…` prints: one `name = value` a line."""
    settings = {}
    for line in output.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            settings[name.strip()] = value.strip()
    return settings


def parse_services(services: str, overrides: str, *, compatibility_level: str) -> tuple[SmtpService, ...]:
    """The smtp(8) based services in what `postconf -M` and `postconf -P` print.

    Columns of master(5): name, type, private, unprivileged, chroot, wake-up, process limit, command. A `-` in the
    chroot column means yes below compatibility level 1 and no from there on.
    """
    chroot_by_default = not re.match(r"[1-9]", compatibility_level)
    own: dict[str, dict[str, str]] = {}
    for name, value in parse_settings(overrides).items():
        service, _, parameter = name.rpartition("/")
        own.setdefault(service, {})[parameter] = value
    found = []
    for line in services.splitlines():
        columns = line.split()
        if len(columns) >= 8 and columns[7] == "smtp":
            name = f"{columns[0]}/{columns[1]}"
            chroot = columns[4] == "y" or (columns[4] == "-" and chroot_by_default)
            found.append(SmtpService(name, chroot, own.get(name, {})))
    return tuple(found)


def parse_instances(output: str) -> tuple[str, ...]:
    """The configuration directories in what `postmulti -l` prints: name, group, enabled, directory."""
    rows = [line.split(maxsplit=3) for line in output.splitlines()]
    return tuple(row[3].strip() for row in rows if len(row) == 4)


def parse_resolv_conf(text: str) -> tuple[str, ...]:
    """The addresses that the C library's resolver asks: the first three `nameserver` lines, 127.0.0.1 without any."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]):
            found.append(words[1])
    return tuple(found[:_NAMESERVERS_USED]) or (_DEFAULT_NAMESERVER,)


def dane_obstacles(settings: Mapping[str, str]) -> tuple[str, ...]:
    """Settings under which Postfix takes `dane` for `may` and defers at `dane-only`, whatever the resolver says.

    They are those that smtp(8) itself looks at before it asks for TLSA records; smtp_dns_support_level is not among
    them, since it has a line of its own.
    """
    obstacles = []
    # "native" alone asks the C library's host look-up, which says nothing of DNSSEC.
    if "dns" not in re.split(r"[,\s]+", settings.get("smtp_host_lookup", "dns").lower()):
        obstacles.append(f"smtp_host_lookup = {settings['smtp_host_lookup']}")
    if settings.get("ignore_mx_lookup_error", "no").lower() == "yes":
        obstacles.append("ignore_mx_lookup_error = yes")
    # Search lists change the name that is looked up, so the answer is for another one.
    if settings.get("smtp_dns_resolver_options"):
        obstacles.append(f"smtp_dns_resolver_options = {settings['smtp_dns_resolver_options']}")
    return tuple(obstacles)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
