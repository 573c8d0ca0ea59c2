"""`stsguard milter`: the milter of Postfix."""

from pathlib import Path

import click

from stsguard.cli.options import config_option, read_config, state_dir_option


@click.command()
@config_option
@state_dir_option
def milter(config_file: Path, state_dir: Path | None) -> None:
    """Take in the report mail that Postfix receives, and have the domains of outgoing mail looked up ahead.

    Runs in the foreground and logs to standard error. SIGTERM ends it. No other mail is delayed or refused, whether it
    runs or not, if Postfix has default_action = accept for it.
    """
    from stsguard.app.milter import run_milter
    from stsguard.core.errors import OperatorError, OurFault
    from stsguard.log import set_up

    config = read_config(config_file, state_dir=state_dir, make_state_dir=True)
    set_up(level=config.log.level.value, form=config.log.format.value)
    try:
        run_milter(config)
    except (OperatorError, OurFault) as exc:
        click.echo(f"stsguard milter can't start: {exc}", err=True)
        raise click.exceptions.Exit(1) from exc
