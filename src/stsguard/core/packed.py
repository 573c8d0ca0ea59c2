"""A decision with its evidence as octets: a tenth of what the objects take, for a hundred thousand that are only kept.

In Python's marshal, by which everything comes back exactly as it was; nothing packed leaves the process. Policies are
left out, since whoever keeps a decision keeps those anyway, as is an IPv6 address's zone, which no DNS record has.
"""

import marshal
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Any

from stsguard.core.dane import MxEvidence, MxHost, MxLookupFailure, TlsaRecord, TlsaStatus
from stsguard.core.errors import LookupReason
from stsguard.core.tlspolicy import Decision, Reply, Row, StsState, StsStatus
from stsguard.names import Domain

_HEAD = Struct("<BBBBI")  # reply, row and status by their place in these, flags, TTL
_TTL_AT = 4
_REPLIES, _ROWS, _STATUSES, _TLSA_STATUSES = tuple(Reply), tuple(Row), tuple(StsStatus), tuple(TlsaStatus)
_PLACE_OF_REPLY, _PLACE_OF_ROW, _PLACE_OF_STATUS, _PLACE_OF_TLSA_STATUS = (
    {member: place for place, member in enumerate(members)} for members in (_REPLIES, _ROWS, _STATUSES, _TLSA_STATUSES)
)
_SECURE, _IMPLICIT, _NULL_MX, _FAILED, _LOOKUP_FAILED = 1, 2, 4, 8, 16
# What is said of nearly every domain, by its place in these.
_USUAL = (
    *("MTA-STS", "neither DANE nor a policy to enforce", "DANE", "DANE at every MX host"),
    *("no _mta-sts record (nxdomain)", "no _mta-sts record (nodata)", "no _mta-sts record among the TXT records"),
)
_PLACE_OF_USUAL: dict[str, str | int] = {text: place for place, text in enumerate(_USUAL)}
_NOTHING: tuple[Any, ...] = (None, None, None, (), None, "", ())  # for what is left off at the end


def pack(mx: MxEvidence | MxLookupFailure, sts: StsState, decision: Decision) -> bytes:
    """All of them but the policies."""
    flags = _LOOKUP_FAILED if sts.lookup_failed else 0
    names: dict[str, str] = {}  # one object for each name, so that marshal writes it once
    found: tuple[Any, ...]
    if isinstance(mx, MxEvidence):
        flags |= (_SECURE if mx.secure else 0) | (_IMPLICIT if mx.implicit else 0) | (_NULL_MX if mx.null_mx else 0)
        ttl = mx.ttl
        found = tuple([_pack_host(host, names) for host in mx.hosts])
    else:
        flags |= _FAILED
        ttl = 0
        found = (mx.reason.value, mx.detail)
    head = _HEAD.pack(
        _PLACE_OF_REPLY[decision.reply], _PLACE_OF_ROW[decision.row], _PLACE_OF_STATUS[sts.status], flags, ttl
    )
    reason, detail = _PLACE_OF_USUAL.get(decision.reason, decision.reason), _PLACE_OF_USUAL.get(sts.detail, sts.detail)
    kept: tuple[Any, ...] = (found, reason, detail)
    is_rare = bool(decision.verbatim or decision.left_out)
    match, patterns = decision.match_names, decision.mx_host_patterns
    if is_rare or match or patterns:
        # Nearly always what is permitted are all the MX hosts, which None stands for.
        packed_match = _pack_names(match, names) if match != _hostnames(mx) else None
        kept += (packed_match, _pack_names(patterns, names) if patterns != match else None)
        kept += (decision.verbatim, _pack_names(decision.left_out, names)) if is_rare else ()
    return head + marshal.dumps(kept)


def _hostnames(mx: MxEvidence | MxLookupFailure) -> tuple[Domain, ...]:
    return tuple([host.mx_hostname for host in mx.hosts]) if isinstance(mx, MxEvidence) else ()


