"""The `_mta-sts` TXT record of a policy domain, looked up (RFC 8461 §3.1)."""

import asyncio
from dataclasses import dataclass

from stsguard.core.dane import Answer, AnswerStatus
from stsguard.core.errors import LookupFailed, RecordInvalid
from stsguard.core.mtasts import Record, select_record
from stsguard.names import Domain, NameInvalid
from stsguard.ports import Resolver

DENIED = {status: f"no _mta-sts record ({status.value})" for status in (AnswerStatus.NODATA, AnswerStatus.NXDOMAIN)}


@dataclass(slots=True)  # not frozen: see `dane.Answer`
class RecordLookup:
    """What the look-up gave. `record` None means no usable record: `failed` tells a failed look-up, after which
    nothing is known, from a denial or an unusable record, after which there is none. `ttl` in seconds."""

    record: Record | None
    ttl: int
    detail: str
    failed: bool = False


def record_name(policy_domain: Domain) -> Domain:
    """Where the record of `policy_domain` is.

    Raises:
        NameInvalid: the name is so long that no record fits below it.
    """
    return policy_domain.child("_mta-sts")


async def lookup_record(resolver: Resolver, policy_domain: Domain) -> RecordLookup:
    """The record of `policy_domain`; never raises."""
    try:
        return read_record(await resolver.lookup_txt(record_name(policy_domain)))
    except NameInvalid as exc:
        return RecordLookup(None, 0, str(exc))
    except LookupFailed as exc:
        return RecordLookup(None, 0, str(exc), failed=True)


def looked_up(lookup: "asyncio.Future[Answer[bytes]]") -> RecordLookup:
    """What a look-up that is over gave."""
    try:
        return read_record(lookup.result())
    except LookupFailed as exc:
        return RecordLookup(None, 0, str(exc), failed=True)


def read_record(answer: Answer[bytes]) -> RecordLookup:
    """What an answer for the TXT records there says."""
    if answer.status is not AnswerStatus.FOUND:
        return RecordLookup(None, answer.ttl, DENIED[answer.status])
    try:
        record = select_record(answer.records)
    except RecordInvalid as exc:
        # RFC 8461 §3.1: an invalid record, or several, means that there is no policy.
        return RecordLookup(None, answer.ttl, f"unusable _mta-sts record: {exc}")
    if record is None:
        return RecordLookup(None, answer.ttl, "no _mta-sts record among the TXT records")
    return RecordLookup(record, answer.ttl, "")
