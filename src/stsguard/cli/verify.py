"""`stsguard verify`: the MX hosts of a domain, probed now."""

from pathlib import Path

import click

from stsguard.cli.asking import EXIT_PROBLEM, EXIT_UNREACHABLE, Plain, ask, fail, print_json, printable, read_next_hop
from stsguard.cli.options import config_option, json_option, read_config


@click.command()
@click.argument("domain")
@click.option("--standalone", is_flag=True, help="Probe from here, without the running daemon.")
@json_option
@config_option
def verify(domain: str, standalone: bool, as_json: bool, config_file: Path) -> None:
    """Connect to each MX host of DOMAIN now, and check its TLS as RFC 8461 §4 and RFC 7672 §3 demand.

    Exit 0: all good; 1: a host fails, or the policy does not permit it; 3: could not check.
    """
    config = read_config(config_file)
    next_hop = read_next_hop(domain)
    if next_hop.host is None:
        raise click.UsageError(f"{domain!r} has no MX hosts")
    if standalone:
        from stsguard.app.commands import verify_standalone
        from stsguard.core.errors import OperatorError

        try:
            found: Plain = verify_standalone(config, next_hop, next_hop.host)
        except OperatorError as exc:
            fail(str(exc), EXIT_PROBLEM)
    else:
        found = ask(config, "GET", "/verify", {"domain": domain}).content
    if as_json:
        print_json(found)
    else:
        _print(found)
    probes = found["probes"]
    if any(_bad(probe) for probe in probes):
        raise click.exceptions.Exit(EXIT_PROBLEM)
    if not probes or all(probe["inconclusive"] for probe in probes):
        raise click.exceptions.Exit(EXIT_UNREACHABLE)


def _bad(probe: Plain) -> bool:
    if probe["inconclusive"]:
        return False
    # RFC 8461 §2, RFC 7672 §2.2: where there are usable TLSA records they decide, PKIX does not rescue or condemn.
    if probe["dane_matched"] is not None:
        return not probe["dane_matched"]
    return probe["result_type"] is not None or probe["permitted"] is False


def _print(found: Plain) -> None:
    if found.get("failed"):
        click.echo(f"{found['domain']}: MX look-up failed: {printable(found['failed'])}")
        return
    policy = found["policy"]
    mode = f"policy mode {policy['mode']}" if policy else "no policy"
    click.echo(f"{found['domain']}: {mode}")
    if not found["probes"]:
        click.echo("  no MX host with an address")
    for probe in found["probes"]:
        _print_probe(probe)


def _print_probe(probe: Plain) -> None:
    if probe["inconclusive"]:
        verdict = f"could not check: {probe['failure_reason_code']}"
    elif probe["result_type"] is None:
        verdict = "good"
    else:
        verdict = f"{probe['result_type']} {probe['failure_reason_code']}".rstrip()
    click.echo(f"  {probe['mx_hostname']} [{probe['address']}]: {printable(verdict)}")
    details = [
        probe["tls"],
        {True: "permitted by the policy", False: "NOT permitted by the policy", None: None}[probe["permitted"]],
        {True: "matches its TLSA records", False: "matches NO TLSA record", None: None}[probe["dane_matched"]],
    ]
    shown = [detail for detail in details if detail]
    if shown:
        click.echo(f"      {', '.join(shown)}")
    certificate = probe["certificate"]
    if certificate:
        names = ", ".join(certificate["san"]) or "no SAN"
        click.echo(
            f"      certificate for {printable(names)}, {certificate['not_before']} to {certificate['not_after']}"
        )
        click.echo(f"      subject {printable(certificate['subject'])}, issuer {printable(certificate['issuer'])}")
