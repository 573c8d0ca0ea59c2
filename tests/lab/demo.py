"""`make demo`: what stsguard makes a real Postfix do, for destinations good and bad, beside what the RFCs demand, and
what it reports of it, beside what Postfix alone would have reported. These reports are mailed, taken in and added up.
Then a domain of our own: added, served with a certificate by ACME, and brought to enforce.

All is real and nothing leaves the machine: a private namespace with signed DNS, a validating resolver, an HTTPS policy
host, MX servers, `stsguard outbound`, and this system's Postfix with a configuration and a queue of its own. Exit
status: 0 all agree, 1 something does not, 2 the demo can't run here.
"""

import asyncio
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tests.lab import hosting_demo, postfix, received_demo
from tests.lab.hosting import what_is_missing as what_hosting_misses
from tests.lab.hosting_demo import Story, hosting_story
from tests.lab.lab import Lab, PostfixPlan, what_is_missing
from tests.lab.maillog import Outcome
from tests.lab.namespace import LabFailed
from tests.lab.received_demo import Taken, taken_in
from tests.lab.report_cases import BY_SCENARIO
from tests.lab.reports import NOTHING, Heard, built_as_expected, postfix_alone
from tests.lab.runner import SETTINGS, Campaign, RunResult, Version
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
REPORT_COLUMNS = (("destination", 16), ("Postfix alone reports", 42), ("stsguard reports", 42), ("agree", 5))
REPORTS_LIMIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Shown:
    """What came of a destination: its delivery, and what the reports say, `alone` None where Postfix knows none."""

    run: RunResult
    reported: str
    alone: str | None

    @property
    def expected(self) -> str:
        """What the report has to say."""
        return " or ".join(BY_SCENARIO[self.run.scenario.name].expected(_heard(self.run.version)))

    @property
    def delivery_agrees(self) -> bool:
        """Whether the delivery was what the RFC demands."""
        return self.run.agrees and self.run.fulfils_the_rfc

    @property
    def report_agrees(self) -> bool:
        """Whether the report is the true one, and Postfix alone says what it is known to say."""
        known = self.alone is None or self.alone == BY_SCENARIO[self.run.scenario.name].alone
        return known and BY_SCENARIO[self.run.scenario.name].agrees(self.reported, _heard(self.run.version))

    @property
    def agrees(self) -> bool:
        """Whether all is as it has to be."""
        return self.delivery_agrees and self.report_agrees


