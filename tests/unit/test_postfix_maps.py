"""smtp_tls_policy_maps taken apart and put together."""

import pytest

from stsguard.core.postfix_maps import MapKind, classify, place, split_maps
from stsguard.core.socketmap import Dialect

OWN = "socketmap:unix:stsguard/lookup.sock:policy"


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        ("", ()),
        ("hash:/a, hash:/b", ("hash:/a", "hash:/b")),
        ("hash:/a hash:/b\thash:/c,,hash:/d,", ("hash:/a", "hash:/b", "hash:/c", "hash:/d")),
        (
            "inline:{ {a.example = may}, b.example=encrypt } static:may",
            ("inline:{ {a.example = may}, b.example=encrypt }", "static:may"),
        ),
        ("hash:/a} hash:/b", ("hash:/a}", "hash:/b")),
        ("inline:{ hash:/a, hash:/b", ("inline:{ hash:/a, hash:/b",)),
    ],
)
def test_split(value: str, entries: tuple[str, ...]) -> None:
    assert split_maps(value) == entries


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ("hash:/etc/postfix/tls_policy", MapKind.TABLE),
        ("proxy:hash:/etc/postfix/tls_policy", MapKind.TABLE),
        ("inline:{ a.example=may }", MapKind.TABLE),
        ("static:may", MapKind.CATCH_ALL),
        ("regexp:/etc/postfix/tls_policy", MapKind.PATTERN),
        ("proxy:pcre:/etc/postfix/tls_policy", MapKind.PATTERN),
        ("tcp:127.0.0.1:9999", MapKind.FOREIGN),
        ("socketmap:inet:127.0.0.1:8642:QUERY", MapKind.FOREIGN),
        ("socketmap:inet:127.0.0.1:8461:postfix", MapKind.OURS),  # by its address
        ("socketmap:inet:[::1]:1:policy", MapKind.OURS),  # by its name, which no other service has
        ("proxy:socketmap:unix:/run/x:policy-tlsrpt", MapKind.OURS),
    ],
)
def test_kind(entry: str, kind: MapKind) -> None:
    assert classify(entry, our_addresses=["inet:127.0.0.1:8461"]).kind is kind


def test_parts_of_a_socketmap() -> None:
    found = classify("socketmap:inet:[::1]:8461:QUERYwithTLSRPT", our_addresses=["inet:[::1]:8461"])
    assert (found.address, found.map_name, found.dialect) == (
        "inet:[::1]:8461",
        "QUERYwithTLSRPT",
        Dialect.POLICY_TLSRPT,
    )
    assert classify("socketmap:unix:a:other", our_addresses=["unix:a"]).dialect is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), (OWN,)),
        (("hash:/a",), ("hash:/a", OWN)),  # what the administrator wrote down goes on winning
        (("hash:/a", "static:may"), ("hash:/a", OWN, "static:may")),
        (("static:may", "hash:/a"), (OWN, "static:may", "hash:/a")),
        (("regexp:/r",), ("regexp:/r", OWN)),
        (("socketmap:inet:127.0.0.1:8642:QUERY",), (OWN, "socketmap:inet:127.0.0.1:8642:QUERY")),
        (("hash:/a", "socketmap:unix:x:policy", "hash:/b"), ("hash:/a", OWN, "hash:/b")),
        (("static:may", "socketmap:unix:x:policy"), (OWN, "static:may")),
        (("socketmap:unix:x:policy", "hash:/a", "socketmap:unix:y:policy"), (OWN, "hash:/a")),
    ],
)
def test_place(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    assert place([classify(entry, our_addresses=[]) for entry in before], OWN) == after
