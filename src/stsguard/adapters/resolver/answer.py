"""What a DNS response says: records, an alias to follow, a denial, or nothing usable (RFC 1034 §3.6.2, RFC 2308).

Pure but for dnspython's types: messages in, values out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.SOA import SOA

from stsguard.core.dane import AnswerStatus
from stsguard.core.errors import LookupFailed, LookupReason

MAX_ALIASES = 16  # CNAMEs in one chain; BIND and unbound stop at 16 or below as well

# RFC 8914 §4: what a validating server says with SERVFAIL when validation is why. RFC 7672 §2.1.1 equates
# "indeterminate" (5) with "bogus".
_BOGUS_CODES = frozenset({5, 6, 7, 8, 9, 10, 11, 12, 25, 27})


@dataclass(frozen=True, slots=True)
class Step:
    """What one response says of a name, its CNAMEs followed as far as it goes.

    `status` None: the response ends at the alias `owner`, whose records have to be asked for. `ttl_seconds` is the
    least TTL of what was used. `records` are dnspython's.
    """

    status: AnswerStatus | None
    owner: dns.name.Name
    aliases: tuple[dns.name.Name, ...]
    records: tuple[Any, ...]
    ttl_seconds: int
    authentic: bool


def check_rcode(response: dns.message.Message, question: str, where: str) -> None:
    """Return where the RCODE is NOERROR or NXDOMAIN, the two that answer a question.

    Raises:
        LookupFailed: BOGUS, SERVFAIL, or REFUSED for every other RCODE.
    """
    rcode = response.rcode()
    if rcode in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return
    extended = [option for option in response.options if isinstance(option, dns.edns.EDEOption)]
    texts = [f"EDE {int(option.code)} {(option.text or '')[:100]!r}" for option in extended[:3]]
    detail = ", ".join((where, dns.rcode.to_text(rcode), *texts))
    if rcode != dns.rcode.SERVFAIL:
        raise LookupFailed(LookupReason.REFUSED, question, detail)
    bogus = any(int(option.code) in _BOGUS_CODES for option in extended)
    raise LookupFailed(LookupReason.BOGUS if bogus else LookupReason.SERVFAIL, question, detail)


def read_response(
    response: dns.message.Message, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, question: str
) -> Step:
    """What `response`, whose RCODE has been checked, says of `name` and `rdtype`.

    Raises:
        LookupFailed: CNAME_LOOP, or MALFORMED for an answer that contradicts itself and for a referral.
    """
    aliases, ttls = _follow(response.answer, name, rdtype, question)
    owner = aliases[-1] if aliases else name
    found = [rr for rr in response.answer if _is(rr, owner, rdtype)]
    denied = response.rcode() == dns.rcode.NXDOMAIN
    if found and denied:
        raise LookupFailed(LookupReason.MALFORMED, question, "NXDOMAIN together with the records asked for")
    records = tuple(dict.fromkeys(rr[0] for rr in found))
    ttls += [rr.ttl for rr in found]
    status: AnswerStatus | None = AnswerStatus.FOUND
    if not found:
        negative_ttl = _negative_ttl(response.authority, owner)
        # RFC 2308 §2.1: NXDOMAIN is said of the last name of the chain.
        status = AnswerStatus.NXDOMAIN if denied else AnswerStatus.NODATA
        if not denied and negative_ttl is None:
            if aliases:
                # RFC 7672 §2.1.3: nothing of the alias's target: it has to be asked for.
                status = None
            else:
                _refuse_nonsense(response, question)  # else NODATA of type 3 (RFC 2308 §2.2)
        if status is not None:
            # RFC 2308 §5: a denial without SOA is not to be cached.
            ttls.append(negative_ttl or 0)
    return Step(
        status=status,
        owner=owner,
        aliases=tuple(aliases),
        records=records,
        ttl_seconds=min(ttls),
        authentic=bool(response.flags & dns.flags.AD),
    )


def _follow(
    section: Sequence[dns.rrset.RRset], name: dns.name.Name, rdtype: dns.rdatatype.RdataType, question: str
) -> tuple[list[dns.name.Name], list[int]]:
    """The names that the CNAMEs in `section` lead to from `name` on, and the TTLs of these CNAMEs.

    Synthesised CNAMEs count like others (RFC 7672 §2.1.3: DNAME needs nothing special here).
    """
    names: list[dns.name.Name] = []
    ttls: list[int] = []
    owner = name
    while not any(_is(rr, owner, rdtype) for rr in section):
        cnames = [rr for rr in section if _is(rr, owner, dns.rdatatype.CNAME)]
        targets = {cast(CNAME, rr[0]).target for rr in cnames}
        if not targets:
            break
        if len(targets) > 1:
            # RFC 2181 §10.1: there may be one. Which of two we follow would be somebody else's choice.
            raise LookupFailed(LookupReason.MALFORMED, question, "several CNAME records at one name")
        owner = targets.pop()
        if owner == name or owner in names or len(names) >= MAX_ALIASES:
            raise LookupFailed(LookupReason.CNAME_LOOP, question)
        names.append(owner)
        ttls += [rr.ttl for rr in cnames]
    return names, ttls


def _is(rr: dns.rrset.RRset, owner: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> bool:
    return rr.rdtype == rdtype and rr.name == owner and rr.rdclass == dns.rdataclass.IN and len(rr) > 0


def _negative_ttl(section: Sequence[dns.rrset.RRset], owner: dns.name.Name) -> int | None:
    """RFC 2308 §5: the lesser of the SOA's TTL and its MINIMUM field; None where no SOA speaks for `owner`."""
    ttls = [
        min(rr.ttl, cast(SOA, rr[0]).minimum)
        for rr in section
        if owner.is_subdomain(rr.name) and _is(rr, rr.name, dns.rdatatype.SOA)
    ]
    return min(ttls, default=None)


def _refuse_nonsense(response: dns.message.Message, question: str) -> None:
    """Neither record, nor alias, nor SOA. Taken for NODATA, these would deny what nobody has denied."""
    if response.answer:
        raise LookupFailed(LookupReason.MALFORMED, question, "an answer to something else")
    if any(rr.rdtype == dns.rdatatype.NS for rr in response.authority):
        # RFC 2308 §2.2: NS without SOA sends us elsewhere.
        raise LookupFailed(LookupReason.MALFORMED, question, "a referral: the nameserver does not recurse")
