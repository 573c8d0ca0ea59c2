"""The ClientHello of a connection, looked at before it is answered, and the refusal of one (RFC 8446 §4.1.2, §6).

Python's ssl shows a server neither the protocols that a client offers by ALPN, nor does asyncio send the alert of a
refused handshake. The octets are only peeked at: whoever takes the connection reads them again.
"""

import asyncio
import socket

from stsguard.core.client_hello import MAX_HELLO_OCTETS, ClientHello, parse_client_hello

# A record of TLS 1.2 with the fatal alert unrecognized_name (RFC 6066 §3); TLS 1.3 has the same form before keys.
_UNRECOGNIZED_NAME = bytes((21, 3, 3, 0, 2, 2, 112))
_PATIENCE_SECONDS = 0.02


async def peek_client_hello(sock: socket.socket) -> ClientHello:
    """The whole ClientHello, however many segments it comes in. The caller bounds the time.

    Raises:
        ClientHelloInvalid: this is no TLS, or no ClientHello that we could answer.
        OSError: the peer went away.
    """
    octets = _peek(sock)
    wanted = 1
    while True:
        if octets:
            found = parse_client_hello(octets)
            if isinstance(found, ClientHello):
                if wanted > 1:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                return found
            wanted = found.wanted
            # Nothing is taken out, so the socket would be readable all the time: now from so many octets on.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
        elif octets is not None:
            raise ConnectionResetError("closed before the ClientHello")
        await _readable(sock)
        before, octets = octets, _peek(sock)
        if octets == before:  # a kind of socket that does not go by that, or the peer has ended what it sends
            await asyncio.sleep(_PATIENCE_SECONDS)


def _peek(sock: socket.socket) -> bytes | None:
    """What has arrived: None where nothing has, nothing where the peer has ended."""
    try:
        return sock.recv(MAX_HELLO_OCTETS, socket.MSG_PEEK)
    except BlockingIOError:
        return None


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
