"""Domain names: one canonical form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.names import MAX_NAME_OCTETS, Domain, NameInvalid
from tests.strategies import host_names, nearly, relaxed

LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])

GOOD = [
    ("example.com", "example.com"),
    ("EXAMPLE.Com", "example.com"),  # RFC 4343: without case
    ("example.com.", "example.com"),  # the final dot is the root
    ("com", "com"),
    ("a", "a"),
    ("_mta-sts.example.com", "_mta-sts.example.com"),
    ("_25._tcp.mx.example.com", "_25._tcp.mx.example.com"),
    ("a_b.example.com", "a_b.example.com"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("bücher.example", "xn--bcher-kva.example"),
    ("BÜCHER.example", "xn--bcher-kva.example"),  # UTS #46 folds case
    ("bu\u0308cher.example", "xn--bcher-kva.example"),  # and composes
    ("faß.example", "xn--fa-hia.example"),  # non-transitional: not fass
    ("mail。bücher.example", "mail.xn--bcher-kva.example"),  # an ideographic full stop
    ("4.3.2.1.example", "4.3.2.1.example"),  # decision 8: digits-only labels
    ("123", "123"),
    ("1.2.3", "1.2.3"),
    ("1.2.3.4.5", "1.2.3.4.5"),
    ("1.2.3.256", "1.2.3.256"),  # four numbers, and no address
    ("a" * 63 + ".example", "a" * 63 + ".example"),
    (LONGEST, LONGEST),
    (LONGEST + ".", LONGEST),
]

BAD = [
    ("", "empty"),
    (".", "empty"),
    ("..", "label"),
    ("example..com", "label"),
    (".example.com", "label"),
    ("example.com..", "label"),
    ("-a.example", "label"),
    ("a-.example", "label"),
    ("a b.example", "label"),
    ("a.example\n", "label"),
    ("a/b.example", "label"),
    ("*.example.com", "label"),
    ("[192.0.2.1]", "label"),
    ("2001:db8::1", "label"),
    ("a\x00b.example", "label"),
    ("a" * 64 + ".example", "label"),
    ("192.0.2.1", "IPv4 address"),  # decision 8
    ("0.0.0.0", "IPv4 address"),
    ("255.255.255.255.", "IPv4 address"),
    ("001.002.003.004", "IPv4 address"),
    ("1９2.0.2.1", "IPv4 address"),  # a full-width digit becomes a plain one
    (LONGEST + "b", "longer than 253"),
    ("a." * 5000, "longer than 253"),
    ("é" * 300, "longer than 253"),  # not even converted
    ("é" * 60 + ".example", "internationalised"),  # its A-label is too long
    ("。。", "internationalised"),
    ("a\u0338b\ud800", "internationalised"),
    ("℀.example", "internationalised"),  # maps to a/c
    (".".join(["一丁七万丈三上下不与丏丐丑専且丕"] * 12), "internationalised"),  # too long once converted
]


@pytest.mark.parametrize(("text", "name"), GOOD)
def test_good_name(text: str, name: str) -> None:
    domain = Domain.parse(text)
    assert domain == name
    assert isinstance(domain, Domain)
    assert hash(domain) == hash(name)


@pytest.mark.parametrize(("text", "why"), BAD)
def test_bad_name(text: str, why: str) -> None:
    with pytest.raises(NameInvalid, match=why) as caught:
        Domain.parse(text)
    assert caught.value.args[1] == text
    assert str(caught.value) == caught.value.args[0]


def test_message_is_bounded() -> None:
    """Found by fuzzing: a label of control characters, quoted with its escapes, filled a log line."""
    with pytest.raises(NameInvalid) as caught:
        Domain.parse("ĉ" + "\x00" * 200)
    assert len(str(caught.value)) < 200


def test_child() -> None:
    child = Domain.parse("example.com").child("_25", "_tcp")
    assert child == "_25._tcp.example.com"
    assert isinstance(child, Domain)


def test_child_longer_than_a_name_may_be() -> None:
    with pytest.raises(NameInvalid, match="longer than 253"):
        Domain.parse(LONGEST).child("_mta-sts")


@relaxed
@given(st.one_of(st.text(max_size=300), nearly, host_names))
def test_parse_gives_a_canonical_name_or_its_error(text: str) -> None:
    try:
        name = Domain.parse(text)
    except NameInvalid:
        return
    assert Domain.parse(name) == name
    assert Domain.parse(name + ".") == name
    assert Domain.parse(name.upper()) == name
    assert name.isascii()
    assert len(name) <= MAX_NAME_OCTETS


@relaxed
@given(host_names)
def test_an_a_label_name_is_its_own_form(name: str) -> None:
    assert Domain.parse(name) == name


@relaxed
@given(
    host_names
    | st.text("aZ09._-", max_size=20)
    | st.from_regex(r"([a-z0-9_-]{1,64}\.){1,4}[a-z0-9_-]{1,64}", fullmatch=True)
)
def test_canonical_names_are_read_faster_and_alike(text: str) -> None:
    def read(name: str) -> object:
        try:
            return Domain.parse(name)
        except NameInvalid as exc:
            return str(exc)

    if not text.endswith("."):
        assert read(text) == read(text + ".")  # with the final dot it takes the longer way
