"""Carries scenarios out: one run is a scenario on one Postfix, in a world of its own, step by step."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import assert_never
from urllib.parse import urlencode

from tests.lab.answers import answer_class
from tests.lab.daemon import Sessions, Settings, Stsguard
from tests.lab.lab import Lab
from tests.lab.maillog import Outcome
from tests.lab.namespace import LabFailed
from tests.lab.postfix import Message
from tests.lab.scenario_model import (
    MAIN_DAEMON,
    Answer,
    Command,
    DaemonAction,
    DecidedBy,
    Deliver,
    Demand,
    FetchFails,
    Flood,
    Publish,
    Retry,
    Scenario,
    Step,
)
from tests.lab.world import World

MAIN_PORT = 8461
EVENTUALLY_SECONDS = 150.0
FETCH_FAILURE_SECONDS = 30.0
COMMAND_SAYS_SECONDS = 30.0
GARBAGE = b"This is no database.\n" * 400
# Instances of the daemon beside the main one. Runs that stop or break their daemon have it for themselves.
SETTINGS: Mapping[str, Settings] = {
    MAIN_DAEMON: {"lookup": {"id_check": "1m"}},
    "observe": {"lookup": {"mode": "observe"}},
    "nodane": {"lookup": {"postfix_dane": "no"}},
    "impatient": {"dns": {"timeout": "2s"}, "policy_fetch": {"wait": "1s", "timeout": "5s"}},
    "small": {"lookup": {"cache_size": 1000}},
    "volatile": {},
}
NO_SESSIONS: Mapping[str, Sessions] = {}
ALONE = frozenset({"volatile", "small"})
_DSN = re.compile(r"\d\.\d{1,3}\.\d{1,3}")
_MX_NAME = re.compile(r"mx\d+")


@dataclass(frozen=True, slots=True)
class Version:
    """A Postfix of the lab's, as scenarios know it: whether it is the old one, and its map name."""

    postfix: str
    tag: str
    map_name: str

    @property
    def is_37(self) -> bool:
        """Whether the columns for 3.7 are its own."""
        return self.map_name == "policy"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one step. `log` is what was written meanwhile; `outcome` and `answer` where the step had one."""

    step: str
    expected: str
    got: str
    agrees: bool
    log: tuple[str, ...] = ()
    outcome: Outcome | None = None
    answer: str = ""


@dataclass(slots=True)
class RunResult:
    """What came of a run, step by step; the last step is the one at which it disagreed, if it did."""

    scenario: Scenario
    version: Version
    domain: str
    steps: list[StepResult] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether all came as expected."""
        return all(step.agrees for step in self.steps)

    @property
    def outcome(self) -> Outcome | None:
        """How the last delivery attempt ended."""
        return next((step.outcome for step in reversed(self.steps) if step.outcome is not None), None)

    @property
    def answer(self) -> str:
        """What the daemon answered last."""
        return next((step.answer for step in reversed(self.steps) if step.answer), "")

    @property
    def fulfils_the_rfc(self) -> bool:
        """Whether that attempt is what the RFC demands."""
        return self.outcome is not None and fulfils(self.scenario.demand, self.outcome)

    def __str__(self) -> str:
        lines = [f"{self.scenario.name} on {self.version.postfix}, {self.domain}: {self.scenario.says}"]
        for step in self.steps:
            mark = "agrees" if step.agrees else "DISAGREES"
            lines.append(f"  {step.step}: expected {step.expected}, got {step.got}: {mark}")
            if not step.agrees:
                lines += [f"      {line}" for line in step.log]
        return "\n".join(lines)


def fulfils(demand: Demand, outcome: Outcome) -> bool:
    """Whether a delivery attempt that ended so is what the RFC demands."""
    match demand:
        case Demand.DELIVER_VERIFIED:
            return outcome.status == "sent" and outcome.tls == "Verified"
        case Demand.DELIVER:
            return outcome.status == "sent"
        case Demand.WITHHOLD:
            return outcome.status == "deferred"
        case Demand.BOUNCE:
            return outcome.status == "bounced"
        case _:
            assert_never(demand)


