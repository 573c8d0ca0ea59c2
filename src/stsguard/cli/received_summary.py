"""`stsguard received summary`: the sessions that reports tell of, added up."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stsguard.cli.asking import Plain, print_rows
from stsguard.cli.options import read_config
from stsguard.cli.received_options import cell, end_options, filter_options, or_end, period, print_plain, wanted_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stsguard.core.received_query import DaySum, NamedSum, Summary, Wanted

SHOWN_DAYS = 31


@click.command(short_help="Add up the sessions that reports tell of.")
@filter_options
@click.option("--top", type=click.IntRange(1, 1000), default=10, show_default=True, help="So many lines of each table.")
@end_options
def summary(top: int, as_json: bool, config_file: Path, state_dir: Path | None, **chosen: Any) -> None:
    """Add up the sessions that reports tell of: by day, domain, reporter, policy-type, result-type, MX host.

    Only what counts is added up; beside it stands what is kept and does not. With --result-type or --mx it is failures
    alone. Sums stay when the reports themselves are deleted.
    """
    from stsguard.app.received_commands import summarise

    config = read_config(config_file, state_dir=state_dir)
    wanted = wanted_of(**chosen)
    found = or_end(lambda: summarise(config, wanted, top))
    if as_json:
        print_plain(_plain(found, wanted))
    else:
        _print(found, wanted)


def _print(found: "Summary", wanted: "Wanted") -> None:
    if found.successes is None:
        click.echo(f"{found.failures} failed sessions {period(wanted)}, of those with such failure-details")
    elif not found.successes + found.failures:
        click.echo(f"no session was reported {period(wanted)}")
    else:
        total = found.successes + found.failures
        failed = f"{found.failures} failed{_rate(found.failures, total)}"
        click.echo(f"{total} sessions {period(wanted)}: {found.successes} good, {failed}")
    _print_days(found.days)
    for title, sums, name in (
        ("policy domain", found.policy_domains, "policy_domains"),
        ("reporter", found.reporters, "reporters"),
        ("policy-type", found.policy_types, "policy_types"),
        ("result-type", found.result_types, "result_types"),
        ("MX host", found.mx_hostnames, "mx_hostnames"),
    ):
        _print_table(title, sums, found.more.get(name, 0))
    _print_apart(found)


def _print_days(days: "Sequence[DaySum]") -> None:
    if not days:
        return
    click.echo()
    shown = days[:SHOWN_DAYS]
    if shown[0].successes is None:
        print_rows([(day.day, str(day.failures)) for day in shown], ("day", "failed"))
    else:
        rows = [(day.day, *_cells(day.successes or 0, day.failures)) for day in shown]
        print_rows(rows, ("day", "good", "failed", ""))
    if len(days) > len(shown):
        click.echo(f"and {len(days) - len(shown)} days more: --json shows them all")


def _print_table(title: str, sums: "Sequence[NamedSum]", more: int) -> None:
    if not sums:
        return
    click.echo()
    if sums[0].successes is None:
        print_rows([(_name(each), str(each.failures)) for each in sums], (title, "failed"))
    else:
        rows = [(_name(each), *_cells(each.successes or 0, each.failures)) for each in sums]
        print_rows(rows, (title, "good", "failed", ""))
    if more:
        click.echo(f"and {more} more")


def _name(each: "NamedSum") -> str:
    return cell(each.name or "(not said)", 80)


def _cells(successes: int, failures: int) -> tuple[str, str, str]:
    return str(successes), str(failures), _rate(failures, successes + failures).strip(" ()")


def _rate(failures: int, total: int) -> str:
    """The share of failures, to two digits: one in a million sessions is more than none."""
    if not failures:
        return ""
    percent = 100 * failures / total
    return f" ({percent:.0f} %)" if percent >= 10 else f" ({percent:.2g} %)"


def _print_apart(found: "Summary") -> None:
    if not found.apart and not found.refused:
        return
    click.echo("\nkept, and not counted (stsguard received list --group NAME):")
    rows = [(f"  {each.group.value}", str(each.reports), str(each.sessions)) for each in found.apart]
    if found.refused:
        rows.append(("  refused", str(found.refused), ""))
    print_rows(rows, ("  group", "reports", "sessions"))


def _plain(found: "Summary", wanted: "Wanted") -> Plain:
    return {
        "since": wanted.since.isoformat() if wanted.since else None,
        "until": wanted.until.isoformat() if wanted.until else None,
        "successes": found.successes,
        "failures": found.failures,
        "days": [{"day": day.day, "successes": day.successes, "failures": day.failures} for day in found.days],
        **{
            name: [
                {"name": each.name, "successes": each.successes, "failures": each.failures}
                for each in getattr(found, name)
            ]
            for name in ("policy_domains", "reporters", "policy_types", "result_types", "mx_hostnames")
        },
        "left_out": found.more,
        "apart": [
            {"group": each.group.value, "reports": each.reports, "sessions": each.sessions} for each in found.apart
        ],
        "refused": found.refused,
    }
