"""`make demo`: what stsguard makes a real Postfix do, for destinations good and bad, beside what the RFCs demand.

All is real and nothing leaves the machine: a private namespace with signed DNS, a validating resolver, an HTTPS policy
host, MX servers, `stsguard outbound`, and this system's Postfix with a configuration and a queue of its own. Exit
status: 0 all agree, 1 something does not, 2 the demo can't run here.
"""

import asyncio
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace

from tests.lab import postfix
from tests.lab.lab import Lab, PostfixPlan, what_is_missing
from tests.lab.maillog import Outcome
from tests.lab.namespace import LabFailed
from tests.lab.runner import Campaign, RunResult, Version
from tests.lab.scenario_model import MAIN_DAEMON, Scenario
from tests.lab.scenarios import BY_NAME

FIRST_WITH_TLSRPT = (3, 10)
# Scenario, what the demo calls it, and what its policy says in a few words.
DESTINATIONS = (
    ("enforce-good", "good", "enforce; the certificate is good"),
    ("wildcard-one-label", "wildcard", "enforce for *.…, the host is one below"),
    ("wrong-name", "wrong name", "enforce; certificate for another name"),
    ("expired", "expired", "enforce; expired certificate"),
    ("self-signed", "self-signed", "enforce; self-signed certificate"),
    ("no-starttls", "no STARTTLS", "enforce; the host has no STARTTLS"),
    ("spoofed-mx", "foreign MX", "enforce; DNS names a foreign MX host"),
    ("spoofed-mx-beside-good", "foreign MX first", "enforce; a foreign MX host comes first"),
    ("testing-bad-certificate", "testing", "testing; expired certificate"),
    ("none-mode", "none", "none; self-signed certificate"),
    ("no-record", "no policy", "no policy; self-signed certificate"),
    ("fetch-certificate-not-trusted", "policy host bad", "policy host's certificate not trusted"),
    ("dane-all-enforce", "DANE good", "enforce, and TLSA that matches"),
    ("dane-mismatch-enforce", "DANE mismatch", "enforce met, TLSA does not match"),
    ("tlsa-bogus-everywhere", "DANE bogus", "enforce met, TLSA signature broken"),
)
COLUMNS = (
    ("destination", 16),
    ("what the policy says", 38),
    ("stsguard says", 15),
    ("Postfix did", 31),
    ("the RFC demands", 17),
    ("agree", 5),
)


def main() -> int:
    """Run the demo; returns the exit status."""
    missing = what_is_missing(*postfix.PROGRAMS)
    if missing:
        print(f"demo: {missing}", file=sys.stderr)
        return 2
    started = time.monotonic()

    def progress(text: str) -> None:
        print(f"demo: {time.monotonic() - started:4.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        results = _results(progress)
    except LabFailed as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        progress("interrupted; everything is stopped")
        return 130
    print(_table(results))
    disagreeing = [result for result in results if not _agrees(result)]
    for result in disagreeing:
        print(f"\n{result}")
    verdict = "all agree" if not disagreeing else f"{len(disagreeing)} DISAGREE"
    print(f"\n{len(results)} destinations, {verdict}, {time.monotonic() - started:.0f} s")
    return 1 if disagreeing else 0


def _results(progress: Callable[[str], None]) -> list[RunResult]:
    version = _version()
    scenarios = [replace(BY_NAME[name], daemon=MAIN_DAEMON) for name, _, _ in DESTINATIONS]
    progress(f"a namespace of its own: DNS, policy host, MX servers, Postfix {version.postfix}")
    plan = PostfixPlan(
        version.postfix,
        postfix.SYSTEM_ROOT,
        policy_map=f"socketmap:unix:stsguard/{MAIN_DAEMON}.sock:{version.map_name}",
    )
    with Lab([plan]) as lab:
        progress("publishing the destinations, starting stsguard")
        campaign = Campaign(lab, scenarios, [version])

        async def run() -> list[RunResult]:
            await campaign.prepare()
            await campaign.start()
            progress("sending a message to each")
            try:
                return await asyncio.gather(*(one(scenario) for scenario in scenarios))
            finally:
                await campaign.stop()

        async def one(scenario: Scenario) -> RunResult:
            result = await campaign.run(scenario, version)
            if result.outcome is not None:
                progress(f"{scenario.name}: {result.outcome.status}")
            return result

        results = lab.call(run())
    progress("everything is stopped, and nothing of it is left")
    return results


def _version() -> Version:
    text = subprocess.run(
        ["postconf", "-d", "-h", "mail_version"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    numbers = tuple(int(number) for number in text.split(".")[:2] if number.isdigit())
    return Version(text, "demo", "policy-tlsrpt" if numbers >= FIRST_WITH_TLSRPT else "policy")


def _agrees(result: RunResult) -> bool:
    return result.agrees and result.fulfils_the_rfc


def _table(results: list[RunResult]) -> str:
    rows = [tuple(name for name, _ in COLUMNS), tuple("-" * width for _, width in COLUMNS)]
    for result, (_, name, says) in zip(results, DESTINATIONS, strict=True):
        scenario = result.scenario
        rows.append(
            (
                name,
                says,
                result.answer.replace("secure -", "secure, no host"),
                _did(result.outcome),
                f"{scenario.demand}\n{scenario.section}",
                "yes" if _agrees(result) else "NO",
            )
        )
    return "\n".join(line for row in rows for line in _lines(row))


def _did(outcome: Outcome | None) -> str:
    if outcome is None:
        return "nothing"
    if outcome.status == "sent":
        return "sent, " + (f"TLS {outcome.tls}" if outcome.tls else "plaintext")
    return f"{outcome.status} {outcome.dsn}\n{outcome.text.partition(', but')[0]}"


def _lines(row: tuple[str, ...]) -> list[str]:
    widths = [width for _, width in COLUMNS]
    cells = [
        [line for text in cell.split("\n") for line in textwrap.wrap(text, width) or [""]]
        for cell, width in zip(row, widths, strict=True)
    ]
    height = max(map(len, cells))
    padded = [cell + [""] * (height - len(cell)) for cell in cells]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*padded, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
