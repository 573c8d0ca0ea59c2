"""`stsguard received show`: one report, or what came in, as far as it could be read, and as it came."""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from stsguard.cli.asking import EXIT_PROBLEM, Plain, fail, print_fields, print_rows, printable
from stsguard.cli.options import read_config
from stsguard.cli.received_options import cell, end_options, or_end, print_plain

if TYPE_CHECKING:
    from stsguard.app.received_commands import Choice
    from stsguard.config.model import Config
    from stsguard.core.received_query import DetailRow, FoundReport, IntakeRow, PolicyRow

SHOWN_POLICIES = 20
SHOWN_DETAILS = 20
SHOWN_LINE = 300
_GROUPS = {
    "counted": "it counts",
    "unsigned": "not counted: the mail has no valid signature of its sender (RFC 8460 §3)",
    "unvouched": "not counted: it came without a mail, and nothing says from whom it is",
    "conflict": "not counted: another content of this report was there first",
    "foreign": "not counted: none of its domains is ours",
}


@click.command(short_help="Show one report, and how it came.")
@click.argument("name", metavar="ID")
@click.option("--raw", is_flag=True, help="Print what came in: the mail or file, octet by octet.")
@click.option("--text", is_flag=True, help="Print the JSON of the report as it was unpacked from that.")
@end_options
def show(name: str, raw: bool, text: bool, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Show one report: what it says, warnings, the verdict on its signature, and how it came.

    ID is the number that received list shows, i and a number for what came in, or a report-id. Exit 1: there is none,
    or there are several. On a terminal --raw and --text show control characters escaped.
    """
    from stsguard.app.received_commands import report_text, show_report

    if raw + text + as_json > 1:
        raise click.UsageError("give one of --raw, --text and --json")
    config = read_config(config_file, state_dir=state_dir)
    found = or_end(lambda: show_report(config, name))
    intake = found.report.intake if found.report else found.intake
    if intake is None:
        _fail_none(name, found)
    if raw:
        _print_raw(config, intake)
    elif text:
        if found.report is None:
            fail(f"i{intake.intake} is no report; --raw prints what came in", EXIT_PROBLEM)
        report = found.report
        octets = or_end(lambda: report_text(config, report))
        if octets is None:
            fail("its text can't be found in what came in any more", EXIT_PROBLEM)
        _print_octets(octets)
    elif as_json:
        print_plain(
            plain_report(found.report) if found.report else {**_plain_intake(intake), "reports": list(found.others)}
        )
    elif found.report:
        _print_report(found.report)
    else:
        print_fields({"reports": [str(each) for each in found.others]})
        print_fields(_intake_fields(intake))


def _fail_none(name: str, found: "Choice") -> NoReturn:
    if found.others:
        numbers = ", ".join(map(str, found.others))
        fail(f"several reports have this report-id: {numbers}; name one of them by its number", EXIT_PROBLEM)
    fail(f"there is no report {name!r}; stsguard received list shows their numbers", EXIT_PROBLEM)


def _print_raw(config: "Config", intake: "IntakeRow") -> None:
    from stsguard.app.received_commands import load_raw

    _print_octets(or_end(lambda: load_raw(config, intake.intake)))


def _print_octets(octets: bytes) -> None:
    """As they are into a file or pipe; escaped on a terminal, where they might act."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(octets)
        return
    for line in octets.decode("utf-8", "replace").split("\n"):
        click.echo(printable(line.removesuffix("\r").expandtabs()))


def _print_report(found: "FoundReport") -> None:
    print_fields(
        {
            "report": found.key.report,
            "group": f"{found.group.value}: {_GROUPS[found.group.value]}",
            "day": found.key.day,
            "range": f"{stamp(found.start_at)} to {stamp(found.end_at)}",
            "reporter": found.reporter,
            "organization": found.organization_name,
            "contact": found.contact_info,
            "report-id": found.report_id,
            "packing": found.packing,
            "duplicates": _duplicates(found),
        }
    )
    print_fields(_intake_fields(found.intake))
    _print_warnings(found.warnings, "")
    for policy in found.policies[:SHOWN_POLICIES]:
        _print_policy(policy)
    _print_more(len(found.policies) - SHOWN_POLICIES, "policies", "")


def _duplicates(found: "FoundReport") -> str:
    if not found.duplicates:
        return ""
    return f"came {found.duplicates} times more, the last time {stamp(found.last_duplicate_at)}"


def _intake_fields(intake: "IntakeRow") -> dict[str, object]:
    return {
        "came in": f"i{intake.intake}, {stamp(intake.received_at)} by {intake.via}, {intake.raw_length} bytes",
        "file" if intake.via == "file" else "client": intake.client,
        "recipient": intake.recipient,
        "media type": intake.media_type,
        "DKIM": _verdict(intake),
        "from": intake.from_address,
        "submitter": intake.submitter,
        "subject": intake.subject,
        "message-id": intake.message_id,
        "refused": list(intake.refusals),
        "read by": intake.parsed_by,
    }


def _verdict(intake: "IntakeRow") -> str:
    if not intake.dkim_status:
        return ""
    signed = f", d={intake.dkim_domain} s={intake.dkim_selector}" if intake.dkim_domain else ""
    aligned = ", aligned" if intake.aligned else ", not of its sender" if intake.dkim_status == "pass" else ""
    return f"{intake.dkim_status}{signed}{aligned}" + (f": {intake.dkim_reason}" if intake.dkim_reason else "")


def _print_policy(policy: "PolicyRow") -> None:
    foreign = ", not ours" if policy.foreign else ""
    kind = policy.policy_type or policy.policy_type_text or "no policy-type"
    click.echo(
        f"\npolicy {cell(policy.policy_domain or policy.policy_domain_text or '?', 253)} ({cell(kind)}{foreign})"
    )
    print_fields({"good": str(policy.successes), "failed": str(policy.failures)}, indent=2)
    print_fields(
        {"mx-host": ", ".join(policy.mx_hosts)[:SHOWN_LINE], "policy": " | ".join(policy.policy_strings)[:SHOWN_LINE]},
        indent=2,
    )
    _print_warnings(policy.warnings, "  ")
    details = sorted(policy.details, key=lambda detail: -detail.sessions)
    if details:
        click.echo()
        _print_indented(list(map(_detail_row, details[:SHOWN_DETAILS])))
    _print_more(len(details) - SHOWN_DETAILS, "failure-details", "  ")


def _detail_row(detail: "DetailRow") -> tuple[str, ...]:
    return (
        str(detail.sessions),
        cell(detail.result_type_text, 40),
        cell(detail.receiving_mx_hostname, 40),
        cell(detail.receiving_ip, 45),
        cell(detail.sending_mta_ip, 45),
        cell(detail.failure_reason_code or detail.additional_information, 80),
    )


def _print_indented(rows: Sequence[tuple[str, ...]]) -> None:
    header = ("  failed", "result-type", "mx host", "receiving ip", "sending ip", "reason")
    print_rows([(f"  {row[0]}", *row[1:]) for row in rows], header)


def _print_warnings(warnings: Sequence[tuple[str, str, int]], indent: str) -> None:
    for code, text, times in warnings:
        often = f" (and {times - 1} more)" if times > 1 else ""
        click.echo(printable(f"{indent}warning: {code}: {text}{often}"))


def _print_more(number: int, what: str, indent: str) -> None:
    if number > 0:
        click.echo(f"{indent}and {number} more {what}: --json shows them all")


def stamp(instant: datetime | None) -> str:
    """An instant as JSON and people get it."""
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}" if instant else ""


