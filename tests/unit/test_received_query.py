"""The groups in which received reports are shown, and the keys by which a list goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.received_query import Group, PageKey, Wanted, group_of
from stsguard.core.received_record import Standing


@pytest.mark.parametrize(
    ("standing", "conflict", "foreign", "group"),
    [
        (Standing.COUNTED, False, False, Group.COUNTED),
        (Standing.COUNTED, True, False, Group.CONFLICT),
        (Standing.UNSIGNED, False, False, Group.UNSIGNED),
        (Standing.UNSIGNED, True, False, Group.UNSIGNED),
        (Standing.UNVOUCHED, False, False, Group.UNVOUCHED),
        *((standing, conflict, True, Group.FOREIGN) for standing in Standing for conflict in (False, True)),
    ],
)
def test_rfc8460_3_only_what_is_signed_ours_and_first_is_counted(
    standing: Standing, conflict: bool, foreign: bool, group: Group
) -> None:
    assert group_of(standing.value, conflict=conflict, foreign=foreign) is group


@given(st.dates(), st.integers(0, 10**18 - 1))
def test_page_key_is_read_as_it_is_written(day: object, report: int) -> None:
    key = PageKey(str(day), report)
    assert PageKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["", "48", "2026-03-01", "2026-03-01.", "2026-03-01.x", "2026-03-01.-1", "2026-3-1.1"])
def test_what_is_no_page_key(text: str) -> None:
    assert PageKey.parse(text) is None


def test_details_choose_by_result_type_or_mx_host() -> None:
    assert not Wanted(policy_domain="a.example", reporter="b.example").of_details
    assert Wanted(result_type="certificate-expired").of_details
    assert Wanted(mx_hostname="mx.a.example").of_details
