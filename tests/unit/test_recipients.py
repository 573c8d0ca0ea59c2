"""What the milter makes of recipients: addresses, and which next hops are worth a look-up ahead."""

import pytest

from stsguard.core.recipients import MAX_PATH_OCTETS, folded, next_hop_to_warm, parse_path


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (b"<tlsrpt@example.net>", "tlsrpt@example.net"),
        (b"tlsrpt@Example.NET.", "tlsrpt@example.net"),
        (b'<"odd one"@example.net>', "odd one@example.net"),
        (b'<"a@b"@example.net>', "a@b@example.net"),
        ("<tls@bücher.example>".encode(), "tls@xn--bcher-kva.example"),  # SMTPUTF8
        (b"<postmaster>", ""),
        (b"<@example.net>", ""),
        (b"<a@[192.0.2.1]>", ""),
        (b"<a@not a name>", ""),
        (b"<\xff@\xff>", ""),
        (b"", ""),
        (b"<" + b"a" * MAX_PATH_OCTETS + b"@example.net>", ""),
    ],
)
def test_path(path: bytes, address: str) -> None:
    assert parse_path(path) == address


def test_addresses_that_differ_in_case_are_one() -> None:
    assert folded("TLSrpt@example.net") == folded("tlsrpt@example.net")


@pytest.mark.parametrize(
    ("mailer", "host", "next_hop"),
    [
        ("smtp", "Example.NET", "example.net"),
        ("relay", "mx.example.net:587", "mx.example.net:587"),
        ("partner-tls", "example.net", "example.net"),  # an smtp(8) by another name, for all we know
        ("smtp", "[mx.example.net]", None),  # answered without a look-up
        ("smtp", "192.0.2.1", None),
        ("smtp", "localhost", None),
        ("local", "example.net", None),
        ("virtual", "example.net", None),
        ("LMTP", "example.net", None),
        ("error", "5.1.1 unknown", None),
        ("dovecot", "unix:private/dovecot-lmtp", None),
        ("smtp", "", None),
        ("", "example.net", None),  # the macro is not there: nothing is known of the recipient
    ],
)
def test_only_next_hops_elsewhere_are_looked_up(mailer: str, host: str, next_hop: str | None) -> None:
    assert next_hop_to_warm(mailer, host) == next_hop
