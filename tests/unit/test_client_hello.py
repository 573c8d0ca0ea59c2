"""The ClientHello reader (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3.1), against OpenSSL's own hellos and by hand."""

import ssl
import struct

import pytest

from stsguard.core.client_hello import MAX_RECORDS, ClientHello, Partial, parse_client_hello
from stsguard.core.errors import ClientHelloInvalid
from stsguard.names import Domain


def openssl_hello(server_name: str | None, *alpn: str, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = minimum
    if alpn:
        context.set_alpn_protocols(alpn)
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def vector(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, content)


def sni(name: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, bytes([kind]) + vector(2, name)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def body(extensions: bytes | None) -> bytes:
    fixed = b"\3\3" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    return fixed if extensions is None else fixed + vector(2, extensions)


def message(content: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + vector(3, content)


def records(handshake: bytes, size: int = 16_384) -> bytes:
    pieces = [handshake[start : start + size] for start in range(0, len(handshake), size)]
    return b"".join(b"\x16\3\1" + vector(2, piece) for piece in pieces)


def hello(extensions: bytes | None) -> bytes:
    return records(message(body(extensions)))


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (openssl_hello("mta-sts.example.com"), ClientHello(Domain("mta-sts.example.com"), ())),
        (openssl_hello(None, "h2", "http/1.1"), ClientHello(None, (b"h2", b"http/1.1"))),
        (openssl_hello("a.test", "acme-tls/1"), ClientHello(Domain("a.test"), (b"acme-tls/1",))),
        (openssl_hello("a.test", minimum=ssl.TLSVersion.TLSv1_3), ClientHello(Domain("a.test"), ())),
        (hello(None), ClientHello(None, ())),  # RFC 5246 §7.4.1.2: no extensions at all
        (hello(b""), ClientHello(None, ())),
        (hello(sni(b"MTA-STS.Example.COM.")), ClientHello(Domain("mta-sts.example.com"), ())),
        (hello(sni("mta-sts.bücher.example".encode())), ClientHello(Domain("mta-sts.xn--bcher-kva.example"), ())),
        (hello(extension(0x0A0A, b"") + alpn(b"x")), ClientHello(None, (b"x",))),  # RFC 8701: GREASE
        (hello(alpn()), ClientHello(None, ())),
        (hello(None) + b"what follows", ClientHello(None, ())),
    ],
)
def test_what_a_client_asks_for(octets: bytes, expected: ClientHello) -> None:
    assert parse_client_hello(octets) == expected


@pytest.mark.parametrize("octets", [openssl_hello("a.test", "h2"), records(message(body(sni(b"a.test"))), size=7)])
def test_every_beginning_says_how_much_is_wanted(octets: bytes) -> None:
    have = 0
    while isinstance(found := parse_client_hello(octets[:have]), Partial):
        assert have < found.wanted <= len(octets)
        for more in range(have, found.wanted):
            assert isinstance(parse_client_hello(octets[:more]), Partial)
        have = found.wanted
    assert found.server_name == "a.test"
    assert have == len(octets)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "no TLS handshake"),
        (b"\x80\x2e\1\0\2", "no TLS handshake"),  # the hello of SSL 2
        (b"\x15\3\1\0\2\1\0", "no TLS handshake"),  # an alert
        (b"\x16\2", "no version of TLS"),
        (b"\x16\3\1\0\0", "length"),
        (b"\x16\3\1\x40\1", "length"),
        (records(message(b"", kind=2)), "does not start with a ClientHello"),
        (records(b"\1\xff\xff\xff"), "too long"),
        (records(b"\1\0\x3f\xff"), "too long"),
        (records(message(bytes(16_380)), size=16_376), "too long"),
        (b"\x16\3\1\x40\0" + b"\1", "too long"),  # the record alone is longer than what is read
        (records(message(b"")), "longer than what holds it"),
        (records(message(body(None)[:-1])), "longer than what holds it"),
        (records(message(body(None) + b"\0")), "longer than what holds it"),
        (records(message(body(b"") + b"\0")), "after the last field"),
        (hello(b"\0"), "longer than what holds it"),
        (hello(extension(5, b"") * 2), "twice"),
        (hello(sni(b"a.test") + sni(b"b.test")), "twice"),
        (hello(extension(0, b"")), "longer than what holds it"),  # RFC 6066 §3: empty only from a server
        (hello(extension(0, vector(2, b""))), "longer than what holds it"),
        (hello(extension(0, vector(2, b"\0" + vector(2, b"a.test") + b"\0" + vector(2, b"b.test")))), "after the last"),
        (hello(sni(b"a.test", kind=1)), "unknown type"),
        (hello(sni(b"")), "no host name"),
        (hello(sni(b"192.0.2.1")), "no host name"),
        (hello(sni(b"a.test:443")), "no host name"),
        (hello(sni(b"../acme/a.test")), "no host name"),
        (hello(sni(b"\xff.test")), "no host name"),
        (hello(sni(b"a" * 300)), "no host name"),
        (hello(extension(16, b"\0\5\1x")), "longer than what holds it"),
        (hello(alpn(b"x") + b"\0"), "longer than what holds it"),
    ],
)
def test_what_is_refused(octets: bytes, reason: str) -> None:
    with pytest.raises(ClientHelloInvalid, match=reason):
        parse_client_hello(octets)


def test_a_hello_is_spread_over_some_records_and_no_more() -> None:
    handshake = message(body(sni(b"a.test")))
    size = len(handshake) // MAX_RECORDS + 1
    assert parse_client_hello(records(handshake, size)) == ClientHello(Domain("a.test"), ())
    with pytest.raises(ClientHelloInvalid, match="too many records"):
        parse_client_hello(records(handshake, size=3))
