"""`stsguard status`: the health of all parts."""

from pathlib import Path

import click

from stsguard.cli.asking import EXIT_PROBLEM, Plain, ask, print_fields, print_json, print_rows, read_config_to_ask
from stsguard.cli.options import daemon_options


@click.command()
@daemon_options
def status(as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Show whether the running daemon is well, part by part. Exit 0: yes; 1: a part has failed; 3: it does not run."""
    answer = ask(read_config_to_ask(config_file, state_dir), "GET", "/status")
    found: Plain = answer.content
    if as_json:
        print_json(found)
    else:
        cache = found["cache"]
        print_fields(
            {
                "status": found["status"],
                "version": found["version"],
                "running": f"since {found['started_at']}, process {found['pid']}, {found['mode']} mode",
                "configuration": found["config"] or "defaults, there is no file",
                "answers at": found["listen"],
                "clients": f"{found['connections']} connected",
                "cache": f"{cache['policies']} policies, {cache['without_policy']} domains without one, "
                f"{cache['destinations']} destinations",
                "not stored yet": cache["unsaved"] or None,
            }
        )
        click.echo()
        rows = [(name, part["state"], part["detail"]) for name, part in found["parts"].items()]
        print_rows(rows, ("part", "state", "detail"))
    if answer.status != 200:
        raise click.exceptions.Exit(EXIT_PROBLEM)
