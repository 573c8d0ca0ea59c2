"""The Policy Host as an ASGI application: our own domains' policies (RFC 8461 §3.2, §3.3), the CA's questions (RFC 8555
§8.3) and the nonce by which we find out whether a Policy Host's name reaches us.

    GET, HEAD /.well-known/mta-sts.txt              the policy of the Host asked for, byte for byte as it is stored
    GET, HEAD /.well-known/acme-challenge/TOKEN     over plain HTTP
    GET, HEAD /.well-known/stsguard-reach/TOKEN
    [intake] http_path                              reports, see `report_post`
    anything else                                   404, 405 or 421, always as text/plain

No redirect is ever sent, since senders must not follow one (RFC 8461 §3.3), and no cookie. A policy is served over
HTTPS, or to a program on this machine, which is the web server in front; to others over plain HTTP it is not there.
Request bodies are not read here. The way of a policy is one look-up in a dictionary and two prepared messages.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

from stsguard.core.errors import StoreUnavailable
from stsguard.core.policy_request import forwarded_for, is_local, parse_host
from stsguard.discovery.supervisor import supervised
from stsguard.inbound.hosting import Message, Page
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import Clock
from stsguard.ports.certificates import CertificateStore

requests = Counter("policy_host_requests_total", "Requests to the policy host by what was answered.", "answer")

POLICY_PATH = "/.well-known/mta-sts.txt"
CHALLENGES = {"/.well-known/acme-challenge/": "http-01", "/.well-known/stsguard-reach/": "reach"}
TLS_HOST = "tls_host"  # in the state of a connection over TLS: the name of its certificate, as octets
MAX_TOKEN = 200  # Let's Encrypt's have 43 characters; RFC 8555 §8.3 sets no limit
LOOKUPS_AT_ONCE = 8  # of tokens in the database: whoever makes tokens up waits for nobody but himself
READING = ("GET", "HEAD")
_TOKEN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")  # RFC 8555 §8.3

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = tuple[Message, Message]


class CountFetch(Protocol):
    """Counts one fetch of a policy."""

    def __call__(self, policy_domain: Domain, user_agent: bytes, address: str) -> None: ...


def text_answer(status: int, text: str, *headers: tuple[bytes, bytes]) -> Answer:
    """The messages of a short answer that is not a policy, which no cache shall keep."""
    body = f"{text}\n".encode("ascii")
    shared = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    start = {"type": "http.response.start", "status": status, "headers": [*shared, *headers]}
    return start, {"type": "http.response.body", "body": body}


NOT_FOUND = text_answer(404, "Not found.")
NOT_ALLOWED = text_answer(405, "Only GET and HEAD are allowed.", (b"allow", b"GET, HEAD"))
MISDIRECTED = text_answer(421, "The certificate of this connection is for another host.")  # RFC 9110 §15.5.20
UNAVAILABLE = text_answer(503, "Not to be had just now.", (b"retry-after", b"5"))
FAULT = text_answer(500, "The server failed.")
NO_BODY: Message = {"type": "http.response.body"}


class PolicyHost:
    """The application. `pages` is looked at anew for each request; before they are `loaded` for the first time nothing
    is known of any host, which is told as our own failure. `elsewhere` has other applications by their path."""

    def __init__(
        self,
        pages: Mapping[bytes, Page],
        challenges: CertificateStore,
        count: CountFetch,
        clock: Clock,
        *,
        loaded: Callable[[], bool],
        elsewhere: Mapping[str, Application] | None = None,
    ) -> None:
        self._pages = pages
        self._challenges = challenges
        self._count = count
        self._clock = clock
        self._loaded = loaded
        self._elsewhere = elsewhere or {}
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI puts it. Nothing but "http" is ever asked of it."""
        if scope["path"] == POLICY_PATH:
            start, body = self._policy(scope)
        elif scope["path"] in self._elsewhere:
            await self._elsewhere[scope["path"]](scope, receive, send)
            return
        else:
            start, body = await self._other(scope)
        await send(start)
        await send(body)

    def _policy(self, scope: Scope) -> Answer:
        fields = dict(scope["headers"])  # of several of one name the last
        tls_host = scope["state"].get(TLS_HOST)
        address = client_of(scope["client"], fields.get(b"x-forwarded-for", b""), over_tls=tls_host is not None)
        if address is None:
            return _counted("not found", NOT_FOUND)
        host = fields.get(b"host", b"")
        page = self._pages.get(host) or self._pages.get(_canonical(host))
        if page is None:
            return _counted("not found", NOT_FOUND) if self._loaded() else _counted("unavailable", UNAVAILABLE)
        if tls_host is not None and tls_host != page.host:
            return _counted("misdirected", MISDIRECTED)
        method = scope["method"]
        if method not in READING:
            return _counted("not allowed", NOT_ALLOWED)
        if method == "GET":
            self._count(page.policy_domain, fields.get(b"user-agent", b""), address)
        known_etag = fields.get(b"if-none-match")
        if known_etag is not None and _matches(page.etag, known_etag):
            return _counted("not modified", (page.unchanged, NO_BODY))
        return _counted("policy", (page.start, page.body))

    async def _other(self, scope: Scope) -> Answer:
        prefix, _, token = scope["path"].rpartition("/")
        kind = CHALLENGES.get(f"{prefix}/")
        over_tls = scope["state"].get(TLS_HOST) is not None
        if kind is None or (over_tls and kind != "reach") or not _is_token(token):
            return _counted("not found", NOT_FOUND)
        if scope["method"] not in READING:
            return _counted("not allowed", NOT_ALLOWED)
        host = parse_host(next((value for name, value in scope["headers"] if name == b"host"), b""))
        found: list[Answer] = []
        if host is None or not await supervised("challenge", self._challenge(kind, token, host, found)):
            return _counted("not found", NOT_FOUND) if host is None else _counted("fault", FAULT)
        return found[0]

    async def _challenge(self, kind: str, token: str, host: Domain, found: list[Answer]) -> None:
        if self._lookups.locked():
            found.append(_counted("unavailable", UNAVAILABLE))
            return
        async with self._lookups:
            try:
                challenge = await self._challenges.load_challenge(kind, token, self._clock.now())
            except StoreUnavailable:
                found.append(_counted("unavailable", UNAVAILABLE))
                return
        if challenge is None or challenge.host != host:
            found.append(_counted("not found", NOT_FOUND))
        else:
            found.append(_counted(kind, _challenge_answer(challenge.content)))


