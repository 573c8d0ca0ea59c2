"""The operator's overrides: what to answer for a domain, whatever it publishes.

The file is TOML, one table a domain; `[".partner.example"]` covers every name below `partner.example`, and an exact
entry beats it. The nearest parent wins. `policy`, `exempt` and `enforce`/`mx` exclude each other.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

from stsguard.core.errors import OverrideInvalid, PolicyInvalid
from stsguard.core.mtasts import MxPattern
from stsguard.names import Domain, NameInvalid

LEVELS = ("none", "may", "encrypt", "fingerprint", "dane", "dane-only", "verify", "secure")
MATCHING_LEVELS = ("fingerprint", "verify", "secure")
# What Postfix 3.4 knows, each with whether it may stand more than once. One attribute too new, and every mail to the
# domain is deferred; so TLSRPT attributes are not taken here.
ATTRIBUTES = {
    "ciphers": False,
    "exclude": False,
    "match": True,
    "protocols": False,
    "servername": False,
    "tafile": True,
    "connection_reuse": False,
}
KEYS = ("policy", "exempt", "enforce", "mx", "reason", "expires")
_VALUE = re.compile(r"[!-~]+")


class OverrideKind(StrEnum):
    """What an override does."""

    POLICY = "policy"  # this reply, verbatim
    EXEMPT = "exempt"  # NOTFOUND: the site's own level
    ENFORCE = "enforce"  # the domain's policy as if its mode were enforce, with pinned MX hosts if given


@dataclass(frozen=True, slots=True)
class Override:
    """One entry of the override file. `key` as written there; `mx_patterns` only with ENFORCE."""

    key: str
    kind: OverrideKind
    policy: str = ""
    mx_patterns: tuple[MxPattern, ...] = ()
    reason: str = ""
    expires: date | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """All entries, in force or expired. An expired one is as if it were not there, but is still reported."""

    exact: Mapping[Domain, Override] = field(default_factory=dict)
    below: Mapping[Domain, Override] = field(default_factory=dict)

    def find(self, host: Domain, today: date) -> Override | None:
        """The entry in force for the bare host name of a key on `today` (UTC), None where there is none."""
        return next((entry for entry in self._all_for(host) if not expired(entry, today)), None)

    def find_expired(self, host: Domain, today: date) -> Override | None:
        """The entry that would be in force for `host` on `today`, had it not expired; None where there is none."""
        first = next(self._all_for(host), None)
        return first if first is not None and expired(first, today) else None

    def _all_for(self, host: Domain) -> Iterator[Override]:
        """The entries for `host`, expired or not, the nearest first."""
        if host in self.exact:
            yield self.exact[host]
        labels = host.split(".")
        for start in range(1, len(labels)):
            found = self.below.get(Domain(".".join(labels[start:])))
            if found is not None:
                yield found

    def expired(self, today: date) -> Iterator[Override]:
        """The entries that are no longer in force on `today`."""
        return (entry for entry in (*self.exact.values(), *self.below.values()) if expired(entry, today))

    def __len__(self) -> int:
        return len(self.exact) + len(self.below)


def expired(entry: Override, today: date) -> bool:
    """Whether `entry` has run out: `expires` is the first day on which it no longer holds."""
    return entry.expires is not None and today >= entry.expires


def parse_overrides(tables: Mapping[str, object]) -> Overrides:
    """The overrides of a parsed TOML file.

    Raises:
        OverrideInvalid: names the entry, the key, the value and what is allowed.
    """
    exact: dict[Domain, Override] = {}
    below: dict[Domain, Override] = {}
    for name, table in tables.items():
        target = below if name.startswith(".") else exact
        try:
            domain = Domain.parse(name.removeprefix("."))
        except NameInvalid as exc:
            raise OverrideInvalid(f'["{name}"]: {exc.args[0]}; an entry is a domain, or a domain after a dot') from exc
        if domain in target:
            raise OverrideInvalid(f'["{name}"]: this domain has an entry already, in another spelling')
        if not isinstance(table, dict):
            raise OverrideInvalid(f'"{name}": an entry is a table: write ["{name}"] above its keys')
        target[domain] = _parse_entry(name, table)
    return Overrides(exact, below)


def _parse_entry(name: str, table: Mapping[str, object]) -> Override:
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise OverrideInvalid(f'["{name}"] {key}: unknown key; {hint}allowed are {", ".join(KEYS)}')
    reason = table.get("reason", "")
    if not isinstance(reason, str):
        raise OverrideInvalid(f'["{name}"] reason = {reason!r}: must be a text')
    expires = table.get("expires")
    if isinstance(expires, datetime) or not isinstance(expires, date | None):
        raise OverrideInvalid(f'["{name}"] expires = {expires!r}: must be a date without quotes, as 2027-01-31')
    for key in ("exempt", "enforce"):
        if key in table and table[key] is not True:
            raise OverrideInvalid(f'["{name}"] {key} = {table[key]!r}: must be true; to end it, delete the entry')
    kinds = [key for key in ("policy", "exempt", "enforce") if key in table]
    if len(kinds) > 1 or ("mx" in table and kinds not in ([], ["enforce"])):
        given = ", ".join(key for key in KEYS[:4] if key in table)
        raise OverrideInvalid(f'["{name}"] {given}: give one of policy, exempt, or enforce and mx')
    if "policy" in table:
        return Override(
            name, OverrideKind.POLICY, policy=_parse_policy(name, table["policy"]), reason=reason, expires=expires
        )
    if "exempt" in table:
        return Override(name, OverrideKind.EXEMPT, reason=reason, expires=expires)
    if not kinds and "mx" not in table:
        raise OverrideInvalid(f'["{name}"]: does nothing; give one of policy, exempt, enforce, mx')
    mx_patterns = _parse_mx(name, table["mx"]) if "mx" in table else ()
    return Override(name, OverrideKind.ENFORCE, mx_patterns=mx_patterns, reason=reason, expires=expires)


def _parse_mx(name: str, value: object) -> tuple[MxPattern, ...]:
    if not isinstance(value, list) or not value:
        raise OverrideInvalid(f'["{name}"] mx = {value!r}: must be a list of MX hosts, as ["mx.example.com"]')
    patterns = []
    for item in value:
        try:
            patterns.append(MxPattern.parse(item if isinstance(item, str) else ""))
        except PolicyInvalid as exc:
            text = f'["{name}"] mx = {item!r}: must be a host name, or *. and a name (RFC 8461 §3.2)'
            raise OverrideInvalid(text) from exc
    return tuple(patterns)


def _parse_policy(name: str, value: object) -> str:
    """A policy as smtp_tls_policy_maps takes it: what Postfix would refuse is refused here, before it defers mail."""

    def refuse(what: str) -> OverrideInvalid:
        return OverrideInvalid(f'["{name}"] policy = {value!r}: {what}')

    words = value.replace(",", " ").split() if isinstance(value, str) else []
    if not words:
        raise refuse("must be a text such as 'secure match=mx.example.com servername=hostname'")
    level = words[0].lower()
    if level not in LEVELS:
        raise refuse(f"{words[0]!r} is no TLS security level; allowed are {', '.join(LEVELS)}")
    seen: set[str] = set()
    for word in words[1:]:
        attribute, equals, text = word.partition("=")
        attribute = attribute.lower()
        if attribute not in ATTRIBUTES or not equals or not _VALUE.fullmatch(text) or set(text) & set("{}"):
            raise refuse(f"{word!r} is no attribute; allowed are {', '.join(f'{a}=VALUE' for a in ATTRIBUTES)}")
        if attribute in seen and not ATTRIBUTES[attribute]:
            raise refuse(f"{attribute}= stands twice; Postfix would defer the mail")
        if attribute == "match" and level not in MATCHING_LEVELS:
            raise refuse(f"match= is only for {', '.join(MATCHING_LEVELS)}; Postfix would defer the mail")
        seen.add(attribute)
    return " ".join(words)
