"""The configuration as the program uses it: one frozen, typed value per section.

The fields are named by `Option.field`; a test holds them against the table. These are named tuples, since forty
dataclasses would take a tenth of a daemon's start to make, and longer than all else that a small command does.
"""

import json
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import NamedTuple

from stsguard.config.hosting_options import ChallengeKind, TsigAlgorithm
from stsguard.config.intake_options import IntakeAction, RequireDkim
from stsguard.config.mail_values import MailLogSource, SendVia
from stsguard.config.options import DnssecTrust, LogFormat, LogLevel, LookupMode, Option, PostfixDane, TomlValue
from stsguard.config.show import mask
from stsguard.config.values import InetAddress, ListenAddress, Nameserver
from stsguard.names import Domain


class StoreConfig(NamedTuple):
    """[store]."""

    url: str


class DnsConfig(NamedTuple):
    """[dns]. No `nameservers` means those of /etc/resolv.conf; `signed_name` is "." for the root."""

    nameservers: tuple[Nameserver, ...]
    timeout_seconds: int
    dnssec: DnssecTrust
    signed_name: str
    bogus_name: Domain


class NetworkConfig(NamedTuple):
    """[network]. `ca_file` None means the system's; no `allow_private_addresses` means that none is allowed."""

    ca_file: Path | None
    allow_private_addresses: tuple[IPv4Network | IPv6Network, ...]


class PolicyFetchConfig(NamedTuple):
    """[policy_fetch]."""

    wait_seconds: int
    timeout_seconds: int
    max_size_bytes: int
    port: int


class LookupConfig(NamedTuple):
    """[lookup]. `overrides` None means that there are none."""

    listen: tuple[ListenAddress, ...]
    mode: LookupMode
    overrides: Path | None
    postfix_dane: PostfixDane
    id_check_seconds: int
    cache_size: int


class VerificationConfig(NamedTuple):
    """[verification]. `helo` None means the machine's host name."""

    enabled: bool
    interval_seconds: int
    port: int
    helo: Domain | None
    timeout_seconds: int
    concurrency: int


class SessionsConfig(NamedTuple):
    """[sessions], or one of several [[sessions]]. `tlsrpt_socket` and `mail_log` None mean none, an empty
    `tlsrpt_owner` or `tlsrpt_group` that of the daemon."""

    tlsrpt_socket: Path | None
    tlsrpt_owner: str
    tlsrpt_group: str
    tlsrpt_mode: int
    mail_log: MailLogSource | None
    syslog_name: str


class ReportsConfig(NamedTuple):
    """[reports]. `from_` None means that none is sent; what else is None or empty is as `options` says."""

    enabled: bool
    from_: str | None
    organization: str
    contact: str | None
    dkim_domain: Domain | None
    dkim_selector: Domain | None
    dkim_key_file: Path | None
    send_via: SendVia
    https_verify: bool
    spread_seconds: int
    retry_for_seconds: int
    failures_only: bool
    never_to: tuple[Domain, ...]
    dry_run: bool
    keep_copies: Path | None
    keep_seconds: int

    @property
    def sending(self) -> bool:
        """Whether reports are made and sent: not switched off, and there is an address to send them from."""
        return self.enabled and self.from_ is not None


class PolicyHostConfig(NamedTuple):
    """[policy_host]. `certificate_dir` None: a web server in front does the TLS; `acme_directory` None: no ACME."""

    listen: tuple[ListenAddress, ...]
    http_listen: tuple[ListenAddress, ...]
    workers: int
    certificate_dir: Path | None
    acme_directory: str | None
    acme_contact: str | None
    acme_ca_file: Path | None
    acme_challenge: ChallengeKind
    first_max_age_seconds: int
    max_age_cap_seconds: int
    rua: tuple[str, ...]
    record_ttl_seconds: int
    inspect_every_seconds: int


class DnsUpdateConfig(NamedTuple):
    """[dns_update]. `server` None: TXT records are not published by us. `zone` None: found by its SOA record."""

    server: InetAddress | None
    zone: Domain | None
    tsig_name: Domain | None
    tsig_algorithm: TsigAlgorithm
    tsig_key_file: Path | None


class IntakeConfig(NamedTuple):
    """[intake]. `http_path` None: no report is taken by HTTPS. `addresses` have their domains in canonical form."""

    addresses: tuple[str, ...]
    domains: tuple[Domain, ...]
    http_path: str | None
    max_compressed_bytes: int
    max_decompressed_bytes: int
    require_dkim: RequireDkim
    trust_https: bool
    spool: Path
    keep_raw_seconds: int


class MilterConfig(NamedTuple):
    """[milter]. `socket_group` is empty for that of the daemon; both it and the mode are of a unix socket only."""

    socket: ListenAddress
    socket_group: str
    socket_mode: int
    intake_action: IntakeAction
    warm: bool
    warm_rate: int


class AdminConfig(NamedTuple):
    """[admin]: `listen` is of `stsguard outbound`, `inbound_listen` of `stsguard inbound`."""

    listen: ListenAddress
    inbound_listen: ListenAddress


class LogConfig(NamedTuple):
    """[log]."""

    level: LogLevel
    format: LogFormat


class Origin(StrEnum):
    """Where an effective value comes from."""

    DEFAULT = "default"
    FILE = "file"
    STATE_DIR = "--state-dir"


class Setting(NamedTuple):
    """The effective value of one option, in the form in which TOML gives it. `table` is which of several [[section]]
    it belongs to, from 1 on; 0 where there is one [section]."""

    option: Option
    value: TomlValue
    origin: Origin
    table: int = 0

    @property
    def masked(self) -> TomlValue:
        """The value with the password of a database URL hidden."""
        return mask(self.value) if isinstance(self.value, str) else self.value

    def __str__(self) -> str:
        return f"{self.option.name} = {json.dumps(self.masked, ensure_ascii=False)}"


class Config(NamedTuple):
    """The whole configuration. `path` is the file asked for; where it is absent, `present` is false. `sessions` has one
    entry for each Postfix instance, in the order of the file."""

    path: Path
    present: bool
    settings: tuple[Setting, ...]
    store: StoreConfig
    dns: DnsConfig
    network: NetworkConfig
    policy_fetch: PolicyFetchConfig
    lookup: LookupConfig
    verification: VerificationConfig
    sessions: tuple[SessionsConfig, ...]
    reports: ReportsConfig
    policy_host: PolicyHostConfig
    dns_update: DnsUpdateConfig
    intake: IntakeConfig
    milter: MilterConfig
    admin: AdminConfig
    log: LogConfig

    def origins(self, section: str, name: str) -> tuple[Origin, ...]:
        """Where the value of a key comes from, for each table of its section: one but for repeatable sections."""
        wanted = (section, name)
        return tuple(each.origin for each in self.settings if (each.option.section, each.option.name) == wanted)
