"""Policy files (RFC 8461 §3.2) and media types: what counts, what does not, and why."""

import pytest

from stsguard.core.errors import PolicyInvalid
from stsguard.core.mtasts import MAX_MAX_AGE, Mode, media_type_accepted, parse_policy

Parsed = tuple[str, int, list[str]]

PLAIN: Parsed = ("enforce", 604800, ["mx.example.com"])


def policy(*, version: str = "version: STSv1", mode: str = "mode: enforce", more: str = "mx: mx.example.com") -> bytes:
    """A policy with one of its lines changed; `more` may hold several lines."""
    return f"{version}\n{mode}\nmax_age: 604800\n{more}\n".encode()


def with_max_age(value: str) -> bytes:
    """A good policy with this max_age."""
    return f"version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: {value}\n".encode()


GOOD: list[tuple[bytes, Parsed]] = [
    (policy(), PLAIN),
    (policy().replace(b"\n", b"\r\n"), PLAIN),  # the prose says CRLF, the ABNF LF / CRLF (decision 6)
    (policy().replace(b"\n", b"\r\n", 2), PLAIN),  # mixtures fit the ABNF
    (policy().rstrip(b"\n"), PLAIN),  # the last sts-policy-term is optional
    (b"mx: mx.example.com\nmax_age: 604800\nmode: enforce\nversion: STSv1\n", PLAIN),  # any order
    (policy().replace(b": ", b":"), PLAIN),  # sts-policy-field-delim = ":" *WSP
    (policy().replace(b": ", b":\t  \t"), PLAIN),
    (policy(mode="mode: testing"), ("testing", 604800, ["mx.example.com"])),
    (policy(mode="mode: none"), ("none", 604800, ["mx.example.com"])),
    (b"version: STSv1\nmode: none\nmax_age: 604800\n", ("none", 604800, [])),  # decision 7: none needs no mx
    (
        policy(more="mx: a.example.com\nmx: *.example.net\nmx: b.example.com"),
        ("enforce", 604800, ["a.example.com", "*.example.net", "b.example.com"]),
    ),
    (policy(more="mx: MX.Example.COM"), PLAIN),  # names are compared without case
    (policy(more="mx: mx.example.com\nmx: mx.example.com"), ("enforce", 604800, ["mx.example.com"] * 2)),
    (policy(more="mx: mx"), ("enforce", 604800, ["mx"])),  # Domain = sub-domain *("." sub-domain)
    (policy(more="mx: *.com"), ("enforce", 604800, ["*.com"])),  # unwise, and legal
    (policy(more="mx: 4.3.2.1.example.com"), ("enforce", 604800, ["4.3.2.1.example.com"])),  # decision 8
    (policy(more="mx: 10.20.30"), ("enforce", 604800, ["10.20.30"])),  # three numbers are no address
    (policy(more="mx: xn--mx-fka.example.com"), ("enforce", 604800, ["xn--mx-fka.example.com"])),
    (with_max_age("0"), ("enforce", 0, ["mx.example.com"])),  # decision 4: non-negative, so 0 is legal
    (with_max_age("1"), ("enforce", 1, ["mx.example.com"])),
    (with_max_age("0000604800"), PLAIN),  # leading zeros within 10 digits
    (with_max_age("31557600"), ("enforce", MAX_MAX_AGE, ["mx.example.com"])),
    (with_max_age("31557601"), ("enforce", MAX_MAX_AGE, ["mx.example.com"])),  # decision 4: counts as the maximum
    (with_max_age("9999999999"), ("enforce", MAX_MAX_AGE, ["mx.example.com"])),
    # extensions
    (policy(more="mx: mx.example.com\nflavour: plain"), PLAIN),  # unknown fields are ignored
    (policy(more="mx: mx.example.com\nflavour: plain or with blanks"), PLAIN),  # SP within a value
    (policy(more="mx: mx.example.com\nflavour: Müsli 🥣"), PLAIN),  # UTF-8 in a value
    (policy(more="mx: mx.example.com\nflavour: \u0080\u2028\ufeffx"), PLAIN),  # UTF8-2 and UTF8-3 leave nothing out
    (policy(more="mx: mx.example.com\nflavour::: : :"), PLAIN),  # a colon is a vchar
    (policy(more="mx: mx.example.com\na.b_c-9: x"), PLAIN),  # every character of sts-policy-ext-name
    (policy(more="mx: mx.example.com\n9: x"), PLAIN),
    (policy(more="mx: mx.example.com\n" + "n" * 32 + ": x"), PLAIN),  # 32 characters are the longest name
    (policy(more="mx: mx.example.com\nflavour: a\nflavour: b"), PLAIN),
    (policy(more="mx: mx.example.com\nMode: testing"), PLAIN),  # %s"mode": an extension in another case
    # decision 3: the first of duplicates counts
    (policy(mode="mode: enforce\nmode: testing"), PLAIN),
    (policy(mode="mode: testing\nmode: enforce"), ("testing", 604800, ["mx.example.com"])),
    (policy(mode="mode: enforce\nmode: strange"), PLAIN),  # whatever the second says
    (policy(version="version: STSv1\nversion: STSv2"), PLAIN),
    (with_max_age("604800\nmax_age: 5"), PLAIN),
    (with_max_age("604800\nmax_age: never"), PLAIN),
    # decision 5: what carries no information
    (b"\n\n" + policy() + b"\n \t\n", PLAIN),  # blank lines
    (policy().replace(b"\n", b"\n\r\n"), PLAIN),
    (policy().replace(b"\n", b" \t\n"), PLAIN),  # white space at the end of lines
    (policy().replace(b"\n", b" \r\n"), PLAIN),
    (policy() + b"   ", PLAIN),
    # decision 2: an mx that is no host pattern goes when a good one stands beside it
    (policy(more="mx: 192.0.2.25\nmx: mx.example.com"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: 192.0.2.25"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: *.192.0.2.25"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: [192.0.2.25]"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: 2001:db8::25"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: mx.bücher.example"), PLAIN),  # a U-label
    (policy(more="mx: mx.example.com\nmx: mx.example.com."), PLAIN),
    (policy(more="mx: mx.example.com\nmx: .example.com"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: **.example.com"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: *"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: *."), PLAIN),
    (policy(more="mx: mx.example.com\nmx: mx*.example.com"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: mx_1.example.com"), PLAIN),  # RFC 5321 Domain has no underscore
    (policy(more="mx: mx.example.com\nmx: a.example.com b.example.com"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: a.example.com, b.example.com"), PLAIN),
    (policy(more="mx: mx.example.com\nmx: " + "a." * 127 + "example"), PLAIN),  # longer than a name may be
    (policy(mode="mode: none", more="mx: 192.0.2.25"), ("none", 604800, [])),  # with none left: only mode none
]

BAD: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b"\n", "empty"),
    (b" \t\r\n\n", "empty"),
    (policy(version="flavour: plain"), "there is no 'version'"),
    (policy(mode="flavour: plain"), "there is no 'mode'"),
    (b"version: STSv1\nmode: enforce\nmx: mx.example.com\n", "there is no 'max_age'"),
    (policy(more="flavour: plain"), "there is no 'mx'"),  # required, except when mode is none
    (policy(mode="mode: testing", more="flavour: plain"), "there is no 'mx'"),
    (policy(version="Version: STSv1"), "line 1 has 'Version', but names are in lower case"),  # %s"version"
    (policy(mode="MODE: enforce"), "line 2 has 'MODE'"),
    (policy(more="MX: mx.example.com"), "line 4 has 'MX'"),
    (policy(more="mxs: mx.example.com"), "there is no 'mx'"),
    (policy(version="version: STSv2"), "line 1: version 'STSv2'"),
    (policy(version="version: stsv1"), "line 1: version 'stsv1'"),  # %s"STSv1"
    (policy(version="version: STSv1.0"), "line 1: version 'STSv1.0'"),
    (policy(version="version: STSv2\nversion: STSv1"), "line 1: version 'STSv2'"),  # decision 3: the first counts
    (policy(mode="mode: Enforce"), "line 2: mode 'Enforce' is none of 'enforce', 'testing', 'none'"),
    (policy(mode="mode: report"), "line 2: mode 'report'"),
    (policy(mode="mode: enforce, testing"), "line 2: mode"),
    (policy(mode="mode: strange\nmode: enforce"), "line 2: mode 'strange'"),  # decision 3
    # max_age = 1*10(DIGIT)
    (with_max_age("-1"), "line 4: max_age '-1' is not 1 to 10 digits"),
    (with_max_age("+1"), "1 to 10 digits"),
    (with_max_age("1.5"), "1 to 10 digits"),
    (with_max_age("1_000"), "1 to 10 digits"),
    (with_max_age("7d"), "1 to 10 digits"),
    (with_max_age("0x10"), "1 to 10 digits"),
    (with_max_age("1 000"), "1 to 10 digits"),
    (with_max_age("١٢٣"), "1 to 10 digits"),  # digits elsewhere
    (with_max_age("00000604800"), "1 to 10 digits"),  # eleven
    (with_max_age("9" * 5000), "1 to 10 digits"),
    (with_max_age("never\nmax_age: 604800"), "line 4: max_age 'never'"),  # decision 3
    (with_max_age(""), "line 4: 'max_age' has no value"),
    # decision 5: any other line that matches no production
    (policy(more="mx: mx.example.com\nrubbish"), "line 5: 'rubbish' is not of the form"),
    (policy(more="mx: mx.example.com\n# a comment"), "line 5"),
    (policy(more="mx: mx.example.com\n#comment: x"), "line 5"),
    (policy(more="mx: mx.example.com\nflavour = plain"), "line 5"),
    (policy(more="mx: mx.example.com\n: plain"), "line 5"),
    (policy(more="mx: mx.example.com\n:"), "line 5"),
    (policy(more="mx: mx.example.com\nflavour : plain"), "line 5"),  # no WSP before the colon
    (policy(more="mx: mx.example.com\n flavour: plain"), "line 5"),  # nor before the name; no folding either
    (policy(more=" mx: mx.example.com"), "line 4"),
    (policy(more="mx: mx.example.com\n-a: x"), "line 5"),  # begins with a letter or a digit
    (policy(more="mx: mx.example.com\n_a: x"), "line 5"),
    (policy(more="mx: mx.example.com\na+b: x"), "line 5"),
    (policy(more="mx: mx.example.com\nmüsli: x"), "line 5"),
    (policy(more="mx: mx.example.com\n" + "n" * 33 + ": x"), "line 5"),
    (policy(more="mx: mx.example.com\nflavour:"), "line 5: 'flavour' has no value"),
    (policy(more="mx: mx.example.com\nflavour: \t "), "line 5: 'flavour' has no value"),
    (policy(more="mx: mx.example.com\nmx:"), "line 5: 'mx' has no value"),  # an empty one is no extension either
    (policy(more="mx: mx.example.com\nflavour: a\tb"), "line 5: the value of 'flavour' has a control character"),
    (policy(more="mx: mx.example.com\nflavour: a\x00b"), "control character"),
    (policy(more="mx: mx.example.com\nflavour: a\x1b[2J"), "control character"),
    (policy(more="mx: mx.example.com\nflavour: a\x7f"), "control character"),
    (policy(more="mx: mx.example.com\nflavour: a\x0bb"), "control character"),  # VT and FF end no line
    (policy(more="mx: mx.example.com\nmx: a.example.com\tb"), "control character"),
    (b"<!DOCTYPE html>\n<html lang=en>\n", "line 1"),  # a web page
    (b'{"version": "STSv1"}', "line 1"),  # JSON, as an early draft had it
    # decision 6
    (policy().replace(b"\n", b"\r"), "line 1: a CR without LF"),
    (policy().rstrip(b"\n") + b"\r", "line 4: a CR without LF"),
    (policy().replace(b"\n", b"\r\r\n"), "line 1: a CR without LF"),
    (policy(more="mx: mx.example.com\nflavour: a\rmode: none"), "line 5: a CR without LF"),
    (policy(more="mx: mx.example.com\n\r\r"), "a CR without LF"),
    (b"\xef\xbb\xbf" + policy(), "byte order mark"),
    (policy().decode().encode("utf-16"), "not UTF-8"),
    (policy().decode().encode("utf-16-le"), "line 1"),
    (policy(more="mx: mx.example.com\nflavour: caf\u00e9").decode().encode("latin-1"), "line 5: b'\\xe9' is not UTF-8"),
    (policy() + b"flavour: \xed\xa0\x80\n", "line 5: .* is not UTF-8"),  # a surrogate
    (policy() + b"flavour: \xc0\xaf\n", "line 5: .* is not UTF-8"),  # an overlong form
    (policy() + b"flavour: \xf4\x90\x80\x80\n", "is not UTF-8"),  # beyond U+10FFFF
    # decision 2: with no good mx left
    (policy(more="mx: 192.0.2.25"), "line 4: mx '192.0.2.25': this is an IPv4 address.*no mx is left"),
    (policy(more="mx: *.192.0.2.25"), "no mx is left"),
    (policy(more="mx: mx.example.com."), "ends with a dot"),
    (policy(more="mx: mx.bücher.example"), "A-labels"),
    (policy(more="mx: *.*.example.com"), "whole first label"),
    (policy(more="mx: mx.*.com"), "whole first label"),
    (policy(more="mx: .example.com"), "not a label"),
    (policy(more="mx: mx..example.com"), "not a label"),
    (policy(more="mx: -mx.example.com"), "not a label"),
    (policy(more="mx: mx-.example.com"), "not a label"),
    (policy(more="mx: mx@example.com"), "not a label"),
    (policy(more="mx: " + "m" * 64 + ".example.com"), "not a label"),
    (policy(more="mx: mx.example.com:25"), "not a label"),
    (policy(more="mx: *."), "the name is empty"),
]

MEDIA_TYPES = [
    ("text/plain", True),
    ("Text/Plain", True),  # RFC 9110 §8.3.1: without case
    ("text/plain;charset=utf-8", True),
    ("text/plain; charset=UTF-8", True),
    ("text/plain ;\tcharset=us-ascii", True),
    ('text/plain; charset="utf-8"', True),
    ("text/plain; charset=windows-1252", True),  # §3.2: "All parameters other than ... are ignored"
    ("text/plain; format=flowed; delsp=yes", True),
    ("text/plain;", True),
    ("text/plain; nonsense", True),
    (" text/plain\t", True),
    ("", False),
    (";", False),
    ("text", False),
    ("text/", False),
    ("/plain", False),
    ("text/html", False),
    ("text/html; charset=utf-8", False),
    ("text/plainer", False),
    ("text/plain+x", False),
    ("text /plain", False),
    ("text/ plain", False),
    ("text/markdown; x=text/plain", False),
    ("text/plain, text/html", False),  # two header fields in one
    ("text/html, text/plain", False),
    ("application/octet-stream", False),
    ("image/png", False),
    ("text/plain\x00", False),
    ("text/plaın", False),  # a dotless i
]


@pytest.mark.parametrize(("body", "parsed"), GOOD)
def test_good_policy(body: bytes, parsed: Parsed) -> None:
    policy = parse_policy(body)
    assert (policy.mode.value, policy.max_age, [str(pattern) for pattern in policy.mx_patterns]) == parsed
    assert isinstance(policy.mode, Mode)


@pytest.mark.parametrize(("body", "why"), BAD)
def test_bad_policy(body: bytes, why: str) -> None:
    with pytest.raises(PolicyInvalid, match=why.replace("\\x", "\\\\x")):
        parse_policy(body)


@pytest.mark.parametrize("body", [body for body, _ in GOOD])
def test_round_trip_over_the_policy_text(body: bytes) -> None:
    """What goes into a report as policy-string is again the same policy."""
    once = parse_policy(body)
    for line_end in ("\n", "\r\n"):
        again = parse_policy(line_end.join((*once.policy_text, "")).encode())
        assert again == once


@pytest.mark.parametrize(("content_type", "accepted"), MEDIA_TYPES)
def test_rfc8461_3_2_media_type(content_type: str, accepted: bool) -> None:
    assert media_type_accepted(content_type) is accepted
