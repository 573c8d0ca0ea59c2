"""`stsguard domain`: the domains whose policies are served here. This file has what only shows; `domain_change` the
commands that change something."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stsguard.cli.asking import print_fields, print_json, print_rows, printable
from stsguard.cli.domain_change import add, edit, mode, retire
from stsguard.cli.domain_dns import dns_command
from stsguard.cli.domain_enforce import readiness
from stsguard.cli.domain_export import export
from stsguard.cli.domain_text import (
    common_options,
    domain_argument,
    instant,
    max_age_text,
    mx_text,
    next_lines,
    not_hosted,
    plain_domain,
    plain_version,
    read_domain_config,
    stamp,
    step_text,
    try_or_end,
)

if TYPE_CHECKING:
    from stsguard.app.domain_views import Fetches, Listed, Shown
    from stsguard.cli.asking import Plain
    from stsguard.core.findings import SeenFinding
    from stsguard.names import Domain

GONE_SHOWN = 5
HISTORY_SHOWN = 200


@click.group()
def domain() -> None:
    """The domains whose MTA-STS policies are served here (RFC 8461)."""


for _command in (add, edit, mode, dns_command, readiness, retire, export):
    domain.add_command(_command)


@domain.command("list", short_help="List the domains and their next steps.")
@click.option("--retired", is_flag=True, help="Those that are retired as well.")
@common_options
def list_(retired: bool, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """List the domains: stage, policy, open findings, the next step."""
    from stsguard.app.domain_views import list_domains

    config = read_domain_config(config_file, state_dir)
    listed = try_or_end(lambda: list_domains(config, retired=retired))
    if as_json:
        print_json({"domains": [_plain_listed(one) for one in listed]})
    elif not listed:
        click.echo("no domain is hosted here; stsguard domain add DOMAIN adds one")
    else:
        rows = [
            (
                one.domain.policy_domain,
                one.domain.stage.value,
                one.domain.current.mode.value,
                str(one.domain.current.max_age),
                _count_text(one.findings),
                step_text(one.step),
            )
            for one in listed
        ]
        print_rows(rows, ("domain", "stage", "mode", "max_age", "findings", "next"))


@domain.command(short_help="Show all that is known of a domain.")
@domain_argument
@common_options
def show(policy_domain: "Domain", as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Show a domain: stage, every version and until when senders may hold it, findings, certificate, who fetches."""
    from stsguard.app.domain_views import show_domain

    config = read_domain_config(config_file, state_dir)
    shown = try_or_end(lambda: show_domain(config, policy_domain))
    if shown is None:
        not_hosted(policy_domain)
    if as_json:
        print_json(_plain_shown(shown))
        return
    one = shown.domain
    print_fields(
        {
            "domain": one.policy_domain,
            "stage": f"{one.stage.value}, since {instant(one.stage_since)}",
            "policy host": one.policy_host,
            "mode": one.current.mode.value,
            "max_age": max_age_text(one.current.max_age),
            "mx": mx_text(one.current),
            "id": f"{one.current.record_id}, {_id_state(shown)}",
            "follows": one.alias_of,
            "followed by": list(shown.aliases),
            "certificate": _certificate_text(shown),
            "inspected": instant(shown.inspected_at, unknown="never yet; stsguard inbound does it every hour"),
            "added": instant(one.added_at),
        }
    )
    click.echo("\nnext")
    for line in next_lines(config, one, shown.step):
        click.echo(f"  {printable(line)}")
    _print_findings(shown)
    _print_versions(shown)
    _print_fetches(shown)


