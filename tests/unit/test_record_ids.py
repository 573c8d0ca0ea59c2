"""New ids: UTC stamps, later than now and than every one before, sorting after whatever is in DNS (RFC 8461 §3.1)."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.mtasts import parse_record
from stsguard.core.record_ids import new_record_id

NOW = datetime(2026, 3, 1, 12, 0, 0, 999, tzinfo=UTC)
IDS = st.from_regex(r"[A-Za-z0-9]{1,32}", fullmatch=True)


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ([], "20260301T120001Z"),  # later than now
        (["20260301T115959Z"], "20260301T120001Z"),
        (["20260301T120001Z"], "20260301T120002Z"),  # later than the last
        (["20270301T120000Z", "20260301T120001Z"], "20270301T120001Z"),  # the one in DNS is in the future
        (["1"], "20260301T120001Z"),  # sorts before
        (["20261231"], "2026123120260301T120001Z"),  # no stamp, and sorts after ours
        (["abc"], "abc20260301T120001Z"),
        (["abc20260301T120001Z"], "abc20260301T120002Z"),  # and so on from there
        (["20260230T120000Z"], "20260301T120001Z"),  # no such day: no stamp
        (["20260330T990000Z"], "20260330T990000Z20260301T120001Z"),
        (["a" * 17], "a" * 15 + "b20260301T120001Z"),
        (["a9" + "z" * 30], "aA20260301T120001Z"),
        (["z" * 32], "20260301T120001Z"),  # nothing sorts after it
        (["z" * 32, "20260301T120001Z"], "20260301T120002Z"),
        (["z" * 32, "99991231T235959Z", "20260301T120001Z"], "20260301T120002Z"),
        (["99991231T235959Z"], "99991231T235959Z20260301T120001Z"),
        (["99991231T235959Z20260301T120001Z"], "99991231T235959Z20260301T120002Z"),
    ],
)
def test_rfc8461_3_1_ids_only_grow(used: list[str], expected: str) -> None:
    assert new_record_id(NOW, used) == expected


@given(st.lists(IDS, max_size=5))
def test_rfc8461_3_2_a_new_id_differs_and_sorts_after_all_where_it_can(used: list[str]) -> None:
    new = new_record_id(NOW, used)
    assert parse_record(f"v=STSv1; id={new};").record_id == new
    assert new not in used
    assert new > max(used, default="") or max(used).startswith("z" * 16)


@given(st.lists(st.sampled_from([NOW, datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)]), max_size=9))
def test_ids_grow_whatever_the_clock_does(instants: list[datetime]) -> None:
    used: list[str] = []
    for now in instants:
        used.append(new_record_id(now, used))
    assert used == sorted(set(used))
