"""Which names belong to one organisation: the organisational domain by the Public Suffix List (RFC 7489 §3.2).

The list is a text file that Debian ships and keeps up to date; reading it is an adapter's. Without a list the rule is
narrower: of two names one must be the other or lie beneath it, which is never wrong and knows no sisters.
"""

from collections.abc import Iterable

from stsguard.names import Domain, NameInvalid

MIN_LABELS = 2  # a name of one label is nobody's own


class PublicSuffixes:
    """The rules of one list, in the form of publicsuffix.org: names, `*.name`, and `!name` for exceptions."""

    __slots__ = ("_exceptions", "_names", "_wildcards")

    def __init__(self, lines: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._wildcards: set[str] = set()
        self._exceptions: set[str] = set()
        for line in lines:
            rule = line.split(None, 1)[0] if line.strip() else ""
            if not rule or rule.startswith("//"):
                continue
            kept = self._exceptions if rule[0] == "!" else self._wildcards if rule.startswith("*.") else self._names
            try:
                kept.add(Domain.parse(rule.lstrip("!").removeprefix("*.")))
            except NameInvalid:
                continue  # a rule for no name of the DNS can match none

    def __bool__(self) -> bool:
        return bool(self._names)

    def organizational_domain(self, name: Domain) -> Domain | None:
        """The public suffix of `name` and one label more; None where `name` is a public suffix itself."""
        labels = name.split(".")
        for begin in range(len(labels)):
            candidate = ".".join(labels[begin:])
            if candidate in self._exceptions:
                return Domain(candidate)
            _, _, parent = candidate.partition(".")
            if candidate in self._names or parent in self._wildcards:
                return Domain(".".join(labels[begin - 1 :])) if begin else None
        # The rule of the list for a name that no rule matches is "*".
        return Domain(".".join(labels[-MIN_LABELS:])) if len(labels) >= MIN_LABELS else None

    def is_aligned(self, one: Domain, other: Domain) -> bool:
        """Whether both names belong to the same organisation; never for a public suffix."""
        if not self:
            return _is_beneath(one, other) or _is_beneath(other, one)
        organization = self.organizational_domain(one)
        return organization is not None and organization == self.organizational_domain(other)


def _is_beneath(name: str, parent: str) -> bool:
    return "." in parent and (name == parent or name.endswith("." + parent))
