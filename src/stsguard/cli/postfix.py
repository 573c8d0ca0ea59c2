"""`stsguard postfix`: what to add to the Postfix found here, and what is wrong with it today."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stsguard.cli.options import config_option, json_option, read_config, refuse, state_dir_option

if TYPE_CHECKING:
    from stsguard.config.model import Config
    from stsguard.core.postfix_advice import Advice, Setting
    from stsguard.core.postfix_facts import PostfixFacts, ResolvConf
    from stsguard.core.postfix_findings import Finding

EXIT_CHANGE = 1
EXIT_UNREADABLE = 3
_WIDTH = 100
_SHOWN = (
    "smtp_tls_security_level",
    "smtp_dns_support_level",
    "smtp_tls_CAfile",
    "smtp_tls_CApath",
    "smtp_tls_policy_maps",
    "smtp_tlsrpt_enable",
    "smtp_tlsrpt_socket_name",
    "smtp_tlsrpt_skip_reused_handshakes",
    "milter_default_action",
)


@click.command()
@config_option
@click.option(
    "--config-directory",
    "directories",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="A configuration directory of Postfix; may be repeated.  [default: those of `postmulti -l`]",
)
@json_option
@state_dir_option
def postfix(config_file: Path, directories: tuple[Path, ...], as_json: bool, state_dir: Path | None) -> None:
    """Read the Postfix installed here; print the lines to add and what is wrong today, each with its reason.

    Nothing is changed. Exit 0: nothing to do; 1: something to change; 3: Postfix can't be read.
    """
    from stsguard.app.commands import read_postfix
    from stsguard.core.errors import PostfixUnreadable
    from stsguard.core.postfix_advice import advise

    config = read_config(config_file, state_dir=state_dir, code=EXIT_UNREADABLE)
    listen, by_systemd = _listen(config)
    try:
        found = read_postfix(
            directories, signed_name=config.dns.signed_name, timeout_seconds=config.dns.timeout_seconds
        )
        instances = [
            (facts, advise(facts, listen=listen, tlsrpt_socket=_tlsrpt_socket(config, facts.queue_directory)))
            for facts in found
        ]
    except PostfixUnreadable as exc:
        refuse((f"Postfix can't be read: {exc}",), EXIT_UNREADABLE)
    addresses = _addresses(listen, [advice for _, advice in instances], by_systemd=by_systemd)
    if as_json:
        click.echo(json.dumps(_as_json(instances, addresses)))
    else:
        for facts, advice in instances:
            _print_instance(facts, advice)
        _print_listen(addresses, listen)
    if not all(advice.nothing_to_do for _, advice in instances):
        raise click.exceptions.Exit(EXIT_CHANGE)


def _listen(config: "Config") -> tuple[tuple[str, ...], bool]:
    """[lookup] listen where the file sets it, and whether it leaves the sockets to systemd."""
    from stsguard.config.model import Origin

    for setting in config.settings:
        if (setting.option.section, setting.option.name) == ("lookup", "listen") and setting.origin is Origin.FILE:
            value = setting.value
            return (tuple(value), not value) if isinstance(value, list) else ((), False)
    return (), False


def _tlsrpt_socket(config: "Config", queue_directory: str) -> str | None:
    """[sessions] tlsrpt_socket for the Postfix with this queue directory; None where the file does not name it."""
    from stsguard.config.model import Origin

    origins = config.origins("sessions", "tlsrpt_socket")
    named = [
        instance.tlsrpt_socket
        for instance, origin in zip(config.sessions, origins, strict=True)
        if instance.tlsrpt_socket is not None and origin is Origin.FILE
    ]
    inside = [path for path in named if path.is_relative_to(queue_directory)]
    # A path elsewhere may be anyone's, but for where there is no other instance.
    own = inside or (named if len(config.sessions) == 1 else [])
    return str(own[0]) if own else None


def _addresses(listen: Sequence[str], advices: Sequence["Advice"], *, by_systemd: bool) -> list[str]:
    """What [lookup] listen has to name for every instance; empty where systemd passes the sockets."""
    if by_systemd:
        return []
    needed = [advice.listen for advice in advices if advice.listen is not None]
    return list(dict.fromkeys([*listen, *needed]))


def _print_instance(facts: "PostfixFacts", advice: "Advice") -> None:
    chrooted = f"in a chroot: {', '.join(facts.chrooted)}" if facts.chrooted else "not in a chroot"
    click.echo(f"Postfix {facts.settings['mail_version']} in {facts.config_directory}, queue {facts.queue_directory}")
    click.echo(f"  smtp(8) services: {', '.join(service.name for service in facts.services) or 'none'}; {chrooted}")
    for file in facts.resolver_files:
        click.echo(f"  resolver of {file.path}: {_servers(file)}")
    for name in _SHOWN:
        if name in facts.settings:
            click.echo(f"  {name} = {facts.settings[name]}".rstrip())
    if advice.findings:
        click.echo("\nToday:")
    for finding in advice.findings:
        _print_finding(finding)
    needed = [setting for setting in advice.settings if not setting.optional]
    if needed:
        click.echo("\nAdd with these commands, once `stsguard outbound` runs, then `postfix reload`:")
        _print_settings(needed, [setting.command(facts.config_directory) for setting in needed])
        click.echo(f"\nThe same as lines of {facts.config_directory}/main.cf:")
        _print_settings(needed, [setting.line for setting in needed])
    optional = [setting for setting in advice.settings if setting.optional]
    if optional:
        click.echo("\nOnly for TLS reports, when stsguard collects them:")
        _print_settings(optional, [setting.command(facts.config_directory) for setting in optional])
    if advice.nothing_to_do:
        click.echo("\nNothing needs to be changed.")
    click.echo()


def _servers(file: "ResolvConf") -> str:
    servers = [f"{server.address} (validates DNSSEC: {server.validation.value})" for server in file.nameservers]
    return ", ".join(servers) + ("" if file.present else "; the file is absent")


def _print_finding(finding: "Finding") -> None:
    click.echo(f"  {finding.severity.value}: {finding.what} [{finding.code}]")
    for text in (f"why: {finding.reason}", f"mail: {finding.effect}"):
        click.echo(textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="      "))


def _print_settings(settings: Sequence["Setting"], forms: Sequence[str]) -> None:
    for setting, form in zip(settings, forms, strict=True):
        click.echo(textwrap.fill(setting.reason, _WIDTH, initial_indent="# ", subsequent_indent="# "))
        click.echo(form)


def _print_listen(addresses: Sequence[str], listen: Sequence[str]) -> None:
    from stsguard.core.postfix_advice import DEFAULT_LISTEN

    if set(addresses) <= set(listen or [DEFAULT_LISTEN]):
        return
    click.echo("stsguard.toml needs (it does not count where stsguard-outbound.socket opens the sockets):")
    click.echo(f"[lookup]\nlisten = {json.dumps(addresses, ensure_ascii=False)}")
    click.echo("The directory of a unix socket has to be there, writable for the user that stsguard runs as.")
    if not listen:
        click.echo(f"Or put {DEFAULT_LISTEN} in the place of unix:… in smtp_tls_policy_maps: then it needs nothing.")


def _as_json(instances: Sequence[tuple["PostfixFacts", "Advice"]], addresses: Sequence[str]) -> dict[str, object]:
    return {
        "nothing_to_do": all(advice.nothing_to_do for _, advice in instances),
        "lookup_listen": list(addresses),
        "instances": [
            {
                "config_directory": facts.config_directory,
                "mail_version": facts.settings["mail_version"],
                "queue_directory": facts.queue_directory,
                "services": [{"name": service.name, "chroot": service.chroot} for service in facts.services],
                "resolvers": [
                    {
                        "file": file.path,
                        "present": file.present,
                        "nameservers": [
                            {"address": server.address, "validates": server.validation.value}
                            for server in file.nameservers
                        ],
                    }
                    for file in facts.resolver_files
                ],
                "settings": dict(facts.settings),
                "findings": [
                    {
                        "code": finding.code,
                        "severity": finding.severity.value,
                        "what": finding.what,
                        "reason": finding.reason,
                        "effect": finding.effect,
                    }
                    for finding in advice.findings
                ],
                "add": [
                    {
                        "name": setting.name,
                        "value": setting.value,
                        "reason": setting.reason,
                        "optional": setting.optional,
                        "command": setting.command(facts.config_directory),
                    }
                    for setting in advice.settings
                ],
                "nothing_to_do": advice.nothing_to_do,
            }
            for facts, advice in instances
        ],
    }
