"""The verdict: what one TLS session counts as in a report (RFC 8460 §4.2 to §4.4, RFC 8461 §6, RFC 7672 §2.2).

One pure function of what Postfix said, the policy in force at the time, and our own verification of the MX host. Every
session counts once, under the policy applied to it, DANE before MTA-STS. What was neither seen nor verified is not
claimed, and a fault that may be ours is never reported as the domain's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from operator import itemgetter
from typing import NamedTuple, assert_never

from stsguard.core.dane import MxHost, TlsaStatus
from stsguard.core.errors import FetchReason, LookupReason, ResultType
from stsguard.core.mtasts import Mode, Policy, mx_permitted
from stsguard.core.mxcheck import MxProbe
from stsguard.core.overrides import Override, OverrideKind
from stsguard.core.session import AppliedPolicy, Count, FailureDetail, PolicyType, Seen, Session
from stsguard.core.tlspolicy import SMTP_PORT, enforced_by
from stsguard.names import Domain

VERIFIED_WITHIN = timedelta(hours=1)
MX_MISMATCH = "mx-mismatch"
NONE_USABLE = "all-TLSA-records-unusable"  # Postfix's failure-reason-code for the same fault
# Levels at which Postfix verifies nothing, whatever the policy says by now: it was decided without it.
LEVEL_NONE = "none"
UNVERIFYING_LEVELS = (LEVEL_NONE, "may", "encrypt")
MAX_REASON_LENGTH = 200
_DANE_RESULTS = (ResultType.TLSA_INVALID, ResultType.DNSSEC_INVALID, ResultType.DANE_REQUIRED)


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """A policy that was announced and could not be had. `outage` marks a minute in which most independent fetches
    failed: then the fault is likely to be on our side of the net."""

    reason: FetchReason
    detail: str = ""
    outage: bool = False

    @property
    def theirs(self) -> bool:
        """Whether it may be reported as the domain's fault."""
        return not (self.reason.maybe_ours or self.outage)


class Known(NamedTuple):
    """What we know of a session's domain and MX host.

    Attributes:
        policy: the domain's own, in force at the time of the session.
        fetch_failure: why there is none although it is announced, and none is cached.
        refresh_failures: those, not counted yet, of the policy in force.
        override: the operator's, if there is one.
        mx_host: its evidence, as the decision saw it: without TLSA where Postfix can't do DANE.
        dane_in_force: Postfix was told `dane` or `dane-only`.
        not_offered: Postfix was told `secure` without this MX host's name.
        enforcing: Postfix is told what was decided; False in observe mode.
        probes: our own verification of the MX host, the newest for each address.
        our_reports_own_session: it carried a report of ours.
    """

    policy: Policy | None = None
    fetch_failure: FetchFailure | None = None
    refresh_failures: tuple[FetchFailure, ...] = ()
    override: Override | None = None
    mx_host: MxHost | None = None
    dane_in_force: bool = False
    not_offered: bool = False
    enforcing: bool = True
    probes: tuple[MxProbe, ...] = ()
    our_reports_own_session: bool = False


class _Result(NamedTuple):
    failed: bool
    details: tuple[FailureDetail, ...] = ()
    unverified: bool = False


