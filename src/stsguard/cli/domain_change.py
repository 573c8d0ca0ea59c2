"""`stsguard domain add`, `edit`, `mode`, `retire`: with what happens next, what is safe today, and the way back."""

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stsguard.cli.asking import EXIT_PROBLEM, fail, print_json, printable
from stsguard.cli.domain_text import (
    common_options,
    domain_argument,
    domain_value,
    instant,
    max_age_text,
    mx_text,
    mx_values,
    next_lines,
    not_hosted,
    plain_domain,
    read_domain_config,
    reason_value,
    stamp,
    try_or_end,
)

if TYPE_CHECKING:
    from stsguard.app.domain_commands import Changed
    from stsguard.config.model import Config
    from stsguard.core.mtasts import MxPattern
    from stsguard.core.rollout_plan import MxPlan
    from stsguard.names import Domain

mx_option = click.option("--mx", "mx", multiple=True, callback=mx_values, metavar="HOST", help="An mx of the policy.")
from_dns_option = click.option("--mx-from-dns", is_flag=True, help="The MX hosts that DNS has now.")
confirm_option = click.option("--confirm", metavar="DOMAIN", help="The domain's name, instead of being asked for it.")


def force_option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`--force REASON`; `text` is its help."""
    return click.option("--force", "forced", default="", metavar="REASON", callback=reason_value, help=text)


@click.command()
@domain_argument
@mx_option
@from_dns_option
@click.option("--alias-of", callback=domain_value, metavar="DOMAIN", help="Follow the policy of this hosted domain.")
@force_option("Begin though the live policy can't be fetched.")
@common_options
def add(
    policy_domain: "Domain",
    mx: "tuple[MxPattern, ...]",
    mx_from_dns: bool,
    alias_of: "Domain | None",
    forced: str,
    as_json: bool,
    config_file: Path,
    state_dir: Path | None,
) -> None:
    """Host the policy of DOMAIN here.

    What it has in DNS and at its policy host now is taken over, so that nothing gets weaker; without a policy it begins
    in testing, with a max_age of one day. Exit 1: refused, 3: what it has can't be seen.
    """
    from stsguard.app.domain_commands import WantedMx, add_domain

    if sum((bool(mx), mx_from_dns, alias_of is not None)) > 1:
        raise click.UsageError("give one of --mx, --mx-from-dns and --alias-of")
    config = read_domain_config(config_file, state_dir, make_state_dir=True)
    wanted = WantedMx(exactly=mx, from_dns=mx_from_dns)
    changed = try_or_end(lambda: add_domain(config, policy_domain, wanted, alias_of=alias_of, forced=forced))
    one = changed.domain
    adopted = one.current.reason == "found live"
    how = "with the policy that it has already" if adopted else "no policy is in force yet"
    print_changed(
        config,
        changed,
        as_json,
        [f"{policy_domain} is hosted here, in {one.stage.value}: {how}"],
        [
            "nothing changes for mail: senders go on by the same policy"
            if adopted
            else "no sender can hold mail back: in testing they deliver as ever, and report"
        ],
        f"leave {one.policy_host} in DNS as it is: while it points to the host of before, nothing has changed"
        if adopted
        else f"stsguard domain retire {policy_domain}",
    )


@click.command(short_help="Change the mx of DOMAIN's policy.")
@domain_argument
@mx_option
@from_dns_option
@click.option("--add-mx", multiple=True, callback=mx_values, metavar="HOST", help="Permit this one as well.")
@click.option("--remove-mx", multiple=True, callback=mx_values, metavar="HOST", help="No longer permit this one.")
@click.option("--plan", "only_plan", is_flag=True, help="Change nothing; print the safe order with its dates.")
@force_option("Change it though mail may bounce.")
@common_options
def edit(
    policy_domain: "Domain",
    mx: "tuple[MxPattern, ...]",
    mx_from_dns: bool,
    add_mx: "tuple[MxPattern, ...]",
    remove_mx: "tuple[MxPattern, ...]",
    only_plan: bool,
    forced: str,
    as_json: bool,
    config_file: Path,
    state_dir: Path | None,
) -> None:
    """Change the mx of DOMAIN's policy, and print in which order policy and DNS have to change.

    --mx gives all of them; --add-mx and --remove-mx change those there are. Exit 1: refused, mail would bounce.
    """
    from stsguard.app.domain_commands import WantedMx, edit_domain

    if sum((bool(mx), mx_from_dns, bool(add_mx or remove_mx))) != 1:
        raise click.UsageError("give either --mx, or --mx-from-dns, or --add-mx and --remove-mx")
    config = read_domain_config(config_file, state_dir)
    wanted = WantedMx(mx, mx_from_dns, add_mx, remove_mx)
    changed = try_or_end(lambda: edit_domain(config, policy_domain, wanted, only_plan=only_plan, forced=forced))
    if only_plan:
        _print_plan_alone(changed, as_json)
        return
    before = changed.domain.versions[-2]
    back = " ".join(f"--mx {pattern}" for pattern in before.mx_patterns)
    print_changed(
        config,
        changed,
        as_json,
        [f"{policy_domain} has version {changed.domain.current.number}: mx {mx_text(changed.domain.current)}"],
        ["the plan above says from when on DNS may change; until then leave DNS MX as it is"],
        f"stsguard domain edit {policy_domain} {back}{_only_later(changed)}",
    )


def _only_later(changed: "Changed") -> str:
    """What is added while enforcing goes again only when it is known that no MX host needs it."""
    added = changed.plan.added if changed.plan and changed.domain.current.mode.value == "enforce" else ()
    return ", once an inspection has seen that no MX host needs what was added" if added else ""


@click.command()
@domain_argument
@click.argument("wanted_mode", metavar="enforce|testing", type=click.Choice(["enforce", "testing"]))
@confirm_option
@force_option("Enforce though it is not ready; recorded.")
@common_options
def mode(
    policy_domain: "Domain",
    wanted_mode: str,
    confirm: str | None,
    forced: str,
    as_json: bool,
    config_file: Path,
    state_dir: Path | None,
) -> None:
    """Bring DOMAIN to enforce, or back to testing.

    testing is possible at any time and asks nothing; one that follows another domain so leaves it. enforce
    shows the readiness, asks to type the domain's name, and wants 14 days of testing and everything green. Exit 1:
    refused, not ready, or not confirmed; 3: could not check.
    """
    config = read_domain_config(config_file, state_dir)
    if wanted_mode == "testing":
        _to_testing(config, policy_domain, as_json=as_json)
    else:
        from stsguard.cli.domain_enforce import to_enforce

        to_enforce(config, policy_domain, confirm=confirm, forced=forced, as_json=as_json)


def _to_testing(config: "Config", policy_domain: "Domain", *, as_json: bool) -> None:
    from stsguard.app.domain_commands import to_testing

    changed = try_or_end(lambda: to_testing(config, policy_domain))
    if changed.was == changed.domain.stage:
        _print_in_testing(config, changed, as_json=as_json)
        return
    until = _held_until(changed)
    print_changed(
        config,
        changed,
        as_json,
        [f"{policy_domain} is in testing, max_age {max_age_text(changed.domain.current.max_age)}"],
        [
            "senders that fetch from now on hold no mail back; one that holds the enforcing policy may go by it "
            + (f"until {until}" if until else "until its max_age is over, unless it sees the new id before")
        ],
        f"stsguard domain mode {policy_domain} enforce, after 14 days",
    )


def _print_in_testing(config: "Config", changed: "Changed", *, as_json: bool) -> None:
    """It was in testing before; all that may have changed is that it follows nobody any more."""
    one = changed.domain
    told = [f"{one.policy_domain} is already in testing"]
    if changed.followed is not None:
        told.append(f"it no longer follows {changed.followed}, and keeps the mx that it has: {mx_text(one.current)}")
    print_changed(
        config,
        changed,
        as_json,
        told,
        ["no sender can hold mail back by what is served: in testing they deliver as ever, and report"],
        _follow_again(changed) or "nothing was changed",
    )


def _follow_again(changed: "Changed") -> str:
    """How a domain that has left its target comes to follow it again; empty where it followed nobody."""
    if changed.followed is None:
        return ""
    name = changed.domain.policy_domain
    return f"retire {name}, and when it is retired, stsguard domain add {name} --alias-of {changed.followed}"


@click.command(short_help="Begin the safe way out of MTA-STS for DOMAIN.")
@domain_argument
@confirm_option
@common_options
def retire(
    policy_domain: "Domain", confirm: str | None, as_json: bool, config_file: Path, state_dir: Path | None
) -> None:
    """Begin the safe way out of MTA-STS for DOMAIN: the only way to remove it.

    `mode: none` is served until every policy ever served has run out, then the record goes, then the policy host.
    Exit 1: refused, or not confirmed; 3: the database can't be used.
    """
    from stsguard.app.domain_commands import retire_domain
    from stsguard.app.domain_views import show_domain

    config = read_domain_config(config_file, state_dir)
    if try_or_end(lambda: show_domain(config, policy_domain)) is None:
        not_hosted(policy_domain)
    ask_for_name(policy_domain, confirm, f"retire {policy_domain}: senders will no longer demand TLS for its mail")
    changed = try_or_end(lambda: retire_domain(config, policy_domain))
    print_changed(
        config,
        changed,
        as_json,
        [
            f"{policy_domain} is retiring: mode none is served",
            *([f"it no longer follows {changed.followed}"] if changed.followed else []),
        ],
        [
            f"keep {changed.domain.policy_host}, its certificate and stsguard inbound as they are",
            f"senders may hold a policy until {instant(_held_at_least(changed))}, and longer if mode none is not",
            f"served everywhere right away; stsguard domain show {policy_domain} has the date when that is known",
        ],
        f"stsguard domain mode {policy_domain} testing"
        + (f", with a policy of its own: it does not follow {changed.followed} again" if changed.followed else ""),
    )


def ask_for_name(policy_domain: "Domain", confirm: str | None, what: str) -> None:
    """Go on only where the domain's name is typed, or given with --confirm."""
    from stsguard.names import Domain, NameInvalid

    typed = confirm if confirm is not None else _prompt(policy_domain, what)
    try:
        same = Domain.parse(typed.strip()) == policy_domain
    except NameInvalid:
        same = False
    if not same:
        fail(f"{typed.strip()!r} is not {policy_domain}; nothing was changed", EXIT_PROBLEM)


