# ruff: noqa: E501 (the expected messages stand as they are printed)
"""The override file: what it can say, and the exact words for what it can't."""

import tomllib
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import OverrideInvalid
from stsguard.core.overrides import OverrideKind, Overrides, parse_overrides
from stsguard.names import Domain

TODAY = date(2026, 11, 22)


def read(text: str) -> Overrides:
    return parse_overrides(tomllib.loads(text))


def kind(overrides: Overrides, host: str) -> OverrideKind | None:
    found = overrides.find(Domain(host), TODAY)
    return found.kind if found else None


def test_exact_beats_parent_and_the_nearest_parent_wins() -> None:
    overrides = read(
        """
        ["partner.example"]
        exempt = true
        [".partner.example"]
        enforce = true
        [".deep.partner.example"]
        policy = "encrypt"
        """
    )
    assert kind(overrides, "partner.example") is OverrideKind.EXEMPT  # a parent entry is for names below it
    assert kind(overrides, "mx.partner.example") is OverrideKind.ENFORCE
    assert kind(overrides, "a.b.partner.example") is OverrideKind.ENFORCE
    assert kind(overrides, "a.deep.partner.example") is OverrideKind.POLICY
    assert kind(overrides, "notpartner.example") is None
    assert len(overrides) == 3


def test_spelling_is_folded() -> None:
    overrides = read('["BÜCHER.example."]\nexempt = true')
    assert kind(overrides, "xn--bcher-kva.example") is OverrideKind.EXEMPT


def test_an_expired_entry_is_ignored_and_told() -> None:
    overrides = read(
        '["a.example"]\nexempt = true\nexpires = 2026-11-22\n["b.example"]\nexempt = true\nexpires = 2026-11-23'
    )
    assert kind(overrides, "a.example") is None
    assert kind(overrides, "b.example") is OverrideKind.EXEMPT
    assert [entry.key for entry in overrides.expired(TODAY)] == ["a.example"]


def test_an_expired_exact_entry_leaves_the_parents_in_force() -> None:
    overrides = read(
        '["a.b.example"]\nexempt = true\nexpires = 2026-01-01\n'
        '[".b.example"]\nexempt = true\nexpires = 2026-01-01\n[".example"]\nenforce = true'
    )
    assert kind(overrides, "a.b.example") is OverrideKind.ENFORCE


def test_the_entry_that_would_hold_had_it_not_expired_is_found() -> None:
    overrides = read(
        '["a.b.example"]\nexempt = true\nexpires = 2026-01-01\n'
        '[".b.example"]\nexempt = true\nexpires = 2026-11-23\n[".example"]\nenforce = true\nexpires = 2026-01-01'
    )

    def found(host: str) -> str | None:
        entry = overrides.find_expired(Domain(host), TODAY)
        return entry and entry.key

    assert [found(host) for host in ("a.b.example", "x.b.example", "x.example", "a.test")] == [
        "a.b.example",
        None,
        ".example",
        None,
    ]


def test_what_an_entry_holds() -> None:
    overrides = read('["a.example"]\nmx = ["mx.a.example", "*.b.example"]\nreason = "ticket 1"\nexpires = 2027-01-01')
    entry = overrides.find(Domain("a.example"), TODAY)
    assert entry is not None
    assert (entry.kind, [str(pattern) for pattern in entry.mx_patterns]) == (
        OverrideKind.ENFORCE,
        ["mx.a.example", "*.b.example"],
    )
    assert (entry.reason, entry.expires) == ("ticket 1", date(2027, 1, 1))


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("may", "may"),
        ("secure match=mx.example.com servername=hostname", "secure match=mx.example.com servername=hostname"),
        ("secure, match=a.example:b.example,match=c.example", "secure match=a.example:b.example match=c.example"),
        ("fingerprint match=AA:BB|CC:DD", "fingerprint match=AA:BB|CC:DD"),
        ("DANE-only", "DANE-only"),
        ("verify ciphers=high protocols=>=TLSv1.2", "verify ciphers=high protocols=>=TLSv1.2"),
    ],
)
def test_policies_that_postfix_takes(text: str, policy: str) -> None:
    entry = read(f'["a.example"]\npolicy = "{text}"').find(Domain("a.example"), TODAY)
    assert entry is not None
    assert entry.policy == policy