def judge(session: Session, known: Known) -> tuple[Count, ...]:
    """What `session` adds to the counters. Empty where it is not reported at all.

    A DANE session counts twice, for the recipient domain and for its MX host. Counts with 0 sessions carry details
    that belong to the domain rather than to the session; those of `Known.refresh_failures` are of policy-type sts.
    """
    if known.our_reports_own_session:
        # RFC 8460 §3: the session that carries a report SHOULD NOT be in the next one.
        return ()
    if known.override is not None and known.override.kind is not OverrideKind.ENFORCE:
        # RFC 8460 §4.4 policy-type: what the operator laid down is no policy of the domain, so nothing is said of it.
        return ()
    if session.seen is Seen.PLAINTEXT and _offers_tls(session, known.probes):
        # RFC 8460 §4.3.1 starttls-not-supported would be untrue. A log that lost the line of the TLS session looks the
        # same as one without TLS; what we did not see or verify we do not claim.
        return ()
    if _is_kept_from_by_bogus_tlsa(session, known):
        # RFC 8460 §4.3.2.1 dnssec-invalid: "no valid records were returned from the recursive resolver". Only this
        # look-up kept the mail from that MX host; RFC 7672 §2.1.2 wants it skipped.
        session = session._replace(seen=Seen.FAILURE, result_type=ResultType.DNSSEC_INVALID, failure_reason_code="")
    elif session.seen is Seen.NO_TLS_POLICY:
        return ()  # a failure of ours, or one that may be the network's
    if _is_dane(session, known):
        result = _dane_result(session, known)
        return _dane_counts(session, known, result) if result is not None else ()
    policy, applied, result = _sts_or_none(session, known)
    if result is None:
        return ()
    counts = [_count(session, applied, result)]
    failures = [failure for failure in known.refresh_failures if failure.theirs]
    if policy is not None and failures:
        # RFC 8461 §6: "policy fetch failures of any kind when a valid policy exists in the policy cache" are
        # reportable. The session has its own result, and they are details with a count of their own.
        details = tuple(_fetch_detail(failure) for failure in failures)
        counts.append(_count(session, applied, _Result(failed=False, details=details), sessions=0))
    if _has_unusable_tlsa(known):
        # RFC 8460 §4.3.2.1 tlsa-invalid: the session was made under the policy above, which satisfies RFC 7672 §2.2
        # as well, but the domain is to hear that its TLSA records protect nothing.
        unusable = _Result(failed=False, details=(_unusable_detail(session),))
        counts.extend(_dane_counts(session, known, unusable, sessions=0))
    return tuple(counts)


def _is_kept_from_by_bogus_tlsa(session: Session, known: Known) -> bool:
    """Whether the MX host was not delivered to since its TLSA look-up is bogus: by our reply, which was TEMP or did not
    name it, or by Postfix's own look-up."""
    if known.mx_host is None or known.mx_host.tlsa_failure is not LookupReason.BOGUS:
        return False
    if session.seen is Seen.NO_TLS_POLICY:
        return True
    policy = _policy_in_force(known)
    if policy is None or not mx_permitted(policy.mx_patterns, known.mx_host.mx_hostname):
        return False  # not permitted, whatever its TLSA records
    mismatch = known.not_offered and session.result_type is ResultType.CERTIFICATE_HOST_MISMATCH
    return mismatch or session.seen is Seen.MX_NOT_PERMITTED


def _is_dane(session: Session, known: Known) -> bool:
    """Whether DANE was applied: as Postfix says, and where it does not say, by what it was told (RFC 7672 §2.2)."""
    if session.seen is Seen.MX_NOT_PERMITTED:
        return False  # patterns are never sent to Postfix with a DANE level
    if session.policy_type is PolicyType.TLSA or session.result_type in _DANE_RESULTS:
        return True
    if session.policy_type is PolicyType.STS or not known.dane_in_force or known.mx_host is None:
        return False
    if known.mx_host.tlsa_status is TlsaStatus.UNUSABLE:
        # Postfix says no-policy-found where it skips all records while it reads them (usages 0 and 1).
        return True
    return known.mx_host.tlsa_status is TlsaStatus.USABLE and session.policy_type is None


def _dane_result(session: Session, known: Known) -> _Result | None:
    if session.seen is Seen.PLAINTEXT:
        # RFC 7672 §2.2: TLS is mandatory, so Postfix went without only since it was told to for this message.
        return None
    result = _as_postfix_said(session)
    if result is not None and _has_unusable_tlsa(known):
        # RFC 8460 §4.3.2.1 tlsa-invalid: "None of the records in the RRset were found to be valid."
        if any(detail.result_type == ResultType.TLSA_INVALID for detail in result.details):
            return result._replace(failed=True)
        return result._replace(failed=True, details=(*result.details, _unusable_detail(session)))
    return result


