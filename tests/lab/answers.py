"""Replies of the daemon as the tables of scenarios write them: `NOTFOUND`, `TEMP`, `dane-only`, `secure mx1 mx2`."""

import re
from collections import defaultdict
from collections.abc import Mapping

NO_HOST = "-"
_ATTRIBUTE = re.compile(r"\{\s*(?P<braced>[^{}]*)\}|(?P<plain>[^\s,{}]+)")
_TLSRPT = ("policy_type", "policy_domain", "policy_string", "mx_host_pattern", "policy_failure", "policy_ttl")


def answer_class(reply: str, *, tlsrpt: bool, policy_domain: str, hosts: Mapping[str, str]) -> str:
    """The reply in short. `hosts` gives the scenario's names of its MX hosts by their real names.

    Of a `secure` reply the hosts are those that the Postfix in question will use: with TLSRPT attributes those of
    `mx_host_pattern`, without them those of `match`. What such a reply must not have is added after an exclamation
    mark, so that it agrees with no expectation.
    """
    status, _, text = reply.partition(" ")
    if status != "OK":
        return status
    level, attributes = _parse(text)
    if level != "secure":
        return level if not attributes else f"{level} !{' '.join(attributes)}"
    faults = []
    if attributes["servername"] != ["hostname"]:
        faults.append("servername")
    used = [name for value in attributes["match"] for name in value.split(":")]
    if tlsrpt and "policy_type" in attributes:
        used = attributes["mx_host_pattern"]
        if attributes["policy_type"] != ["sts"] or attributes["policy_domain"] != [policy_domain]:
            faults.append("policy_domain")
        if not attributes["policy_string"] or not attributes["match"]:
            faults.append("policy_string")
    elif any(name in _TLSRPT for name in attributes):
        faults.append("attributes that Postfix before 3.10 refuses")
    names = sorted(NO_HOST if name.endswith(".invalid") else hosts.get(name, name) for name in set(used))
    return " ".join(["secure", *names, *(f"!{fault}" for fault in faults)])


def _parse(text: str) -> tuple[str, defaultdict[str, list[str]]]:
    attributes: defaultdict[str, list[str]] = defaultdict(list)
    level, _, rest = text.partition(" ")
    for found in _ATTRIBUTE.finditer(rest):
        name, _, value = (found["braced"] if found["braced"] is not None else found["plain"]).partition("=")
        attributes[name.strip()].append(value.strip())
    return level, attributes
