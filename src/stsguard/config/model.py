"""The configuration as the program uses it: one frozen, typed value per section.

The fields are named by `Option.field`; a test holds them against the table.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from stsguard.config.options import DnssecTrust, LogFormat, LogLevel, LookupMode, Option, PostfixDane, TomlValue
from stsguard.config.show import mask
from stsguard.config.values import ListenAddress, Nameserver
from stsguard.names import Domain


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """[store]."""

    url: str


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """[dns]. No `nameservers` means those of /etc/resolv.conf; `signed_name` is "." for the root."""

    nameservers: tuple[Nameserver, ...]
    timeout_seconds: int
    dnssec: DnssecTrust
    signed_name: str
    bogus_name: Domain


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """[network]. `ca_file` None means the system's; no `allow_private_addresses` means that none is allowed."""

    ca_file: Path | None
    allow_private_addresses: tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class PolicyFetchConfig:
    """[policy_fetch]."""

    wait_seconds: int
    timeout_seconds: int
    max_size_bytes: int
    port: int


@dataclass(frozen=True, slots=True)
class LookupConfig:
    """[lookup]. `overrides` None means that there are none."""

    listen: tuple[ListenAddress, ...]
    mode: LookupMode
    overrides: Path | None
    postfix_dane: PostfixDane
    id_check_seconds: int
    cache_size: int


@dataclass(frozen=True, slots=True)
class VerificationConfig:
    """[verification]. `helo` None means the machine's host name."""

    enabled: bool
    interval_seconds: int
    port: int
    helo: Domain | None
    timeout_seconds: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """[admin]."""

    listen: ListenAddress


@dataclass(frozen=True, slots=True)
class LogConfig:
    """[log]."""

    level: LogLevel
    format: LogFormat


class Origin(StrEnum):
    """Where an effective value comes from."""

    DEFAULT = "default"
    FILE = "file"
    STATE_DIR = "--state-dir"


@dataclass(frozen=True, slots=True)
class Setting:
    """The effective value of one option, in the form in which TOML gives it."""

    option: Option
    value: TomlValue
    origin: Origin

    @property
    def masked(self) -> TomlValue:
        """The value with the password of a database URL hidden."""
        return mask(self.value) if isinstance(self.value, str) else self.value

    def __str__(self) -> str:
        return f"{self.option.name} = {json.dumps(self.masked, ensure_ascii=False)}"


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. `path` is the file asked for; where it is absent, `present` is false."""

    path: Path
    present: bool
    settings: tuple[Setting, ...]
    store: StoreConfig
    dns: DnsConfig
    network: NetworkConfig
    policy_fetch: PolicyFetchConfig
    lookup: LookupConfig
    verification: VerificationConfig
    admin: AdminConfig
    log: LogConfig
