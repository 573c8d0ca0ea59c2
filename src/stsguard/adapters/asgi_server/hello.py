"""The ClientHello of a connection, looked at before it is answered, and the refusal of one (RFC 8446 §4.1.2, §6).

Python's ssl shows a server neither the protocols that a client offers by ALPN, nor does asyncio send the alert of a
refused handshake. The octets are only peeked at: whoever takes the connection reads them again.
"""

import asyncio
import socket

from stsguard.core.client_hello import MAX_HELLO_OCTETS, ClientHello, Partial, parse_client_hello

# A record of TLS 1.2 with the fatal alert unrecognized_name (RFC 6066 §3); TLS 1.3 has the same form before keys.
_UNRECOGNIZED_NAME = bytes((21, 3, 3, 0, 2, 2, 112))
_PATIENCE_SECONDS = 0.02


async def peek_client_hello(sock: socket.socket) -> ClientHello:
    """The whole ClientHello, however many segments it comes in. The caller bounds the time.

    Raises:
        ClientHelloInvalid: this is no TLS, or no ClientHello that we could answer.
        OSError: the peer went away.
    """
    seen = 0
    while True:
        octets = await _peek(sock)
        found = parse_client_hello(octets)
        if isinstance(found, ClientHello):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return found
        if not octets:
            raise ConnectionResetError("closed before the ClientHello")
        await _wait_for_more(sock, found, len(octets) - seen)
        seen = len(octets)


async def _wait_for_more(sock: socket.socket, found: Partial, came: int) -> None:
    # The socket is readable all the time, since nothing is taken out: it counts as such only from so many octets on.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, found.wanted)
    if came == 0:  # a kind of socket that does not go by it
        await asyncio.sleep(_PATIENCE_SECONDS)


async def _peek(sock: socket.socket) -> bytes:
    await _readable(sock)
    try:
        return sock.recv(MAX_HELLO_OCTETS, socket.MSG_PEEK)
    except BlockingIOError:
        return await _peek(sock)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock.fileno())


def refuse(sock: socket.socket) -> None:
    """Answer the ClientHello with the alert unrecognized_name, and close the connection."""
    try:
        sock.recv(MAX_HELLO_OCTETS)  # closing with octets unread would reset the connection and lose the alert
        sock.send(_UNRECOGNIZED_NAME)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # gone already
    finally:
        sock.close()
