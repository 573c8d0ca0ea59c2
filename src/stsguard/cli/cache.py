"""`stsguard cache`: the running daemon's policy cache."""

from pathlib import Path

import click

from stsguard.cli.asking import (
    EXIT_PROBLEM,
    Plain,
    ask,
    lifetime,
    print_fields,
    print_json,
    print_rows,
    read_config_to_ask,
    read_domain,
)
from stsguard.cli.options import daemon_options


@click.group()
def cache() -> None:
    """The policies that the running daemon holds."""


@cache.command("list", short_help="List the policies in force.")
@click.option("--would-defer", is_flag=True, help="Only what enforcement would defer now, with the reason.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="At most so many.")
@daemon_options
def list_(would_defer: bool, limit: int, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """List the policies in force, or with --would-defer the destinations to which mail would wait."""
    query = {"would_defer": "1"} if would_defer else {"limit": str(limit)}
    found = ask(read_config_to_ask(config_file, state_dir), "GET", "/cache", query).content
    rows: list[Plain] = found["rows"]  # type: ignore[assignment]  # the daemon's JSON
    if as_json:
        print_json(found)
    elif would_defer:
        _print_would_defer(rows)
    elif not rows:
        click.echo("no policy in the cache")
    else:
        print_rows(
            [
                (row["domain"], row["mode"], row["id"], lifetime(row["expires_in"]), " ".join(row["mx"]), _trouble(row))
                for row in rows
            ],
            ("domain", "mode", "id", "expires in", "mx", "refresh"),
        )
        if found["total"] != len(rows):
            click.echo(f"{len(rows)} of {found['total']}; --limit shows more")


def _print_would_defer(rows: list[Plain]) -> None:
    if not rows:
        click.echo("enforcement would defer nothing now, among the destinations asked for since the start")
        return
    print_rows(
        [(row["domain"], row["reply"], row["reason"]) for row in rows], ("domain", "reply", "why mail would wait")
    )


def _trouble(row: Plain) -> str:
    return f"failing: {row['refresh_failure']}" if row.get("refresh_failure") else f"in {lifetime(row['refresh_in'])}"


@cache.command()
@click.argument("domain")
@daemon_options
def show(domain: str, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Show what is cached for DOMAIN. Exit 1: nothing is."""
    read_domain(domain)
    answer = ask(read_config_to_ask(config_file, state_dir), "GET", "/cache/show", {"domain": domain})
    _print_one(answer.content, as_json=as_json)
    if answer.status == 404:
        raise click.exceptions.Exit(EXIT_PROBLEM)


@cache.command()
@click.argument("domain")
@daemon_options
def refresh(domain: str, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Fetch the policy of DOMAIN now. Exit 1: it could not be had; what was cached stays in force."""
    read_domain(domain)
    answer = ask(read_config_to_ask(config_file, state_dir), "POST", "/cache/refresh", {"domain": domain})
    _print_one(answer.content, as_json=as_json)
    if answer.status != 200:
        raise click.exceptions.Exit(EXIT_PROBLEM)


@cache.command(short_help="Forget all that is cached for DOMAIN.")
@click.argument("domain")
@daemon_options
def forget(domain: str, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Forget all that is cached for DOMAIN, also in the database; the next look-up starts afresh.

    This takes away the protection of a policy that can't be fetched now. `cache refresh` takes nothing away.
    """
    read_domain(domain)
    answer = ask(read_config_to_ask(config_file, state_dir), "POST", "/cache/forget", {"domain": domain})
    if as_json:
        print_json(answer.content)
    else:
        known = answer.content["forgotten"]
        click.echo(f"{answer.content['domain']}: {'forgotten' if known else 'nothing was cached'}")


def _print_one(found: Plain, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif "error" in found:
        click.echo(found["error"], err=True)
    else:
        shown = {name.replace("_", " "): value for name, value in found.items() if name != "policy_text"}
        shown |= {name: lifetime(shown[name]) for name in ("expires in", "refresh in") if name in shown}
        print_fields(shown)
        if found.get("policy_text"):
            click.echo("\nas served")
            for line in found["policy_text"]:
                print_fields({"": line})
