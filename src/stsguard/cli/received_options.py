"""What the commands of `stsguard received` share: which reports are wanted, and how text of strangers is shown."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stsguard.cli.asking import EXIT_UNREACHABLE, fail, printable
from stsguard.cli.domain_text import domain_value
from stsguard.cli.options import config_option, json_option, state_dir_option
from stsguard.cli.report import Day

if TYPE_CHECKING:
    from stsguard.core.received_query import Wanted
    from stsguard.names import Domain

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DEFAULT_DAYS = 30
REFUSED = "refused"  # what could not be read: it has no report, so no group of reports
GROUPS = ("counted", "unsigned", "unvouched", "conflict", "foreign")
MAX_CELL = 60


def filter_options(command: F) -> F:
    """--domain, --reporter, --since, --until, --days, --result-type, --mx; the function gets `**chosen`."""
    options = (
        click.option("--domain", "policy_domain", callback=domain_value, help="Only sessions of this policy domain."),
        click.option("--reporter", help="Only what this one reports: the d= of its signature."),
        click.option("--since", type=Day(), help="From this UTC day on."),
        click.option("--until", type=Day(), help="Up to this UTC day."),
        click.option(
            "--days",
            type=click.IntRange(1, 36500),
            help=f"The last so many days, today included.  [default: {DEFAULT_DAYS}, without --since and --until]",
        ),
        click.option(
            "--result-type",
            callback=_result_type,
            help="Only with failures of this result-type of RFC 8460 §4.3, or unknown.",
        ),
        click.option("--mx", "mx_hostname", callback=domain_value, help="Only with failures at this MX host."),
    )
    for option in reversed(options):  # the help has the one applied last first
        command = option(command)
    return command


def _result_type(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    from stsguard.core.errors import ResultType
    from stsguard.core.received_record import UNKNOWN_RESULT

    known = [*(each.value for each in ResultType), UNKNOWN_RESULT]
    if value is None or value.strip().lower() in known:
        return value
    raise click.BadParameter(f"{value!r} is no result-type; there are {', '.join(known)}")


def group_option(*names: str) -> Callable[[F], F]:
    """--group, which of the groups that are apart from each other."""
    return click.option(
        "--group",
        type=click.Choice([*GROUPS, *names]),
        default=GROUPS[0],
        show_default=True,
        help="What counts, or one of the groups that are kept and never counted.",
    )


def end_options(command: F) -> F:
    """--json, --config, --state-dir."""
    return json_option(config_option(state_dir_option(command)))


def wanted_of(
    group: str | None = GROUPS[0],
    *,
    policy_domain: "Domain | None",
    reporter: str | None,
    since: date | None,
    until: date | None,
    days: int | None,
    result_type: str | None,
    mx_hostname: "Domain | None",
) -> "Wanted":
    """The reports that the options choose; `group` None for all groups."""
    from stsguard.core.received_query import Group, Wanted

    if days is not None and (since or until):
        raise click.UsageError("give --days, or --since and --until")
    if since and until and since > until:
        raise click.UsageError(f"--since {since} is after --until {until}")
    if not since and not until:
        since = datetime.now(UTC).date() - timedelta(days=(days or DEFAULT_DAYS) - 1)
    return Wanted(
        group=Group(group) if group else None,
        policy_domain=policy_domain,
        reporter=reporter.strip().lower().rstrip(".") if reporter else None,
        since=since,
        until=until,
        result_type=result_type.strip().lower() if result_type else None,
        mx_hostname=mx_hostname,
    )


def period(wanted: "Wanted") -> str:
    """The days that are looked at, for people."""
    if wanted.since and wanted.until:
        return f"from {wanted.since} to {wanted.until}"
    return f"since {wanted.since}" if wanted.since else f"up to {wanted.until}"


def or_end(call: Callable[[], T]) -> T:
    """What `call` returns; where the database can't be used the command ends with exit 3."""
    from stsguard.core.errors import StoreUnavailable

    try:
        return call()
    except StoreUnavailable as exc:
        fail(f"the database can't be used: {exc}", EXIT_UNREACHABLE)


def print_plain(content: object) -> None:
    """`content` as JSON, in ASCII: what strangers wrote may have characters that act on a terminal."""
    click.echo(json.dumps(content, indent=2))


def cell(text: object, length: int = MAX_CELL) -> str:
    """A stranger's text for a table: safe for a terminal, and not longer than that."""
    shown = printable(str(text)[: length + 1])
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def read_received_config(config_file: Path, state_dir: Path | None) -> Any:
    """The configuration of a command that only asks."""
    from stsguard.cli.options import read_config

    return read_config(config_file, state_dir=state_dir)