class Campaign:
    """Runs of scenarios in one lab. All worlds are published at once by `prepare`; runs may go on side by side."""

    def __init__(
        self,
        lab: Lab,
        scenarios: Iterable[Scenario],
        versions: Iterable[Version],
        *,
        settings: Mapping[str, Settings] = SETTINGS,
        sessions: Mapping[str, Sessions] = NO_SESSIONS,
        only: Callable[[Scenario, Version], bool] = lambda _scenario, _version: True,
        label: str = "",
        port: int = MAIN_PORT,
    ) -> None:
        """Describe them. `settings` are those of each daemon by name, `sessions` is what it hears. `only` says which of
        all runs there are; `label` and the first `port` of its daemons tell a campaign from another in the lab."""
        self._lab = lab
        self._settings = settings
        self._label = label
        self._port = port
        self._sessions = sessions
        self._versions = tuple(versions)
        self._worlds = {
            (scenario.name, version.postfix): World(lab, scenario, version.tag)
            for scenario in scenarios
            for version in self._versions
            if only(scenario, version)
        }
        self._daemons: dict[str, Stsguard] = {}
        self._locks = {name: asyncio.Lock() for name in settings}

    async def prepare(self) -> None:
        """Publish what all runs begin with."""
        for world in self._worlds.values():
            await world.publish(world.scenario.publication)
        await self._lab.dns.publish()
        for version in self._versions:
            nexthops = {
                world.domain: world.fill(world.scenario.nexthop)
                for (_, postfix), world in self._worlds.items()
                if postfix == version.postfix and world.scenario.nexthop
            }
            if nexthops:
                await self._lab.postfix[version.postfix].route(nexthops)
        for number, name in enumerate(self._settings):
            self._daemons[name] = Stsguard(
                self._lab.namespace,
                name,
                port=self._port + number,
                label=self._label,
                queues=[self._lab.postfix[version.postfix].queue for version in self._versions],
                ca_file=self._lab.ca_file,
                overrides=self._overrides(name),
                settings=self._settings[name],
                sessions=self._sessions.get(name, ()),
            )

    def daemon(self, name: str = MAIN_DAEMON) -> Stsguard:
        """An instance of the daemon; it runs once a scenario has needed it."""
        return self._daemons[name]

    def world(self, scenario: str, postfix: str) -> World:
        """The names of the run of this scenario on this Postfix."""
        return self._worlds[scenario, postfix]

    async def start(self, daemon: str = MAIN_DAEMON) -> None:
        """Start an instance of the daemon before a run needs it."""
        await self._started(daemon)

    async def run(self, scenario: Scenario, version: Version) -> RunResult:
        """Carry out one run up to its end, or to the first step that disagrees."""
        world = self._worlds[scenario.name, version.postfix]
        result = RunResult(scenario, version, world.domain)
        started = time.monotonic()
        async with AsyncExitStack() as stack:
            if scenario.daemon in ALONE:
                await stack.enter_async_context(self._locks[scenario.daemon])
            daemon = await self._started(scenario.daemon)
            run = _Run(self._lab, world, version, daemon)
            try:
                for step in scenario.all_steps():
                    result.steps.append(await run.carry_out(step))
                    if not result.agrees:
                        break
            except LabFailed as exc:
                result.steps.append(StepResult(str(step), "no failure", str(exc), agrees=False))
            finally:
                await run.clean_up()
        result.seconds = time.monotonic() - started
        return result

    async def stop(self) -> None:
        """Stop all daemons."""
        await asyncio.gather(*(daemon.stop() for daemon in self._daemons.values() if daemon.running))

    async def _started(self, name: str) -> Stsguard:
        daemon = self._daemons[name]
        if name in ALONE:  # its lock is held
            if not daemon.running:
                await daemon.start()
        else:
            async with self._locks[name]:
                if not daemon.running:
                    await daemon.start()
        return daemon

    def _overrides(self, daemon: str) -> str:
        texts = [
            world.fill(world.scenario.overrides)
            for world in self._worlds.values()
            if world.scenario.daemon == daemon and world.scenario.overrides
        ]
        return "\n".join(texts)