def _has_unusable_tlsa(known: Known) -> bool:
    return known.mx_host is not None and known.mx_host.tlsa_status is TlsaStatus.UNUSABLE


def _unusable_detail(session: Session) -> FailureDetail:
    return _detail(session, ResultType.TLSA_INVALID, NONE_USABLE)


def _dane_counts(session: Session, known: Known, result: _Result, sessions: int = 1) -> tuple[Count, ...]:
    # RFC 8460 §1.1: for DANE the Policy Domain is the TLSA base domain, and its own `_smtp._tls` is asked as well.
    base = _tlsa_base_domain(session, known)
    applied = AppliedPolicy(PolicyType.TLSA, base, _tlsa_strings(session, known))
    count = _count(session, applied, result, sessions)
    if base == session.recipient_domain:
        return (count,)
    return count, count._replace(report_domain=base, for_mx_host=True)


def _tlsa_base_domain(session: Session, known: Known) -> Domain:
    said = session.policy_domain if session.policy_type is PolicyType.TLSA else None
    found = known.mx_host.tlsa_base_domain if known.mx_host is not None else None
    return said or found or session.receiving_mx_hostname or session.recipient_domain


def _tlsa_strings(session: Session, known: Known) -> tuple[str, ...]:
    """The records in one order and without repetition, so that equal RRsets are one policy: DNS rotates them."""
    if session.policy_type is PolicyType.TLSA and session.policy_strings:
        return tuple(sorted(set(session.policy_strings)))
    records = known.mx_host.tlsa if known.mx_host is not None else ()
    return tuple(sorted({f"{r.usage} {r.selector} {r.matching_type} {r.data.hex().upper()}" for r in records}))


def _sts_or_none(session: Session, known: Known) -> tuple[Policy | None, AppliedPolicy, _Result | None]:
    """The policy in force if it is MTA-STS, what is reported as applied, and the session's result."""
    policy = _policy_in_force(known)
    domain = session.recipient_domain
    if policy is not None:
        # RFC 8460 §4.4: the policy as it was served, and its patterns; what Postfix was sent may be less.
        served = known.policy.policy_text if known.policy is not None else ()
        patterns = tuple(str(pattern) for pattern in policy.mx_patterns)
        return policy, AppliedPolicy(PolicyType.STS, domain, served, patterns), _sts_result(session, policy, known)
    said = _as_postfix_said(session)
    if session.policy_type is PolicyType.STS:
        # It was applied, and has run out or was replaced since: its text is what Postfix was sent.
        return None, AppliedPolicy(PolicyType.STS, domain, session.policy_strings), said
    failure = known.fetch_failure
    if failure is not None and failure.theirs and said is not None:
        # RFC 8461 §6: "HTTPS policy fetch failures when a valid TXT record is present" are reportable.
        own = said.details if said.failed else ()
        result = _Result(failed=True, details=(_fetch_detail(failure), *own))
        return None, AppliedPolicy(PolicyType.STS, domain), result
    return None, AppliedPolicy(PolicyType.NO_POLICY_FOUND, domain), said


def _policy_in_force(known: Known) -> Policy | None:
    """The MTA-STS policy that the session is held against, with the operator's `enforce`."""
    policy = known.policy if known.override is None else enforced_by(known.override, known.policy)
    # RFC 8461 §5: a domain with mode none is treated as one without any active policy.
    return policy if policy is not None and policy.mode is not Mode.NONE else None


