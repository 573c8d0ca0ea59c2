"""The canonical body of DKIM (RFC 6376 §3.4.3, §3.4.4): its examples, and the same as dkimpy's for any octets."""

import re

import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.dkim_body import body_hash, canonical_body


@pytest.mark.parametrize(
    ("body", "simple", "relaxed"),
    [
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n", b" C\r\nD E\r\n"),  # the example of §3.4.5
        (b"", b"\r\n", b""),  # §3.4.3 and §3.4.4 for a body that is not there
        (b"\r\n\r\n", b"\r\n", b""),
        (b"no line end", b"no line end\r\n", b"no line end\r\n"),
        (b"bare\nLF\n\n", b"bare\r\nLF\r\n", b"bare\r\nLF\r\n"),
        (b"bare CR\r\r\n\r\n", b"bare CR\r\r\n", b"bare CR\r\r\n"),
        (b"at the end\r", b"at the end\r\r\n", b"at the end\r\r\n"),
    ],
)
def test_canonical_body(body: bytes, simple: bytes, relaxed: bytes) -> None:
    assert canonical_body(body, relaxed=False) == simple
    assert canonical_body(body, relaxed=True) == relaxed


@given(st.text(alphabet="ab \t\r\n", max_size=40).map(str.encode))
def test_it_is_the_same_as_that_of_dkimpy(body: bytes) -> None:
    lines = b"\r\n".join(re.split(b"\r?\n", body))  # as dkimpy reads a message
    assert canonical_body(body, relaxed=False) == Simple.canonicalize_body(lines)
    assert canonical_body(body, relaxed=True) == Relaxed.canonicalize_body(lines)


def test_hash_of_the_empty_body() -> None:
    """The value that RFC 6376 §3.4.4 gives, in base64, for SHA-256."""
    assert body_hash(b"", relaxed=True).hex().startswith("e3b0c44298fc1c14")
