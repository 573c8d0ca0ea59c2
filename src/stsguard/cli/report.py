"""`stsguard report`: our own RFC 8460 reports."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from stsguard.cli.asking import EXIT_PROBLEM, EXIT_UNREACHABLE, Plain, fail, print_fields, print_json, print_rows
from stsguard.cli.options import config_option, json_option, read_config, state_dir_option

if TYPE_CHECKING:
    from stsguard.app.report_commands import Found
    from stsguard.names import Domain

STATES = ("pending", "sent", "failed", "skipped", "building", "not-wanted")


if TYPE_CHECKING:
    DayType = click.ParamType[date]
else:
    DayType = click.ParamType  # click 8.1 can't be subscripted


class Day(DayType):
    """A UTC day: YYYY-MM-DD, today or yesterday."""

    name = "YYYY-MM-DD|today|yesterday"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> date:
        today = datetime.now(UTC).date()
        if isinstance(value, date):
            return value
        named = {"today": today, "yesterday": today - timedelta(days=1)}
        if (word := str(value).lower()) in named:  # the help shows them in capitals
            return named[word]
        try:
            return date.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no day: write it as 2026-01-31, or today, or yesterday", param, ctx)


def _domain(_ctx: click.Context, _param: click.Parameter, value: str | None) -> "Domain | None":
    from stsguard.names import Domain, NameInvalid

    try:
        return Domain.parse(value) if value is not None else None
    except NameInvalid as exc:
        raise click.BadParameter(f"{value!r}: {exc}") from exc


domain_option = click.option("--domain", "report_domain", callback=_domain, help="Only this domain's.")


@click.group()
def report() -> None:
    """The TLS reports that this site makes for others (RFC 8460)."""


@report.command("list", short_help="List the reports made, and what came of them.")
@click.option("--day", type=Day(), help="Only this UTC day's.")
@domain_option
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="At most so many.")
@json_option
@config_option
@state_dir_option
def list_(
    day: date | None,
    report_domain: "Domain | None",
    state: str | None,
    limit: int,
    as_json: bool,
    config_file: Path,
    state_dir: Path | None,
) -> None:
    """List the reports made, the latest first, with what came of sending them."""
    from stsguard.app.report_commands import list_reports
    from stsguard.core.errors import StoreUnavailable
    from stsguard.core.report_record import ReportState

    config = read_config(config_file, state_dir=state_dir)
    wanted = ReportState(state) if state else None
    try:
        found = list_reports(config, day=day, report_domain=report_domain, state=wanted, limit=limit)
    except StoreUnavailable as exc:
        _fail_store(exc)
    if as_json:
        print_json({"reports": [_plain(one) for one in found]})
    elif not found:
        click.echo("no report")
    else:
        rows = [
            (
                one.record.day.isoformat(),
                one.record.report_domain,
                one.record.state.value,
                str(one.record.sessions),
                str(one.record.failures),
                one.record.report_id,
                _trouble(one),
            )
            for one in found
        ]
        print_rows(rows, ("day", "domain", "state", "sessions", "failures", "report-id", "last error"))


@report.command()
@click.argument("report_id")
@json_option
@config_option
@state_dir_option
def show(report_id: str, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Show one report as it was sent, and its deliveries. Exit 1: there is none of this id."""
    from stsguard.app.report_commands import show_report
    from stsguard.core.errors import StoreUnavailable

    try:
        found = show_report(read_config(config_file, state_dir=state_dir), report_id)
    except StoreUnavailable as exc:
        _fail_store(exc)
    if found is None:
        fail(f"there is no report {report_id!r}; stsguard report list shows their ids", EXIT_PROBLEM)
    if as_json:
        print_json({**_plain(found), "report": found.report})
        return
    plain = _plain(found)
    print_fields({name: value for name, value in plain.items() if name != "deliveries"})
    for delivery in plain["deliveries"]:
        click.echo()
        print_fields(delivery, indent=2)
    click.echo()
    print_json(found.report)