def main() -> int:
    """Run the demo; returns the exit status."""
    missing = what_is_missing(*postfix.PROGRAMS) or what_hosting_misses()
    if missing:
        print(f"demo: {missing}", file=sys.stderr)
        return 2
    started = time.monotonic()

    def progress(text: str) -> None:
        print(f"demo: {time.monotonic() - started:4.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        results, taken, story = _results(progress)
    except LabFailed as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        progress("interrupted; everything is stopped")
        return 130
    print(_table(results))
    print(f"\nThe reports of today ({results[0].run.version.postfix} is heard by its log):\n\n{_report_table(results)}")
    if any(result.alone is None for result in results):
        print(f"\nThis Postfix ({results[0].run.version.postfix}) has no TLSRPT; in brackets what 3.10 alone reports.")
    print(f"\nTaken in a day later, by mail through Postfix and stsguard milter:\n\n{_taken_text(taken)}")
    print(f"\nA domain of our own, on a clock that the demo moves:\n\n{_story_table(story)}")
    disagreeing = [result for result in results if not result.agrees]
    for result in disagreeing:
        print(f"\n{result.run}\n  report: expected {result.expected}, got {result.reported}")
    verdict = "all agree" if not disagreeing else f"{len(disagreeing)} DISAGREE"
    hosted = "brought to enforce" if story.agrees else "NOT AS IT HAS TO BE"
    received = f"{taken.counted} reports taken in" if taken.agrees else f"of {taken.sent} REPORTS {taken.counted} COUNT"
    seconds = time.monotonic() - started
    print(f"\n{len(results)} destinations, {verdict}; {received}; a domain of our own, {hosted}; {seconds:.0f} s")
    return 1 if disagreeing or not taken.agrees or not story.agrees else 0


def _results(progress: Callable[[str], None]) -> tuple[list[Shown], Taken, Story]:
    version = _version()
    heard = _heard(version)
    scenarios = [replace(BY_NAME[name], daemon=MAIN_DAEMON) for name, _, _ in DESTINATIONS]
    progress(f"a namespace of its own: DNS, policy host, MX servers, Postfix {version.postfix}")
    plan = PostfixPlan(
        version.postfix,
        postfix.SYSTEM_ROOT,
        policy_map=f"socketmap:unix:stsguard/{MAIN_DAEMON}.sock:{version.map_name}",
        settings=heard.postfix_settings(),
        tlsrpt=not version.is_37,
        services=received_demo.services(),
    )
    with Lab([plan]) as lab:
        progress("publishing the destinations, starting stsguard")
        settings = {MAIN_DAEMON: {**SETTINGS[MAIN_DAEMON], **received_demo.REPORTS}}
        campaign = Campaign(lab, scenarios, [version], settings=settings, sessions={MAIN_DAEMON: [heard.section()]})

        async def run() -> list[Shown]:
            await campaign.prepare()
            await received_demo.prepare(
                lab, [campaign.world(scenario.name, version.postfix).domain for scenario in scenarios]
            )
            await campaign.start()
            progress("sending a message to each")
            try:
                runs = await asyncio.gather(*(one(scenario) for scenario in scenarios))
                progress("building the day's reports")
                return await report(runs)
            finally:
                await campaign.stop()

        async def one(scenario: Scenario) -> RunResult:
            result = await campaign.run(scenario, version)
            if result.outcome is not None:
                progress(f"{scenario.name}: {result.outcome.status}")
            return result

        async def report(runs: list[RunResult]) -> list[Shown]:
            agreeing = {run.domain: partial(BY_SCENARIO[run.scenario.name].agrees, heard=heard) for run in runs}
            reports = await built_as_expected(
                campaign.daemon(), lab.outside, agreeing, limit_seconds=REPORTS_LIMIT_SECONDS
            )
            recorder = lab.tlsrpt.get(version.postfix)
            return [
                Shown(
                    run,
                    reports.get(run.domain, NOTHING),
                    postfix_alone(recorder.of_domain(run.domain)) if recorder is not None else None,
                )
                for run in runs
            ]

        results = lab.call(run())
        taken = lab.call(taken_in(lab, campaign.daemon(), progress))
        progress("a domain of our own: its DNS, a CA, stsguard inbound")
        story = lab.call(hosting_story(lab, progress))
    progress("everything is stopped, and nothing of it is left")
    return results, taken, story


def _version() -> Version:
    text = subprocess.run(
        ["postconf", "-d", "-h", "mail_version"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    numbers = tuple(int(number) for number in text.split(".")[:2] if number.isdigit())
    return Version(text, "demo", "policy-tlsrpt" if numbers >= FIRST_WITH_TLSRPT else "policy")


def _heard(version: Version) -> Heard:
    return Heard(version, by_datagram=False, by_log=True)


def _report_table(results: list[Shown]) -> str:
    rows = []
    for result, (_, name, _) in zip(results, DESTINATIONS, strict=True):
        known = BY_SCENARIO[result.run.scenario.name].alone
        unheard = NOTHING if known == NOTHING else f"{NOTHING} [{known}]"
        alone = result.alone if result.alone is not None else unheard
        rows.append((name, alone, result.reported, "yes" if result.report_agrees else "NO"))
    return _columns(rows, REPORT_COLUMNS)


def _table(results: list[Shown]) -> str:
    rows = []
    for shown, (_, name, says) in zip(results, DESTINATIONS, strict=True):
        result = shown.run
        scenario = result.scenario
        rows.append(
            (
                name,
                says,
                result.answer.replace("secure -", "secure, no host"),
                _did(result.outcome),
                f"{scenario.demand}\n{scenario.section}",
                "yes" if shown.delivery_agrees else "NO",
            )
        )
    return _columns(rows, COLUMNS)


def _taken_text(taken: Taken) -> str:
    sent = f"{taken.sent} reports sent, of {taken.sessions} sessions; stsguard received summary:"
    return f"{sent}\n\n{textwrap.indent(taken.summary.strip(), '  ')}"


def _story_table(story: Story) -> str:
    table = _columns([moment.row() for moment in story.moments], hosting_demo.COLUMNS)
    ready = textwrap.indent(story.readiness.strip(), "  ")
    return f"{table}\n\nThe certificate: {story.issuer}\nstsguard domain readiness, before enforce:\n{ready}"


def _columns(rows: Sequence[tuple[str, ...]], columns: Sequence[tuple[str, int]]) -> str:
    head = [tuple(name for name, _ in columns), tuple("-" * width for _, width in columns)]
    return "\n".join(line for row in (*head, *rows) for line in _lines(row, [width for _, width in columns]))


def _did(outcome: Outcome | None) -> str:
    if outcome is None:
        return "nothing"
    if outcome.status == "sent":
        return "sent, " + (f"TLS {outcome.tls}" if outcome.tls else "plaintext")
    return f"{outcome.status} {outcome.dsn}\n{outcome.text.partition(', but')[0]}"


def _lines(row: tuple[str, ...], widths: Sequence[int]) -> list[str]:
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