class _Run:
    def __init__(self, lab: Lab, world: World, version: Version, daemon: Stsguard) -> None:
        self._lab = lab
        self._world = world
        self._version = version
        self._daemon = daemon
        self._postfix = lab.postfix[version.postfix]
        self._message: Message | None = None
        self._store_is_broken = False
        self._asked = "{domain}"

    async def carry_out(self, step: Step) -> StepResult:
        """Do one step and say what came of it."""
        match step:
            case Deliver():
                return await self._deliver(step)
            case Retry():
                return await self._retry(step)
            case Answer():
                return await self._ask(step)
            case Publish():
                await self._world.publish(step.publication)
                await self._lab.dns.publish()
                return _done("publish")
            case Command():
                return await self._command(step)
            case Flood():
                domains = [f"{number}.flood.{self._world.domain}" for number in range(step.count)]
                await self._daemon.flood(domains)
                return _done(f"look {step.count} other domains up")
            case DaemonAction():
                return await self._act(step)
            case DecidedBy():
                query = urlencode({"domain": self._world.fill(self._asked)})
                found = await self._daemon.ask_admin(f"/lookup?{query}")
                row = str(found["decision"]["row"])
                return StepResult("the row of the decision table", step.row.text, row, row == step.row.text)
            case FetchFails():
                return await self._look_for_fetch_failure(step)
            case _:
                assert_never(step)

    async def clean_up(self) -> None:
        """Leave the daemon as the next run expects it."""
        if self._store_is_broken:
            await self._daemon.stop()
            self._mend_store()

    async def _deliver(self, step: Deliver) -> StepResult:
        domain = self._world.fill(step.recipient_domain)
        self._message = await self._postfix.send(domain)
        outcome = await self._postfix.outcome(self._message)
        return self._compare(f"deliver to {domain}", self._of_version(step.outcome, step.on_37), outcome)

    async def _retry(self, step: Retry) -> StepResult:
        assert self._message is not None, "a Retry follows a Deliver"
        outcome = await self._postfix.retry(self._message)
        return self._compare("retry", self._of_version(step.outcome, step.on_37), outcome)

    def _of_version(self, text: str, on_37: str) -> str:
        return on_37 if on_37 and self._version.is_37 else text

    def _compare(self, step: str, expected: str, outcome: Outcome) -> StepResult:
        assert self._message is not None
        agrees = all(self._holds(word, outcome) for word in expected.split())
        got = f"{outcome} by {outcome.relay}"
        accepted = self._lab.mx.with_subject(self._message.subject)
        if outcome.status == "sent":
            # What the MX host saw has to be what Postfix says, and a verified host was asked for by its name
            # (RFC 8461 §7.1, RFC 7672 §8.1).
            relay = outcome.relay.partition("[")[0]
            seen = [(message.hostname, message.tls) for message in accepted]
            named = outcome.tls != "Verified" or self._world.has_alias or [relay] == [m.sni for m in accepted]
            if seen != [(relay, outcome.tls is not None)] or not named:
                agrees, got = False, f"{got}; the MX hosts saw {accepted}"
        elif accepted:
            agrees, got = False, f"{got}; yet accepted: {accepted}"
        return StepResult(step, expected, got, agrees, (*outcome.lines, *self._daemon_lines()), outcome)

    def _holds(self, word: str, outcome: Outcome) -> bool:
        match word:
            case "any":
                return outcome.status in ("sent", "deferred")
            case "sent" | "deferred" | "bounced":
                return outcome.status == word
            case "Verified" | "Trusted" | "Untrusted" | "Anonymous":
                return outcome.tls == word
            case "TLS":
                return outcome.tls is not None
            case "plaintext":
                return outcome.tls is None
        if _DSN.fullmatch(word):
            return outcome.dsn == word
        if _MX_NAME.fullmatch(word):
            return outcome.relay.partition("[")[0] == self._world.mx_hostname(word)
        raise ValueError(f"{word!r} is no expectation of an outcome")

    async def _ask(self, step: Answer) -> StepResult:
        self._asked = step.key
        key = self._world.fill(step.key)
        expected = self._world.fill(self._of_version(step.answer, step.on_37))
        limit = time.monotonic() + (EVENTUALLY_SECONDS if step.eventually else 0)
        while True:
            reply = await self._daemon.lookup(key, self._version.map_name)
            got = answer_class(
                reply,
                tlsrpt=not self._version.is_37,
                policy_domain=self._world.domain,
                hosts={self._world.mx_hostname(name): name for name in self._world.mx_names()},
            )
            if got == expected or time.monotonic() > limit:
                log = (reply[:1000], *self._daemon_lines())
                return StepResult(f"ask for {key}", expected, got, got == expected, log, answer=got)
            await asyncio.sleep(0.2)

    async def _look_for_fetch_failure(self, step: FetchFails) -> StepResult:
        limit = time.monotonic() + FETCH_FAILURE_SECONDS
        while True:
            lines = [line for line in self._daemon.log().splitlines() if "policy fetch failed" in line]
            mine = [line for line in lines if f"policy_domain={self._world.domain} " in line]
            agrees = any(f" reason={step.reason.code} " in f"{line} " for line in mine)
            if agrees or time.monotonic() > limit:
                return StepResult("the reason of the failed fetch", step.reason.code, "\n".join(mine), agrees)
            await asyncio.sleep(0.2)

    async def _command(self, step: Command) -> StepResult:
        arguments = [self._world.fill(argument) for argument in step.arguments]
        says = self._world.fill(step.says)
        limit = time.monotonic() + COMMAND_SAYS_SECONDS
        while True:
            done = await self._daemon.command(*arguments)
            said = (done.stdout + done.stderr).strip()
            expected, got = f"exit {step.exit_status}", f"exit {done.returncode}"
            if says in said or time.monotonic() > limit:
                agrees = got == expected and says in said
                expected += f" and {says!r}" if says else ""
                return StepResult(" ".join(["stsguard", *arguments]), expected, f"{got}: {said}", agrees)
            await asyncio.sleep(0.2)

    async def _act(self, step: DaemonAction) -> StepResult:
        match step:
            case DaemonAction.STOP:
                status = await self._daemon.stop()
                return StepResult("stop the daemon", "exit 0", f"exit {status}", status == 0)
            case DaemonAction.KILL:
                await self._daemon.kill()
            case DaemonAction.START:
                await self._daemon.start()
            case DaemonAction.BREAK_STORE:
                self._break_store()
            case DaemonAction.CHECK_BROKEN_STORE:
                kept = self._lab.outside(self._daemon.database).read_bytes() == GARBAGE
                return StepResult("look at the broken store", "unchanged", "unchanged" if kept else "changed", kept)
            case DaemonAction.MEND_STORE:
                self._mend_store()
            case _:
                assert_never(step)
        return _done(f"{step.value} the daemon")

    def _break_store(self) -> None:
        self._store_is_broken = True
        database = self._lab.outside(self._daemon.database)
        for side_file in database.parent.glob(f"{database.name}-*"):
            side_file.unlink()
        database.write_bytes(GARBAGE)

    def _mend_store(self) -> None:
        self._store_is_broken = False
        self._lab.outside(self._daemon.database).unlink(missing_ok=True)

    def _daemon_lines(self) -> tuple[str, ...]:
        mine = [line for line in self._daemon.log().splitlines() if self._world.label in line]
        return tuple(f"stsguard: {line}" for line in mine[-12:])


def _done(step: str) -> StepResult:
    return StepResult(step, "done", "done", agrees=True)