ATTRIBUTES = (
    "ciphers=VALUE, exclude=VALUE, match=VALUE, protocols=VALUE, servername=VALUE, tafile=VALUE, connection_reuse=VALUE"
)
BAD = [
    (
        '["a..b"]\nexempt = true',
        """["a..b"]: '' is not a label of a host name; an entry is a domain, or a domain after a dot""",
    ),
    (
        '["192.0.2.1"]\nexempt = true',
        """["192.0.2.1"]: this is an IPv4 address, not a name; an entry is a domain, or a domain after a dot""",
    ),
    (
        '["a.example"]\nexempt = true\n["A.example."]\nexempt = true',
        '["A.example."]: this domain has an entry already, in another spelling',
    ),
    ("exempt = true", '"exempt": an entry is a table: write ["exempt"] above its keys'),
    (
        '["a.example"]\nexmpt = true',
        '["a.example"] exmpt: unknown key; did you mean exempt? allowed are policy, exempt, enforce, mx, reason, expires',
    ),
    (
        '["a.example"]\nzzz = 1',
        '["a.example"] zzz: unknown key; allowed are policy, exempt, enforce, mx, reason, expires',
    ),
    ('["a.example"]\nexempt = true\nreason = 4711', '["a.example"] reason = 4711: must be a text'),
    (
        '["a.example"]\nexempt = true\nexpires = "2027-01-01"',
        """["a.example"] expires = '2027-01-01': must be a date without quotes, as 2027-01-31""",
    ),
    ('["a.example"]\nexempt = true\nexpires = 2027-01-01T00:00:00Z', None),
    ('["a.example"]\nexempt = false', '["a.example"] exempt = False: must be true; to end it, delete the entry'),
    ('["a.example"]\nenforce = "yes"', """["a.example"] enforce = 'yes': must be true; to end it, delete the entry"""),
    (
        '["a.example"]\nexempt = true\nenforce = true',
        '["a.example"] exempt, enforce: give one of policy, exempt, or enforce and mx',
    ),
    (
        '["a.example"]\nexempt = true\nmx = ["mx.a.example"]',
        '["a.example"] exempt, mx: give one of policy, exempt, or enforce and mx',
    ),
    ('["a.example"]\nreason = "x"', '["a.example"]: does nothing; give one of policy, exempt, enforce, mx'),
    ('["a.example"]\nmx = []', '["a.example"] mx = []: must be a list of MX hosts, as ["mx.example.com"]'),
    (
        '["a.example"]\nmx = "mx.a.example"',
        """["a.example"] mx = 'mx.a.example': must be a list of MX hosts, as ["mx.example.com"]""",
    ),
    ('["a.example"]\nmx = ["*"]', """["a.example"] mx = '*': must be a host name, or *. and a name (RFC 8461 §3.2)"""),
    ('["a.example"]\nmx = [7]', '["a.example"] mx = 7: must be a host name, or *. and a name (RFC 8461 §3.2)'),
    (
        '["a.example"]\npolicy = " "',
        """["a.example"] policy = ' ': must be a text such as 'secure match=mx.example.com servername=hostname'""",
    ),
    (
        '["a.example"]\npolicy = ","',  # found by fuzzing
        """["a.example"] policy = ',': must be a text such as 'secure match=mx.example.com servername=hostname'""",
    ),
    (
        '["a.example"]\npolicy = 1',
        """["a.example"] policy = 1: must be a text such as 'secure match=mx.example.com servername=hostname'""",
    ),
    (
        '["a.example"]\npolicy = "strict"',
        """["a.example"] policy = 'strict': 'strict' is no TLS security level; allowed are none, may, encrypt, fingerprint, dane, dane-only, verify, secure""",
    ),
    (
        '["a.example"]\npolicy = "secure policy_type=sts"',  # 3.9 and before would defer every mail
        f"""["a.example"] policy = 'secure policy_type=sts': 'policy_type=sts' is no attribute; allowed are {ATTRIBUTES}""",
    ),
    (
        '["a.example"]\npolicy = "secure match"',
        f"""["a.example"] policy = 'secure match': 'match' is no attribute; allowed are {ATTRIBUTES}""",
    ),
    (
        '["a.example"]\npolicy = "secure match="',
        f"""["a.example"] policy = 'secure match=': 'match=' is no attribute; allowed are {ATTRIBUTES}""",
    ),
    (
        '["a.example"]\npolicy = "secure match=a{b"',
        f"""["a.example"] policy = 'secure match=a{{b': 'match=a{{b' is no attribute; allowed are {ATTRIBUTES}""",
    ),
    (
        '["a.example"]\npolicy = "secure servername=hostname servername=hostname"',
        """["a.example"] policy = 'secure servername=hostname servername=hostname': servername= stands twice; Postfix would defer the mail""",
    ),
    (
        '["a.example"]\npolicy = "may match=mx.a.example"',
        """["a.example"] policy = 'may match=mx.a.example': match= is only for fingerprint, verify, secure; Postfix would defer the mail""",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_every_refusal_names_entry_key_value_and_what_is_allowed(text: str, message: str | None) -> None:
    with pytest.raises(OverrideInvalid) as raised:
        read(text)
    if message is None:
        assert "must be a date without quotes" in str(raised.value)
    else:
        assert str(raised.value) == message


@given(
    st.dictionaries(
        st.text(max_size=12), st.dictionaries(st.text(max_size=8), st.text() | st.booleans() | st.integers())
    )
)
def test_any_tables_give_overrides_or_the_one_error(tables: dict[str, object]) -> None:
    try:
        overrides = parse_overrides(tables)
    except OverrideInvalid:
        return
    assert len(overrides) == len(tables)
