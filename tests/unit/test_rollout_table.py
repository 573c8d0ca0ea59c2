"""No sequence of allowed operations harms a sender, in a world of lagging addresses, senders that hold policies, and
DNS (RFC 8461 §3.2, §8.2, §8.3); every operation is refused from every stage that the table does not have."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stsguard.core.errors import TransitionRefused
from stsguard.core.hosted import HostedDomain, Stage
from stsguard.core.mtasts import Mode
from stsguard.core.readiness import ItemState, Readiness, ReadinessItem
from stsguard.core.rollout import LivePolicy, adopt, back_to_testing, edit_mx, enforce, is_served, retire
from stsguard.core.rollout_evidence import (
    grow,
    not_served,
    published,
    quiet,
    record_back,
    record_gone,
    record_ttl_seen,
    served,
    stop_serving,
)
from stsguard.core.rollout_plan import DnsMx
from stsguard.core.rollout_steps import Action, next_step
from stsguard.core.rollout_table import ALLOWED, Operation, check
from tests.unit.lives import DAY, DOMAIN, HOUR, MX, NOW, added, patterns

CAP = 30 * 86_400
TTL = 3600


class Life(RuleBasedStateMachine):
    """`held` is until when senders hold policies; `none` binds nobody, so it is left out. Each of two addresses serves
    the version of that number, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.domain: HostedDomain = added()
        self.addresses: list[int | None] = [None, None]
        self.record: str | None = None
        self.record_cached_until = NOW
        self.held: list[datetime] = []

    def ask(self, operation: str, ready: bool) -> None:
        readiness = Readiness((ReadinessItem("x", ItemState.OK if ready else ItemState.FAILED, "x"),))
        force = "" if ready else "asked for"
        if operation == "edit":
            mx = MX if self.domain.current.mx_patterns != MX else patterns("mx3.example.com")
            self.domain = edit_mx(self.domain, mx, DnsMx(), self.now, dns_ids=self.ids(), forced="asked for")[0]
        elif operation == "enforce":
            self.domain = enforce(self.domain, readiness, self.now, first_max_age=604_800, forced=force)[0]
        elif operation == "testing":
            self.domain = back_to_testing(self.domain, self.now, dns_ids=self.ids())[0]
        elif operation == "retire":
            self.domain = retire(self.domain, self.now, dns_ids=self.ids())[0]
        else:
            again = LivePolicy(record_id=self.record)
            self.domain = adopt(DOMAIN, again, self.now, mx_patterns=MX, retired=self.domain)[0]

    def ids(self) -> list[str]:
        return [self.record] if self.record else []

    @rule(
        operation=st.sampled_from(["edit", "enforce", "testing", "retire", "add"]),
        ready=st.booleans(),
        steps=st.sampled_from([0, 3, 8]),
    )
    def operate(self, operation: str, ready: bool, steps: int) -> None:
        before = self.domain
        try:
            self.ask(operation, ready)
        except TransitionRefused:
            assert self.domain is before
            assert not (operation == "testing" and before.stage is Stage.ENFORCE)
        self.all_goes_well(steps)

    @rule(hours=st.sampled_from([1, 5, 30, 200, 800]))
    def wait(self, hours: int) -> None:
        self.wait_until(self.now + hours * HOUR)

    def wait_until(self, now: datetime) -> None:
        self.now = max(self.now, now)
        self.held = [until for until in self.held if until > self.now]

    @rule(index=st.sampled_from([0, 1]))
    @precondition(lambda self: is_served(self.domain, self.now))
    def address_catches_up(self, index: int) -> None:
        self.addresses[index] = self.domain.current.number

    @rule(index=st.sampled_from([0, 1]), back=st.integers(1, 3))
    @precondition(lambda self: is_served(self.domain, self.now) and len(self.domain.versions) > 1)
    def address_falls_back_and_is_seen(self, index: int, back: int) -> None:
        self.addresses[index] = self.domain.versions[max(0, len(self.domain.versions) - 1 - back)].number
        self.domain = not_served(self.domain, self.domain.current.number, self.now)[0]

    @rule(index=st.sampled_from([0, 1]))
    def sender_fetches(self, index: int) -> None:
        number = self.addresses[index]
        if number is not None and (self.record is not None or self.now < self.record_cached_until):
            version = next(found for found in self.domain.versions if found.number == number)
            if version.mode is not Mode.NONE:
                self.held.append(self.now + timedelta(seconds=version.max_age))

    @rule(gone=st.booleans())
    def operator_meddles_with_the_record(self, gone: bool) -> None:
        if gone and self.record is not None:
            self.drop_record()
        elif not gone and self.domain.publishable is not None and is_served(self.domain, self.now):
            self.record = self.domain.publishable.record_id

    def drop_record(self) -> None:
        self.record, self.record_cached_until = None, self.now + timedelta(seconds=TTL)

    @rule(quiet_days=st.integers(0, 60))
    def steward_steps(self, quiet_days: int) -> None:
        self.domain = quiet(self.domain, self.now - quiet_days * DAY, self.now)[0]
        step, number = next_step(self.domain, self.now, max_age_cap=CAP), self.domain.current.number
        if step.action is Action.FETCH_BACK and self.addresses == [number] * 2:
            self.domain = served(self.domain, number, self.now)[0]
        elif step.action is Action.PUBLISH_ID:
            assert self.addresses == [number] * 2, "an id is published before its text is served everywhere"
            assert self.record is None or step.version.record_id >= self.record
            self.record = step.version.record_id
            self.domain = published(self.domain, number, TTL, self.now)[0]
        elif step.action is Action.GROW_MAX_AGE:
            self.domain = grow(self.domain, self.now, max_age_cap=CAP, dns_ids=self.ids())[0]
        elif step.action is Action.REMOVE_RECORD:
            if self.record is not None:  # it is seen before it goes
                self.domain = record_ttl_seen(self.domain, TTL, self.now)[0]
                self.drop_record()
            self.domain = record_gone(self.domain, self.now)[0]
        elif step.action is Action.STOP_SERVING:
            self.stop()

    def all_goes_well(self, steps: int) -> None:
        for _ in range(steps):
            if not is_served(self.domain, self.now):
                return
            self.sender_fetches(0)
            self.addresses = [self.domain.current.number] * 2
            self.steward_steps(0)
            until = next_step(self.domain, self.now, max_age_cap=CAP).until
            if self.domain.stage is Stage.RETIRING and until is not None:
                self.wait_until(until)

    def stop(self) -> None:
        if self.record is not None:  # the steward looks once more before the end
            self.domain = record_back(self.domain, self.now)[0]
            return
        self.domain = stop_serving(self.domain, self.now)[0]
        assert not self.held, "a sender holds a policy that is no longer served"
        assert self.now >= self.record_cached_until
        self.addresses = [None, None]

    @invariant()
    def ids_never_go_back(self) -> None:
        ids = [version.record_id for version in self.domain.versions]
        assert ids == sorted(set(ids))

    @invariant()
    def stage_and_mode_agree(self) -> None:
        modes = {"testing": "testing", "enforce": "enforce", "retiring": "none", "retired": "none"}
        assert self.domain.current.mode.value == modes[self.domain.stage.value]


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("stage", Stage)
def test_the_table_is_what_decides(operation: Operation, stage: Stage) -> None:
    domain = replace(added(), stage=stage)
    if stage in ALLOWED[operation]:
        check(domain, operation)
    else:
        with pytest.raises(TransitionRefused, match=f"is {stage.value}, so '{operation.value}' is not possible: "):
            check(domain, operation)
