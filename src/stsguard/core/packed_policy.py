"""A policy as octets, for a hundred thousand that are only kept: the lines as served, and before them what decides."""

from struct import Struct

from stsguard.core.mtasts import Mode, MxPattern, Policy, parse_policy
from stsguard.core.syntax import WSP

_HEAD = Struct("<BI")  # mode by its place in Mode, plus their number where there are warnings; max_age
_MODES = tuple(Mode)
# Lines that most policies have, each as one octet: a control character, of which no line has any but HTAB.
_COMMON = (
    "version: STSv1",
    *(f"mode: {mode}" for mode in Mode),
    *(f"max_age: {seconds}" for seconds in (86400, 604800, 1209600, 1296000, 2592000, 5184000, 31536000, 31557600)),
    "mx: *.mail.protection.outlook.com",
    "mx: aspmx.l.google.com",
    "mx: *.aspmx.l.google.com",
)
_MX, _PACKED_MX = "\nmx: ", "\x01"  # the beginning of most others
_LINES = {chr(octet): line for octet, line in enumerate(_COMMON, 0x0E)}
_OCTETS = {line: octet for octet, line in _LINES.items()}


def pack_policy(policy: Policy) -> bytes:
    """A policy that `parse_policy` gave."""
    head = _HEAD.pack(_MODES.index(policy.mode) + len(_MODES) * bool(policy.warnings), policy.max_age)
    text = "\n".join([_OCTETS.get(line, line) for line in policy.policy_text])
    return head + text.replace(_MX, _PACKED_MX).encode()


def unpack_policy(packed: bytes) -> Policy:
    """What was packed. Where its parser had nothing to say, nothing but the patterns has to be looked for."""
    mode, max_age = _HEAD.unpack_from(packed)
    text = packed[_HEAD.size :].decode().replace(_PACKED_MX, _MX)
    lines = tuple([_LINES.get(line, line) for line in text.split("\n")])
    if mode >= len(_MODES):
        return parse_policy("\n".join((*lines, "")).encode())
    patterns = tuple([MxPattern.parse(line[3:].strip(WSP)) for line in lines if line.startswith("mx:")])
    return Policy(_MODES[mode], max_age, patterns, lines)