@report.command(short_help="Write the reports of a day as files, unsent.")
@click.option("--day", type=Day(), required=True, help="The UTC day; today is what was counted up to now.")
@domain_option
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False, exists=True, writable=True),
    required=True,
    help="The directory for the files.",
)
@json_option
@config_option
@state_dir_option
def build(
    day: date, report_domain: "Domain | None", output: Path, as_json: bool, config_file: Path, state_dir: Path | None
) -> None:
    """Write the reports of a day as JSON files without sending them, one for each domain with sessions."""
    from stsguard.app.report_commands import build_reports
    from stsguard.core.errors import OperatorError, StoreUnavailable

    config = read_config(config_file, state_dir=state_dir)

    def told(count: int) -> None:
        if not as_json and count % 1000 == 0:
            click.echo(f"{count} reports written", err=True)

    try:
        written = build_reports(config, day, report_domain, output, told)
    except StoreUnavailable as exc:
        _fail_store(exc)
    except (OperatorError, OSError) as exc:
        fail(str(exc), EXIT_PROBLEM)
    if as_json:
        print_json({"day": day.isoformat(), "files": [str(path) for path in written]})
    elif not written:
        click.echo(f"no session was counted on {day}")
    else:
        for path in written:
            click.echo(path)


@report.command()
@click.argument("report_id", required=False)
@json_option
@config_option
@state_dir_option
def send(report_id: str | None, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Send now what is not sent yet: all reports, or the one named.

    Exit 1: at least one was not taken; report list says why, and the daemon goes on trying.
    """
    from stsguard.app.report_commands import list_reports, send_reports
    from stsguard.core.errors import OperatorError, StoreUnavailable
    from stsguard.log import set_up

    config = read_config(config_file, state_dir=state_dir)
    if not config.reports.sending:
        fail("[reports] from is not set, or reports are switched off: there is nobody to send as", EXIT_PROBLEM)
    set_up(level="error", form="text")
    try:
        tried = send_reports(config, report_id)
        left = list_reports(config, day=None, report_domain=None, state=None, limit=1000)
    except StoreUnavailable as exc:
        _fail_store(exc)
    except OperatorError as exc:
        fail(str(exc), EXIT_PROBLEM)
    open_ = [one for one in left if one.record.state.value in ("pending", "failed") and _is(one, report_id)]
    if as_json:
        print_json({"tried": tried, "not_sent": [_plain(one) for one in open_]})
    else:
        click.echo(f"{tried} deliveries tried, {len(open_)} reports not sent")
        for one in open_:
            click.echo(f"  {one.record.report_id} {one.record.report_domain}: {_trouble(one)}")
    if open_:
        raise click.exceptions.Exit(EXIT_PROBLEM)


def _is(one: "Found", report_id: str | None) -> bool:
    return report_id is None or one.record.report_id == report_id


def _fail_store(exc: Exception) -> NoReturn:
    fail(f"the database can't be used: {exc}", EXIT_UNREACHABLE)


def _trouble(one: "Found") -> str:
    return "; ".join(delivery.last_error for delivery in one.deliveries if delivery.last_error)


def _plain(one: "Found") -> Plain:
    record = one.record
    return {
        "report_id": record.report_id,
        "day": record.day.isoformat(),
        "domain": record.report_domain,
        "state": record.state.value,
        "sessions": record.sessions,
        "failures": record.failures,
        "created_at": f"{record.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "deliveries": [
            {
                "to": delivery.endpoint,
                "state": delivery.state.value,
                "attempts": delivery.attempts,
                "next_attempt_at": f"{delivery.next_attempt_at:%Y-%m-%dT%H:%M:%SZ}"
                if delivery.state.value == "pending"
                else None,
                "last_error": delivery.last_error,
            }
            for delivery in one.deliveries
        ],
    }
