"""The top of the command: global options and the groups, each loaded when it is named."""

import importlib
from pathlib import Path

import click

from stsguard import __version__
from stsguard.cli.options import DEFAULT_CONFIG

# command name -> (module below stsguard.cli, attribute, one line for --help)
COMMANDS = {
    "outbound": ("outbound", "outbound", "The daemon that answers Postfix's look-ups."),
    "inbound": ("inbound", "inbound", "The daemon that serves our own domains' policies."),
    "milter": ("milter", "milter", "The milter of Postfix: takes in report mail, has domains looked up ahead."),
    "lookup": ("lookup", "lookup", "Show what Postfix is answered for a domain, and why."),
    "verify": ("verify", "verify", "Probe the MX hosts of a domain now."),
    "cache": ("cache", "cache", "List, show, refresh, forget the daemon's policies."),
    "report": ("report", "report", "Our own RFC 8460 reports: list, show, build, send."),
    "ingest": ("ingest", "ingest", "Take in the TLS reports that others sent: files, Maildirs, standard input."),
    "received": ("received", "received", "The reports that others sent us: list, show, sum up, export, prune."),
    "domain": ("domain", "domain", "The domains whose policies are served here: add, show, edit, enforce, retire."),
    "status": ("status", "status", "Show whether the daemon is well."),
    "lint": ("lint", "lint", "Check a policy, a TXT record, a report or an MX pattern offline."),
    "config": ("config", "config", "Check the configuration file, show the values in force."),
    "db": ("db", "db", "Migrate the database."),
    "postfix": ("postfix", "postfix", "Print what to add to the Postfix found here, and what is wrong with it."),
}


class LazyGroup(click.Group):
    """A group whose commands' modules are imported when they are called, so that a small command starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"stsguard.cli.{module}"), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 (narrows the type)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stsguard")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    help=f"The configuration file.  [default: {DEFAULT_CONFIG}, which may be absent]",
)
@click.pass_context
def main(ctx: click.Context, config_file: Path) -> None:
    """MTA-STS, DANE and TLS-RPT for Postfix."""
    ctx.obj = config_file
