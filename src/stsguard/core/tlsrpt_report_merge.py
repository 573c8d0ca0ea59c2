"""From counters to the policies of a report (RFC 8460 §4.4): canonical content, equal ones merged, sizes bounded.

Whatever strangers chose (EHLO, reasons, policy lines) is made fit for I-JSON (RFC 7493 §2.1) and cut; what is no
address or name where the RFC wants one is left out, since the key is optional and a wrong value is worse than none.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_address
from itertools import islice

from stsguard.core.errors import ResultType
from stsguard.core.session import AppliedPolicy, CounterRow, FailureDetail, PolicyType
from stsguard.core.tlsrpt_report_model import PolicyResult
from stsguard.names import Domain, NameInvalid

MAX_DETAILS = 10_000  # in one report, remainders included: a receiver's limit is often 10 MB (RFC 8460 §5.2)
# A receiver that serves another policy each time would make us repeat up to 64 KiB for every one of them.
MAX_FULL_POLICIES = 100
MAX_HELO_LENGTH = 255  # RFC 5321 §4.5.3.1.2
MAX_REASON_LENGTH = 1000  # RFC 8460 §4.3.3: "a short text field"
MAX_URI_LENGTH = 2000

_NONCHARACTERS = "".join(chr(plane + last) for plane in range(0, 0x11_0000, 0x1_0000) for last in (0xFFFE, 0xFFFF))
_NOT_I_JSON = re.compile(f"[\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_REPLY_CODE = re.compile(r"[0-9]{3}[ -]")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+")


def merge(rows: Iterable[CounterRow]) -> tuple[PolicyResult, ...]:
    """The policies of a report, sorted, with their summaries and details; those that count nothing are left out.

    Counters are additive and may be negative where an earlier count turned out to be another, so they are added up
    before anything is left out.
    """
    totals: defaultdict[AppliedPolicy, list[int]] = defaultdict(lambda: [0, 0])
    details: defaultdict[AppliedPolicy, Counter[FailureDetail]] = defaultdict(Counter)
    for row in rows:
        policy = canonical_policy(row.policy, row.report_domain)
        totals[policy][0] += row.successes
        totals[policy][1] += row.failures
        for detail, sessions in row.details.items():
            details[policy][canonical_detail(detail)] += sessions
    counted = {policy: (max(0, good), max(0, bad)) for policy, (good, bad) in totals.items()}
    counted, details = _without_texts_of_most(counted, details)
    kept = _bounded(details)
    return tuple(
        PolicyResult(policy, good, bad, kept[policy])
        for policy, (good, bad) in sorted(counted.items())
        if good or bad or kept[policy]
    )


def canonical_policy(policy: AppliedPolicy, report_domain: Domain) -> AppliedPolicy:
    """`policy` as a report states it: names in A-labels; no text and no patterns where none was found."""
    domain = _name(policy.policy_domain) or report_domain
    if policy.policy_type is PolicyType.NO_POLICY_FOUND:
        return AppliedPolicy(policy.policy_type, domain)
    strings = tuple(_i_json(text) for text in policy.policy_strings)
    if policy.policy_type is PolicyType.TLSA:
        # An RRset has no order (RFC 2181 §5) and comes in another one each time; its digits may be of either case.
        return AppliedPolicy(policy.policy_type, domain, tuple(sorted(text.upper() for text in strings)))
    # RFC 8460 §4.4: mx-host belongs to sts; erratum 6241: always an array.
    patterns = (_pattern(text) for text in policy.mx_host_patterns)
    return AppliedPolicy(policy.policy_type, domain, strings, tuple(pattern for pattern in patterns if pattern))


def canonical_detail(detail: FailureDetail) -> FailureDetail:
    """`detail` as a report states it: addresses by RFC 5952, names in A-labels, texts on one line and cut."""
    uri = detail.additional_information
    return FailureDetail(
        result_type=str(detail.result_type),
        sending_mta_ip=_address(detail.sending_mta_ip),
        receiving_mx_hostname=_name(detail.receiving_mx_hostname),
        receiving_mx_helo=_helo(detail.receiving_mx_helo),
        receiving_ip=_address(detail.receiving_ip),
        # RFC 8460 §4.4: "A URI [RFC3986] that points to additional information".
        additional_information=uri if len(uri) <= MAX_URI_LENGTH and _URI.fullmatch(uri) else "",
        failure_reason_code=_one_line(detail.failure_reason_code, MAX_REASON_LENGTH),
    )


def _without_texts_of_most(
    counted: Mapping[AppliedPolicy, tuple[int, int]], details: Mapping[AppliedPolicy, Counter[FailureDetail]]
) -> tuple[dict[AppliedPolicy, tuple[int, int]], defaultdict[AppliedPolicy, Counter[FailureDetail]]]:
    """Keep the text of the policies with the most sessions; the others of one type and domain become one without.

    What remains is true still: such a policy of that domain was applied so often.
    """
    by_sessions = sorted(counted, key=lambda policy: (-sum(counted[policy]), policy))
    full = set(by_sessions[:MAX_FULL_POLICIES])
    totals: defaultdict[AppliedPolicy, tuple[int, int]] = defaultdict(lambda: (0, 0))
    merged: defaultdict[AppliedPolicy, Counter[FailureDetail]] = defaultdict(Counter)
    for policy, (good, bad) in counted.items():
        target = policy if policy in full else AppliedPolicy(policy.policy_type, policy.policy_domain)
        totals[target] = (totals[target][0] + good, totals[target][1] + bad)
        merged[target].update(details[policy])
    return dict(totals), merged


def _bounded(
    details: Mapping[AppliedPolicy, Counter[FailureDetail]],
) -> defaultdict[AppliedPolicy, tuple[tuple[FailureDetail, int], ...]]:
    """At most `MAX_DETAILS` in all: those of the most sessions, and for each policy one that states its remainder."""
    counted = [
        (policy, detail, sessions)
        for policy, of_policy in details.items()
        for detail, sessions in of_policy.items()
        if sessions > 0
    ]
    kept: defaultdict[AppliedPolicy, list[tuple[FailureDetail, int]]] = defaultdict(list)
    left_out: defaultdict[AppliedPolicy, list[int]] = defaultdict(lambda: [0, 0])
    counted.sort(key=lambda item: (-item[2], item[0], item[1]))
    room = MAX_DETAILS if len(counted) <= MAX_DETAILS else max(0, MAX_DETAILS - len({item[0] for item in counted}))
    for policy, detail, sessions in counted[:room]:
        kept[policy].append((detail, sessions))
    for policy, _, sessions in counted[room:]:
        left_out[policy][0] += 1
        left_out[policy][1] += sessions
    # With more policies than that the smallest have no details at all; their summaries still count every session.
    for policy, (number, sessions) in islice(left_out.items(), MAX_DETAILS - room):
        kept[policy].append((_remainder(number, sessions), sessions))
    result: defaultdict[AppliedPolicy, tuple[tuple[FailureDetail, int], ...]] = defaultdict(tuple)
    result.update({policy: tuple(sorted(items)) for policy, items in kept.items()})
    return result


def _remainder(number: int, sessions: int) -> FailureDetail:
    # RFC 8460 §4.3.3: the general category, with a reason code that says what it stands for.
    reason = f"not listed: {number} more failure details with {sessions} sessions"
    return FailureDetail(ResultType.VALIDATION_FAILURE.value, failure_reason_code=reason)


def _i_json(text: str) -> str:
    """RFC 7493 §2.1: no surrogates and no noncharacters."""
    return _NOT_I_JSON.sub("\ufffd", text)


def _one_line(text: str, length: int) -> str:
    return _i_json(_CONTROL.sub(" ", text[: 2 * length]).strip()[:length])


def _helo(text: str) -> str:
    """The first line of an EHLO reply, without its code (RFC 5321 §4.1.1.1): Postfix gives all lines as received."""
    lines = text[: 2 * MAX_HELO_LENGTH].splitlines()
    return _one_line(_REPLY_CODE.sub("", lines[0], count=1) if lines else "", MAX_HELO_LENGTH)


def _name(text: str) -> str:
    try:
        return str(Domain.parse(text))
    except NameInvalid:
        return ""


def _pattern(text: str) -> str:
    wildcard = "*." if text.startswith("*.") else ""
    name = _name(text.removeprefix(wildcard))
    return wildcard + name if name else ""


def _address(text: str) -> str:
    """RFC 8460 §4.4: IPv4 in dot-decimal, IPv6 by RFC 5952; a zone (RFC 4007) means nothing to anyone else."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