def _as_postfix_said(session: Session) -> _Result | None:
    match session.seen:
        case Seen.SUCCESS:
            return _Result(failed=False, details=session.further_details)
        case Seen.FAILURE:
            # RFC 8460 §4.3: without a result-type from the source there is no detail to give, only the count.
            own = (_detail(session, session.result_type, session.failure_reason_code),) if session.result_type else ()
            return _Result(failed=True, details=own + session.further_details)
        case Seen.PLAINTEXT:
            return None if _is_explained(session) else _without_tls(session)
        case Seen.MX_NOT_PERMITTED | Seen.NO_TLS_POLICY:
            return None  # no policy of theirs is known against which it could be held
        case _ as unknown:
            assert_never(unknown)


def _is_explained(session: Session) -> bool:
    """Whether a session without TLS says nothing of the MX host. A submission port may want TLS from the start, a
    reused connection was counted when it was new, and so was the attempt at TLS that failed; a level `none` of the
    site is no fault of the host. `TLS-Required: no` (RFC 8689 §4.1) at `may` leaves TLS opportunistic, so a host that
    offers it would have got it."""
    told = session.tls_tried or session.tls_level == LEVEL_NONE
    return told or not session.new_connection or session.port != SMTP_PORT


def _without_tls(session: Session) -> _Result:
    # RFC 8460 §4.3.1 starttls-not-supported: "the recipient MX did not support STARTTLS".
    return _failure(_detail(session, ResultType.STARTTLS_NOT_SUPPORTED, session.failure_reason_code))


def _sts_result(session: Session, policy: Policy, known: Known) -> _Result | None:
    if session.seen is Seen.MX_NOT_PERMITTED:
        return _skipped_result(session, policy, known)
    unverified = session.accepted_unverified or session.tls_level in UNVERIFYING_LEVELS
    enforced = policy.mode is Mode.ENFORCE and known.enforcing and not unverified
    if session.seen is Seen.PLAINTEXT and enforced:
        # RFC 8461 §5: without TLS nothing is delivered in enforce mode, but for a message that wants none.
        return None
    said = _as_postfix_said(session)
    mx_hostname = session.receiving_mx_hostname
    if said is None or mx_hostname is None:
        return said._replace(unverified=True) if said and session.seen is Seen.SUCCESS and not enforced else said
    if not mx_permitted(policy.mx_patterns, mx_hostname):
        # RFC 8461 §4.1: the MX host is held against the policy before anything that it does. Postfix before 3.10.5
        # contacts such a host all the same: it refuses the certificate for a name that only our match= has made wrong,
        # or delivers, since the certificate has a permitted host's name as well. In testing mode it would not have
        # been delivered to in enforce mode. RFC 8460 §4.3.3: what has no result-type of its own is validation-failure.
        mismatch = _failure(_detail(session, ResultType.VALIDATION_FAILURE, MX_MISMATCH), *session.further_details)
        return mismatch if _is_refused_by_theirs(mx_hostname, known) else None
    if session.seen is Seen.SUCCESS and not enforced:
        return _verified_result(session, known)
    if known.not_offered and session.result_type is ResultType.CERTIFICATE_HOST_MISMATCH:
        # Postfix before 3.10.5 contacts a permitted host that our reply has left out, and any certificate is wrong.
        return _not_offered_result(session, known)
    return said


def _skipped_result(session: Session, policy: Policy, known: Known) -> _Result | None:
    mx_hostname = session.receiving_mx_hostname
    if mx_hostname is None:
        return None
    if not mx_permitted(policy.mx_patterns, mx_hostname):
        # RFC 8461 §4.1, §6: once per delivery attempt; nothing was connected to, so there is no receiving-ip.
        mismatch = _failure(_detail(session, ResultType.VALIDATION_FAILURE, MX_MISMATCH, connected=False))
        return mismatch if _is_refused_by_theirs(mx_hostname, known) else None
    result = _not_offered_result(session, known)
    # Nothing was connected to, so there is no receiving-ip.
    return result and result._replace(details=tuple(detail._replace(receiving_ip="") for detail in result.details))