@domain.command()
@domain_argument
@click.option("--limit", type=click.IntRange(1), default=HISTORY_SHOWN, show_default=True, help="The latest so many.")
@common_options
def history(policy_domain: "Domain", limit: int, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Show what happened to a domain, the oldest first."""
    from stsguard.app.domain_views import load_history

    config = read_domain_config(config_file, state_dir)
    events = try_or_end(lambda: load_history(config, policy_domain))
    if events is None:
        not_hosted(policy_domain)
    events = events[-limit:]
    if as_json:
        print_json({"history": [{"at": stamp(each.at), "what": each.what, "detail": each.detail} for each in events]})
        return
    print_rows([(instant(each.at), each.what, each.detail) for each in events], ("at", "what", "detail"))


def _id_state(shown: "Shown") -> str:
    current = shown.domain.current
    if current.published_at is not None:
        return f"in DNS since {instant(current.published_at)}"
    if current.served_at is not None:
        return f"served everywhere since {instant(current.served_at)}, not in DNS yet"
    return "not seen at every public address yet, so not to be in DNS"


def _certificate_text(shown: "Shown") -> str:
    state = shown.certificate
    if shown.by_hand is not None:
        end = f"put there by hand, until {instant(shown.by_hand.not_after)}" if shown.by_hand.not_after else ""
        told = f"{shown.by_hand.file}: {shown.by_hand.problem}" if shown.by_hand.problem else shown.by_hand.file
        return "; ".join(filter(None, (end, told)))
    if state is None:
        return "none by ACME yet"
    text = (
        f"until {instant(state.not_after)}, renewed from {instant(state.renew_at)}" if state.not_after else "none yet"
    )
    if state.failures:
        text += f"; {state.failures} attempts failed, the next at {instant(state.next_attempt_at)}: {state.last_error}"
    return text


def _print_findings(shown: "Shown") -> None:
    still = [seen for seen in shown.findings if seen.gone_at is None]
    gone = [seen for seen in shown.findings if seen.gone_at is not None][:GONE_SHOWN]
    if shown.inspected_at is not None:
        click.echo("\nfindings" + ("" if still else "  none"))
    for seen in still:
        finding = seen.finding
        subject = f" {finding.subject}" if finding.subject else ""
        click.echo(printable(f"  {finding.severity.value}: {finding.code}{subject}: {finding.text}"))
        click.echo(f"    first seen {instant(seen.first_seen_at)}, last seen {instant(seen.last_seen_at)}")
    for seen in gone:
        subject = f" {seen.finding.subject}" if seen.finding.subject else ""
        lasted = f"from {instant(seen.first_seen_at)} to {instant(seen.gone_at)}"
        click.echo(printable(f"  gone: {seen.finding.code}{subject}, {lasted}"))


def _print_versions(shown: "Shown") -> None:
    click.echo("\nversions, the latest first")
    rows = [
        (
            str(version.number),
            version.record_id,
            version.mode.value,
            str(version.max_age),
            instant(version.served_at),
            instant(version.published_at),
            _held_text(shown, version.number),
            version.reason,
        )
        for version in reversed(shown.domain.versions)
    ]
    print_rows(rows, ("", "id", "mode", "max_age", "served since", "id in DNS since", "may be held until", "reason"))


def _held_text(shown: "Shown", number: int) -> str:
    version = next(each for each in shown.domain.versions if each.number == number)
    until = shown.domain.held_until(version)
    if until is None:
        return "it can be fetched" if shown.domain.stage.value != "retired" else "-"
    return f"{instant(until)}{'' if until > shown.now else ' (over)'}"


def _print_fetches(shown: "Shown") -> None:
    found = shown.fetches
    if not found.total:
        click.echo("\nfetched by  nobody in the last 90 days")
        return
    click.echo(f"\nfetched {_often(found)}")
    for title, top in (("network", found.networks), ("user agent", found.user_agents)):
        print_rows([(str(count), name or "(none)") for name, count in top], ("", title))


def _often(found: "Fetches") -> str:
    if found.total == 1:
        return f"once in the last 90 days, on {found.last_day}"
    if found.days == 1:
        return f"{found.total} times in the last 90 days, all of them on {found.last_day}"
    return f"{found.total} times in the last 90 days, on {found.days} different days, the last time on {found.last_day}"


def _count_text(findings: "tuple[SeenFinding, ...]") -> str:
    counts = [
        (sum(seen.finding.severity.value == severity for seen in findings), severity)
        for severity in ("error", "warning", "note")
    ]
    return ", ".join(f"{count} {severity}{'s' if count > 1 else ''}" for count, severity in counts if count) or "-"


def _plain_listed(one: "Listed") -> "Plain":
    return {
        **plain_domain(one.domain, one.step),
        "inspected_at": stamp(one.inspected_at),
        "findings": [_plain_finding(seen) for seen in one.findings],
    }


def _plain_finding(seen: "SeenFinding") -> "Plain":
    return {
        "code": seen.finding.code,
        "subject": seen.finding.subject,
        "severity": seen.finding.severity.value,
        "text": seen.finding.text,
        "first_seen_at": stamp(seen.first_seen_at),
        "last_seen_at": stamp(seen.last_seen_at),
        "gone_at": stamp(seen.gone_at),
    }


def _plain_shown(shown: "Shown") -> "Plain":
    state = shown.certificate
    return {
        **plain_domain(shown.domain, shown.step),
        "versions": [plain_version(shown.domain, version) for version in shown.domain.versions],
        "inspected_at": stamp(shown.inspected_at),
        "findings": [_plain_finding(seen) for seen in shown.findings],
        "followed_by": list(shown.aliases),
        "certificate_by_hand": None
        if shown.by_hand is None
        else {
            "file": shown.by_hand.file,
            "not_after": stamp(shown.by_hand.not_after),
            "problem": shown.by_hand.problem or None,
        },
        "certificate": None
        if state is None
        else {
            "not_before": stamp(state.not_before),
            "not_after": stamp(state.not_after),
            "renew_at": stamp(state.renew_at),
            "failures": state.failures,
            "next_attempt_at": stamp(state.next_attempt_at),
            "last_error": state.last_error,
        },
        "fetches": {
            "total": shown.fetches.total,
            "days": shown.fetches.days,
            "last_day": shown.fetches.last_day or None,
            "networks": dict(shown.fetches.networks),
            "user_agents": dict(shown.fetches.user_agents),
        },
    }
