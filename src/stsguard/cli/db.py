"""`stsguard db`: the schema of the database."""

import json
from pathlib import Path

import click

from stsguard.cli.options import config_option, json_option, read_config, state_dir_option


@click.group()
def db() -> None:
    """Migrate the database."""


@db.command(short_help="Bring the schema of the database up to date.")
@config_option
@state_dir_option
@json_option
def upgrade(config_file: Path, state_dir: Path | None, as_json: bool) -> None:
    """Bring the schema of the database to the one that this stsguard needs.

    On PostgreSQL nothing else does it: stop the nodes of the old version first. SQLite is also migrated by the daemon
    when it starts; a copy of the file is kept beside it. Exit 0 when the schema is the newest one, 1 when the database
    was refused or could not be migrated: then it is as it was.
    """
    from stsguard.app.commands import upgrade_database
    from stsguard.core.errors import StoreUnavailable

    config = read_config(config_file, state_dir=state_dir, make_state_dir=True)
    try:
        done = upgrade_database(config)
    except StoreUnavailable as exc:
        if as_json:
            click.echo(json.dumps({"upgraded": False, "error": str(exc)}))
        else:
            click.echo(str(exc), err=True)
        raise click.exceptions.Exit(1) from exc
    if as_json:
        copy = str(done.copy) if done.copy else None
        facts = {"database": done.database, "before": done.before, "after": done.after, "copy": copy}
        click.echo(json.dumps({"upgraded": done.before != done.after, **facts}))
    elif done.before == done.after:
        click.echo(f"{done.database}: already has schema {done.after}")
    else:
        click.echo(f"{done.database}: {f'schema {done.before}' if done.before else 'new'}, now schema {done.after}")
        if done.copy:
            click.echo(f"The database as it was before is kept in {done.copy}.")
