"""`stsguard config`: whether the configuration is valid, and what is in force."""

import json
from itertools import groupby
from pathlib import Path

import click

from stsguard.cli.options import DEFAULT_CONFIG, config_option, json_option, read_config, state_dir_option


@click.group()
def config() -> None:
    """Check the configuration file, show the values in force."""


@config.command(short_help="Check the configuration file.")
@config_option
@state_dir_option
@json_option
def check(config_file: Path, state_dir: Path | None, as_json: bool) -> None:
    """Check the configuration file: exit 0 if the daemons would start with it, 1 with every mistake if not."""
    from stsguard.app.commands import check_files
    from stsguard.config.load import ConfigProblems, load, with_state_dir

    present = config_file.exists()
    try:
        found = load(config_file, required=config_file != DEFAULT_CONFIG)
        problems = check_files(found if state_dir is None else with_state_dir(found, state_dir))
    except ConfigProblems as exc:
        problems = exc.problems
    if as_json:
        click.echo(
            json.dumps({"file": str(config_file), "present": present, "valid": not problems, "errors": problems})
        )
    elif problems:
        for problem in problems:
            click.echo(problem, err=True)
    else:
        click.echo(f"{config_file}: valid" if present else f"{config_file}: absent, so every key has its default")
    raise click.exceptions.Exit(1 if problems else 0)


@config.command()
@config_option
@state_dir_option
@json_option
def show(config_file: Path, state_dir: Path | None, as_json: bool) -> None:
    """Print the value of every key and where it comes from. Passwords are hidden."""
    config = read_config(config_file, state_dir=state_dir)
    if as_json:
        options = [
            {
                "section": setting.option.section,
                "key": setting.option.name,
                "value": setting.masked,
                "origin": setting.origin.value,
                **({"table": setting.table} if setting.table else {}),
            }
            for setting in config.settings
        ]
        click.echo(json.dumps({"file": str(config.path), "present": config.present, "options": options}))
        return
    click.echo(f"# {config.path}" + ("" if config.present else " (absent)"))
    for (section, table), settings in groupby(config.settings, key=lambda each: (each.option.section, each.table)):
        click.echo(f"\n[[{section}]]" if table else f"\n[{section}]")
        for setting in settings:
            click.echo(f"{setting!s:60}  # {setting.origin.value}")
