"""`stsguard outbound`: the daemon of the sending side."""

import gc
from pathlib import Path

import click

from stsguard.cli.options import config_option, read_config, state_dir_option


@click.command()
@config_option
@state_dir_option
def outbound(config_file: Path, state_dir: Path | None) -> None:
    """Answer Postfix's TLS policy look-ups until stopped.

    Runs in the foreground and logs to standard error. SIGHUP reads the overrides again, SIGTERM ends it.
    """
    gc.disable()  # until all is loaded: a sixth of the start went into looking for garbage among modules
    from stsguard.app.outbound import run_outbound
    from stsguard.core.errors import OperatorError, OurFault
    from stsguard.log import set_up

    config = read_config(config_file, state_dir=state_dir, make_state_dir=True)
    set_up(level=config.log.level.value, form=config.log.format.value)
    try:
        run_outbound(config)
    except (OperatorError, OurFault) as exc:
        click.echo(f"stsguard outbound can't start: {exc}", err=True)
        raise click.exceptions.Exit(1) from exc
