"""`stsguard verify`: the MX hosts of a domain, probed now."""

from pathlib import Path

import click

from stsguard.cli.asking import (
    EXIT_PROBLEM,
    EXIT_UNREACHABLE,
    Plain,
    ask,
    fail,
    print_json,
    printable,
    read_config_to_ask,
    read_domain,
)
from stsguard.cli.options import daemon_options


@click.command()
@click.argument("domain")
@click.option("--standalone", is_flag=True, help="Probe from here, without the running daemon.")
@daemon_options
def verify(domain: str, standalone: bool, as_json: bool, config_file: Path, state_dir: Path | None) -> None:
    """Connect to each MX host of DOMAIN now, and check its TLS as RFC 8461 §4 and RFC 7672 §3 demand.

    Exit 0: all good; 1: a host fails, or the policy does not permit it; 3: could not check.
    """
    config = read_config_to_ask(config_file, state_dir)
    next_hop = read_domain(domain)
    if standalone and next_hop.host is not None:
        from stsguard.app.commands import verify_standalone
        from stsguard.core.errors import OperatorError

        try:
            found: Plain = verify_standalone(config, next_hop, next_hop.host)
        except OperatorError as exc:
            fail(str(exc), EXIT_UNREACHABLE)
    else:
        found = ask(config, "GET", "/verify", {"domain": domain}).content
    if as_json:
        print_json(found)
    else:
        _print(found)
    probes = found["probes"]
    if any(_bad(probe) for probe in probes):
        raise click.exceptions.Exit(EXIT_PROBLEM)
    # Postfix skips a host whose address or TLSA look-up failed (RFC 7672 §2.1.2): nothing good is known of it.
    failed = any(host["lookup_failed"] for host in found.get("not_probed", ()))
    if failed or not probes or all(probe["inconclusive"] for probe in probes):
        raise click.exceptions.Exit(EXIT_UNREACHABLE)


def _bad(probe: Plain) -> bool:
    if probe["inconclusive"]:
        return False
    # RFC 8461 §2, RFC 7672 §2.2: where there are usable TLSA records they decide, PKIX does not rescue or condemn.
    if probe["dane_matched"] is not None:
        return not probe["dane_matched"]
    return probe["result_type"] is not None or probe["permitted"] is False


def _verdict(probe: Plain) -> str:
    pkix = f"{probe['result_type']} {probe['failure_reason_code']}".rstrip()
    if probe["inconclusive"]:
        return f"could not check: {probe['failure_reason_code']}"
    match probe["dane_matched"]:
        case True:
            return "good" if probe["result_type"] is None else f"good by DANE, which alone counts (without it: {pkix})"
        case False:
            return "FAILS, no TLSA record matches"
    if probe["result_type"] is not None:
        return f"FAILS, {pkix}"
    return "good TLS, but the policy does not permit this host" if probe["permitted"] is False else "good"


def _print(found: Plain) -> None:
    if found.get("failed"):
        click.echo(f"{found['domain']}: MX look-up failed: {printable(found['failed'])}")
        return
    policy = found["policy"]
    mode = f"policy mode {policy['mode']}" if policy else "no policy"
    click.echo(f"{found['domain']}: {mode}")
    if found["null_mx"]:
        click.echo("  null MX: the domain accepts no mail (RFC 7505)")
    for probe in found["probes"]:
        _print_probe(probe)
    for host in found["not_probed"]:
        click.echo(f"  {host['mx_hostname']}: not probed, {printable(host['reason'])}")
    for name, reason in found.get("no_dane", {}).items():
        click.echo(f"\nDANE does not count here ({name}): {printable(reason)}")


def _print_probe(probe: Plain) -> None:
    click.echo(f"  {probe['mx_hostname']} [{probe['address']}]: {printable(_verdict(probe))}")
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
