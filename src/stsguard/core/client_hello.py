"""Reads the ClientHello that opens a TLS connection: which host is wanted, and by which application protocol.

RFC 8446 §4.1.2, §5.1; server_name of RFC 6066 §3, ALPN of RFC 7301 §3.1. A certificate has to be chosen before OpenSSL
sees the connection, since one for `acme-tls/1` must be shown only to who asks for it (RFC 8737 §3), and the `ssl`
module tells no ALPN offer in time.

Left out on purpose: everything else of the hello, which is OpenSSL's to judge; encrypted ClientHello, whose outer name
is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stsguard.core.errors import ClientHelloInvalid
from stsguard.names import Domain, NameInvalid

MAX_HELLO_OCTETS = 16_384  # with its record headers; the largest in use, with two post-quantum key shares, have 4,000
MAX_RECORDS = 16  # one in use, two or three with what means to slip past middleboxes; each is work when read again

_RECORD_HEADER_OCTETS = 5
_MAX_RECORD_OCTETS = 16_384  # RFC 8446 §5.1: TLSPlaintext.fragment
_HANDSHAKE = 22  # RFC 8446 §5.1 ContentType
_CLIENT_HELLO = 1  # RFC 8446 §4 HandshakeType
_MESSAGE_HEADER_OCTETS = 4
_SERVER_NAME = 0  # RFC 6066 §1.1
_HOST_NAME = 0  # RFC 6066 §3 NameType
_ALPN = 16  # RFC 7301 §3.1


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client asks for. `server_name` is None where it names no host (RFC 6066 §3), `alpn` are the protocols that
    it offers, most wanted first (RFC 7301 §3.1)."""

    server_name: Domain | None
    alpn: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Partial:
    """The hello is not complete: ask again with at least `wanted` octets in all, at most MAX_HELLO_OCTETS."""

    wanted: int


def parse_client_hello(octets: bytes) -> ClientHello | Partial:
    """The hello at the start of a connection, from what has arrived; what follows it is not looked at.

    Raises:
        ClientHelloInvalid: this is no TLS, is malformed, is longer than MAX_HELLO_OCTETS, or names what is no host.
    """
    message = _reassemble(octets)
    if isinstance(message, Partial):
        return message
    body = _Reader(message)
    body.skip(2 + 32)  # RFC 8446 §4.1.2: legacy_version, random
    body.vector(1)  # legacy_session_id
    body.vector(2)  # cipher_suites
    body.vector(1)  # legacy_compression_methods
    server_name: Domain | None = None
    alpn: tuple[bytes, ...] = ()
    for kind, extension in _extensions(body):
        if kind == _SERVER_NAME:
            server_name = _server_name(extension)
        elif kind == _ALPN:
            alpn = _protocols(extension)
    return ClientHello(server_name, alpn)


class _Reader:
    """Takes a message apart from its start on (RFC 8446 §3.4: vectors with their length in front)."""

    __slots__ = ("_at", "_octets")

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._octets)

    def skip(self, count: int) -> bytes:
        taken = self._octets[self._at : self._at + count]
        if len(taken) < count:
            raise ClientHelloInvalid("a field is longer than what holds it")
        self._at += count
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.skip(size), "big")

    def vector(self, size: int) -> bytes:
        return self.skip(self.number(size))

    def last_vector(self, size: int) -> bytes:
        """A vector after which there is nothing."""
        taken = self.vector(size)
        if not self.at_end:
            raise ClientHelloInvalid("there is something after the last field")
        return taken


def _reassemble(octets: bytes) -> bytes | Partial:
    """The body of the first handshake message, which may be spread over records (RFC 8446 §5.1)."""
    message = bytearray()
    at = 0
    for _ in range(MAX_RECORDS):
        header = octets[at : at + _RECORD_HEADER_OCTETS]
        _check_record_start(header)
        if len(header) < _RECORD_HEADER_OCTETS:
            return _partial(at + _RECORD_HEADER_OCTETS)
        length = int.from_bytes(header[3:5], "big")
        if not 0 < length <= _MAX_RECORD_OCTETS:  # RFC 8446 §5.1: no empty fragments of handshake messages
            raise ClientHelloInvalid("a record has a length that none may have")
        at += _RECORD_HEADER_OCTETS
        message += octets[at : at + length]
        at += length
        if message and message[0] != _CLIENT_HELLO:
            raise ClientHelloInvalid("the handshake does not start with a ClientHello")
        if len(message) >= _MESSAGE_HEADER_OCTETS:
            end = _MESSAGE_HEADER_OCTETS + int.from_bytes(message[1:_MESSAGE_HEADER_OCTETS], "big")
            if len(message) >= end:
                return bytes(message[_MESSAGE_HEADER_OCTETS:end])
            _partial(at - len(message) + end)  # too long by its own word
        if at > len(octets):
            return _partial(at)
    raise ClientHelloInvalid("the ClientHello is spread over too many records")


def _check_record_start(header: bytes) -> None:
    """RFC 8446 §5.1: type handshake, legacy_record_version 3.x. One octet is enough to turn plain HTTP away."""
    if header and header[0] != _HANDSHAKE:
        raise ClientHelloInvalid("this is no TLS handshake")
    if len(header) > 1 and header[1] != 3:
        raise ClientHelloInvalid("this is no version of TLS")


def _partial(wanted: int) -> Partial:
    if wanted > MAX_HELLO_OCTETS:
        raise ClientHelloInvalid("the ClientHello is too long")
    return Partial(wanted)


def _extensions(body: _Reader) -> Iterator[tuple[int, bytes]]:
    """Each extension with its type. A hello of TLS 1.2 may have none at all (RFC 5246 §7.4.1.2)."""
    if body.at_end:
        return
    extensions = _Reader(body.last_vector(2))
    seen: set[int] = set()
    while not extensions.at_end:
        kind = extensions.number(2)
        if kind in seen:  # RFC 8446 §4.2: else OpenSSL and we might each take another one
            raise ClientHelloInvalid("an extension is there twice")
        seen.add(kind)
        yield kind, extensions.vector(2)


def _server_name(extension: bytes) -> Domain | None:
    """RFC 6066 §3: at most one name of each type, and host_name is the only type ever defined."""
    names = _Reader(_Reader(extension).last_vector(2))
    if names.number(1) != _HOST_NAME:
        raise ClientHelloInvalid("the server name is of an unknown type")
    name = names.last_vector(2)
    try:
        # An A-label without final dot is what RFC 6066 wants; U-labels and the dot have been seen and are clear enough.
        return Domain.parse(name.decode("utf-8"))
    except (UnicodeDecodeError, NameInvalid) as exc:
        raise ClientHelloInvalid("the server name is no host name") from exc


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    names = _Reader(_Reader(extension).last_vector(2))
    protocols = []
    while not names.at_end:
        protocols.append(names.vector(1))
    return tuple(protocols)
