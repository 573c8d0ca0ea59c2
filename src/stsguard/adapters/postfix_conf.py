"""Asks the installed Postfix about itself: postconf(1) and postmulti(1), the resolv.conf files, the CA files.

Every command has a time limit and runs in the C locale. Nothing is ever written, and no query is sent: whether the
name servers validate, on which DANE in Postfix depends (RFC 7672 §2.1.1), is asked by the function passed in.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from stsguard.core.errors import PostfixUnreadable
from stsguard.core.postfix_facts import (
    PARAMETERS,
    CaFacts,
    CaState,
    Nameserver,
    PostfixDaneFacts,
    PostfixFacts,
    ResolvConf,
    SmtpService,
    Validation,
    dane_obstacles,
    parse_instances,
    parse_resolv_conf,
    parse_services,
    parse_settings,
)

COMMAND_TIMEOUT_SECONDS = 10.0
RESOLV_CONF = Path("/etc/resolv.conf")
_SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_MAX_FILE_BYTES = 1 << 20  # of resolv.conf and of the start of a CA file
_SYSTEM_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # OpenBSD, FreeBSD, macOS
)
_CERTIFICATE_MARKS = (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN TRUSTED CERTIFICATE-----")


def find_instances() -> tuple[Path, ...]:
    """The configuration directory of every Postfix instance on this machine, the primary one first.

    Raises:
        PostfixUnreadable: there is no Postfix, or its commands fail.
    """
    return tuple(Path(directory) for directory in parse_instances(_run("postmulti", "-l")))


def read_postfix(config_directory: Path, ask: Callable[[str], Validation]) -> PostfixFacts:
    """All that the advice needs to know of the instance with this configuration directory.

    `ask` is called with the address of each name server that its smtp(8) asks.

    Raises:
        PostfixUnreadable: there is no Postfix, or its commands fail.
    """
    settings = _settings(config_directory, "-x")
    services = _services(config_directory, settings)
    system, copy = _resolv_confs(settings, services)
    files = _files_read(system, copy, services)
    asked = {address: ask(address) for address in dict.fromkeys(address for file in files for address in file[2])}
    return PostfixFacts(
        config_directory=str(config_directory),
        settings=settings,
        written=_settings(config_directory),
        services=services,
        resolv_conf=_with_answers(system, asked),
        chroot_resolv_conf=_with_answers(copy, asked) if copy is not None else None,
        authorities=_authorities(settings),
        queue_directory_exists=Path(settings.get("queue_directory", "")).is_dir(),
    )


def postfix_dane_facts(config_directory: Path | None) -> PostfixDaneFacts:
    """What Postfix itself needs for DANE: its setting, and the name servers that smtp(8) asks. Sends no query.

    `config_directory` None means Postfix's own default. Never raises: without a Postfix that can be read,
    `has_postfix` is false, and the daemon's own resolver decides.
    """
    try:
        settings = _settings(config_directory, "-x")
        services = _services(config_directory, settings)
    except PostfixUnreadable:
        return PostfixDaneFacts(has_postfix=False, dns_support_level="", nameservers={}, obstacles=())
    system, copy = _resolv_confs(settings, services)
    level = settings.get("smtp_dns_support_level", "")
    obstacles = dane_obstacles(settings)
    if level != "dnssec":
        obstacles = (f"smtp_dns_support_level = {level or '(empty)'}", *obstacles)
    files = _files_read(system, copy, services)
    return PostfixDaneFacts(
        has_postfix=True,
        dns_support_level=level,
        nameservers={path: addresses for path, _, addresses in files},
        obstacles=obstacles,
    )


def _settings(config_directory: Path | None, *options: str) -> dict[str, str]:
    settings = parse_settings(_run("postconf", *_at(config_directory), *options, *PARAMETERS))
    if "mail_version" not in settings:
        raise PostfixUnreadable("postconf says nothing of mail_version")
    return settings


def _services(config_directory: Path | None, settings: dict[str, str]) -> tuple[SmtpService, ...]:
    where = _at(config_directory)
    level = settings.get("compatibility_level", "0")
    return parse_services(_run("postconf", *where, "-M"), _run("postconf", *where, "-P"), compatibility_level=level)


def _at(config_directory: Path | None) -> Sequence[str]:
    return () if config_directory is None else ("-c", str(config_directory))


def _run(program: str, *arguments: str) -> str:
    """Standard output of one of Postfix's commands.

    Raises:
        PostfixUnreadable: it is not installed, fails, or takes too long.
    """
    path = f"{os.environ.get('PATH', '')}:{_SEARCH_PATH}"  # sbin is not on every user's PATH
    command = shutil.which(program, path=path)
    if command is None:
        raise PostfixUnreadable(f"there is no {program} here: is Postfix installed?")
    try:
        done = subprocess.run(
            [command, *arguments],
            env={"LC_ALL": "C", "PATH": path},  # no MAIL_CONFIG: which Postfix is read is said by -c alone
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=COMMAND_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as exc:
        raise PostfixUnreadable(f"{program} took longer than {COMMAND_TIMEOUT_SECONDS:.0f} s") from exc
    except OSError as exc:
        raise PostfixUnreadable(f"{program} can't be run: {exc.strerror}") from exc
    if done.returncode != 0:
        # Warnings (an unknown parameter, for one) stand before the line that says why it stopped; postmulti(1) says
        # it to the mail log alone where standard error is no terminal.
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["the mail log says why"]
        raise PostfixUnreadable(f"{program} failed: {said[-1][:300]}")
    return done.stdout.decode(errors="replace")


_ResolvConfFile = tuple[str, bool, tuple[str, ...]]  # path, present, addresses


def _resolv_confs(
    settings: dict[str, str], services: Sequence[SmtpService]
) -> tuple[_ResolvConfFile, _ResolvConfFile | None]:
    """The system's resolv.conf, and the copy that a chrooted smtp(8) reads in its stead (None without one)."""
    if not any(service.chroot for service in services):
        return _read_resolv_conf(RESOLV_CONF), None
    copy = Path(settings.get("queue_directory", "/var/spool/postfix"), "etc/resolv.conf")
    return _read_resolv_conf(RESOLV_CONF), _read_resolv_conf(copy)


