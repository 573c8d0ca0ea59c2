"""Whether an inspection could see at all: faults of our own network and resolver, told from a domain's (RFC 8460 §4.3).

A name server or an MX host that answers shows that we can reach others. Where several were asked over one family of
addresses and none answered, the family is dead from here, or everything at the other end is; of neither can anything
be said about one domain. Policy Hosts don't show it: ours may be this very machine, reached without any network.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address

from stsguard.core.errors import FetchReason
from stsguard.core.inspection import Inspection, IPAddress, MxSeen, PolicyAt, RecordAt

MIN_SILENT = 2  # addresses: one that is silent may well be down

_UNREACHED = {FetchReason.CONNECT_FAILED.code, FetchReason.TIMEOUT.code, FetchReason.LOCAL.code}
_SERVER_ADDRESS = re.compile(r"\[([0-9a-f.:]+)\]", re.ASCII)


def lookups_failed(inspection: Inspection) -> bool:
    """Whether nothing at all could be looked up through our resolver."""
    return bool(inspection.sts_records_problem and inspection.policies_problem and inspection.mx_problem)


def dead_families(inspections: Sequence[Inspection]) -> frozenset[int]:
    """The IP versions over which no name server and no MX host answered, several having been asked."""
    answered: set[int] = set()
    silent: dict[int, set[IPAddress]] = {4: set(), 6: set()}
    for address, has_answered in (each for inspection in inspections for each in _asked(inspection)):
        if has_answered:
            answered.add(address.version)
        else:
            silent[address.version].add(address)
    dead = (version for version, addresses in silent.items() if len(addresses) >= MIN_SILENT)
    return frozenset(version for version in dead if version not in answered)


def sees_nothing(inspection: Inspection, dead: frozenset[int]) -> bool:
    """Whether all that was asked, was asked over dead families."""
    return bool(dead) and all(address.version in dead for address, _ in _asked(inspection))


def without_families(inspection: Inspection, dead: frozenset[int]) -> Inspection:
    """`inspection` without what could not be seen over dead families; what did answer there stays."""
    return replace(
        inspection,
        sts_records=tuple(each for each in inspection.sts_records if not _unseen_record(each, dead)),
        tlsrpt_records=tuple(each for each in inspection.tlsrpt_records if not _unseen_record(each, dead)),
        policies=tuple(each for each in inspection.policies if not _unseen_policy(each, dead)),
        mx_hosts=tuple(_without_unseen_probes(each, dead) for each in inspection.mx_hosts),
    )


def _asked(inspection: Inspection) -> Iterator[tuple[IPAddress, bool]]:
    for record in (*inspection.sts_records, *inspection.tlsrpt_records):
        address = _address_of(record)
        if address is not None:
            yield address, not record.problem
    for seen in inspection.mx_hosts:
        for probe in seen.probes:
            yield probe.address, not probe.inconclusive


def _address_of(record: RecordAt) -> IPAddress | None:
    match = _SERVER_ADDRESS.search(record.server)
    return ip_address(match[1]) if match else None


def _unseen_record(record: RecordAt, dead: frozenset[int]) -> bool:
    address = _address_of(record)
    return bool(record.problem) and address is not None and address.version in dead


def _unseen_policy(found: PolicyAt, dead: frozenset[int]) -> bool:
    return found.reason in _UNREACHED and found.address.version in dead


def _without_unseen_probes(seen: MxSeen, dead: frozenset[int]) -> MxSeen:
    left = tuple(probe for probe in seen.probes if not (probe.inconclusive and probe.address.version in dead))
    return replace(seen, probes=left) if left else seen
