"""`stsguard status`: the health of all parts of the daemons that run here."""

from collections.abc import Sequence
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
    from stsguard.app.commands import DaemonUnreachable
    from stsguard.config.model import Config

DAEMONS = ("outbound", "inbound")


@click.command()
@click.argument("daemons", nargs=-1, type=click.Choice(DAEMONS), metavar="[outbound] [inbound]")
@daemon_options
def status(daemons: tuple[str, ...], as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Show whether the running daemons are well, part by part.

    A site may run one of them alone, so one that has no socket is only told of; name those that ought to run, and each
    has to answer.

    Exit 0: all is well; 1: a part has failed; 3: none runs, one that is named does not, or one does not answer though
    its socket is there. With --json what outbound says, and what inbound says as "inbound"; why another can't be asked
    is in "unreachable".
    """
    found, unreachable = _ask(read_config_to_ask(config_file, state_dir), daemons or DAEMONS)
    if as_json:
        print_json(
            {
                **found.get("outbound", {}),
                **({"inbound": found["inbound"]} if "inbound" in found else {}),
                "unreachable": {daemon: str(reason) for daemon, reason in unreachable.items()},
            }
        )
    else:
        for number, (daemon, told) in enumerate(found.items()):
            if number:
                click.echo()
            _print(daemon, told)
        for reason in unreachable.values():
            click.echo(f"\n{reason}", err=True)
    if any(daemons or not reason.absent for reason in unreachable.values()):
        raise click.exceptions.Exit(EXIT_UNREACHABLE)
    if any(told["status"] != "ok" for told in found.values()):
        raise click.exceptions.Exit(EXIT_PROBLEM)


def _ask(config: "Config", daemons: Sequence[str]) -> "tuple[dict[str, Plain], dict[str, DaemonUnreachable]]":
    """What each daemon that runs says of itself, and why another can't be asked."""
    from stsguard.app.commands import DaemonUnreachable, ask_daemon

    found: dict[str, Plain] = {}
    unreachable: dict[str, DaemonUnreachable] = {}
    for daemon in dict.fromkeys(daemons):
        try:
            answer = ask_daemon(config, "GET", "/status", daemon=daemon)
        except DaemonUnreachable as exc:
            unreachable[daemon] = exc
            continue
        if answer.status not in (200, 503):
            fail(f"stsguard {daemon}: {answer.content.get('error')}", EXIT_UNREACHABLE)
        found[daemon] = answer.content
    if not found:
        fail("\n".join(map(str, unreachable.values())), EXIT_UNREACHABLE)
    return found, unreachable


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
