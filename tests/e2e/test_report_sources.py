"""What counts as one: a session over which several messages go, a line of the journal, an attempt without a session."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from stsguard.core.tlspolicy import Row
from tests.e2e.conftest import skip_without_lab
from tests.lab import journal
from tests.lab.chroots import BOOKWORM, TRIXIE
from tests.lab.lab import Lab, PostfixPlan
from tests.lab.maillog import Outcome
from tests.lab.reports import NOTHING, Heard, built, built_as_expected, today
from tests.lab.runner import MAIN_PORT, Campaign, Version
from tests.lab.scenario_model import MAIN_DAEMON, Demand, Mx, Publication, Scenario, Tlsa
from tests.lab.scenarios import BY_NAME

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

BUILT_LIMIT_SECONDS = 20.0
MESSAGES = 6
ATTEMPTS = 3
PROXY = {"smtp_tls_connection_reuse": "yes", "smtp_connection_cache_destinations": "static:all"}
SESSION_CACHE = {"smtp_tls_session_cache_database": "btree:$data_directory/smtp_scache"}
GOOD, BAD = BY_NAME["enforce-good"], BY_NAME["wrong-name"]
BOGUS = Scenario(
    "two-bogus",
    "the TLSA signatures of both MX hosts are broken",
    Demand.WITHHOLD,
    "RFC 8460 §4.3.2.1",
    Publication(signed=True, mx=(Mx(10, signed=True, tlsa=Tlsa.BOGUS), Mx(20, signed=True, tlsa=Tlsa.BOGUS))),
    "TEMP",
    "deferred 4.7.5",
    row=Row.NO_MX_LEFT,
)
PROXIED = Heard(Version("proxied", "proxied", "policy-tlsrpt"), by_datagram=True, by_log=True, settings=PROXY)
PROXIED_37 = Heard(Version("proxied-37", "proxied37", "policy"), by_datagram=False, by_log=True, settings=PROXY)
RESUMED = Heard(Version("resumed", "resumed", "policy-tlsrpt"), by_datagram=True, by_log=True, settings=SESSION_CACHE)
LOGGED_37 = Heard(Version("logged-37", "logged37", "policy"), by_datagram=False, by_log=True)
JOURNAL = Heard(Version("journal", "journal", "policy-tlsrpt"), by_datagram=False, by_log=True, from_journal=True)
UNLOGGED = Heard(Version("unlogged", "unlogged", "policy-tlsrpt"), by_datagram=True, by_log=False)
# Each daemon by itself: the one of the journal is killed, and without any log look-ups count.
GROUPS = {"logged": (PROXIED, PROXIED_37, RESUMED, LOGGED_37), "journal": (JOURNAL,), "unlogged": (UNLOGGED,)}
KEPT = (PROXIED, PROXIED_37, RESUMED)


@dataclass(frozen=True, slots=True)
class Came:
    """What came of the messages of one scenario through one instance, and what its report says."""

    outcomes: list[Outcome]
    reported: str


class _Group:
    """The instances that one daemon hears of, and the messages that go through them."""

    def __init__(self, lab: Lab, label: str, port: int) -> None:
        self._lab = lab
        self._heard = GROUPS[label]
        self._campaign = Campaign(
            lab,
            (GOOD, BAD, BOGUS),
            [each.version for each in self._heard],
            settings={MAIN_DAEMON: {}},
            sessions={MAIN_DAEMON: [each.section() for each in self._heard]},
            label=f"{label}-",
            port=port,
        )
        self._outcomes: dict[tuple[str, str], list[Outcome]] = {}

    async def start(self) -> None:
        await self._campaign.prepare()
        await self._campaign.start()

    def _domain(self, key: tuple[str, str]) -> str:
        return self._campaign.world(*key).domain

    async def deliver(self, scenario: Scenario, heard: Heard, messages: int = 1) -> None:
        """Send messages, one after the other."""
        key = scenario.name, heard.version.postfix
        for _ in range(messages):
            outcome = await self._lab.postfix[heard.version.postfix].deliver(self._domain(key))
            self._outcomes.setdefault(key, []).append(outcome)

    async def attempt(self, heard: Heard) -> None:
        """Send one message that can't be delivered, and try again and again, with an admin's look-ups in between."""
        key = BOGUS.name, heard.version.postfix
        postfix = self._lab.postfix[heard.version.postfix]
        message = await postfix.send(self._domain(key))
        outcomes = self._outcomes[key] = [await postfix.outcome(message)]
        while len(outcomes) < ATTEMPTS:
            done = await self._campaign.daemon().command("lookup", self._domain(key))
            assert "TEMP" in done.stdout, done
            outcomes.append(await postfix.retry(message))

    async def kill(self) -> None:
        """`kill -9` of the daemon, and the next one."""
        await self._campaign.daemon().kill()
        await self._campaign.start()

    async def report(self, *, final: bool = True) -> dict[tuple[str, str], Came]:
        """What the reports say as soon as they say what they have to, or when the time is over."""
        first_day = today()
        expected = {self._domain(key): _expected(key, outcomes) for key, outcomes in self._outcomes.items()}
        agreeing = {domain: text.__eq__ for domain, text in expected.items()}
        daemon = self._campaign.daemon()
        reports = await built_as_expected(daemon, self._lab.outside, agreeing, limit_seconds=BUILT_LIMIT_SECONDS)
        if final:  # whatever is counted twice is so by now, or when the daemon stops
            await self._campaign.stop()
            reports = await built(daemon, self._lab.outside, dict.fromkeys((first_day, today())))
        return {key: Came(each, reports.get(self._domain(key), NOTHING)) for key, each in self._outcomes.items()}


def _expected(key: tuple[str, str], outcomes: list[Outcome]) -> str:
    scenario, _ = key
    count = len(outcomes)
    if scenario == BOGUS.name:
        return "; ".join(
            [f"tlsa: {count} failed, dnssec-invalid x{count}"] * 2
        )  # one TLSA base domain for each MX host
    if scenario == BAD.name:
        return f"sts: {count} failed, certificate-host-mismatch" + (f" x{count}" if count > 1 else "")
    return f"sts: {_established(outcomes)} ok"


def _established(outcomes: list[Outcome]) -> int:
    return sum(" TLS connection established to " in line for outcome in outcomes for line in outcome.lines)


async def _carry_out(lab: Lab) -> dict[tuple[str, str], Came]:
    groups = {label: _Group(lab, label, MAIN_PORT + number) for number, label in enumerate(GROUPS)}
    for group in groups.values():
        await group.start()
    journalled, logged = groups["journal"], groups["logged"]

    async def by_journal() -> None:
        await journalled.deliver(GOOD, JOURNAL)
        await journalled.report(final=False)  # now a cursor is stored
        await journalled.deliver(BAD, JOURNAL)
        await journalled.kill()
        await journalled.deliver(GOOD, JOURNAL)
        await journalled.deliver(BAD, JOURNAL)
        await journalled.attempt(JOURNAL)

    await asyncio.gather(
        by_journal(),
        *(logged.deliver(GOOD, heard, MESSAGES) for heard in KEPT),
        *(logged.deliver(BAD, heard, 2) for heard in KEPT),
        logged.attempt(LOGGED_37),
        logged.attempt(RESUMED),
        groups["unlogged"].attempt(UNLOGGED),
    )
    reports = await asyncio.gather(*(group.report() for group in groups.values()))
    return {key: came for each in reports for key, came in each.items()}


def _plan(heard: Heard) -> PostfixPlan:
    version = heard.version
    return PostfixPlan(
        version.postfix,
        (BOOKWORM if version.is_37 else TRIXIE).path,
        policy_map=f"socketmap:unix:stsguard/{MAIN_DAEMON}.sock:{version.map_name}",
        settings=heard.postfix_settings(),
        tlsrpt=not (version.is_37 or heard.by_datagram),
        to_journal=heard.from_journal,
    )


@pytest.fixture(scope="module")
def came() -> Iterator[dict[tuple[str, str], Came]]:
    """What came of all, by scenario and instance."""
    skip_without_lab(*journal.PROGRAMS)
    with Lab([_plan(heard) for heards in GROUPS.values() for heard in heards]) as lab:
        yield lab.call(_carry_out(lab), limit_seconds=150)


@pytest.mark.parametrize("heard", KEPT, ids=lambda heard: heard.version.postfix)
def test_rfc8460_4_2_sessions_count_and_not_the_messages_that_go_over_them(
    came: dict[tuple[str, str], Came], heard: Heard
) -> None:
    found = came[GOOD.name, heard.version.postfix]
    assert [outcome.status for outcome in found.outcomes] == ["sent"] * MESSAGES
    established = _established(found.outcomes)
    # A resumed TLS session is a session; a TLS connection that is used again is none.
    assert established == MESSAGES if heard is RESUMED else 0 < established < MESSAGES
    assert found.reported == f"sts: {established} ok"


@pytest.mark.parametrize("heard", KEPT, ids=lambda heard: heard.version.postfix)
def test_a_failed_session_is_not_used_again(came: dict[tuple[str, str], Came], heard: Heard) -> None:
    assert came[BAD.name, heard.version.postfix].reported == "sts: 2 failed, certificate-host-mismatch x2"


def test_the_journal_is_a_source_and_outlives_kill_9(came: dict[tuple[str, str], Came]) -> None:
    assert came[GOOD.name, JOURNAL.version.postfix].reported == "sts: 2 ok"
    assert came[BAD.name, JOURNAL.version.postfix].reported == "sts: 2 failed, certificate-host-mismatch x2"


@pytest.mark.parametrize("heard", [RESUMED, LOGGED_37, JOURNAL, UNLOGGED], ids=lambda heard: heard.version.postfix)
def test_rfc8460_4_3_2_1_dnssec_invalid_counts_once_per_attempt_and_mx_host(
    came: dict[tuple[str, str], Came], heard: Heard
) -> None:
    found = came[BOGUS.name, heard.version.postfix]
    assert [outcome.dsn for outcome in found.outcomes] == ["4.7.5"] * ATTEMPTS
    assert found.reported == "; ".join([f"tlsa: {ATTEMPTS} failed, dnssec-invalid x{ATTEMPTS}"] * 2)
