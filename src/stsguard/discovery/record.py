"""The `_mta-sts` TXT record of a policy domain, looked up (RFC 8461 §3.1)."""

from dataclasses import dataclass

from stsguard.core.dane import AnswerStatus
from stsguard.core.errors import LookupFailed, RecordInvalid
from stsguard.core.mtasts import Record, select_record
from stsguard.names import Domain
from stsguard.ports import Resolver


@dataclass(frozen=True, slots=True)
class RecordLookup:
    """What the look-up gave. `record` None means no usable record: `failed` tells a failed look-up, after which
    nothing is known, from a denial or an unusable record, after which there is none. `ttl` in seconds."""

    record: Record | None
    ttl: int
    detail: str
    failed: bool = False


async def lookup_record(resolver: Resolver, policy_domain: Domain) -> RecordLookup:
    """The record of `policy_domain`; never raises."""
    try:
        name = policy_domain.child("_mta-sts")
    except ValueError as exc:  # a name so long that no record fits below it
        return RecordLookup(None, 0, str(exc.args[0]))
    try:
        answer = await resolver.lookup_txt(name)
    except LookupFailed as exc:
        return RecordLookup(None, 0, str(exc), failed=True)
    if answer.status is not AnswerStatus.FOUND:
        return RecordLookup(None, answer.ttl, f"no _mta-sts record ({answer.status.value})")
    try:
        record = select_record(answer.records)
    except RecordInvalid as exc:
        # RFC 8461 §3.1: an invalid record, or several, means that there is no policy.
        return RecordLookup(None, answer.ttl, f"unusable _mta-sts record: {exc}")
    if record is None:
        return RecordLookup(None, answer.ttl, "no _mta-sts record among the TXT records")
    return RecordLookup(record, answer.ttl, "")
