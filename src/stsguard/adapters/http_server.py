"""A small HTTP/1.1 server for the admin socket: framing by h11, one handler for all requests.

For local clients with access to the socket only, so it does without TLS, keep-alive tuning and streaming; still
everything that comes in is bounded in size and time.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import parse_qsl, urlsplit

import h11

from stsguard.log import logger

log = logger(__name__)

MAX_REQUEST_BYTES = 65_536
REQUEST_SECONDS = 10.0
ITEMS_IN_A_PIECE = 50  # of a list, between two of which others have their turn
SLICE_OCTETS = 65_536  # of a response, written at once
SEND_SECONDS = 60.0  # a client that does not read its response


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request: `path` without the query, `query` with the last value of each name."""

    method: str
    path: str
    query: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response; `json_response` makes one of plain data, `long_json_response` one of much of it."""

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


def json_response(content: object, status: int = 200) -> HttpResponse:
    """`content` as JSON."""
    return HttpResponse(status, json.dumps(content, ensure_ascii=False).encode("utf-8") + b"\n")


async def long_json_response(content: Mapping[str, object], status: int = 200) -> HttpResponse:
    """As `json_response`, with turns for others where a list in `content` is long."""
    pieces: list[bytes] = []
    for piece in _json_pieces(content):
        pieces.append(piece.encode("utf-8"))
        await asyncio.sleep(0)
    return HttpResponse(status, b"".join(pieces))


def _json_pieces(content: Mapping[str, object]) -> Iterator[str]:
    dumps = partial(json.dumps, ensure_ascii=False)
    before = "{"
    for key, value in content.items():
        yield f"{before}{dumps(key)}: "
        before = ", "
        if isinstance(value, list) and len(value) > ITEMS_IN_A_PIECE:
            for start in range(0, len(value), ITEMS_IN_A_PIECE):
                yield ("[" if start == 0 else ", ") + dumps(value[start : start + ITEMS_IN_A_PIECE])[1:-1]
            yield "]"
        else:
            yield dumps(value)
    yield "}\n" if content else "{}\n"


class HttpServer:
    """Serves one handler on any number of sockets. The handler answers its own faults; none travels to the client."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, as asyncio.start_server's callback: one request, one response, closed."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await self._exchange(reader, writer)
        except (OSError, TimeoutError) as exc:
            log.debug("admin client went away: %s", exc)
        finally:
            writer.transport.abort()

    async def close(self) -> None:
        """End the requests under way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await _read_request(connection, reader)
        except h11.RemoteProtocolError as exc:
            request, response = None, json_response({"error": str(exc)}, exc.error_status_hint)
        except TimeoutError:
            request, response = None, json_response({"error": "no complete request in time"}, 408)
        else:
            if request is None:
                return
            response = await self._handler(request)
        headers = {
            "Content-Type": response.media_type,
            "Content-Length": str(len(response.body)),
            "Cache-Control": "no-store",
            "Connection": "close",
            **response.headers,
        }
        head = h11.Response(status_code=response.status, headers=list(headers.items()))
        writer.write(connection.send(head) or b"")
        body = b"" if request is not None and request.method == "HEAD" else response.body
        async with asyncio.timeout(SEND_SECONDS):
            for start in range(0, len(body), SLICE_OCTETS):
                writer.write(connection.send(h11.Data(data=body[start : start + SLICE_OCTETS])) or b"")
                await writer.drain()
            await writer.drain()
            writer.close()
            await writer.wait_closed()


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> HttpRequest | None:
    request: HttpRequest | None = None
    received = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(8192)
            received += len(data)
            if received > MAX_REQUEST_BYTES:
                raise h11.RemoteProtocolError("request too large", error_status_hint=413)
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            try:
                parts = urlsplit(event.target.decode("ascii", "replace"))
            except ValueError as exc:
                raise h11.RemoteProtocolError(f"bad target: {exc}") from exc
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            request = HttpRequest(event.method.decode("ascii"), parts.path, query)
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None
