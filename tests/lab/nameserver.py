"""A nameserver on loopback that answers exactly what a test tells it to, right or wrong, over UDP and TCP."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self, cast

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset

# What to send for a query that came over UDP or (True) TCP: messages as octets, none for silence.
Handler = Callable[[dns.message.Message, bool], Sequence[bytes]]


def record(text: str) -> dns.rrset.RRset:
    """One RR from its master file form, such as `example.test. 300 IN A 192.0.2.1`."""
    name, ttl, rdclass, rdtype, rdata = text.split(None, 4)
    return dns.rrset.from_text(name, int(ttl), rdclass, rdtype, rdata)


def respond(
    query: dns.message.Message,
    *answers: str,
    authority: Sequence[str] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    authentic: bool = False,
    truncated: bool = False,
    extended_errors: Sequence[tuple[int, str]] = (),
) -> bytes:
    """A response to `query` as octets, one RR for each line in `answers` and `authority`."""
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(rcode)
    response.answer = [record(line) for line in answers]
    response.authority = [record(line) for line in authority]
    if authentic:
        response.flags |= dns.flags.AD
    if truncated:
        response.flags |= dns.flags.TC
    if extended_errors:
        options: list[dns.edns.Option] = [
            dns.edns.EDEOption(dns.edns.EDECode.make(code), text) for code, text in extended_errors
        ]
        response.use_edns(edns=0, options=options)
    return response.to_wire(max_size=65535)


def zone(*records: str, authentic: bool = False) -> Handler:
    """A handler with these records: CNAMEs followed, NODATA and NXDOMAIN with a SOA of negative TTL 60."""
    rrsets = [record(line) for line in records]

    def handle(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        owner, rdtype = query.question[0].name, query.question[0].rdtype
        answers: list[str] = []
        while True:
            here = [rr for rr in rrsets if rr.name == owner]
            wanted = [rr for rr in here if rr.rdtype == rdtype]
            aliases = [rr for rr in here if rr.rdtype == dns.rdatatype.CNAME]
            if wanted or not aliases or rdtype == dns.rdatatype.CNAME:
                break
            answers += [rr.to_text() for rr in aliases]
            owner = aliases[0][0].target
        answers += [rr.to_text() for rr in wanted]
        if wanted:
            return [respond(query, *answers, authentic=authentic)]
        rcode = dns.rcode.NOERROR if here else dns.rcode.NXDOMAIN
        soa = "test. 300 IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60"
        return [respond(query, *answers, authority=[soa], rcode=rcode, authentic=authentic)]

    return handle


@contextmanager
def silent_port() -> Iterator[tuple[str, int]]:
    """A port on which queries arrive and nothing is ever said."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


@contextmanager
def refusing_port() -> Iterator[tuple[str, int]]:
    """A port on which queries meet "port unreachable": its socket talks to itself only, and nobody else can take it."""
    with silent_port() as address, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(address)
        yield sock.getsockname()


class Nameserver:
    """Serves `handler` at one address (127.0.0.1 and a free port unless told otherwise) while entered; `queries` holds
    what was asked, in order."""

    def __init__(self, handler: Handler, address: tuple[str, int] | None = None) -> None:
        self.handler = handler
        self._wanted = address
        self.queries: list[dns.message.Message] = []
        self.tcp_queries = 0
        self.address = ("127.0.0.1", 0)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        udp, tcp = _two_sockets_at(self._wanted) if self._wanted else _two_sockets_on_one_port()
        self.address = udp.getsockname()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._server = await asyncio.start_server(self.serve_tcp, sock=tcp)
        self._writers: set[asyncio.StreamWriter] = set()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transport.abort()
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn of the loop

    def handle(self, wire: bytes, over_tcp: bool) -> Sequence[bytes]:
        query = dns.message.from_wire(wire, keyring=False)  # whatever signature there is
        self.queries.append(query)
        self.tcp_queries += over_tcp
        return self.handler(query, over_tcp)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; a test that wants to break the framing overrides it."""
        self._writers.add(writer)
        try:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            for wire in self.handle(await reader.readexactly(length), True):
                writer.write(struct.pack("!H", len(wire)) + wire)
            await reader.read()  # until the client leaves
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Nameserver) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        for wire in self._server.handle(data, False):
            self._transport.sendto(wire, addr)


def _two_sockets_at(address: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    sockets = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the test before may linger
        sock.bind(address)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets[0], sockets[1]


def _two_sockets_on_one_port() -> tuple[socket.socket, socket.socket]:
    for _ in range(100):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:  # in use by somebody's TCP connection
            udp.close()
            tcp.close()
            continue
        udp.setblocking(False)
        tcp.setblocking(False)
        return udp, tcp
    raise RuntimeError("no port is free for both UDP and TCP")