def _unpack_text(packed: str | int) -> str:
    return packed if isinstance(packed, str) else _USUAL[packed]


def _pack_host(host: MxHost, names: dict[str, str]) -> tuple[Any, ...]:
    addresses = tuple([int(each) if isinstance(each, IPv4Address) else ~int(each) for each in host.addresses])
    number = host.preference * len(_TLSA_STATUSES) + _PLACE_OF_TLSA_STATUS[host.tlsa_status]
    plain = (_pack_name(host.mx_hostname, names), number, addresses)
    if not (host.tlsa or host.tlsa_base_domain or host.detail or host.tlsa_failure):
        return plain
    base, failure = host.tlsa_base_domain, host.tlsa_failure
    return (
        *plain,
        tuple([(each.usage, each.selector, each.matching_type, each.data) for each in host.tlsa]),
        _pack_name(base, names) if base is not None else None,
        host.detail,
        failure.value if failure is not None else None,
    )


def _pack_name(name: Domain, names: dict[str, str]) -> str:
    found = names.get(name)
    if found is None:
        found = names[name] = str(name)  # marshal takes no subclass
    return found


def _pack_names(those: tuple[Domain, ...], names: dict[str, str]) -> tuple[str, ...]:
    return tuple([_pack_name(name, names) for name in those])


def unpack(packed: bytes) -> tuple[MxEvidence | MxLookupFailure, StsState, Decision]:
    """What was packed, without policies."""
    reply, row, status, flags, ttl = _HEAD.unpack_from(packed)
    kept: tuple[Any, ...] = marshal.loads(packed[_HEAD.size :])  # noqa: S302 (made here, in this process)
    found, reason, detail, match, patterns, verbatim, left_out = kept + _NOTHING[len(kept) :]
    sts = StsState(_STATUSES[status], None, _unpack_text(detail), bool(flags & _LOOKUP_FAILED))
    mx: MxEvidence | MxLookupFailure
    if flags & _FAILED:
        mx = MxLookupFailure(LookupReason(found[0]), found[1])
    else:
        hosts = tuple([_unpack_host(host) for host in found])
        mx = MxEvidence(hosts, bool(flags & _SECURE), ttl, bool(flags & _IMPLICIT), bool(flags & _NULL_MX))
    match_names = _hostnames(mx) if match is None else tuple(map(Domain, match))
    decision = Decision(
        _REPLIES[reply],
        _ROWS[row],
        _unpack_text(reason),
        match_names=match_names,
        mx_host_patterns=match_names if patterns is None else tuple(map(Domain, patterns)),
        verbatim=verbatim,
        left_out=tuple(map(Domain, left_out)),
    )
    return mx, sts, decision


def _unpack_host(host: tuple[Any, ...]) -> MxHost:
    name, number, addresses, *rest = host
    preference, status = divmod(number, len(_TLSA_STATUSES))
    tlsa, base, detail, failure = rest or ((), None, "", None)
    return MxHost(
        Domain(name),
        preference,
        _TLSA_STATUSES[status],
        tuple([IPv4Address(each) if each >= 0 else IPv6Address(~each) for each in addresses]),
        tuple([TlsaRecord(*each) for each in tlsa]),
        Domain(base) if base is not None else None,
        detail,
        LookupReason(failure) if failure is not None else None,
    )


def same_but_for_ttl(packed: bytes, other: bytes) -> bool:
    """Whether both are of the same decision and evidence; a TTL is another in each answer of a caching resolver."""
    return packed[:_TTL_AT] == other[:_TTL_AT] and packed[_HEAD.size :] == other[_HEAD.size :]


def mx_hostnames(packed: bytes) -> list[Domain]:
    """The names of the MX hosts alone."""
    if packed[3] & _FAILED:
        return []
    return [Domain(host[0]) for host in marshal.loads(packed[_HEAD.size :])[0]]  # noqa: S302 (as above)


def reply_of(packed: bytes) -> Reply:
    """The reply alone."""
    return _REPLIES[packed[0]]
