"""`stsguard domain dns`: the exact records, a mark on each, and what to do in which order."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stsguard.cli.asking import EXIT_PROBLEM, EXIT_UNREACHABLE, Plain, print_json, printable
from stsguard.cli.domain_text import (
    common_options,
    domain_argument,
    next_lines,
    plain_domain,
    read_domain_config,
    try_or_end,
)

if TYPE_CHECKING:
    from stsguard.core.hosted_records import WantedRecord
    from stsguard.names import Domain

TXT_STRING_OCTETS = 255  # RFC 1035 §3.3.14: a longer text is several strings
TO_DO = ("missing", "differs", "remove")
WHAT = {
    "missing": "add it",
    "differs": "replace what is there",
    "remove": "remove it",
    "wait": "not yet: leave what is there",
    "unknown": "could not be looked at",
    "info": "",
    "ok": "",
}


@click.command("dns", short_help="Show the DNS records that DOMAIN needs, and has.")
@domain_argument
@common_options
def dns_command(policy_domain: "Domain", as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Show the DNS records that DOMAIN needs beside what is published now, in the order in which they are made.

    Exit 0: all are as they should be or have to wait; 1: something is to be done; 3: something can't be looked at.
    """
    from stsguard.app.domain_dns import look_at_records

    config = read_domain_config(config_file, state_dir)
    found = try_or_end(lambda: look_at_records(config, policy_domain))
    if as_json:
        print_json(
            {
                **plain_domain(found.domain, found.step),
                "records": [_plain(record) for record in found.records],
                "caa_problem": found.caa_problem,
            }
        )
    else:
        for record in found.records:
            _print(record)
        if found.caa_problem:
            click.echo(printable(f"no CAA record to show: {found.caa_problem}"))
        click.echo("\nnext")
        for line in next_lines(config, found.domain, found.step):
            click.echo(f"  {printable(line)}")
    marks = {record.mark.value for record in found.records if record.rtype != "CAA"}
    if marks & set(TO_DO):
        raise click.exceptions.Exit(EXIT_PROBLEM)
    if "unknown" in marks:
        raise click.exceptions.Exit(EXIT_UNREACHABLE)


def zone_line(record: "WantedRecord") -> str:
    """The record as a zone file has it; empty where there is to be none."""
    if not record.value:
        return ""
    value = record.value
    if record.rtype == "TXT":
        octets = range(0, len(value), TXT_STRING_OCTETS)
        value = " ".join(f'"{value[start : start + TXT_STRING_OCTETS]}"' for start in octets)
    return f"{record.name}. {record.ttl} IN {record.rtype} {value}"


def _print(record: "WantedRecord") -> None:
    mark = record.mark.value
    told = "; ".join(text for text in (WHAT[mark], record.note) if text)
    click.echo(printable(f"[{mark}] {record.name} {record.rtype}" + (f": {told}" if told else "")))
    if line := zone_line(record):
        click.echo(printable(f"    {line}"))
    shown = record.published if mark != "ok" else ()
    for published in shown:
        click.echo(printable(f"    published now: {published}"))
    if not record.published and mark != "unknown" and (mark != "ok" or record.value):
        click.echo("    published now: nothing")


def _plain(record: "WantedRecord") -> Plain:
    return {
        "name": record.name,
        "type": record.rtype,
        "value": record.value,
        "zone_line": zone_line(record),
        "ttl": record.ttl,
        "published": list(record.published),
        "mark": record.mark.value,
        "note": record.note,
    }
