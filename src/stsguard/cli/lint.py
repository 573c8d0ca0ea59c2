"""`stsguard lint`: look at a policy, a TXT record or an MX pattern without any network.

Exit code: 0 valid (`match`: the pattern permits the host), 1 not so, 2 wrong usage or an unreadable file.
"""

import json
import sys
from dataclasses import dataclass, field
from typing import BinaryIO

import click

from stsguard.cli.options import json_option
from stsguard.core import mtasts, tlsrpt_record
from stsguard.core.errors import PolicyInvalid, RecordInvalid, ReportInvalid
from stsguard.names import Domain, NameInvalid

MAX_POLICY_BYTES = 65_536  # RFC 8461 §3.3: a sender may stop reading there
_DAY_SECONDS = 86_400
_GZIP = b"\x1f\x8b"  # RFC 1952 §2.3.1
_MAX_SHOWN = 300
_MAX_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `parsed` has the same keys whether valid or not, with None where nothing could be parsed."""

    title: str
    parsed: dict[str, object]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)  # what a person reads instead of a parsed value

    def as_json(self) -> str:
        """One JSON object, ASCII only."""
        found = {"valid": not self.errors, "errors": self.errors, "warnings": self.warnings, **self.parsed}
        return json.dumps(found, indent=2)

    def as_text(self) -> str:
        """For a person: the verdict, the parsed form, then what is wrong or strange, one line each."""
        lines = [f"{self.title}: {'INVALID' if self.errors else 'valid'}"]
        width = max([9, *(len(name) + 1 for name in self.parsed)])
        for name, value in self.parsed.items():
            shown = value if isinstance(value, list) else [self.notes.get(name, value)]
            lines += [f"  {'' if at else name:{width}}{one}" for at, one in enumerate(shown) if one is not None]
        lines += [f"error: {text}" for text in self.errors]
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)


@click.group()
def lint() -> None:
    """Check a policy, a TXT record, a report or an MX pattern offline."""


@lint.command(short_help="A policy file.")
@click.argument("file", type=click.File("rb"))
@json_option
def policy(file: BinaryIO, as_json: bool) -> None:
    """Check the policy in FILE (- for standard input), as served at /.well-known/mta-sts.txt."""
    try:
        body = file.read(MAX_POLICY_BYTES + 1)
    except OSError as exc:
        raise click.UsageError(f"{file.name}: {exc.strerror}") from exc
    _finish(judge_policy(body), as_json)


@lint.command(short_help="A TXT record: MTA-STS (sts) or TLSRPT (tlsrpt).")
@click.argument("kind", type=click.Choice(["sts", "tlsrpt"]))
@click.argument("text")
@json_option
def record(kind: str, text: str, as_json: bool) -> None:
    """Check TEXT as the TXT record at _mta-sts (sts) or _smtp._tls (tlsrpt), its strings joined."""
    _finish(judge_sts_record(text) if kind == "sts" else judge_tlsrpt_record(text), as_json)


@lint.command(short_help="A TLS report.")
@click.argument("file", type=click.File("rb"))
@json_option
def report(file: BinaryIO, as_json: bool) -> None:
    """Check the report in FILE (- for standard input), JSON or gzip, strictly by RFC 8460."""
    from stsguard.core.tlsrpt_report import MAX_REPORT_BYTES

    try:
        data = file.read(MAX_REPORT_BYTES + 1)
    except OSError as exc:
        raise click.UsageError(f"{file.name}: {exc.strerror}") from exc
    _finish(judge_report(data), as_json)


@lint.command(short_help="An mx pattern against a host name.")
@click.argument("pattern")
@click.argument("host")
@json_option
def match(pattern: str, host: str, as_json: bool) -> None:
    """Say whether PATTERN, an mx value of a policy, permits the MX host HOST."""
    verdict = judge_match(pattern, host)
    _finish(verdict, as_json, good=verdict.parsed["match"] is True)


def judge_policy(body: bytes) -> Verdict:
    """A policy file of at most `MAX_POLICY_BYTES` (RFC 8461 §3.2)."""
    title = "MTA-STS policy"
    try:
        if len(body) > MAX_POLICY_BYTES:
            raise PolicyInvalid(f"the file is longer than {MAX_POLICY_BYTES} bytes, where senders stop reading")
        found = mtasts.parse_policy(body)
    except PolicyInvalid as exc:
        return Verdict(title, {"mode": None, "max_age": None, "mx": None}, errors=(str(exc),))
    parsed: dict[str, object] = {
        "mode": found.mode.value,
        "max_age": found.max_age,
        "mx": [str(pattern) for pattern in found.mx_patterns],
    }
    notes = {"max_age": f"{found.max_age} seconds ({_in_days(found.max_age)})"}
    return Verdict(title, parsed, warnings=found.warnings, notes=notes)


def judge_sts_record(text: str) -> Verdict:
    """A TXT record at `_mta-sts` (RFC 8461 §3.1)."""
    title = "MTA-STS record"
    try:
        found = mtasts.parse_record(text)
    except RecordInvalid as exc:
        return Verdict(title, {"id": None}, errors=(str(exc),))
    return Verdict(title, {"id": found.record_id}, warnings=found.warnings)


def judge_tlsrpt_record(text: str) -> Verdict:
    """A TXT record at `_smtp._tls` (RFC 8460 §3)."""
    title = "TLSRPT record"
    try:
        found = tlsrpt_record.parse_tlsrpt_record(text)
    except RecordInvalid as exc:
        return Verdict(title, {"rua": None}, errors=(str(exc),))
    return Verdict(title, {"rua": list(found.ruas)}, warnings=found.warnings)


def judge_report(data: bytes) -> Verdict:
    """A report (RFC 8460 §4.4), compressed or not."""
    from stsguard.core.tlsrpt_report import decompress, read_report

    title = "TLS report"
    nothing: dict[str, object] = dict.fromkeys(("organization", "report_id", "start", "end", "successes", "failures"))
    try:
        reading = read_report(decompress(data) if data.startswith(_GZIP) else data)
    except ReportInvalid as exc:
        return Verdict(title, {**nothing, "policies": None}, errors=(str(exc),), warnings=_taken_in(data))
    found = reading.report
    if found is None:
        warnings = (*reading.warnings, *_taken_in(data))
        return Verdict(title, {**nothing, "policies": None}, errors=reading.errors, warnings=warnings)
    parsed: dict[str, object] = {
        "organization": found.organization,
        "report_id": found.report_id,
        "start": found.start_at.isoformat(),
        "end": found.end_at.isoformat(),
        "successes": found.successes,
        "failures": found.failures,
        "policies": [
            f"{result.policy.policy_type} {result.policy.policy_domain}: "
            f"{result.successes} successful, {result.failures} failed, {len(result.details)} details"
            for result in found.policies
        ],
    }
    notes = {name: _printable(text) for name, text in parsed.items() if isinstance(text, str)}
    return Verdict(title, parsed, warnings=reading.warnings, notes=notes)


def _taken_in(data: bytes) -> tuple[str, ...]:
    """What `stsguard ingest` makes of a report that is not valid, since receivers lose none for a deviation."""
    from stsguard.core.tlsrpt_report_received import parse_received
    from stsguard.core.unpack import unpack

    try:
        found = parse_received(unpack(data).documents[0])
    except ReportInvalid:
        return ()
    told = [f"{warning.code.value}: {warning.text}" for warning in found.all_warnings()][:_MAX_WARNINGS]
    return (f"taken in by stsguard ingest all the same: {found.successes} successful, {found.failures} failed", *told)


def judge_match(pattern: str, host: str) -> Verdict:
    """An `mx` value and an MX host (RFC 8461 §4.1); the host in any form, the pattern as a policy has to have it."""
    title = "MX pattern and host"
    try:
        mx_pattern = mtasts.MxPattern.parse(pattern)
        mx_hostname = Domain.parse(host)
    except PolicyInvalid as exc:
        return Verdict(title, {"match": False}, errors=(f"pattern {exc}",), notes={"match": "no"})
    except NameInvalid as exc:
        return Verdict(title, {"match": False}, errors=(f"host: {exc}",), notes={"match": "no"})
    found = mtasts.mx_matches(mx_pattern, mx_hostname)
    note = f"{'yes' if found else 'no'}: {mx_pattern} {'permits' if found else 'does not permit'} {mx_hostname}"
    return Verdict(title, {"match": found}, notes={"match": note})


def _printable(text: str) -> str:
    """Text of strangers, for a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)[:_MAX_SHOWN]


def _in_days(seconds: int) -> str:
    days = seconds / _DAY_SECONDS
    return "less than a day" if days < 1 else "1 day" if days == 1 else f"{days:.4g} days"


def _finish(verdict: Verdict, as_json: bool, *, good: bool = True) -> None:
    text = verdict.as_json() if as_json else verdict.as_text()
    # A terminal in another character set gets an escape for what it can't show, not a traceback.
    click.echo(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
    if verdict.errors or not good:
        click.get_current_context().exit(1)
