"""Decisions and evidence as plain data, for JSON and for the commands that print it."""

from collections.abc import Sequence
from datetime import datetime

from stsguard.core.dane import MxEvidence, MxHost, TlsaStatus
from stsguard.core.mtasts import Policy, mx_permitted
from stsguard.core.mxcheck import MxProbe
from stsguard.core.overrides import Override
from stsguard.core.socketmap import Dialect, render_reply
from stsguard.core.tlspolicy import Decision, Reply
from stsguard.discovery.destination import NO_LOOKUP, Demand, Destination
from stsguard.discovery.forecast import Results, would_defer
from stsguard.discovery.policy_entry import PolicyEntry
from stsguard.discovery.states import NegativeEntry
from stsguard.names import Domain

Plain = dict[str, object]


def plain_time(at: datetime) -> str:
    """An instant as RFC 3339, in UTC."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def plain_policy(policy: Policy) -> Plain:
    """A policy."""
    return {
        "mode": policy.mode.value,
        "max_age": policy.max_age,
        "mx": [str(pattern) for pattern in policy.mx_patterns],
        "warnings": list(policy.warnings),
    }


def plain_entry(entry: PolicyEntry, monotonic: float) -> Plain:
    """A policy in force."""
    described: Plain = {
        "domain": entry.policy_domain,
        "state": "in-force",
        **plain_policy(entry.policy),
        "id": entry.record_id,
        "fetched_at": plain_time(entry.fetched_at),
        "expires_in": int(entry.expires_at - monotonic),
        "refresh_in": max(0, int(entry.refresh_at - monotonic)),
    }
    if entry.upkeep.failure is not None:
        described["refresh_failure"] = str(entry.upkeep.failure)
        described["refresh_failures"] = entry.upkeep.failures
    return described


def plain_negative(policy_domain: Domain, negative: NegativeEntry, monotonic: float) -> Plain:
    """A domain that is remembered as having no policy."""
    return {
        "domain": policy_domain,
        "state": negative.state.status.value,
        "detail": negative.state.detail,
        "expires_in": int(negative.until - monotonic),
    }


def plain_host(host: MxHost, probes: Sequence[MxProbe]) -> Plain:
    """An MX host with its evidence and what our own verification found."""
    return {
        "mx_hostname": host.mx_hostname,
        "preference": host.preference,
        "tlsa_status": host.tlsa_status.value,
        "addresses": [str(address) for address in host.addresses],
        "tlsa_base_domain": host.tlsa_base_domain,
        "tlsa": [f"{tlsa.usage} {tlsa.selector} {tlsa.matching_type} {tlsa.data.hex()}" for tlsa in host.tlsa],
        "detail": host.detail,
        "verification": [plain_probe(probe) for probe in probes],
    }


def plain_probe(probe: MxProbe) -> Plain:
    """One session of our own with an MX host."""
    certificate = probe.certificate
    return {
        "mx_hostname": probe.mx_hostname,
        "address": str(probe.address),
        "at": plain_time(probe.at),
        "tls": probe.tls_version if probe.tls else None,
        "result_type": probe.result_type.value if probe.result_type else None,
        "failure_reason_code": probe.failure_reason_code,
        "inconclusive": probe.inconclusive,
        "trusted": probe.trusted,
        "dane_matched": probe.dane_matched,
        "certificate": certificate
        and {
            "subject": certificate.subject,
            "issuer": certificate.issuer,
            "san": list(certificate.dns_names),
            "not_before": plain_time(certificate.not_before),
            "not_after": plain_time(certificate.not_after),
        },
    }


def plain_verification(
    policy_domain: Domain, policy: Policy | None, mx: MxEvidence, probes: Sequence[MxProbe]
) -> Plain:
    """Probes of a next hop's MX hosts, each with whether the policy permits the host (RFC 8461 §4.1), and the hosts
    without an address to probe."""
    patterns = policy.mx_patterns if policy else ()
    return {
        "domain": policy_domain,
        "policy": policy and plain_policy(policy),
        "probes": [
            {
                **plain_probe(probe),
                "permitted": mx_permitted(patterns, probe.mx_hostname) if policy else None,
            }
            for probe in probes
        ],
        "not_probed": [_plain_unprobed(host) for host in mx.hosts if not host.addresses],
        "null_mx": mx.null_mx,
    }


def _plain_unprobed(host: MxHost) -> Plain:
    failed = host.tlsa_status is TlsaStatus.FAILED
    reason = f"look-up failed: {host.detail}" if failed else f"it has no address ({host.detail})"
    return {"mx_hostname": host.mx_hostname, "lookup_failed": failed, "reason": reason}


def plain_decision(decision: Decision) -> Plain:
    """A decision with its row of the table and the section that asks for it."""
    return {
        "reply": decision.reply.value,
        "row": decision.row.text,
        "section": decision.row.section,
        "reason": decision.reason,
        "match": list(decision.match_names) if decision.reply is Reply.SECURE else [],
        "left_out": list(decision.left_out),
    }


def plain_override(override: Override | None) -> Plain | None:
    """An entry of the override file."""
    if override is None:
        return None
    expires = override.expires.isoformat() if override.expires else None
    return {"entry": override.key, "kind": override.kind.value, "reason": override.reason, "expires": expires}


def plain_demand(
    destination: Destination,
    demand: Demand,
    results: Results,
    *,
    observe: bool,
    expired_override: Override | None = None,
) -> Plain:
    """A destination's decision, the replies that Postfix gets, and the evidence behind them; `expired_override` would
    have been in force."""
    replies = {
        dialect.value: render_reply(demand.decision, dialect, destination.next_hop).decode("utf-8", "replace")
        for dialect in Dialect
    }
    mx: Plain
    if demand.mx is NO_LOOKUP:
        mx = {"skipped": "not looked up, since an override holds", "hosts": []}
    elif isinstance(demand.mx, MxEvidence):
        hosts = [plain_host(host, results(host.mx_hostname)) for host in demand.mx.hosts]
        mx = {
            "secure": demand.mx.secure,
            "implicit": demand.mx.implicit,
            "null_mx": demand.mx.null_mx,
            "ttl": demand.mx.ttl,
            "hosts": hosts,
        }
    else:
        mx = {"failed": demand.mx.reason.value, "detail": demand.mx.detail, "hosts": []}
    return {
        "domain": destination.next_hop,
        "port": destination.port,
        "mode": "observe" if observe else "enforce",
        "replies": dict.fromkeys(replies, "NOTFOUND ") if observe else replies,
        "enforce_replies": replies,
        "decision": plain_decision(demand.decision),
        "would_defer": would_defer(demand, results),
        "decided_at": plain_time(demand.decided_at),
        "override": plain_override(demand.override),
        "expired_override": plain_override(expired_override),
        "sts": {
            "status": demand.sts.status.value,
            "detail": demand.sts.detail,
            "lookup_failed": demand.sts.lookup_failed,
            "policy": demand.sts.policy and plain_policy(demand.sts.policy),
        },
        "mx": mx,
    }
