"""`stsguard ingest`: takes in received TLS reports."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stsguard.cli.asking import EXIT_PROBLEM, EXIT_UNREACHABLE, fail, print_json, printable
from stsguard.cli.options import config_option, json_option, read_config, state_dir_option

if TYPE_CHECKING:
    from stsguard.app.ingest import Summary

EX_TEMPFAIL = 75  # sysexits.h: the MTA keeps the mail, and hands it over again
MAX_INPUT_BYTES = 100 * 1024 * 1024
MANY = 50
STANDARD_INPUT = "-"


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH…|-")
@click.option("--again", is_flag=True, help="Read anew what is stored and could not be read or verified.")
@click.option("--trusted", is_flag=True, help="You vouch for report files that are not in a signed mail: they count.")
@click.option("--recipient", default="", help="With -: the envelope recipient.")
@click.option("--client", default="", help="With -: who handed the mail in.")
@json_option
@config_option
@state_dir_option
def ingest(
    paths: tuple[str, ...],
    again: bool,
    trusted: bool,
    recipient: str,
    client: str,
    as_json: bool,
    config_file: Path,
    state_dir: Path | None,
) -> None:
    """Take in TLS reports that others sent.

    PATH is a mail (.eml), an mbox, a Maildir (its new mail, which is moved to cur), a report (.json, .json.gz, .zip) or
    a directory of these. With - one mail or report on standard input is put into the spool, for stsguard inbound to
    store it: for a pipe transport of Postfix, as any user who may write there.

    Exit: 0 all taken in, 1 something was no report (it is kept) or can't be read, 3 the database can't be used, and 75
    where standard input can't be kept.
    """
    if STANDARD_INPUT in paths:
        if len(paths) > 1 or again:
            raise click.UsageError("- stands alone")
        _keep_standard_input(config_file, state_dir, recipient, client)
        return
    if bool(paths) == again:
        raise click.UsageError("give what to take in, or --again")
    summary = _ingest(config_file, state_dir, [Path(path) for path in paths], trusted=trusted)
    _print(summary, as_json=as_json)
    if summary.refused or summary.unreadable:
        raise click.exceptions.Exit(EXIT_PROBLEM)


def _keep_standard_input(config_file: Path, state_dir: Path | None, recipient: str, client: str) -> None:
    """Whatever goes wrong, the mail must stay with the MTA: any other exit makes it bounce."""
    try:
        from stsguard.app.keeping import keep_standard_input
        from stsguard.core.errors import SpoolFailed

        octets = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        if not octets:
            fail("nothing on standard input", EX_TEMPFAIL)
        config = read_config(config_file, state_dir=state_dir, code=EX_TEMPFAIL)
        try:
            keep_standard_input(config, octets, recipient=recipient, client=client)
        except SpoolFailed as exc:
            hint = "" if config.intake.spool.exists() else "; stsguard inbound makes the spool when it starts"
            fail(f"the report can't be kept: {exc}{hint}", EX_TEMPFAIL)
    except click.exceptions.Exit:
        raise
    except Exception as exc:  # noqa: BLE001 (see above; the message is all that the MTA logs)
        fail(f"the report can't be kept: {str(exc) or type(exc).__name__}", EX_TEMPFAIL)


def _ingest(config_file: Path, state_dir: Path | None, paths: Sequence[Path], *, trusted: bool) -> "Summary":
    from stsguard.app.ingest import count_items, ingest_again, ingest_paths
    from stsguard.core.errors import StoreUnavailable
    from stsguard.log import set_up

    config = read_config(config_file, state_dir=state_dir, make_state_dir=bool(paths))
    set_up(level="error", form="text")
    try:
        if not paths:
            with _progress(None) as progress:
                return ingest_again(config, trusted=trusted, progress=progress)
        number = count_items(paths) if sys.stderr.isatty() else None
        with _progress(number) as progress:
            return ingest_paths(config, paths, trusted=trusted, progress=progress)
    except StoreUnavailable as exc:
        fail(f"{exc}; what is not stored is where it was" if paths else str(exc), EXIT_UNREACHABLE)


@contextmanager
def _progress(number: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, where there are many."""
    if number is None or number < MANY:
        yield lambda _: None
        return
    with click.progressbar(length=number, label="taking in", file=sys.stderr) as bar:
        yield bar.update


def _print(summary: "Summary", *, as_json: bool) -> None:
    if as_json:
        print_json(summary.plain())
        return
    for problem in summary.problems:
        click.echo(printable(problem), err=True)
    more = summary.refused + summary.unreadable - len(summary.problems)
    if more > 0:
        click.echo(f"and {more} more", err=True)
    if summary.refused:
        click.echo("What is no report is kept with its reason: stsguard received list --group refused", err=True)
    plain = summary.plain()
    told = [
        f"{plain['new']} new report{'' if plain['new'] == 1 else 's'}",
        f"{plain['duplicates']} duplicate{'' if plain['duplicates'] == 1 else 's'}",
        *(f"{plain[name]} {text}" for name, text in _RARE if plain[name]),
    ]
    click.echo(f"{plain['items']} taken in: {', '.join(told)}")
    if summary.not_counted:
        click.echo(
            "What is not counted is kept: stsguard received summary names the groups, received show says why. Report "
            "files that you vouch for count with --trusted.",
            err=True,
        )
    if summary.waiting_for_key:
        click.echo("Keys that could not be looked up: stsguard ingest --again tries them once more.", err=True)


_RARE = (
    ("not_counted", "of them not counted (no valid signature, or nobody vouches for them)"),
    ("conflicts", "with the id of another report and other content"),
    ("known", "stored before"),
    ("refused", "with something that is no report (kept)"),
    ("unreadable", "not readable"),
)