def _read_resolv_conf(path: Path) -> _ResolvConfFile:
    try:
        text = path.read_bytes()[:_MAX_FILE_BYTES].decode(errors="replace")
    except OSError:
        return str(path), False, parse_resolv_conf("")
    return str(path), True, parse_resolv_conf(text)


def _files_read(
    system: _ResolvConfFile, copy: _ResolvConfFile | None, services: Sequence[SmtpService]
) -> list[_ResolvConfFile]:
    """The files that some smtp(8) reads."""
    if copy is None:
        return [system]
    return [copy] if all(service.chroot for service in services) else [copy, system]


def _with_answers(file: _ResolvConfFile, asked: dict[str, Validation]) -> ResolvConf:
    path, present, addresses = file
    answers = (Nameserver(address, asked.get(address, Validation.NOT_ASKED)) for address in addresses)
    return ResolvConf(path, present, tuple(answers))


def _authorities(settings: dict[str, str]) -> CaFacts:
    directory = settings.get("smtp_tls_CApath", "")
    in_chroot = f"{settings.get('queue_directory', '')}/{directory.strip('/')}" if directory else ""
    return CaFacts(
        file=_ca_file(settings.get("smtp_tls_CAfile", "")),
        directory=_ca_directory(directory),
        directory_in_chroot=_ca_directory(in_chroot),
        system_file=next((path for path in _SYSTEM_CA_FILES if _ca_file(path) is CaState.GOOD), None),
    )


def _ca_file(path: str) -> CaState:
    if not path:
        return CaState.NOT_SET
    try:
        with Path(path).open("rb") as file:
            start = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError:
        return CaState.MISSING
    except OSError:
        return CaState.UNREADABLE
    return CaState.GOOD if any(mark in start for mark in _CERTIFICATE_MARKS) else CaState.NO_CERTIFICATE


def _ca_directory(path: str) -> CaState:
    """OpenSSL finds a certificate in a directory by the hash of its subject: `1a2b3c4d.0`."""
    if not path:
        return CaState.NOT_SET
    try:
        found = any(name.suffix[1:].isdigit() for name in Path(path).iterdir())
    except FileNotFoundError:
        return CaState.MISSING
    except OSError:
        return CaState.UNREADABLE
    return CaState.GOOD if found else CaState.NO_CERTIFICATE
