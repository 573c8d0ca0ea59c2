"""The decision: which TLS Postfix is told to use for a next hop.

One pure function, one enum member a row of the table, each with the RFC section that demands it:

=====================================  ===========  =========================================================
the next hop's MX hosts                MTA-STS      reply
=====================================  ===========  =========================================================
(operator override)                    any          the operator's
MX look-up failed, or no MX left       any          TEMP
all usable                             enforce      dane-only
some usable, the best preference       enforce      dane-only
some usable, the best preference not   enforce      secure, limited to permitted hosts without usable TLSA
some or all usable                     other        dane
secure TLSA, none usable               enforce      secure
secure TLSA, none usable               other        dane
MX RRset insecure, hosts have TLSA     enforce      secure
MX RRset insecure, hosts have TLSA     other        dane
no TLSA anywhere                       enforce      secure
no TLSA anywhere                       other        NOTFOUND
=====================================  ===========  =========================================================

A failed DANE look-up is never rescued by MTA-STS (RFC 8461 §2), and a failure never yields less than TEMP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from stsguard.core.dane import MxEvidence, MxHost, MxLookupFailure, TlsaStatus
from stsguard.core.mtasts import Mode, MxPattern, Policy, mx_permitted
from stsguard.core.mxcheck import MxVerdict, names_to_leave_out
from stsguard.core.overrides import Override, OverrideKind
from stsguard.names import Domain

# A name that no host can have (RFC 6761 §6.4), for a policy that permits none of the MX hosts: nothing is delivered.
NO_PERMITTED_HOST = Domain("no-permitted-mx-host.invalid")
SMTP_PORT = 25


class Reply(StrEnum):
    """What Postfix is answered; the TLS security level, where it is one, as Postfix spells it."""

    NOTFOUND = "notfound"
    TEMP = "temp"
    VERBATIM = "verbatim"
    DANE = "dane"
    DANE_ONLY = "dane-only"
    SECURE = "secure"


class Row(Enum):
    """The rows of the decision table: what holds, and the section that asks for the reply."""

    OVERRIDE_POLICY = ("operator override: policy", "operator")
    OVERRIDE_EXEMPT = ("operator override: exempt", "operator")
    OVERRIDE_NOTHING_TO_ENFORCE = ("operator override enforce, but no policy and no pinned mx", "operator")
    MX_LOOKUP_FAILED = ("MX look-up failed", "RFC 7672 §2.1.2")
    NO_MX_LEFT = ("no MX host left", "RFC 7672 §2.1.2")
    STORE_UNREADABLE = ("stored policies unreadable and the policy can't be fetched", "RFC 8461 §3.3")
    ALL_USABLE_ENFORCE = ("all MX hosts have usable TLSA, policy enforce", "RFC 7672 §2.2, RFC 8461 §2")
    BEST_USABLE_ENFORCE = ("MX hosts of the best preference have usable TLSA, policy enforce", "RFC 7672 §2.2.1")
    BEST_NOT_USABLE_ENFORCE = ("only MX hosts of worse preference have usable TLSA, policy enforce", "RFC 8461 §5")
    USABLE_NOT_ENFORCE = ("MX hosts have usable TLSA, no policy to enforce", "RFC 7672 §2.2")
    UNUSABLE_ENFORCE = ("secure TLSA of which none is usable, policy enforce", "RFC 7672 §2.2, RFC 8461 §5")
    UNUSABLE_NOT_ENFORCE = ("secure TLSA of which none is usable, no policy to enforce", "RFC 7672 §2.2")
    MX_INSECURE_ENFORCE = ("MX RRset insecure, hosts have TLSA, policy enforce", "RFC 7672 §2.2.1, RFC 8461 §5")
    MX_INSECURE_NOT_ENFORCE = ("MX RRset insecure, hosts have TLSA, no policy to enforce", "RFC 7672 §2.2.1")
    NO_TLSA_ENFORCE = ("no TLSA anywhere, policy enforce", "RFC 8461 §5")
    NO_TLSA_NOT_ENFORCE = ("no TLSA anywhere, no policy to enforce", "RFC 8461 §5")

    def __init__(self, text: str, section: str) -> None:
        self.text = text
        self.section = section

    __hash__ = object.__hash__  # there is one of each; an Enum's own is Python code, and every decision counts its row


class StsStatus(StrEnum):
    """What is known of the domain's MTA-STS policy."""

    IN_FORCE = "in-force"
    ABSENT = "absent"  # no usable record (RFC 8461 §3.1)
    UNAVAILABLE = "unavailable"  # a record, but the policy can't be had and none is cached (RFC 8461 §3.3)
    PENDING = "pending"  # not known yet: decided without it while the fetch goes on (RFC 8461 §5.1)
    STORE_UNREADABLE = "store-unreadable"  # as UNAVAILABLE, and a policy may be lying in a store that can't be read


