"""The text and the key of policies and failure details."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.counter_text import (
    KEY_OCTETS,
    CounterTextInvalid,
    detail_text,
    parse_detail_text,
    parse_policy_text,
    policy_text,
    remainder_detail,
    remainder_policy,
    text_key,
)
from stsguard.core.session import AppliedPolicy, FailureDetail, PolicyType
from stsguard.names import Domain

TEXTS = st.text(st.characters(codec=None), max_size=20)
POLICIES = st.builds(
    AppliedPolicy,
    st.sampled_from(PolicyType),
    TEXTS,
    st.lists(TEXTS, max_size=4).map(tuple),
    st.lists(TEXTS, max_size=4).map(tuple),
)
DETAILS = st.builds(FailureDetail, st.text(min_size=1), TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)


@given(POLICIES)
def test_policy_comes_back_from_its_text(policy: AppliedPolicy) -> None:
    assert parse_policy_text(policy_text(policy)) == policy


@given(DETAILS)
def test_detail_comes_back_from_its_text(detail: FailureDetail) -> None:
    assert parse_detail_text(detail_text(detail)) == detail


@given(POLICIES | DETAILS)
def test_text_is_what_json_makes_of_what_is_not_empty(value: AppliedPolicy | FailureDetail) -> None:
    text = policy_text(value) if isinstance(value, AppliedPolicy) else detail_text(value)
    shown = {name: given for name, given in value._asdict().items() if given or name == "policy_domain"}
    assert text == json.dumps(shown, sort_keys=True, separators=(",", ":"))


@given(POLICIES | DETAILS)
def test_text_is_printable_ascii_whatever_a_peer_sent(value: AppliedPolicy | FailureDetail) -> None:
    text = policy_text(value) if isinstance(value, AppliedPolicy) else detail_text(value)
    assert text.isascii()
    assert text.isprintable()


def test_text_is_what_other_nodes_and_versions_have_stored() -> None:
    policy = AppliedPolicy(PolicyType.STS, "a.example", ("version: STSv1", "mode: testing"), ("*.a.example",))
    assert policy_text(policy) == (
        '{"mx_host_patterns":["*.a.example"],"policy_domain":"a.example",'
        '"policy_strings":["version: STSv1","mode: testing"],"policy_type":"sts"}'
    )
    assert text_key(policy_text(policy)).hex() == "d570aed66ad994dab71b8d28dd5b9b87"
    detail = FailureDetail("certificate-expired", receiving_mx_helo="mx\0\udc80é")
    assert detail_text(detail) == '{"receiving_mx_helo":"mx\\u0000\\udc80\\u00e9","result_type":"certificate-expired"}'


@given(DETAILS, DETAILS)
def test_different_details_have_different_keys(one: FailureDetail, other: FailureDetail) -> None:
    keys = text_key(detail_text(one)), text_key(detail_text(other))
    assert (keys[0] == keys[1]) == (one == other)
    assert len(keys[0]) == KEY_OCTETS


def test_order_of_policy_strings_counts() -> None:
    texts = {policy_text(AppliedPolicy(PolicyType.STS, "a.example", strings)) for strings in (("a", "b"), ("b", "a"))}
    assert len(texts) == 2


BAD = [
    (parse_policy_text, "{", "not JSON"),
    (parse_policy_text, "[" * 100_000, "not JSON"),
    (parse_policy_text, "[]", "not a JSON object"),
    (parse_policy_text, '{"policy_type":"sts","policy_strings":"a"}', "policy_strings is no list of texts"),
    (parse_policy_text, '{"policy_type":"sts","mx_host_patterns":[1]}', "mx_host_patterns is no list of texts"),
    (parse_policy_text, '{"policy_type":"dane"}', "policy_type is none of RFC 8460"),
    (parse_policy_text, "{}", "policy_type is none of RFC 8460"),
    (parse_policy_text, '{"policy_type":"sts","x":"y"}', "a name or a value that does not belong there"),
    (parse_policy_text, '{"policy_type":1}', "a name or a value that does not belong there"),
    (parse_detail_text, "", "not JSON"),
    (parse_detail_text, '"x"', "not a JSON object"),
    (parse_detail_text, "{}", "there is no result_type"),
    (parse_detail_text, '{"result_type":"a","count":"1"}', "a name or a value that does not belong there"),
    (parse_detail_text, '{"result_type":["a"]}', "a name or a value that does not belong there"),
]


@pytest.mark.parametrize(("parse", "text", "reason"), BAD)
def test_what_is_no_text_of_ours_is_refused(parse: object, text: str, reason: str) -> None:
    assert callable(parse)
    with pytest.raises(CounterTextInvalid) as caught:
        parse(text)
    assert str(caught.value) == reason


def test_remainder_keeps_the_result_type_and_says_what_it_is() -> None:
    detail = FailureDetail("certificate-expired", "192.0.2.1", "mx.a.example", "helo", "198.51.100.1", "x", "y")
    kept = FailureDetail("certificate-expired", failure_reason_code="further failure details, not listed")
    assert remainder_detail(detail) == remainder_detail(kept) == kept
    # An unknown one could be as many as there are sessions.
    assert remainder_detail(FailureDetail("made-up")).result_type == "validation-failure"


def test_remainder_policy_is_one_for_each_type() -> None:
    policies = [
        AppliedPolicy(kind, f"{number}.example", (str(number),), ("mx",)) for kind in PolicyType for number in "12"
    ]
    found = {remainder_policy(Domain.parse("a.example"), policy) for policy in policies}
    assert found == {AppliedPolicy(kind, "a.example") for kind in PolicyType}
    assert json.loads(policy_text(min(found))) == {"policy_type": "no-policy-found", "policy_domain": "a.example"}
