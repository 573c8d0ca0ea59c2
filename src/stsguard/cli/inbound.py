"""`stsguard inbound`: the daemon of the receiving side."""

from pathlib import Path

import click

from stsguard.cli.options import config_option, read_config, state_dir_option


@click.command()
@config_option
@state_dir_option
def inbound(config_file: Path, state_dir: Path | None) -> None:
    """Serve the policies of our own domains until stopped, and keep them right.

    Runs in the foreground and logs to standard error. SIGTERM ends it.
    """
    from stsguard.app.inbound import run_inbound
    from stsguard.core.errors import OperatorError, OurFault
    from stsguard.log import set_up

    config = read_config(config_file, state_dir=state_dir, make_state_dir=True)
    set_up(level=config.log.level.value, form=config.log.format.value)
    try:
        run_inbound(config)
    except (OperatorError, OurFault) as exc:
        click.echo(f"stsguard inbound can't start: {exc}", err=True)
        raise click.exceptions.Exit(1) from exc
