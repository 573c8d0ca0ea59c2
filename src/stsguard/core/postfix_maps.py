"""smtp_tls_policy_maps: what is in it, what of it is ours, and where our own map belongs.

For each key Postfix asks every map in turn, then does the same for each parent domain (`.example.com`, `.com`). So an
exact entry of a map in front of ours wins over our answer, a parent entry never does, and a map that has an answer
for everything shadows all that stand behind it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from stsguard.core.socketmap import MAP_NAMES, Dialect

_OURS_BY_NAME = (Dialect.POLICY.value, Dialect.POLICY_TLSRPT.value)


class MapKind(Enum):
    """What a map answers to names that its owner did not write down."""

    OURS = "stsguard"
    FOREIGN = "another policy service"
    CATCH_ALL = "answers every name"
    PATTERN = "answers by pattern"
    TABLE = "answers exact names"


@dataclass(frozen=True, slots=True)
class PolicyMap:
    """One entry. `address` (`inet:host:port`, `unix:path`) and `map_name` are empty for other types than socketmap."""

    text: str
    kind: MapKind
    address: str = ""
    map_name: str = ""

    @property
    def dialect(self) -> Dialect | None:
        """What the daemon takes this name for; None for a name that it does not know."""
        return MAP_NAMES.get(self.map_name.encode())


def split_maps(value: str) -> tuple[str, ...]:
    """The entries of a list of tables: commas and white space separate, but not within braces."""
    entries: list[str] = []
    current = ""
    depth = 0
    for char in value:
        if depth == 0 and (char == "," or char.isspace()):
            entries.append(current)
            current = ""
            continue
        depth = max(0, depth + {"{": 1, "}": -1}.get(char, 0))
        current += char
    entries.append(current)
    return tuple(entry for entry in entries if entry)


def classify(entry: str, *, our_addresses: Iterable[str]) -> PolicyMap:
    """What this entry is. A socketmap is ours by its address, or by a map name that no other service has."""
    kind, _, rest = entry.removeprefix("proxy:").partition(":")
    match kind:
        case "socketmap":
            address, _, map_name = rest.rpartition(":")
            ours = address in set(our_addresses) or map_name in _OURS_BY_NAME
            return PolicyMap(entry, MapKind.OURS if ours else MapKind.FOREIGN, address, map_name)
        case "static":
            return PolicyMap(entry, MapKind.CATCH_ALL)
        case "tcp":
            return PolicyMap(entry, MapKind.FOREIGN)
        case "regexp" | "pcre" | "cidr" | "pipemap" | "unionmap" | "randmap":
            return PolicyMap(entry, MapKind.PATTERN)
        case _:
            return PolicyMap(entry, MapKind.TABLE)


def place(maps: Sequence[PolicyMap], own: str) -> tuple[str, ...]:
    """The list with `own` in it once: where ours stood, unless something in front of that answers in its place.

    Tables of exact names stay in front, so that what the administrator wrote down goes on winning.
    """
    ours = [index for index, entry in enumerate(maps) if entry.kind is MapKind.OURS]
    blocking = [index for index, entry in enumerate(maps) if entry.kind in (MapKind.CATCH_ALL, MapKind.FOREIGN)]
    index = min([*ours[:1], *blocking[:1]], default=len(maps))
    front = [entry.text for entry in maps[:index]]
    behind = [entry.text for entry in maps[index:] if entry.kind is not MapKind.OURS]
    return (*front, own, *behind)