@dataclass(slots=True, unsafe_hash=True)  # not frozen: see `dane.Answer`
class StsState:
    """The MTA-STS half of the evidence; `policy` only with IN_FORCE. `detail` says why, for the admin, and
    `lookup_failed` that nobody knows whether there is a record; it decides nothing."""

    status: StsStatus
    policy: Policy | None = None
    detail: str = ""
    lookup_failed: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision for a next hop. `match_names`, `mx_host_patterns` and `policy` belong to SECURE, `verbatim` to
    VERBATIM. `reason` is for the admin and the log, in ASCII; `left_out` names MX hosts that our own verification
    found to fail where Postfix would let them pass."""

    reply: Reply
    row: Row
    reason: str
    match_names: tuple[Domain, ...] = ()
    mx_host_patterns: tuple[Domain, ...] = ()
    policy: Policy | None = None
    verbatim: str = ""
    left_out: tuple[Domain, ...] = ()

    @property
    def delivers_nothing(self) -> bool:
        """Whether mail to the domain waits under this decision."""
        return self.reply is Reply.TEMP or self.match_names == (NO_PERMITTED_HOST,)


_OUT = (TlsaStatus.FAILED, TlsaStatus.UNREACHABLE)
_ABSENT = TlsaStatus.ABSENT  # to find an enum's member takes as long as to compare it
# What nearly every domain gets, made once.
_NOTHING_TO_ENFORCE = Decision(Reply.NOTFOUND, Row.NO_TLSA_NOT_ENFORCE, "neither DANE nor a policy to enforce")


def decide(
    mx: MxEvidence | MxLookupFailure,
    sts: StsState,
    *,
    override: Override | None = None,
    port: int = SMTP_PORT,
    postfix_can_dane: bool = True,
    verdicts: Mapping[Domain, MxVerdict] | None = None,
) -> Decision:
    """The decision for one next hop from all that is known of it.

    `postfix_can_dane` False counts every domain as "no TLSA anywhere", since a `dane` level would be ignored or defer
    for ever. `verdicts` holds our own verification of the MX hosts, permitted or not.
    """
    policy = sts.policy
    if override is not None:
        text = f"operator override {override.key}"
        if override.kind is OverrideKind.POLICY:
            return Decision(Reply.VERBATIM, Row.OVERRIDE_POLICY, text, verbatim=override.policy)
        if override.kind is OverrideKind.EXEMPT:
            return Decision(Reply.NOTFOUND, Row.OVERRIDE_EXEMPT, text)
        policy = enforced_by(override, policy)
    if isinstance(mx, MxLookupFailure):
        # RFC 7672 §2.1.2: where the MX hosts can't be determined, delivery MUST be delayed.
        return Decision(Reply.TEMP, Row.MX_LOOKUP_FAILED, f"MX look-up failed: {mx.reason.value}")
    if sts.status is StsStatus.STORE_UNREADABLE and policy is None:
        # RFC 8461 §3.3: a cached policy MUST be applied, and one may be lying in the store.
        return Decision(Reply.TEMP, Row.STORE_UNREADABLE, "policy neither fetched nor readable from the store")
    all_hosts = mx.hosts if postfix_can_dane else tuple(map(_without_tlsa, mx.hosts))
    # RFC 7672 §2.1.2, §2.2: a host with a failed look-up, or without an address, is taken out alone.
    hosts = [host for host in all_hosts if host.tlsa_status not in _OUT]
    if not hosts:
        return Decision(Reply.TEMP, Row.NO_MX_LEFT, _why_no_host(mx))
    enforced = policy if policy is not None and policy.mode is Mode.ENFORCE else None
    if override is not None and enforced is None:
        return _enforce_without_policy(mx, hosts, override, port)
    return _by_table(mx, hosts, enforced, port, verdicts or {})


def _enforce_without_policy(mx: MxEvidence, hosts: list[MxHost], override: Override, port: int) -> Decision:
    if mx.secure and port == SMTP_PORT and all(host.tlsa_status is TlsaStatus.USABLE for host in hosts):
        return Decision(Reply.DANE_ONLY, Row.ALL_USABLE_ENFORCE, f"operator override {override.key}: DANE")
    text = f"override {override.key} demands enforcement, but there is no policy and no pinned mx"
    return Decision(Reply.TEMP, Row.OVERRIDE_NOTHING_TO_ENFORCE, text)


def enforced_by(override: Override, policy: Policy | None) -> Policy | None:
    """The policy that an `enforce` override puts into force: the domain's own in whatever mode it is, with the pinned
    MX hosts instead of its patterns; without either, None."""
    if override.mx_patterns:
        lines = ("version: STSv1", "mode: enforce", *(f"mx: {pattern}" for pattern in override.mx_patterns))
        text = policy.policy_text if policy is not None and policy.policy_text else lines
        return Policy(Mode.ENFORCE, policy.max_age if policy else 0, override.mx_patterns, text)
    if policy is None or not policy.mx_patterns:
        return None
    return replace(policy, mode=Mode.ENFORCE)


def _without_tlsa(host: MxHost) -> MxHost:
    """The host as it is where nobody asks for TLSA records: only a failed address look-up still takes it out."""
    if host.tlsa_status in (TlsaStatus.ABSENT, TlsaStatus.UNREACHABLE) or (
        host.tlsa_status is TlsaStatus.FAILED and host.tlsa_failure is None
    ):
        return host
    return replace(host, tlsa_status=TlsaStatus.ABSENT)


def _why_no_host(mx: MxEvidence) -> str:
    if mx.null_mx:
        return "the domain accepts no mail (null MX, RFC 7505)"
    if any(host.tlsa_status is TlsaStatus.FAILED for host in mx.hosts):
        return "the address or TLSA look-ups of all MX hosts failed"
    return "no MX host has an address"


def _by_table(
    mx: MxEvidence, hosts: list[MxHost], enforced: Policy | None, port: int, verdicts: Mapping[Domain, MxVerdict]
) -> Decision:
    with_tlsa = [host for host in hosts if host.tlsa_status is not _ABSENT]
    if not (with_tlsa or enforced):
        return _NOTHING_TO_ENFORCE
    usable = [host for host in with_tlsa if host.tlsa_status is TlsaStatus.USABLE]
    unusable = [host for host in with_tlsa if host.tlsa_status is TlsaStatus.UNUSABLE]

    def secure(row: Row, candidates: list[MxHost], policy: Policy) -> Decision:
        return _secure(row, candidates, mx.hosts, policy, verdicts)

    if not mx.secure and (usable or unusable):
        # RFC 7672 §2.2.1: DANE can't authenticate the next hop over an insecure MX RRset; its MAY is `dane`.
        if enforced:
            return secure(Row.MX_INSECURE_ENFORCE, hosts, enforced)
        return Decision(Reply.DANE, Row.MX_INSECURE_NOT_ENFORCE, "TLSA at an insecure MX RRset")
    if usable:
        if not enforced:
            return Decision(Reply.DANE, Row.USABLE_NOT_ENFORCE, "DANE")
        best = min(host.preference for host in hosts)
        rest = [host for host in hosts if host.tlsa_status is not TlsaStatus.USABLE]
        if not rest:
            # At another port than 25 never dane-only; with TLSA at every host `dane` is as strict.
            reply = Reply.DANE_ONLY if port == SMTP_PORT else Reply.DANE
            return Decision(reply, Row.ALL_USABLE_ENFORCE, "DANE at every MX host")
        if port == SMTP_PORT and any(host.preference == best for host in usable):
            return Decision(Reply.DANE_ONLY, Row.BEST_USABLE_ENFORCE, "DANE at the best MX hosts, others not used")
        return secure(Row.BEST_NOT_USABLE_ENFORCE, rest, enforced)
    if unusable:
        if enforced:
            return secure(Row.UNUSABLE_ENFORCE, hosts, enforced)
        return Decision(Reply.DANE, Row.UNUSABLE_NOT_ENFORCE, "TLSA without a usable record: TLS is mandatory")
    assert enforced is not None  # noqa: S101 (or there would be nothing to enforce)
    return secure(Row.NO_TLSA_ENFORCE, hosts, enforced)


def _secure(
    row: Row,
    candidates: list[MxHost],
    all_hosts: tuple[MxHost, ...],
    policy: Policy,
    verdicts: Mapping[Domain, MxVerdict],
) -> Decision:
    """`secure` limited to those of `candidates` that the policy permits (RFC 8461 §4.1) and that our own verification
    has not found to fail where Postfix would accept them."""
    permitted = _permitted(policy.mx_patterns, candidates)
    known = {host.mx_hostname: verdicts[host.mx_hostname] for host in all_hosts if host.mx_hostname in verdicts}
    left_out = names_to_leave_out(permitted, known)
    patterns = tuple(name for name in permitted if name not in left_out.patterns)
    # Postfix before 3.10.5 takes a certificate for any name in match= at any host: the names that such a certificate
    # would reach are not offered at all. From 3.10.5 on mx_host_pattern alone counts.
    names = tuple(name for name in patterns if name not in left_out.match_names)
    reason = (
        "MTA-STS" if names else ("no MX host is permitted by the policy" if not permitted else "no MX host verifies")
    )
    return Decision(
        Reply.SECURE,
        row,
        reason,
        match_names=names or (NO_PERMITTED_HOST,),
        mx_host_patterns=patterns or (NO_PERMITTED_HOST,),
        policy=policy,
        left_out=tuple(name for name in permitted if name not in names),
    )


def _permitted(mx_patterns: tuple[MxPattern, ...], hosts: list[MxHost]) -> tuple[Domain, ...]:
    seen = dict.fromkeys(host.mx_hostname for host in hosts if mx_permitted(mx_patterns, host.mx_hostname))
    return tuple(seen)
