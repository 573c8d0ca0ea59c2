"""`stsguard domain readiness`, and the way of `stsguard domain mode DOMAIN enforce`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stsguard.cli.asking import EXIT_PROBLEM, EXIT_UNREACHABLE, Plain, fail, print_json, printable
from stsguard.cli.domain_change import ask_for_name, print_changed
from stsguard.cli.domain_text import (
    common_options,
    domain_argument,
    instant,
    max_age_text,
    read_domain_config,
    stamp,
    try_or_end,
)

if TYPE_CHECKING:
    from stsguard.app.domain_readiness import Assessed
    from stsguard.config.model import Config
    from stsguard.names import Domain

MARKS = {"ok": "ok     ", "failed": "FAILED ", "unknown": "unknown"}


@click.command(short_help="Say whether DOMAIN may enforce.")
@domain_argument
@common_options
def readiness(policy_domain: "Domain", as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Look at DOMAIN from outside now, and say whether it may enforce. Exit 0: yes, 1: no, 3: not all could be seen."""
    from stsguard.app.domain_readiness import assess_domain

    config = read_domain_config(config_file, state_dir)
    assessed = try_or_end(lambda: assess_domain(config, policy_domain))
    if as_json:
        print_json(_plain(assessed))
    else:
        _print(assessed)
    if not assessed.readiness.ready:
        raise click.exceptions.Exit(_exit_code(assessed))


def to_enforce(config: "Config", policy_domain: "Domain", *, confirm: str | None, forced: str, as_json: bool) -> None:
    """Show the readiness, ask for the domain's name, enforce."""
    from stsguard.app.domain_readiness import assess_domain, enforce_domain

    assessed = try_or_end(lambda: assess_domain(config, policy_domain))
    if not as_json:
        _print(assessed)
        click.echo()
    if not assessed.readiness.ready and not forced:
        told = f": {'; '.join(item.text for item in assessed.readiness.missing)}" if as_json else ""
        fail(
            f"{policy_domain} stays in {assessed.domain.stage.value}, which is safe; --force REASON would enforce all "
            f"the same, and mail may bounce{told}",
            _exit_code(assessed),
        )
    max_age = max_age_text(config.policy_host.first_max_age_seconds)
    ask_for_name(
        policy_domain,
        confirm,
        f"enforce {policy_domain}: mail that can't be delivered over verified TLS will wait and bounce at its sender. "
        f"Senders hold on to this for {max_age}, whatever you do afterwards.",
    )
    changed = try_or_end(lambda: enforce_domain(config, assessed, forced=forced))
    print_changed(
        config,
        changed,
        as_json,
        [f"{policy_domain} enforces, max_age {max_age_text(changed.domain.current.max_age)}"],
        [
            f"every MX host needs a valid certificate from now on, and for {max_age} after going back to testing",
            f"a new MX host goes into the policy before DNS: stsguard domain edit {policy_domain} --add-mx HOST",
        ],
        f"stsguard domain mode {policy_domain} testing",
    )


def _exit_code(assessed: "Assessed") -> int:
    """Something is not so, or nothing more than could not be looked at."""
    failed = any(item.state.value == "failed" for item in assessed.readiness.missing)
    return EXIT_PROBLEM if failed else EXIT_UNREACHABLE


def _print(assessed: "Assessed") -> None:
    click.echo(f"{assessed.domain.policy_domain}, as seen from outside at {instant(assessed.inspection.at)}")
    for item in assessed.readiness.items:
        click.echo(printable(f"  {MARKS[item.state.value]}  {item.code}: {item.text}"))
        if item.from_at is not None:
            click.echo(f"           will be from {instant(item.from_at)} on")
    click.echo("ready to enforce" if assessed.readiness.ready else "not ready to enforce")


def _plain(assessed: "Assessed") -> Plain:
    return {
        "domain": assessed.domain.policy_domain,
        "inspected_at": stamp(assessed.inspection.at),
        "ready": assessed.readiness.ready,
        "items": [
            {"code": item.code, "state": item.state.value, "text": item.text, "from_at": stamp(item.from_at)}
            for item in assessed.readiness.items
        ],
    }
