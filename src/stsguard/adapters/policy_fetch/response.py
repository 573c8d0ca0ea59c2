"""The HTTP side of a policy fetch: one request, one response, octets in and the body out (RFC 8461 §3.3, RFC 9112).

A plain response is read by `core.plain_response`, at a tenth of the cost; whatever it leaves out h11 reads, and here
stands what a policy may come as. Everything is bounded before it is kept: the header block, and the body at
`max_size_bytes`.

Left out on purpose: redirects, caching, content codings, HTTP/2, retries.
"""

import h11

from stsguard import __version__
from stsguard.core.errors import FetchReason, PolicyFetchFailed
from stsguard.core.mtasts import media_type_accepted
from stsguard.core.plain_response import Unread, read_plain_response
from stsguard.names import Domain

WELL_KNOWN_PATH = "/.well-known/mta-sts.txt"  # RFC 8461 §3.2
HTTPS_PORT = 443
MAX_HEADER_OCTETS = 16_384  # of a header block, a chunk header or a trailer; what most servers accept in requests
MAX_DETAIL_LENGTH = 200
MAX_PIECES = 4  # to look at it all again with each piece is cheap for few of them only
_START = b"HTTP/"  # RFC 9112 §4
_REQUEST = "\r\n".join(
    (
        f"GET {WELL_KNOWN_PATH} HTTP/1.1",
        "Host: %b",
        f"User-Agent: stsguard/{__version__}",
        "Accept: text/plain",
        "Accept-Encoding: identity",
        "Cache-Control: no-store",  # RFC 8461 §3.3: HTTP caching must not be used
        "Connection: close",
        "",
        "",
    )
).encode("ascii")


class PolicyResponse:
    """The request for a policy, and its response as it arrives.

    Feed what comes with `receive` until it returns the body, or call `finish` where the peer ends the TLS session.
    """

    def __init__(self, policy_host: Domain, *, max_size_bytes: int, port: int = HTTPS_PORT) -> None:
        host = policy_host if port == HTTPS_PORT else f"{policy_host}:{port}"
        self.request = _REQUEST % host.encode("ascii")
        self._max_size = max_size_bytes
        self._octets = b""  # as long as the plain reader will do
        self._pieces = 0
        self._full: FullResponse | None = None

    def receive(self, data: bytes) -> bytes | None:
        """The body once it is complete, else None; `data` is not empty.

        Raises:
            PolicyFetchFailed: HTTP_MALFORMED, HTTP_REDIRECT, HTTP_STATUS, MEDIA_TYPE or TOO_LARGE.
        """
        if self._full is not None:
            return self._full.receive(data)
        self._octets += data
        self._pieces += 1
        read = read_plain_response(self._octets, max_size_bytes=self._max_size)
        if isinstance(read, bytes):
            return read
        if read is Unread.MORE and self._pieces < MAX_PIECES:
            return None
        self._full = FullResponse(max_size_bytes=self._max_size)
        return self._full.receive(self._octets)

    def finish(self) -> bytes:
        """The body, where the end of the TLS session completes it.

        Raises:
            PolicyFetchFailed: CONNECTION_LOST for every response that is not complete.
        """
        if self._full is None:
            self._full = FullResponse(max_size_bytes=self._max_size)
            if self._octets and (body := self._full.receive(self._octets)) is not None:
                return body
        return self._full.finish()