def _prompt(policy_domain: "Domain", what: str) -> str:
    if not sys.stdin.isatty() or click.get_current_context().params.get("as_json"):
        fail(f"this asks for the domain's name; give --confirm {policy_domain}. Nothing was changed", EXIT_PROBLEM)
    click.echo(what)
    return str(click.prompt("Type the domain's name to go on", default="", show_default=False))


def _held_at_least(changed: "Changed") -> datetime:
    """Until when a sender may hold some policy, if the current one is served everywhere this moment."""
    return max(
        changed.domain.held_until(version) or changed.now + timedelta(seconds=version.max_age)
        for version in changed.domain.versions[:-1]
    )


def _held_until(changed: "Changed") -> str:
    until = [changed.domain.held_until(version) for version in changed.domain.versions[:-1]]
    known = [at for at in until if at is not None]
    return instant(max(known)) if known and len(known) == len(until) else ""


def print_changed(
    config: "Config", changed: "Changed", as_json: bool, what: Sequence[str], safe: Sequence[str], undo: str
) -> None:
    """What was done, what comes next, what is safe today, and the way back."""
    if as_json:
        plan = _plain_plan(changed.plan) if changed.plan else None
        print_json(
            {
                **plain_domain(changed.domain, changed.step),
                "warnings": list(changed.warnings),
                "plan": plan,
                "safe": list(safe),
                "undo": undo,
            }
        )
        return
    for line in what:
        click.echo(printable(line))
    for warning in changed.warnings:
        click.echo(printable(f"warning: {warning}"))
    if changed.plan is not None:
        _print_plan(changed.plan)
    for title, lines in (("next", next_lines(config, changed.domain, changed.step)), ("safe today", safe)):
        click.echo(f"\n{title}")
        for line in lines:
            click.echo(f"  {printable(line)}")
    click.echo(f"\nundo\n  {undo}")


