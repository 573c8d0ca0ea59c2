"""What enforcement would defer today, for observe mode: decisions held against our own verification of the MX hosts."""

from collections.abc import Callable, Sequence

from stsguard.core.dane import MxEvidence, TlsaStatus
from stsguard.core.mxcheck import MxProbe
from stsguard.core.tlspolicy import Reply
from stsguard.discovery.demand import Demand
from stsguard.names import Domain

Results = Callable[[Domain], Sequence[MxProbe]]


def would_defer(demand: Demand, results: Results) -> str | None:
    """Why mail would wait under `demand`'s decision, None where it would be delivered or nothing speaks against it.

    `results` gives the probes of an MX host, the last of each address. A host that was not probed, or of which the
    probe says nothing, is taken for good.
    """
    decision = demand.decision
    if decision.delivers_nothing:
        return decision.reason
    if not isinstance(demand.mx, MxEvidence):
        return None
    match decision.reply:
        case Reply.SECURE:
            return _all_fail([_sts_fault(name, results) for name in decision.mx_host_patterns])
        case Reply.DANE | Reply.DANE_ONLY:
            hosts = [host for host in demand.mx.hosts if host.tlsa_status is TlsaStatus.USABLE]
            rest = [host for host in demand.mx.hosts if host.tlsa_status is TlsaStatus.ABSENT]
            if decision.reply is Reply.DANE and rest:
                return None
            return _all_fail([_dane_fault(host.mx_hostname, results) for host in hosts])
        case _:
            return None


def _all_fail(faults: Sequence[str | None]) -> str | None:
    found = [fault for fault in faults if fault is not None]
    return "; ".join(found) if found and len(found) == len(faults) else None


def _sts_fault(mx_hostname: Domain, results: Results) -> str | None:
    return _fault(mx_hostname, results, lambda probe: probe.result_type is not None)


def _dane_fault(mx_hostname: Domain, results: Results) -> str | None:
    return _fault(mx_hostname, results, lambda probe: probe.dane_matched is False or not probe.tls)


def _fault(mx_hostname: Domain, results: Results, failed: Callable[[MxProbe], bool]) -> str | None:
    probes = [probe for probe in results(mx_hostname) if not probe.inconclusive]
    if not probes or not all(failed(probe) for probe in probes):
        return None
    first = probes[0]
    what = first.result_type.value if first.result_type else "no TLSA record matches"
    return f"{mx_hostname}: {what}"
