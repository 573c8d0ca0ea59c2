"""`stsguard received`: the reports that others sent us. `show`, `summary` and `export` are in modules beside this."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stsguard.cli.asking import print_rows
from stsguard.cli.options import read_config
from stsguard.cli.received_export import export
from stsguard.cli.received_options import (
    GROUPS,
    REFUSED,
    cell,
    end_options,
    filter_options,
    group_option,
    or_end,
    period,
    print_plain,
    wanted_of,
)
from stsguard.cli.received_show import show, stamp
from stsguard.cli.received_summary import summary

if TYPE_CHECKING:
    from stsguard.cli.asking import Plain
    from stsguard.config.model import Config
    from stsguard.core.received_query import IntakeRow, PageKey, ReportLine, Wanted

MAX_LIMIT = 10_000


@click.group()
def received() -> None:
    """The TLS reports that others sent about our domains (RFC 8460)."""


for _command in (show, summary, export):
    received.add_command(_command)


@received.command("list", short_help="List the reports, the latest day first.")
@group_option(REFUSED)
@filter_options
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=50, show_default=True, help="At most so many.")
@click.option("--after", metavar="CURSOR", help="Go on where a list ended that told this CURSOR.")
@end_options
def list_(
    group: str,
    limit: int,
    after: str | None,
    as_json: bool,
    config_file: Path,
    state_dir: Path | None,
    **chosen: Any,
) -> None:
    """List the reports: the latest day first, of a day the latest received.

    Sessions are those of the policies asked for. With --group refused, what came in and could not be read, or not all
    of it, by the day when it came.
    """
    config = read_config(config_file, state_dir=state_dir)
    if group == REFUSED:
        _only_days(chosen)
        _list_refused(config, wanted_of(None, **chosen), limit, after, as_json=as_json)
        return
    wanted = wanted_of(group, **chosen)
    from stsguard.app.received_commands import list_reports

    page = or_end(lambda: list_reports(config, wanted, _page_key(after), limit))
    if as_json:
        print_plain({"reports": [_plain(line) for line in page.lines], "next": str(page.after) if page.after else None})
        return
    if not page.lines:
        others = "; stsguard received summary says what is kept and not counted" if group == GROUPS[0] else ""
        click.echo(f"no {group} report {period(wanted)}{others}" if after is None else "no more")
    else:
        rows = [_row(line) for line in page.lines]
        print_rows(rows, ("id", "day", "reporter", "domain", "type", "good", "failed", "warnings", "report-id"))
    _print_next(page.after)


@received.command(short_help="Delete reports older than [intake] keep_raw.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@end_options
def prune(dry_run: bool, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Delete reports older than [intake] keep_raw, as stsguard inbound does daily.

    The sums of each day stay, and a deleted report that comes once more is still not counted again.
    """
    from stsguard.app.received_commands import prune as delete

    config = read_config(config_file, state_dir=state_dir)
    found = or_end(lambda: delete(config, dry_run=dry_run))
    if as_json:
        print_plain({"before": stamp(found.before), "deleted": found.intakes, "dry_run": dry_run})
    else:
        what = "would be deleted" if dry_run else "are deleted"
        click.echo(f"{found.intakes} mails and files that came before {stamp(found.before)} {what}; sums stay")


def _only_days(chosen: dict[str, Any]) -> None:
    for name, option in (
        ("policy_domain", "--domain"),
        ("reporter", "--reporter"),
        ("result_type", "--result-type"),
        ("mx_hostname", "--mx"),
    ):
        if chosen[name] is not None:
            raise click.UsageError(f"{option} says nothing about what could not be read")


def _list_refused(config: "Config", wanted: "Wanted", limit: int, after: str | None, *, as_json: bool) -> None:
    from stsguard.app.received_commands import list_refused

    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise click.BadParameter(f"{after!r} is no cursor of this list", param_hint="--after")
    page = or_end(lambda: list_refused(config, wanted, int(after) if after else None, limit))
    if as_json:
        print_plain({"refused": [_plain_refused(each) for each in page.intakes], "next": page.before})
        return
    if not page.intakes:
        click.echo(f"nothing was refused {period(wanted)}" if after is None else "no more")
    else:
        rows = [
            (
                f"i{each.intake}",
                stamp(each.received_at),
                each.via,
                cell(each.from_address or each.client, 40),
                cell("; ".join(each.refusals), 100),
            )
            for each in page.intakes
        ]
        print_rows(rows, ("id", "received", "via", "from", "why"))
    _print_next(page.before)


def _print_next(after: object) -> None:
    if after is not None:
        click.echo(f"there are more: --after {after}")


def _page_key(text: str | None) -> "PageKey | None":
    from stsguard.core.received_query import PageKey

    if text is None:
        return None
    found = PageKey.parse(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no cursor of a list", param_hint="--after")
    return found


def _row(line: "ReportLine") -> tuple[str, ...]:
    return (
        str(line.key.report),
        line.key.day,
        cell(line.reporter or f"({line.organization_name})", 40),
        cell(_several(line.policy_domain, line.domains), 50),
        cell(_several(line.policy_type or "?", line.policy_types)),
        str(line.successes),
        str(line.failures),
        str(line.warnings),
        cell(line.report_id, 50),
    )


def _several(first: str, number: int) -> str:
    return first if number < 2 else f"{first} +{number - 1}"


def _plain(line: "ReportLine") -> "Plain":
    return {
        "id": line.key.report,
        "day": line.key.day,
        "group": line.group.value,
        "reporter": line.reporter,
        "organization_name": line.organization_name,
        "report_id": line.report_id,
        "policy_domain": line.policy_domain,
        "policy_domains": line.domains,
        "policy_type": line.policy_type,
        "policy_types": line.policy_types,
        "successes": line.successes,
        "failures": line.failures,
        "warnings": line.warnings,
        "duplicates": line.duplicates,
        "received_at": stamp(line.received_at),
    }


def _plain_refused(each: "IntakeRow") -> "Plain":
    return {
        "id": f"i{each.intake}",
        "received_at": stamp(each.received_at),
        "via": each.via,
        "from": each.from_address,
        "client": each.client,
        "subject": each.subject,
        "bytes": each.raw_length,
        "refusals": list(each.refusals),
    }