class FullResponse:
    """A response in any form that HTTP/1 has, read by h11; used as `PolicyResponse` is."""

    def __init__(self, *, max_size_bytes: int) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_OCTETS)
        # What a response means depends on the method alone.
        self._http.send(h11.Request(method="GET", target=WELL_KNOWN_PATH, headers=[("Host", "policy-host")]))
        self._http.send(h11.EndOfMessage())
        self._max_size = max_size_bytes
        self._body = bytearray()
        self._start = b""

    def receive(self, data: bytes) -> bytes | None:
        """The body once it is complete, else None; `data` is not empty.

        Raises:
            PolicyFetchFailed: HTTP_MALFORMED, HTTP_REDIRECT, HTTP_STATUS, MEDIA_TYPE or TOO_LARGE.
        """
        self._start = (self._start + data)[: len(_START)]
        if not _START.startswith(self._start):
            # h11 would wait for the end of the headers; what speaks something else may never send one.
            raise _failed(FetchReason.HTTP_MALFORMED, f"starts with {self._start!r}")
        try:
            self._http.receive_data(data)
            return self._read_events()
        except h11.RemoteProtocolError as exc:
            raise _failed(FetchReason.HTTP_MALFORMED, str(exc)) from exc
        except ValueError as exc:
            # h11 before 0.16 hands a Content-Length of any length to int(), which takes 4300 digits.
            raise _failed(FetchReason.HTTP_MALFORMED, "bad Content-Length") from exc

    def finish(self) -> bytes:
        """The body, where the end of the TLS session completes it.

        RFC 9112 §9.8: without Content-Length and chunks a response is complete only by a valid closure alert. The
        caller must not come here after the mere end of the TCP connection: anyone on the path can bring that about,
        and a policy cut short might lack the very lines that protect (RFC 8461 §3.2: `mx` may come last).

        Raises:
            PolicyFetchFailed: CONNECTION_LOST for every response that is not complete.
        """
        try:
            self._http.receive_data(b"")
            body = self._read_events()
        except h11.RemoteProtocolError as exc:
            raise _failed(FetchReason.CONNECTION_LOST, str(exc)) from exc
        if body is None:
            raise _failed(FetchReason.CONNECTION_LOST, "the connection ended before the response was complete")
        return body

    def _read_events(self) -> bytes | None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                self._check_response(event)
            elif isinstance(event, h11.Data):
                self._body += event.data
                self._check_size(len(self._body))
            elif isinstance(event, h11.EndOfMessage):
                return bytes(self._body)
            elif not isinstance(event, h11.InformationalResponse):
                return None  # h11 needs more; what else it could say belongs to servers

    def _check_response(self, response: h11.Response) -> None:
        fields: dict[bytes, list[bytes]] = {}
        for name, value in response.headers:
            fields.setdefault(name, []).append(value)
        if response.status_code != 200:
            self._refuse_status(response.status_code, fields)
        for coding in fields.get(b"content-encoding", []):
            # RFC 9110 §12.5.3: only identity was offered. Undoing others would let 64 KiB become anything.
            if coding.strip().lower() not in (b"", b"identity"):
                raise _failed(FetchReason.HTTP_MALFORMED, f"content coding {coding!r}, though none was offered")
        self._check_media_type(fields.get(b"content-type", []))
        for length in fields.get(b"content-length", []):
            self._check_size(int(length))  # h11 lets through one value, of at most 20 digits

    def _refuse_status(self, status_code: int, fields: dict[bytes, list[bytes]]) -> None:
        if 300 <= status_code < 400:
            # RFC 8461 §3.3: HTTP 3xx redirects must not be followed.
            target = fields.get(b"location", [b""])[0]
            raise _failed(FetchReason.HTTP_REDIRECT, f"status {status_code} to {target[:100]!r}")
        # RFC 8461 §3.3: policies are valid only if the response code is 200, so 203 and 206 are not.
        raise _failed(FetchReason.HTTP_STATUS, f"status {status_code}")

    def _check_media_type(self, values: list[bytes]) -> None:
        # RFC 8461 §3.2: the media type is text/plain, to guard against hosts that let users upload content.
        if len(values) != 1:
            raise _failed(FetchReason.MEDIA_TYPE, f"{len(values)} Content-Type fields")
        if not media_type_accepted(values[0].decode("latin-1")):
            raise _failed(FetchReason.MEDIA_TYPE, f"Content-Type {values[0][:100]!r}")

    def _check_size(self, size: int) -> None:
        if size > self._max_size:
            raise _failed(FetchReason.TOO_LARGE, f"more than {self._max_size} octets")


def _failed(reason: FetchReason, detail: str) -> PolicyFetchFailed:
    return PolicyFetchFailed(reason, detail[:MAX_DETAIL_LENGTH])
