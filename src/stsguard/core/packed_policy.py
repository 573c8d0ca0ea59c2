"""A policy as octets, for a hundred thousand that are only kept: the lines as served, and before them what decides."""

from functools import lru_cache
from struct import Struct

from stsguard.core.mtasts import Mode, MxPattern, Policy, parse_policy
from stsguard.core.syntax import WSP

_HEAD = Struct("<B?I")  # mode by its place in Mode, whether there are warnings, max_age
_MODES = tuple(Mode)
UNPACKED = 256  # as many as may be looked up at one time, and each is looked at more than once then


def pack_policy(policy: Policy) -> bytes:
    """A policy that `parse_policy` gave."""
    head = _HEAD.pack(_MODES.index(policy.mode), bool(policy.warnings), policy.max_age)
    return head + "\n".join(policy.policy_text).encode()


@lru_cache(maxsize=UNPACKED)
def unpack_policy(packed: bytes) -> Policy:
    """What was packed. Where its parser had nothing to say, nothing but the patterns has to be looked for."""
    mode, has_warnings, max_age = _HEAD.unpack_from(packed)
    text = packed[_HEAD.size :]
    if has_warnings:
        return parse_policy(text + b"\n")
    lines = tuple(text.decode().split("\n"))
    patterns = tuple([MxPattern.parse(line[3:].strip(WSP)) for line in lines if line.startswith("mx:")])
    return Policy(_MODES[mode], max_age, patterns, lines)
