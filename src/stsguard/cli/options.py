"""Options that many commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from stsguard.config.model import Config

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


def state_dir_option(command: F) -> F:
    """`--state-dir DIR`, for running without root: the function gets `state_dir: Path | None`."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Keep the database and the admin socket here, where the file names no other place.",
    )(command)


def read_config(config_file: Path, *, state_dir: Path | None = None) -> "Config":
    """The configuration that a command works with; where it is wrong, every mistake on standard error and exit 1.

    `state_dir` is made where it is absent, readable by its owner only.
    """
    from stsguard.config.load import ConfigProblems, load, with_state_dir

    try:
        config = load(config_file)
        if state_dir is None:
            return config
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return with_state_dir(config, state_dir)
    except ConfigProblems as exc:
        problems = exc.problems
    except OSError as exc:
        problems = (f"--state-dir {state_dir}: can't be made: {exc.strerror}",)
    for problem in problems:
        click.echo(problem, err=True)
    raise click.exceptions.Exit(1)
