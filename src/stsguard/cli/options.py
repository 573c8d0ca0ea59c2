"""Options that many commands share, and how a command ends that can't do its work."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

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
        help=f"The configuration file.  [default: {DEFAULT_CONFIG}, which may be absent]",
    )(command)


def json_option(command: F) -> F:
    """`--json`: the function gets `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def state_dir_option(command: F) -> F:
    """`--state-dir DIR`, for running without root: the function gets `state_dir: Path | None`."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Keep database, spool, certificates and sockets here, where the file names no other place.",
    )(command)


def daemon_options(command: F) -> F:
    """`--json`, `--config` and `--state-dir`, for a command that asks the running daemon."""
    return json_option(config_option(state_dir_option(command)))


def refuse(messages: Sequence[str], code: int) -> NoReturn:
    """End the command with what is wrong, a line each on standard error; with `--json` as JSON on standard output."""
    if click.get_current_context().params.get("as_json"):
        click.echo(json.dumps({"error": "\n".join(messages)}, ensure_ascii=False))
    else:
        for message in messages:
            click.echo(message, err=True)
    raise click.exceptions.Exit(code)


def read_config(
    config_file: Path, *, state_dir: Path | None = None, code: int = 1, make_state_dir: bool = False
) -> "Config":
    """The configuration that a command works with; where it is wrong, the command ends with `code` and every mistake.
    Only the default file may be absent: one that was named is meant to be there.

    With `make_state_dir`, for what begins to keep something, `state_dir` is made where it is absent, readable by its
    owner only. Whoever only reads makes none: it would hide that the name is mistyped.
    """
    from stsguard.config.load import ConfigProblems, load, with_state_dir

    try:
        config = load(config_file, required=config_file != DEFAULT_CONFIG)
        if state_dir is None:
            return config
        if make_state_dir:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return with_state_dir(config, state_dir)
    except ConfigProblems as exc:
        problems = exc.problems
    except OSError as exc:
        problems = (f"--state-dir {state_dir}: can't be made: {exc.strerror}",)
    refuse(problems, code)
