"""How the counters name a policy and a failure detail: canonical JSON and its hash; and how many they tell apart.

Equal values have equal text on every node, so that counters of several nodes add up without agreeing on numbers. The
text is ASCII, whatever a peer sent: a database takes every code point that way, NUL and lone surrogates included.
Beyond the limits sessions are still counted, under `remainder_policy` and `remainder_detail`: a peer whose policy or
EHLO differs with every session must not grow the database, and must not lose sessions from its report either.
"""

import hashlib
import json
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii as _quote

from stsguard.core.errors import ResultType
from stsguard.core.session import AppliedPolicy, FailureDetail, PolicyType
from stsguard.names import Domain

MAX_POLICIES = 100  # a report domain and day; a policy that changes every quarter of an hour still has its own entry
MAX_DETAILS = 10_000  # a policy, report domain and day: as many as a report has failure-details
KEY_OCTETS = 16  # to find two texts with the same hash takes 2^64 steps, and gains a domain one wrong line on itself
REMAINDER_REASON = "further failure details, not listed"  # the failure-reason-code of what is beyond the limit

_RESULT_TYPES = frozenset(ResultType)
_DETAIL_FIELDS = tuple(sorted(FailureDetail._fields))
_POLICY_LISTS = ("policy_strings", "mx_host_patterns")


class CounterTextInvalid(ValueError):
    """A stored text is no policy or no detail; the message says which and why."""


def text_key(text: str) -> bytes:
    """The key of a canonical text."""
    return hashlib.sha256(text.encode("ascii")).digest()[:KEY_OCTETS]


def policy_text(policy: AppliedPolicy) -> str:
    """The canonical JSON of `policy`; what is empty is left out."""
    # Put together by hand, as json.dumps would with sorted keys and no blanks: every new policy and detail comes here.
    patterns = f'"mx_host_patterns":{_list(policy.mx_host_patterns)},' if policy.mx_host_patterns else ""
    strings = f'"policy_strings":{_list(policy.policy_strings)},' if policy.policy_strings else ""
    named = f'"policy_domain":{_quote(policy.policy_domain)},'
    return f'{{{patterns}{named}{strings}"policy_type":{_quote(policy.policy_type)}}}'


def detail_text(detail: FailureDetail) -> str:
    """The canonical JSON of `detail`; what is empty is left out."""
    texts = detail._asdict()
    return "{" + ",".join([f'"{name}":{_quote(texts[name])}' for name in _DETAIL_FIELDS if texts[name]]) + "}"


def _list(texts: Iterable[str]) -> str:
    return "[" + ",".join(map(_quote, texts)) + "]"


def parse_policy_text(text: str) -> AppliedPolicy:
    """The policy that `policy_text` wrote.

    Raises:
        CounterTextInvalid: it is none.
    """
    found = _object(text)
    lists: dict[str, tuple[str, ...]] = {}
    for name in _POLICY_LISTS:
        value = found.pop(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise CounterTextInvalid(f"{name} is no list of texts")
        lists[name] = tuple(value)
    texts = _texts(found, {"policy_type", "policy_domain"})
    try:
        policy_type = PolicyType(texts.get("policy_type", ""))
    except ValueError as exc:
        raise CounterTextInvalid("policy_type is none of RFC 8460") from exc
    return AppliedPolicy(policy_type, texts.get("policy_domain", ""), **lists)


def parse_detail_text(text: str) -> FailureDetail:
    """The detail that `detail_text` wrote.

    Raises:
        CounterTextInvalid: it is none.
    """
    texts = _texts(_object(text), set(_DETAIL_FIELDS))
    if "result_type" not in texts:
        raise CounterTextInvalid("there is no result_type")
    return FailureDetail(**texts)


def _object(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise CounterTextInvalid("not JSON") from exc
    if not isinstance(found, dict):
        raise CounterTextInvalid("not a JSON object")
    return found


def _texts(found: dict[str, object], allowed: set[str]) -> dict[str, str]:
    texts = {name: value for name, value in found.items() if isinstance(value, str)}
    if len(texts) != len(found) or not texts.keys() <= allowed:
        raise CounterTextInvalid("a name or a value that does not belong there")
    return texts


def remainder_policy(report_domain: Domain, policy: AppliedPolicy) -> AppliedPolicy:
    """Under what the sessions count whose policy is beyond `MAX_POLICIES`: its type alone (RFC 8460 §4.4 makes
    policy-string and mx-host optional)."""
    return AppliedPolicy(policy.policy_type, str(report_domain))


def remainder_detail(detail: FailureDetail) -> FailureDetail:
    """Under what the sessions count whose detail is beyond `MAX_DETAILS`: its result-type alone, and that it stands
    for several."""
    known = detail.result_type in _RESULT_TYPES
    return FailureDetail(
        detail.result_type if known else ResultType.VALIDATION_FAILURE.value, failure_reason_code=REMAINDER_REASON
    )