def _print_plan(plan: "MxPlan") -> None:
    click.echo("\nplan")
    for number, step in enumerate(plan.steps, 1):
        click.echo(printable(f"  {number}. [{'safe now' if step.safe_now else 'not yet'}] {step.text}"))


def _print_plan_alone(changed: "Changed", as_json: bool) -> None:
    plan = changed.plan
    assert plan is not None  # noqa: S101 (narrows the type)
    if as_json:
        print_json({**_plain_plan(plan), "domain": changed.domain.policy_domain})
    elif not plan.steps:
        click.echo("these are the mx that it has; there is nothing to do")
    else:
        _print_plan(plan)
        if plan.refusal:
            click.echo(printable(f"not now: {plan.refusal}"))
            click.echo("\nnothing was changed, and without --plan it would be refused")
        else:
            click.echo("\nnothing was changed; without --plan the policy is changed, and DNS is left to you")
    if plan.refusal:
        raise click.exceptions.Exit(EXIT_PROBLEM)


def _plain_plan(plan: "MxPlan") -> dict[str, object]:
    return {
        "added": [str(pattern) for pattern in plan.added],
        "removed": [str(pattern) for pattern in plan.removed],
        "refusal": plan.refusal,
        "steps": [
            {"text": step.text, "from_at": stamp(step.from_at), "safe_now": step.safe_now} for step in plan.steps
        ],
    }
