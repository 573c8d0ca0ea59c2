"""`stsguard received export`: reports for other programs, one after the other, so that a million take no memory.

CSV has a row for each policy of a report and one for each of its failure-details, told apart by `row`: sums of
`successes` and `failures` are right as they stand, since details have their sessions in a column of their own. What
strangers wrote is made safe for spreadsheets, which would take a text that begins with = for a formula.
"""

import csv
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from stsguard.cli.asking import EXIT_PROBLEM, fail, printable
from stsguard.cli.options import config_option, read_config, state_dir_option
from stsguard.cli.received_options import filter_options, group_option, or_end, wanted_of
from stsguard.cli.received_show import plain_report, stamp

if TYPE_CHECKING:
    from stsguard.core.received_query import DetailRow, FoundReport, PolicyRow

ALL = "all"
_FILE_MODE = 0o640
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
# Where lists are separated by semicolons, spreadsheets split a row there, whatever is in quotes.
_FORMULA_IN_TEXT = re.compile(r"""(;[\s"']*)(?=[=+\-@|%])""")
_DETAIL = (
    *("result_type", "result_type_text", "mx_hostname", "receiving_mx_hostname", "receiving_mx_helo", "receiving_ip"),
    *("sending_mta_ip", "failure_reason_code", "additional_information"),
)
COLUMNS = (
    *("row", "id", "group", "day", "start", "end", "reporter", "organization_name", "report_id", "received_at"),
    *("policy_domain", "policy_type", "foreign", "successes", "failures", *_DETAIL, "detail_sessions"),
)

Write = Callable[["FoundReport"], None]


@click.command()
@click.option("--format", "form", type=click.Choice(["csv", "json", "jsonl"]), default="csv", show_default=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write this file, whole or not at all.  [default: standard output]",
)
@group_option(ALL)
@filter_options
@config_option
@state_dir_option
def export(
    form: str, output: Path | None, group: str, config_file: Path, state_dir: Path | None, **chosen: Any
) -> None:
    """Write reports as CSV, as JSON, or as JSON Lines, a report a line.

    CSV has a row for each policy and one for each failure-detail; whatever might act in a spreadsheet has a ' before
    it. Exit: 0 written, 1 the file can't be written, 3 the database can't be read.
    """
    from stsguard.app.database_work import require_database
    from stsguard.app.received_commands import export_reports

    config = read_config(config_file, state_dir=state_dir)
    wanted = wanted_of(None if group == ALL else group, **chosen)
    or_end(partial(require_database, config))  # before anything is written
    try:
        with _opened(output) as file:
            with _WRITERS[form](file) as write:
                number = or_end(partial(export_reports, config, wanted, write))
            file.flush()
    except BrokenPipeError:
        # whoever reads has enough; Python would complain when it closes standard output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(EXIT_PROBLEM) from None
    except OSError as exc:
        fail(f"{output or 'standard output'} can't be written: {exc.strerror}", EXIT_PROBLEM)
    click.echo(f"{number} reports written", err=True)


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there when all is written."""
    if output is None:
        yield sys.stdout
        return
    descriptor, temporary = tempfile.mkstemp(prefix=".stsguard-", dir=output.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(file.fileno(), _FILE_MODE)
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(output)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def _csv(file: TextIO) -> Iterator[Write]:
    writer = csv.DictWriter(file, COLUMNS, restval="")
    writer.writeheader()

    def write(report: "FoundReport") -> None:
        for policy in report.policies:
            own = _csv_policy(report, policy)
            writer.writerow({**own, "row": "policy", "successes": policy.successes, "failures": policy.failures})
            writer.writerows({**own, "row": "detail", **_csv_detail(detail)} for detail in policy.details)

    yield write


def _csv_policy(report: "FoundReport", policy: "PolicyRow") -> dict[str, object]:
    return {
        "id": report.key.report,
        "group": report.group.value,
        "day": report.key.day,
        "start": stamp(report.start_at),
        "end": stamp(report.end_at),
        "reporter": csv_text(report.reporter),
        "organization_name": csv_text(report.organization_name),
        "report_id": csv_text(report.report_id),
        "received_at": stamp(report.intake.received_at),
        "policy_domain": csv_text(policy.policy_domain or policy.policy_domain_text),
        "policy_type": csv_text(policy.policy_type or policy.policy_type_text),
        "foreign": "yes" if policy.foreign else "no",
    }


def _csv_detail(detail: "DetailRow") -> dict[str, object]:
    return {**{name: csv_text(getattr(detail, name)) for name in _DETAIL}, "detail_sessions": detail.sessions}


def csv_text(text: str) -> str:
    """A stranger's text for a cell: on one line, without control characters, and no formula."""
    shown = _FORMULA_IN_TEXT.sub(r"\1'", printable(text))
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


@contextmanager
def _json(file: TextIO) -> Iterator[Write]:
    before = '{"reports": [\n'

    def write(report: "FoundReport") -> None:
        nonlocal before
        file.write(before + json.dumps(plain_report(report), ensure_ascii=True))
        before = ",\n"

    yield write
    file.write(("\n" if before.startswith(",") else before) + "]}\n")


@contextmanager
def _jsonl(file: TextIO) -> Iterator[Write]:
    def write(report: "FoundReport") -> None:
        file.write(json.dumps(plain_report(report), ensure_ascii=True) + "\n")

    yield write


_WRITERS: dict[str, Callable[[TextIO], AbstractContextManager[Write]]] = {"csv": _csv, "json": _json, "jsonl": _jsonl}