def client_of(peer: tuple[str, object] | None, forwarded: bytes, *, over_tls: bool) -> str | None:
    """The address that asks, empty where it has none; None for a client that is served nothing, since it is neither
    here over TLS nor the web server in front. Only a program on this machine is believed for whom it asks."""
    address = peer[0] if peer else ""
    if over_tls and not forwarded:
        return address
    if is_local(address):
        return forwarded_for(forwarded) or address  # the last address, which the nearest proxy wrote
    return address if over_tls else None


def _challenge_answer(content: str) -> Answer:
    body = content.encode("ascii")
    headers = [
        (b"content-type", b"application/octet-stream"),  # RFC 8555 §8.3
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    return start, {"type": "http.response.body", "body": body}


def _counted(answer: str, messages: Answer) -> Answer:
    requests.inc(answer)
    return messages


def _canonical(host: bytes) -> bytes:
    parsed = parse_host(host)
    return b"" if parsed is None else parsed.encode("ascii")


def _matches(etag: bytes, known: bytes) -> bool:
    """If-None-Match (RFC 9110 §13.1.2): a list of entity tags compared weakly, or `*`."""
    listed: Iterable[bytes] = (each.strip().removeprefix(b"W/") for each in known.split(b","))
    return any(each in (etag, b"*") for each in listed)


def _is_token(token: str) -> bool:
    return 0 < len(token) <= MAX_TOKEN and _TOKEN.issuperset(token)
