"""Reports that are submitted by POST (RFC 8460 §5.4), as an ASGI application for one path of the policy host.

    201     the report is in the spool, on disk
    400     it is no report; the reason is in the body
    405     not by POST
    413     it is larger than we take
    415     neither application/tlsrpt+gzip nor +json, or a Content-Encoding other than gzip
    429     this client has sent much in a short time; Retry-After says when to come again
    503     it can't be kept now; Retry-After as well

Anybody may post, so a body is read only as far as bounds go, few at a time, and looked at no further than shows that a
report can be read from it: deciding whether it counts is the intake's. A body is taken over
TLS or from the web server in front, like policies. Bounds are those of one process; each worker has its own.
"""

import asyncio
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address

from stsguard.core.arrival import Arrival, Via
from stsguard.core.errors import ReportInvalid, SpoolFailed, SpoolFull
from stsguard.core.tlsrpt_report import MEDIA_TYPE_GZIP, MEDIA_TYPE_JSON
from stsguard.core.tlsrpt_report_received import parse_received
from stsguard.core.token_buckets import TokenBuckets
from stsguard.core.unpack import Limits, unpack
from stsguard.discovery.supervisor import supervised
from stsguard.inbound.policy_host import (
    FAULT,
    TLS_HOST,
    Answer,
    Receive,
    Scope,
    Send,
    client_of,
    text_answer,
)
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.ports import Clock
from stsguard.ports.intake import IntakeSpool

log = logger(__name__)
posts = Counter("report_posts_total", "Reports submitted by POST, by what was answered.", "status")

READING = 64  # bodies that come in at the same time
READING_OF_ONE = 8  # from one client: slow ones don't keep the others out
MAX_HELD_BYTES = 64 * 1024 * 1024  # of all bodies that are not kept yet
LOOKING = 1  # bodies that are unpacked and read at the same time, each of which may hold [intake] max_decompressed
BURST = 200.0  # reports of one client; a large sender has one a day for each of our domains
RATE = 2.0  # and so many a second from then on
BYTES_A_TOKEN = 65_536
MAX_CLIENTS = 10_000
MORE_TIME = "more_time"  # in the state of a connection: gives its request more time
BODY_SECONDS = 60.0
RETRY_SECONDS = 300

_NOT_FOUND = text_answer(404, "Not found.")
_NOT_ALLOWED = text_answer(405, "Reports are submitted by POST (RFC 8460 section 5.4).", (b"allow", b"POST"))
_ENCODINGS = (b"accept-encoding", b"gzip")  # RFC 9110 §15.5.16: what would have been taken
_TAKEN = text_answer(201, "The report has been taken in.")


