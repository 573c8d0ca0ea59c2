"""`stsguard status`: the health of all parts of the daemons that run here."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stsguard.cli.asking import (
    EXIT_PROBLEM,
    EXIT_UNREACHABLE,
    Plain,
    fail,
    print_fields,
    print_json,
    print_rows,
    read_config_to_ask,
)
from stsguard.cli.options import daemon_options

if TYPE_CHECKING:
    from stsguard.config.model import Config

DAEMONS = ("outbound", "inbound")


@click.command()
@daemon_options
def status(as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Show whether the running daemons are well, part by part.

    Exit 0: yes; 1: a part has failed; 3: none runs, or one does not answer. With --json what outbound says, and what
    inbound says as "inbound".
    """
    found, missing = _ask_both(read_config_to_ask(config_file, state_dir))
    if as_json:
        print_json({**found.get("outbound", {}), **({"inbound": found["inbound"]} if "inbound" in found else {})})
    else:
        for number, (daemon, told) in enumerate(found.items()):
            if number:
                click.echo()
            _print(daemon, told)
        for reason in missing:
            click.echo(f"\n{reason}", err=True)
    if any(told["status"] != "ok" for told in found.values()):
        raise click.exceptions.Exit(EXIT_PROBLEM)


def _ask_both(config: "Config") -> tuple[dict[str, Plain], list[str]]:
    """What each daemon that runs says of itself, and why another can't be asked; a site may well run one alone."""
    from stsguard.app.commands import DaemonUnreachable, ask_daemon

    found: dict[str, Plain] = {}
    reasons = []
    for daemon in DAEMONS:
        try:
            answer = ask_daemon(config, "GET", "/status", daemon=daemon)
        except DaemonUnreachable as exc:
            reasons.append(str(exc))
            continue
        if answer.status not in (200, 503):
            fail(f"stsguard {daemon}: {answer.content.get('error')}", EXIT_UNREACHABLE)
        found[daemon] = answer.content
    if not found:
        fail("\n".join(reasons), EXIT_UNREACHABLE)
    return found, reasons


def _print(daemon: str, found: Plain) -> None:
    if daemon == "outbound":
        cache = found["cache"]
        running = f"since {found['started_at']}, process {found['pid']}, {found['mode']} mode"
        figures = {
            "cache": f"{cache['policies']} policies, {cache['without_policy']} domains without one, "
            f"{cache['destinations']} destinations",
            "not stored yet": cache["unsaved"] or None,
        }
    else:
        running = f"since {found['started_at']}, process {found['pid']}"
        figures = {"serves": f"{found['domains']} domains", "in processes": found["workers"]}
    print_fields(
        {
            "daemon": f"stsguard {daemon}",
            "status": found["status"],
            "version": found["version"],
            "running": running,
            "configuration": found["config"] or "defaults, there is no file",
            "answers at": found["listen"],
            "clients": f"{found['connections']} connected",
            **figures,
        }
    )
    click.echo()
    rows = [(name, part["state"], part["detail"]) for name, part in found["parts"].items()]
    print_rows(rows, ("part", "state", "detail"))
