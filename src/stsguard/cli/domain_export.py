"""`stsguard domain export`: the policies as folders for static hosting."""

from pathlib import Path

import click

from stsguard.cli.asking import EXIT_PROBLEM, fail, print_json
from stsguard.cli.domain_text import common_options, read_domain_config, try_or_end


@click.command("export", short_help="Write the policies below DIR for static hosting.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@common_options
def export(directory: Path, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Write each domain's policy below DIR for static hosting, one folder a domain; what is the same is left alone.

    Exit 1: a file can't be written; 3: the database can't be used.
    """
    from stsguard.app.domain_views import export_all
    from stsguard.app.export import ExportFailed

    config = read_domain_config(config_file, state_dir)
    try:
        exported = try_or_end(lambda: export_all(config, directory))
    except ExportFailed as exc:
        fail(str(exc), EXIT_PROBLEM)
    if as_json:
        print_json(
            {
                "domains": [
                    {
                        "domain": one.policy_domain,
                        "folder": str(one.folder),
                        "changed": list(one.changed),
                        "left_over": one.left_over,
                    }
                    for one in exported
                ]
            }
        )
        return
    for one in exported:
        if one.left_over:
            click.echo(f"{one.policy_domain} is retired; {one.folder} may be removed")
        elif one.changed:
            click.echo(f"{one.folder}: {', '.join(one.changed)}")
    if not any(one.changed or one.left_over for one in exported):
        click.echo(f"nothing has changed in {directory}")
