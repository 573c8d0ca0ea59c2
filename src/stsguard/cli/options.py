"""Options that many commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

DEFAULT_CONFIG = Path("/etc/stsguard/stsguard.toml")
F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """`--config FILE` before or after the command's name; the function gets `config_file: Path`."""

    def chosen(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path:
        return value or ctx.find_object(Path) or DEFAULT_CONFIG

    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=chosen,
        help=f"The configuration file; it may be absent.  [default: {DEFAULT_CONFIG}]",
    )(command)


def json_option(command: F) -> F:
    """`--json`: the function gets `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)