def _is_refused_by_theirs(mx_hostname: Domain, known: Known) -> bool:
    """Whether the policy that the domain serves refuses this MX host. The hosts that an operator has pinned are none of
    its statements, and a host that they leave out is no fault of the domain."""
    return known.policy is not None and not mx_permitted(known.policy.mx_patterns, mx_hostname)


def _not_offered_result(session: Session, known: Known) -> _Result | None:
    """A permitted host that our own reply did not name: for its certificate, which is its fault, or since another host
    of the domain has TLSA, a look-up has failed, or it is newer than the reply, which are none."""
    faults = [(probe.at, probe.result_type, probe) for probe in known.probes if probe.result_type is not None]
    if not faults:
        return None
    _, result_type, newest = max(faults, key=itemgetter(0))
    return _failure(_probe_detail(session, result_type, newest, "not delivered to"))


def _verified_result(session: Session, known: Known) -> _Result:
    """A session of which Postfix verified nothing, in testing or observe mode, by our own verification."""
    said = session.further_details
    probe = _verification(session, known.probes)
    if probe is None:
        return _Result(failed=False, details=said, unverified=True)
    if probe.result_type is None:
        return _Result(failed=False, details=said)
    # RFC 8461 §5: in testing mode senders "send a report indicating policy application failures", here by the
    # result-type of RFC 8460 §4.3.1 that it would have had in enforce mode.
    return _failure(_probe_detail(session, probe.result_type, probe, "would fail in enforce mode"), *said)


def _verification(session: Session, probes: Iterable[MxProbe]) -> MxProbe | None:
    """The conclusive probe of that MX host and address nearest in time, within an hour before or after."""
    try:
        address = ip_address(session.receiving_ip)
    except ValueError:
        return None
    found = [
        probe
        for probe in probes
        if (probe.mx_hostname, probe.address) == (session.receiving_mx_hostname, address)
        and not probe.inconclusive
        and abs(probe.at - session.at) <= VERIFIED_WITHIN
    ]
    return min(found, key=lambda probe: abs(probe.at - session.at)) if found else None


def _offers_tls(session: Session, probes: Iterable[MxProbe]) -> bool:
    """Whether our own probe had TLS with that MX host and address within the hour."""
    probe = _verification(session, probes)
    return probe is not None and probe.tls


def _probe_detail(session: Session, result_type: ResultType, probe: MxProbe, consequence: str) -> FailureDetail:
    """A detail that says that Postfix did not see it, and who did and when."""
    when = f"{consequence}, verified by probe at {probe.at:%Y-%m-%dT%H:%M:%SZ}"
    reason = f"{probe.failure_reason_code} ({when})" if probe.failure_reason_code else when
    return _detail(session, result_type, reason)


def _fetch_detail(failure: FetchFailure) -> FailureDetail:
    reason = f"{failure.reason.code}: {failure.detail}" if failure.detail else failure.reason.code
    return FailureDetail(failure.reason.result_type, failure_reason_code=_cut(reason))


def _cut(text: str) -> str:
    """Text that may be a stranger's, bounded and in one line of print."""
    shown = text if len(text) <= MAX_REASON_LENGTH else text[: MAX_REASON_LENGTH - 1] + "…"
    if shown.isprintable():
        return shown
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown)


def _failure(*details: FailureDetail) -> _Result:
    return _Result(failed=True, details=details)


def _detail(session: Session, result_type: ResultType, reason: str, *, connected: bool = True) -> FailureDetail:
    return FailureDetail(
        result_type,
        session.sending_mta_ip,
        session.receiving_mx_hostname or "",
        session.receiving_mx_helo if connected else "",
        session.receiving_ip if connected else "",
        session.additional_information,
        _cut(reason),
    )


def _count(session: Session, applied: AppliedPolicy, result: _Result, sessions: int = 1) -> Count:
    domain = session.recipient_domain
    return Count(domain, domain, applied, sessions, result.failed, result.details, result.unverified)
