"""What the commands share that ask about a domain: the key's meaning, the daemon, and how its answers are shown."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from stsguard.cli.options import read_config, refuse

if TYPE_CHECKING:
    from stsguard.app.commands import DaemonAnswer
    from stsguard.config.model import Config
    from stsguard.core.socketmap import NextHop

# Plain data from the daemon's JSON: this is the JSON edge.
Plain = dict[str, Any]

EXIT_PROBLEM = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3


def fail(message: str, code: int) -> NoReturn:
    """End the command with a message."""
    refuse((message,), code)


def read_config_to_ask(config_file: Path, state_dir: Path | None) -> "Config":
    """The configuration, which says where the daemon is asked. With a wrong one nothing can be asked: exit 3."""
    return read_config(config_file, state_dir=state_dir, code=EXIT_UNREACHABLE)


def read_next_hop(key: str) -> "NextHop":
    """The next hop that an argument names; what is no domain name is a usage error."""
    from stsguard.core.socketmap import KeyKind, parse_next_hop

    next_hop = parse_next_hop(key.encode("utf-8", "surrogateescape"))
    if next_hop.kind is KeyKind.INVALID:
        raise click.UsageError(f"{key!r} is no domain name")
    return next_hop


def read_domain(key: str) -> "NextHop":
    """The domain, or `domain:port`, that an argument names; anything else is a usage error."""
    from stsguard.core.socketmap import KeyKind

    next_hop = read_next_hop(key)
    if next_hop.kind is not KeyKind.DOMAIN:
        raise click.UsageError(f"{key!r} is no domain name, and only a domain has MX hosts and a policy")
    return next_hop


def ask(config: "Config", method: str, path: str, query: Mapping[str, str] | None = None) -> "DaemonAnswer":
    """Ask the running daemon; without one the command ends with exit 3."""
    from stsguard.app.commands import DaemonUnreachable, ask_daemon

    try:
        answer = ask_daemon(config, method, path, query)
    except DaemonUnreachable as exc:
        fail(str(exc), EXIT_UNREACHABLE)
    if answer.status in (400, 500):
        fail(str(answer.content.get("error")), EXIT_USAGE if answer.status == 400 else EXIT_UNREACHABLE)
    return answer


def print_json(content: object) -> None:
    """`content` as JSON."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def printable(text: object) -> str:
    """Text that may come from strangers, made safe for a terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in str(text))


def print_rows(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """A table with columns as wide as their widest cell."""
    table = [header, *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, object], *, indent: int = 0) -> None:
    """Name and value, a line each; what is empty is left out."""
    shown = {name: value for name, value in fields.items() if value not in (None, "", [], ())}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        text = ", ".join(str(item) for item in value) if isinstance(value, list) else value
        click.echo(f"{' ' * indent}{name.ljust(width)}  {printable(text)}")


def lifetime(seconds: float) -> str:
    """A duration for people: "6 d 23 h", "4 min", "12 s"."""
    left = timedelta(seconds=max(0, int(seconds)))
    hours, rest = divmod(left.seconds, 3600)
    if left.days:
        return f"{left.days} d {hours} h"
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min" if rest >= 60 else f"{rest} s"
