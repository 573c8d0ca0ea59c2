"""`stsguard lookup`: the reply that Postfix gets for a next hop, and why."""

from pathlib import Path

import click

from stsguard.cli.asking import (
    EXIT_PROBLEM,
    EXIT_UNREACHABLE,
    Plain,
    ask,
    fail,
    lifetime,
    print_fields,
    print_json,
    print_rows,
    printable,
    read_config_to_ask,
    read_next_hop,
)
from stsguard.cli.options import daemon_options


@click.command()
@click.argument("domain")
@click.option("--explain", is_flag=True, help="Show every step with its time.")
@click.option("--standalone", is_flag=True, help="Look up without the running daemon and its cache.")
@daemon_options
def lookup(
    domain: str, *, explain: bool, standalone: bool, as_json: bool, config_file: Path, state_dir: Path | None
) -> None:
    """Show what Postfix is answered for DOMAIN (or DOMAIN:PORT), with the row of the decision table that gave it.

    Exit 0: nothing is known that holds mail up; 1: it waits (TEMP, no MX host is permitted, or none passes our own
    verification); 3: it can't be found out.
    """
    from stsguard.core.errors import OperatorError

    config = read_config_to_ask(config_file, state_dir)
    next_hop = read_next_hop(domain)
    if standalone and next_hop.kind.value == "domain" and next_hop.host is not None:
        from stsguard.app.commands import lookup_standalone

        try:
            found: Plain = lookup_standalone(config, next_hop, next_hop.host)
        except OperatorError as exc:
            fail(str(exc), EXIT_UNREACHABLE)
    else:
        query = {"domain": domain, "explain": "1" if explain else ""}
        found = ask(config, "GET", "/lookup", query).content
    if as_json:
        print_json(found)
    elif "decision" not in found:
        _print_without_lookup(domain, found)
    else:
        _print(found, explain=explain)
    if found.get("would_defer") and found["mode"] == "enforce":
        raise click.exceptions.Exit(EXIT_PROBLEM)


def _print_without_lookup(domain: str, found: Plain) -> None:
    click.echo(f"{printable(domain)}: {found.get('note')}")
    print_fields(found.get("replies", {}), indent=2)


def _print(found: Plain, *, explain: bool) -> None:
    decision, sts = found["decision"], found["sts"]
    port = f":{found['port']}" if found["port"] != 25 else ""
    click.echo(f"{found['domain']}{port}\n")
    click.echo("Postfix is answered")
    print_fields(found["replies"], indent=2)
    if found["mode"] == "observe":
        click.echo("  (observe mode; enforcement would answer)")
        print_fields(found["enforce_replies"], indent=2)
    click.echo("\nbecause")
    print_fields(
        {
            "row": decision["row"],
            "demanded by": decision["section"],
            "reason": decision["reason"],
            "left out": decision["left_out"],
            "mail waits" if found["mode"] == "enforce" else "mail would wait": found.get("would_defer"),
            "override": _override(found.get("override")),
            "expired": _expired(found.get("expired_override")),
            "decided": _decided(found),
        },
        indent=2,
    )
    click.echo("\nMTA-STS")
    _print_sts(found, sts)
    click.echo("\nMX hosts")
    _print_mx(found["mx"])
    for name, reason in found.get("no_dane", {}).items():
        click.echo(f"\nDANE does not count here ({name}): {printable(reason)}")
    if found.get("standalone"):
        click.echo("\nLooked up without the daemon: a policy that it has cached is not known here.")
    if explain and found.get("steps"):
        click.echo("\nSteps")
        rows = [
            (f"{step['at_ms']:.1f}", f"{step['ms']:.1f}", step["step"], step["subject"], step["outcome"])
            for step in found["steps"]
        ]
        print_rows(rows, ("at ms", "took ms", "step", "of", "outcome"))
        fresh = found.get("fresh")
        if fresh and fresh["decision"] != decision:
            click.echo(
                f"\nDecided anew it would be: {printable(fresh['decision']['reply'])}, {fresh['decision']['row']}"
            )


def _override(override: Plain | None) -> str:
    if not override:
        return ""
    reason = f" ({override['reason']})" if override["reason"] else ""
    until = f", until {override['expires']}" if override["expires"] else ""
    return f"{override['entry']} {override['kind']}{reason}{until}"


def _expired(override: Plain | None) -> str:
    if not override:
        return ""
    reason = f" ({override['reason']})" if override["reason"] else ""
    what = f"the override {override['entry']} {override['kind']}{reason}"
    return f"{what} holds no more since {override['expires']}: give it another date, or take it out of the file"


def _decided(found: Plain) -> str:
    if "expires_in" not in found:
        return str(found["decided_at"])
    return f"{found['decided_at']}, holds for {found['expires_in']} s more"


def _print_sts(found: Plain, sts: Plain) -> None:
    policy = found.get("policy") or sts.get("policy") or {}
    print_fields(
        {
            "state": "unknown, the look-up of its record failed" if sts.get("lookup_failed") else sts["status"],
            "detail": sts["detail"],
            "mode": policy.get("mode"),
            "mx": policy.get("mx"),
            "max_age": policy.get("max_age"),
            "id": policy.get("id"),
            "fetched": policy.get("fetched_at"),
            "expires in": policy.get("expires_in") and lifetime(policy["expires_in"]),
            "refresh": policy.get("refresh_failure") and f"failing: {policy['refresh_failure']}",
            "warnings": policy.get("warnings"),
        },
        indent=2,
    )


def _print_mx(mx: Plain) -> None:
    if mx.get("skipped"):
        click.echo(f"  {mx['skipped']}")
        return
    if mx.get("failed"):
        click.echo(f"  look-up failed: {printable(mx['detail'])}")
        return
    if mx.get("null_mx"):
        click.echo("  null MX: the domain accepts no mail (RFC 7505)")
        return
    secure = "secure" if mx["secure"] else "insecure"
    click.echo(
        f"  {'no MX records, the domain itself' if mx['implicit'] else 'MX records'}, {secure}, ttl {mx['ttl']} s"
    )
    rows = [
        (
            f"  {host['preference']}",
            host["mx_hostname"],
            host["tlsa_status"],
            ", ".join(host["addresses"]) or host["detail"],
            "; ".join(_verdict(probe) for probe in host["verification"]) or "not probed yet",
        )
        for host in mx["hosts"]
    ]
    if rows:
        print_rows(rows, ("  pref", "host", "TLSA", "addresses", "our own verification"))


def _verdict(probe: Plain) -> str:
    if probe["inconclusive"]:
        return f"{probe['address']}: nothing learnt, {probe['failure_reason_code']}"
    if probe["dane_matched"] is False:
        return f"{probe['address']}: no TLSA record matches"
    if probe["result_type"] is None:
        return f"{probe['address']}: good"
    return f"{probe['address']}: {probe['result_type']} {probe['failure_reason_code']}".rstrip()
