"""Organisational domains by the Public Suffix List, and without one (RFC 7489 §3.2)."""

import pytest

from stsguard.core.public_suffix import PublicSuffixes
from stsguard.names import Domain

LIST = """
// ===BEGIN ICANN DOMAINS===
com
uk
co.uk   // what follows the first blank is no rule
ck
*.ck
!www.ck
公司.cn
not a rule of the DNS..
// ===BEGIN PRIVATE DOMAINS===
github.io
""".splitlines()
SUFFIXES = PublicSuffixes([*LIST, "..", "!"])
NONE = PublicSuffixes(())


@pytest.mark.parametrize(
    ("name", "organization"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("a.example.co.uk", "example.co.uk"),
        ("example.uk", "example.uk"),
        ("a.b.other.ck", "b.other.ck"),  # a wildcard rule
        ("www.ck", "www.ck"),  # an exception to it
        ("mail.www.ck", "www.ck"),
        ("a.xn--55qx5d.cn", "a.xn--55qx5d.cn"),  # a rule in U-labels
        ("a.someone.github.io", "someone.github.io"),
        ("a.b.unlisted", "b.unlisted"),  # no rule is the rule *
        ("com", None),
        ("co.uk", None),
        ("other.ck", None),
        ("unlisted", None),
    ],
)
def test_organizational_domain(name: str, organization: str | None) -> None:
    assert SUFFIXES.organizational_domain(Domain(name)) == organization


@pytest.mark.parametrize(
    ("one", "other", "with_list", "without"),
    [
        ("example.com", "example.com", True, True),
        ("corp.example.com", "example.com", True, True),
        ("example.com", "a.b.example.com", True, True),
        ("mail.example.com", "corp.example.com", True, False),  # sisters: only the list can tell
        ("a.co.uk", "b.co.uk", False, False),
        ("co.uk", "a.co.uk", False, True),  # a public suffix publishes no key
        ("com", "example.com", False, False),
        ("com", "com", False, False),
        ("badexample.com", "example.com", False, False),
    ],
)
def test_alignment(one: str, other: str, with_list: bool, without: bool) -> None:
    assert bool(SUFFIXES)
    assert not bool(NONE)
    assert SUFFIXES.is_aligned(Domain(one), Domain(other)) is with_list
    assert NONE.is_aligned(Domain(one), Domain(other)) is without
