"""A packed policy is the policy that was parsed, whatever its lines look like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core import packed_policy
from stsguard.core.errors import PolicyInvalid
from stsguard.core.mtasts import parse_policy
from stsguard.core.packed_policy import pack_policy, unpack_policy
from tests.protocol.test_policies import GOOD, Parsed

lines = st.sampled_from(
    [
        "version: STSv1",
        "version:STSv1",
        "mode: enforce",
        "mode: testing",
        "mode: none\t",
        "max_age: 604800",
        "max_age: 0",
        "max_age: 9999999999",
        "mx: mx.example.com",
        "mx:*.EXAMPLE.com",
        "mx: \t mx2.example.com \t",
        "mx: not a host",
        "mx.x: y",
        "mxx: mx3.example.com",
        "extension: ü; {}: mx: mx4.example.com",
        "",
    ]
)
whole = ["version: STSv1", "mode: enforce", "mx: mx.example.com", "max_age: 86400"]
bodies = st.tuples(
    st.lists(lines, max_size=8) | st.lists(lines, max_size=3).map(lambda more: [*whole, *more]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
).map(lambda parts: (parts[1].join(parts[0]) + parts[1] * parts[2]).encode())


@given(bodies)
def test_a_policy_comes_back_as_it_was(body: bytes) -> None:
    try:
        policy = parse_policy(body)
    except PolicyInvalid:
        return
    assert unpack_policy(pack_policy(policy)) == policy


@pytest.mark.parametrize(("body", "_parsed"), GOOD)
def test_every_good_form_comes_back_as_it_was(body: bytes, _parsed: Parsed) -> None:
    policy = parse_policy(body)
    assert unpack_policy(pack_policy(policy)) == policy


def test_of_what_most_policies_say_little_is_kept() -> None:
    body = b"version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 86400\n"
    assert len(pack_policy(parse_policy(body))) <= 26


def test_no_line_can_be_taken_for_one_that_is_kept_as_an_octet() -> None:
    for octet in packed_policy._LINES:
        for line in (octet, f"x: {octet}", f"{octet}x: y"):
            with pytest.raises(PolicyInvalid):
                parse_policy(b"version: STSv1\nmode: none\nmax_age: 86400\n" + line.encode())
