"""MX patterns against MX hosts (RFC 8461 §4.1), and what is no pattern (§3.2, RFC 5321 §4.1.2)."""

import pytest

from stsguard.core.errors import PolicyInvalid
from stsguard.core.mtasts import MxPattern, mx_matches
from stsguard.names import Domain, NameInvalid

MATCHES = [
    ("mx.example.com", "mx.example.com", True),
    ("mx.example.com", "MX.Example.Com", True),  # without case
    ("MX.EXAMPLE.COM", "mx.example.com", True),
    ("mx.example.com", "mx.example.com.", True),  # the DNS gives the final dot
    ("mx.example.com", "mx.example.net", False),
    ("mx.example.com", "example.com", False),
    ("mx.example.com", "mx1.mx.example.com", False),  # an exact name is no suffix
    ("mx.example.com", "other-mx.example.com", False),  # nor the end of a label
    ("mx.example.com", "mx.example.com.evil.example", False),  # nor a prefix
    ("mx.example.com", "mxxexample.com", False),  # a dot is a dot, not any character
    ("example.com", "mx.example.com", False),
    ("*.example.com", "mx.example.com", True),  # the RFC's own three cases
    ("*.example.com", "example.com", False),
    ("*.example.com", "mx.west.example.com", False),  # exactly one label (decision 12)
    ("*.example.com", "a.b.c.example.com", False),
    ("*.example.com", "mx.example.com.evil.example", False),
    ("*.example.com", "mxexample.com", False),
    ("*.example.com", "evilexample.com", False),
    ("*.example.com", "x.evilexample.com", False),
    ("*.example.com", "MX.EXAMPLE.COM.", True),
    ("*.example.com", "mx_1.example.com", True),  # the label may be any
    ("*.example.com", "xn--mx-fka.example.com", True),
    ("*.example.com", "7.example.com", True),
    ("*.west.example.com", "mx.west.example.com", True),
    ("*.west.example.com", "mx.east.example.com", False),
    ("*.com", "example.com", True),
    ("*.com", "mx.example.com", False),
    ("*.com", "com", False),
    ("com", "com", True),
    ("mx", "mx", True),
    ("*.xn--bcher-kva.example", "mx.bücher.example", True),  # A-labels are compared
    ("*.xn--bcher-kva.example", "mx.bucher.example", False),
    ("*.xn--bcher-kva.example", "mx.BÜCHER.example", True),
    ("7.6.5.4.example", "7.6.5.4.example", True),  # decision 8
    ("*.6.5.4", "mx.6.5.4", True),
]

NOT_A_PATTERN = [
    "",
    "*",
    "*.",
    ".",
    "..",
    ".example.com",  # Postfix' way of saying any depth
    "*example.com",
    "*.*.example.com",
    "**.example.com",
    "mx*.example.com",  # RFC 6125 §6.4.3 would allow it, RFC 8461 §4.1 does not
    "*mx.example.com",
    "mx.*.com",
    "mx.example.*",
    "mx.example.com.",
    "*.example.com.",
    "mx..example.com",
    "mx_1.example.com",
    "-mx.example.com",
    "mx-.example.com",
    "mx.example.com:25",
    "mx.example.com/",
    "mx example.com",
    " mx.example.com",
    "mx.example.com\n",
    "mx.example.com\x00",
    "mx@example.com",
    "[192.0.2.25]",
    "192.0.2.25",
    "*.192.0.2.25",
    "[IPv6:2001:db8::25]",
    "2001:db8::25",
    "bücher.example",
    "*.bücher.example",
    "mx。example.com",  # an ideographic full stop
    "mx.exámple.com",
    "m" * 64 + ".example.com",
    "a." * 126 + "ab",
]

NOT_A_HOST = ["", ".", ".example.com", "mx..example.com", "192.0.2.25", "[192.0.2.25]", "*.example.com", "mx host"]


@pytest.mark.parametrize(("pattern", "host", "matches"), MATCHES)
def test_rfc8461_4_1_match(pattern: str, host: str, matches: bool) -> None:
    assert mx_matches(MxPattern.parse(pattern), Domain.parse(host)) is matches


@pytest.mark.parametrize("text", NOT_A_PATTERN)
def test_no_pattern(text: str) -> None:
    with pytest.raises(PolicyInvalid):
        MxPattern.parse(text)


@pytest.mark.parametrize("text", NOT_A_HOST)
def test_no_host(text: str) -> None:
    with pytest.raises(NameInvalid):
        Domain.parse(text)


@pytest.mark.parametrize("pattern", [pattern for pattern, _, _ in MATCHES])
def test_round_trip(pattern: str) -> None:
    assert str(MxPattern.parse(pattern)) == pattern.lower()
    assert MxPattern.parse(str(MxPattern.parse(pattern))) == MxPattern.parse(pattern)