def plain_report(found: "FoundReport") -> Plain:
    """A report with all that was read of it, for JSON."""
    return {
        "id": found.key.report,
        "group": found.group.value,
        "day": found.key.day,
        "start": stamp(found.start_at),
        "end": stamp(found.end_at),
        "reporter": found.reporter,
        "organization_name": found.organization_name,
        "contact_info": found.contact_info,
        "report_id": found.report_id,
        "packing": found.packing,
        "duplicates": found.duplicates,
        "warnings": _plain_warnings(found.warnings),
        "came_in": _plain_intake(found.intake),
        "policies": list(map(_plain_policy, found.policies)),
    }


def _plain_intake(intake: "IntakeRow") -> Plain:
    return {
        "id": f"i{intake.intake}",
        "received_at": stamp(intake.received_at),
        "via": intake.via,
        "client": intake.client,
        "recipient": intake.recipient,
        "media_type": intake.media_type,
        "bytes": intake.raw_length,
        "dkim": {
            "status": intake.dkim_status,
            "domain": intake.dkim_domain,
            "selector": intake.dkim_selector,
            "aligned": intake.aligned,
            "reason": intake.dkim_reason,
        },
        "from": intake.from_address,
        "submitter": intake.submitter,
        "subject": intake.subject,
        "message_id": intake.message_id,
        "sent_at": stamp(intake.sent_at) or None,
        "refusals": list(intake.refusals),
        "parsed_by": intake.parsed_by,
    }


def _plain_policy(policy: "PolicyRow") -> Plain:
    return {
        "policy_domain": policy.policy_domain,
        "policy_domain_text": policy.policy_domain_text,
        "policy_type": policy.policy_type,
        "policy_type_text": policy.policy_type_text,
        "foreign": policy.foreign,
        "policy_strings": list(policy.policy_strings),
        "mx_hosts": list(policy.mx_hosts),
        "successes": policy.successes,
        "failures": policy.failures,
        "warnings": _plain_warnings(policy.warnings),
        "failure_details": [plain_detail(detail) for detail in policy.details],
    }


def plain_detail(detail: "DetailRow") -> Plain:
    """One of failure-details, for JSON."""
    return {name: getattr(detail, name) for name in _fields(detail)}


def _fields(detail: "DetailRow") -> Iterator[str]:
    return iter(type(detail).__dataclass_fields__)


def _plain_warnings(warnings: Sequence[tuple[str, str, int]]) -> list[Plain]:
    return [{"code": code, "text": text, "times": times} for code, text, times in warnings]
