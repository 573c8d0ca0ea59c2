"""What enforcement would defer today, for observe mode: decisions held against our own verification of the MX hosts."""

from collections.abc import Callable, Sequence

from stsguard.core.dane import MxEvidence, MxHost, TlsaStatus
from stsguard.core.mxcheck import MxProbe
from stsguard.core.tlspolicy import Reply
from stsguard.discovery.destination import Demand
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
            return _all_fail([_fault(name, results, _name_fault) for name in decision.mx_host_patterns])
        case Reply.DANE | Reply.DANE_ONLY:
            return _all_fail(_dane_faults(demand.mx.hosts, decision.reply, results))
        case _:
            return None


def _dane_faults(hosts: Sequence[MxHost], reply: Reply, results: Results) -> list[str | None]:
    """Of each host that Postfix would try: its fault, if any."""
    faults: list[str | None] = []
    for host in hosts:
        if host.tlsa_status is TlsaStatus.USABLE:
            faults.append(_fault(host.mx_hostname, results, _fails_dane))
        elif reply is Reply.DANE_ONLY:
            continue  # no host without usable TLSA is used
        elif host.tlsa_status is TlsaStatus.UNUSABLE:
            # RFC 7672 §2.2: TLS is mandatory there, unauthenticated.
            faults.append(_fault(host.mx_hostname, results, lambda probe: "" if probe.tls else _name_fault(probe)))
        elif host.tlsa_status is TlsaStatus.ABSENT:
            faults.append(None)
    return faults


def _all_fail(faults: Sequence[str | None]) -> str | None:
    found = [fault for fault in faults if fault is not None]
    return "; ".join(found) if found and len(found) == len(faults) else None


def _name_fault(probe: MxProbe) -> str:
    return probe.result_type.value if probe.result_type is not None else ""


def _fails_dane(probe: MxProbe) -> str:
    if probe.tls:
        return "no TLSA record matches" if probe.dane_matched is False else ""
    return _name_fault(probe)


def _fault(mx_hostname: Domain, results: Results, judge: Callable[[MxProbe], str]) -> str | None:
    """What is wrong with the host at each of its addresses, by the first; None where one of them is good."""
    faults = [judge(probe) for probe in results(mx_hostname) if not probe.inconclusive]
    return f"{mx_hostname}: {faults[0]}" if faults and all(faults) else None
