"""An entry of the policy cache gives back what it was given, each instant by itself."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.policycache import StoredPolicy
from stsguard.discovery import policy_entry
from stsguard.discovery.policy_entry import REMEMBERED, PolicyEntry
from stsguard.names import Domain
from tests.unit.fakes import START, policy

NAMES = ("used_at", "expires_at", "refresh_at", "id_check_at", "checked_at")
instants = st.floats(allow_nan=False)


def entry(record_id: str = "20261128T0000", fetched_at: datetime = START) -> PolicyEntry:
    stored = StoredPolicy(Domain("example.com"), policy(name="example.com"), record_id, fetched_at, START)
    values = dict(zip(NAMES, map(float, range(5)), strict=True))
    return PolicyEntry(stored, **values)


@given(st.lists(st.tuples(st.sampled_from(NAMES), instants), max_size=8))
def test_each_instant_is_kept_by_itself(changes: list[tuple[str, float]]) -> None:
    one = entry()
    expected = dict(zip(NAMES, map(float, range(5)), strict=True))
    for name, value in changes:
        setattr(one, name, value)
        expected[name] = value
    assert {name: getattr(one, name) for name in NAMES} == expected
    assert one.stored(START) == StoredPolicy(
        Domain("example.com"), policy(name="example.com"), "20261128T0000", START, START
    )


def test_a_check_is_noted_in_one() -> None:
    one = entry()
    one.note_check(10.0, 20.0)
    assert [getattr(one, name) for name in NAMES] == [0.0, 1.0, 2.0, 20.0, 10.0]


@given(
    st.text(max_size=32),
    st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),  # noqa: DTZ001 (it gets one)
)
def test_it_is_stored_as_it_was_fetched(record_id: str, fetched_at: datetime) -> None:
    one = entry(record_id, fetched_at)
    found = one.stored(START)
    assert found == replace(entry().stored(START), record_id=record_id, fetched_at=found.fetched_at)
    assert abs(found.fetched_at - fetched_at) < timedelta(milliseconds=1)
    if fetched_at.year < 2200:
        assert found.fetched_at == fetched_at  # to the microsecond
    one.fetched_at = START
    assert one.fetched_at == START
    assert one.record_id == record_id


@pytest.mark.parametrize("lines", [1, 500])
def test_few_policies_and_no_long_ones_are_kept_as_objects(lines: int) -> None:
    policy_entry._remembered.clear()
    for number in range(2 * REMEMBERED):
        long = policy(name=f"d{number}.example")
        long = replace(long, policy_text=(*long.policy_text, *["a: b"] * lines))
        stored = StoredPolicy(Domain(f"d{number}.example"), long, "1", START, START)
        kept = PolicyEntry(stored, **dict.fromkeys(NAMES, 0.0))
        assert kept.policy.policy_text == long.policy_text
    assert len(policy_entry._remembered) == (REMEMBERED if lines == 1 else 0)