class _Refused(Exception):
    """The request ends with `answer`."""

    def __init__(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(text)
        # What is left of the body is not read: the connection can't go on (RFC 9110 §9.3).
        self.answer = text_answer(status, text, (b"connection", b"close"), *headers)


class ReportPost:
    """The application. `limits` are those of the intake; `monotonic` is what the rate of each client is counted by."""

    def __init__(self, spool: IntakeSpool, clock: Clock, limits: Limits) -> None:
        self._spool = spool
        self._clock = clock
        self._limits = limits
        self._looking = asyncio.Semaphore(LOOKING)
        self._reading: dict[str, int] = {}
        self._held = 0
        self._clients = TokenBuckets(rate=RATE, burst=BURST, most=MAX_CLIENTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        answers: list[Answer] = []

        async def work() -> None:
            answers.append(await self._answer(scope, receive))

        if not await supervised("report post", work()):
            answers.append(FAULT)
        start, body = answers[0]
        posts.inc(str(start["status"]))
        await send(start)
        await send(body)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        fields = dict(scope["headers"])
        over_tls = scope["state"].get(TLS_HOST) is not None
        address = client_of(scope["client"], fields.get(b"x-forwarded-for", b""), over_tls=over_tls)
        if address is None:
            return _NOT_FOUND
        if scope["method"] != "POST":
            return _NOT_ALLOWED
        try:
            media_type, encoded = _described(fields)
            client = _client_key(address)
            self._check_rate(client)
            self._check_length(fields.get(b"content-length", b"0"))
            with self._held_body(client) as octets:
                await self._read(octets, scope, receive)
                self._clients.charge(client, self._clock.monotonic(), len(octets) / BYTES_A_TOKEN)
                async with self._looking:
                    await asyncio.to_thread(self._keep, bytes(octets), media_type, encoded, address)
        except _Refused as exc:
            return exc.answer
        return _TAKEN

    def _check_rate(self, client: str) -> None:
        seconds = self._clients.take(client, self._clock.monotonic())
        if seconds:
            raise _Refused(429, "Too many reports from this address.", (b"retry-after", b"%d" % (seconds + 1)))

    def _check_length(self, octets: bytes) -> None:
        # uvicorn lets through no Content-Length but a number.
        if int(octets) > self._limits.max_compressed:
            raise self._too_large()

    def _too_large(self) -> _Refused:
        return _Refused(413, f"A report may have {self._limits.max_compressed} bytes as it is sent.")

    @contextmanager
    def _held_body(self, client: str) -> Iterator[bytearray]:
        """Room for a body; what it holds in the end is given back."""
        reading = self._reading.get(client, 0)
        if sum(self._reading.values()) >= READING or reading >= READING_OF_ONE:
            raise _busy()
        self._reading[client] = reading + 1
        octets = bytearray()
        try:
            yield octets
        finally:
            self._held -= len(octets)
            self._reading[client] -= 1
            if not self._reading[client]:
                del self._reading[client]

    async def _read(self, octets: bytearray, scope: Scope, receive: Receive) -> None:
        more_time: Callable[[float], None] | None = scope["state"].get(MORE_TIME)
        if more_time is not None:
            more_time(BODY_SECONDS)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Refused(400, "The body has not come to its end.")
            part = message.get("body", b"")
            octets += part
            self._held += len(part)
            if len(octets) > self._limits.max_compressed:
                raise self._too_large()
            if self._held > max(MAX_HELD_BYTES, 2 * self._limits.max_compressed):
                raise _busy()
            if not message.get("more_body", False):
                return

    def _keep(self, octets: bytes, media_type: str, encoded: bool, address: str) -> None:
        """Look at the report and put it into the spool. It blocks."""
        octets = self._looked_at(octets, media_type, encoded)
        arrival = Arrival(Via.HTTPS, self._clock.now(), client=address, media_type=media_type)
        try:
            self._spool.add(arrival, octets)
        except SpoolFailed as exc:
            if isinstance(exc, SpoolFull) and not exc.temporary:
                raise self._too_large() from exc
            outcome(log, logging.ERROR, "a submitted report can't be kept", client=address, reason=str(exc))
            raise _Refused(
                503, "The report can't be kept now; send it again.", (b"retry-after", b"%d" % RETRY_SECONDS)
            ) from exc

    def _looked_at(self, octets: bytes, media_type: str, encoded: bool) -> bytes:
        """The report as it is to be kept.

        A Content-Encoding is taken off where that leaves a packing of its own, as gzip in gzip has it; a single gzip
        stays, whichever field named it: what is in a file is told by its octets.
        """
        try:
            if encoded and media_type == MEDIA_TYPE_GZIP:
                octets = _without_encoding(octets, self._limits.max_compressed)
            _check_reports(unpack(octets, self._limits).documents)
        except ReportInvalid as exc:
            raise _Refused(400, f"This is no report: {_ascii(str(exc))}.") from exc
        return octets


def _check_reports(documents: Sequence[bytes]) -> None:
    """Raises `ReportInvalid` with the reason where none of them is a report. 201 says "successfully received" (RFC 8460
    §5.4): whoever is told so does not send it again."""
    for number, document in enumerate(documents, 1):
        try:
            parse_received(document)
        except ReportInvalid:
            if number == len(documents):
                raise
        else:
            return


def _busy() -> _Refused:
    return _Refused(503, "Too many reports are coming in just now.", (b"retry-after", b"5"))


def _described(fields: dict[bytes, bytes]) -> tuple[str, bool]:
    """The media type, and whether the body has the Content-Encoding gzip."""
    media_type = fields.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if media_type not in {MEDIA_TYPE_GZIP, MEDIA_TYPE_JSON}:
        text = f"Content-Type has to be {MEDIA_TYPE_GZIP} or {MEDIA_TYPE_JSON} (RFC 8460 section 5.4)."
        raise _Refused(415, text)
    coding = fields.get(b"content-encoding", b"").strip().lower()
    if coding not in {b"", b"identity", b"gzip", b"x-gzip"}:
        raise _Refused(415, "Content-Encoding may be gzip, or not be there.", _ENCODINGS)
    return media_type, coding.endswith(b"gzip")


def _without_encoding(octets: bytes, limit: int) -> bytes:
    """`octets` unpacked if what is in them is packed itself; else they as they are. Whatever is wrong with them is
    found where they are unpacked."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        inner = inflater.decompress(octets, limit + 1)
    except zlib.error:
        return octets
    return inner if inner.startswith(b"\x1f\x8b") and len(inner) <= limit else octets


def _client_key(address: str) -> str:
    """Whom the rate is counted for: an IPv4 address, or an IPv6 /64, of which one client has all; "" for local ones."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")
