"""Submits reports over HTTPS (RFC 8460 §3, §5.4): a `ports.ReportPoster` of httpx, one client for one request.

The URL was published by a stranger, so the name in it is resolved by the one configured resolver and the address that
the guard has judged is the address connected to, while SNI, certificate and Host stay those of the name. One deadline
bounds everything. Of the answer nothing but the status counts, so no body is read at all.

Left out on purpose: redirects, by which an endpoint would send us elsewhere unseen by the guard; proxies, which would
resolve and connect for us; cookies; user names in the URL (RFC 9110 §4.2.4).
"""

import asyncio
import errno
import ssl
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Protocol

from stsguard import __version__
from stsguard.core.addresses import AddressGuard
from stsguard.core.dane import Answer
from stsguard.core.errors import DeliveryFailed, LookupFailed, OperatorError
from stsguard.metrics import Counter
from stsguard.names import Domain, NameInvalid

POSTS = Counter("report_posts", "Reports posted to https: destinations, by what came of them.", "outcome")

IPAddress = IPv4Address | IPv6Address

HTTPS_PORT = 443
DEFAULT_TIMEOUT_SECONDS = 60.0  # of one submission as a whole
CONNECT_TIMEOUT_SECONDS = 15.0  # of one address, so that the others have their turn
MAX_ADDRESSES = 4
MAX_URL_LENGTH = 2000
MAX_TEXT_LENGTH = 200


class AddressLookup(Protocol):
    """The part of `ports.Resolver` that is needed here."""

    async def lookup_addresses(self, name: Domain) -> Answer[IPAddress]:
        """A and AAAA records together; raises LookupFailed only."""


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """Where a URL leads: a name or an address, a port, and what to ask for there."""

    host: Domain | IPAddress
    port: int
    target: bytes

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return host if self.port == HTTPS_PORT else f"{host}:{self.port}"


class HttpsReportPoster:
    """Implements `ports.ReportPoster`.

    Args:
        resolver: for the addresses of endpoints.
        guard: decides to which of them a connection is permitted.
        ca_file: the trusted CA certificates; None for the system's.
        timeout_seconds: for a submission as a whole.
        accept_unverified_endpoints: do without a valid certificate, which RFC 8460 §3 allows.

    Raises:
        OperatorError: the CA certificates can't be read.
    """

    def __init__(
        self,
        resolver: AddressLookup,
        guard: AddressGuard,
        *,
        ca_file: Path | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        accept_unverified_endpoints: bool = False,
    ) -> None:
        self._resolver = resolver
        self._guard = guard
        self._timeout = timeout_seconds
        self._context = _tls_context(ca_file, verify=not accept_unverified_endpoints)

    async def post(self, url: str, body: bytes, media_type: str) -> None:
        """POST `body` to `url`; when this returns, the answer was a 2xx.

        Raises:
            DeliveryFailed: for every other answer, and for none. Only what no repetition can mend is permanent: a URL
                that can't be used, or addresses that the guard refuses.
        """
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._post(_endpoint(url), body, media_type)
        except DeliveryFailed as exc:
            POSTS.inc("failed" if exc.temporary else "refused")
            raise
        except TimeoutError as exc:
            POSTS.inc("failed")
            raise DeliveryFailed(True, f"no answer within {self._timeout:g} s") from exc
        if not 200 <= status < 300:
            # RFC 8460 §5.4: "Other codes could indicate a delivery failure and may be retried as per local sender
            # policy": ours is to retry each, since also a 404 or a redirect may be mended within the day.
            POSTS.inc("failed")
            raise DeliveryFailed(True, f"the answer was {status}" + (", a redirect" if 300 <= status < 400 else ""))
        POSTS.inc("accepted")

    async def _post(self, endpoint: _Endpoint, body: bytes, media_type: str) -> int:
        """The status of the answer of the first address that can be spoken to."""
        import httpx  # noqa: PLC0415 (for a task of once a day)

        failed: DeliveryFailed | None = None
        for address in await self._addresses(endpoint):
            try:
                return await self._post_to(address, endpoint, body, media_type)
            except (httpx.ConnectError, httpx.ConnectTimeout) as exc:  # nothing has been sent
                failed = failed or DeliveryFailed(True, _one_line(f"{address} port {endpoint.port}: {_what(exc)}"))
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as exc:
                # ValueError: h11 before 0.16 hands a Content-Length of any length to int(), which takes 4300 digits.
                raise DeliveryFailed(True, _one_line(f"{address} port {endpoint.port}: {_what(exc)}")) from exc
        assert failed is not None  # noqa: S101 (there is at least one address)
        raise failed

    async def _addresses(self, endpoint: _Endpoint) -> list[IPAddress]:
        if isinstance(endpoint.host, Domain):
            try:
                found = (await self._resolver.lookup_addresses(endpoint.host)).records
            except LookupFailed as exc:
                raise DeliveryFailed(True, _one_line(str(exc))) from exc
        else:
            found = (endpoint.host,)
        if not found:
            raise DeliveryFailed(True, f"{endpoint.host} has no address")
        permitted = [address for address in found if self._guard.permits(address)]
        if not permitted:
            raise DeliveryFailed(False, f"no connection there: {self._guard.refusal(found[0])}")
        return permitted[:MAX_ADDRESSES]

    async def _post_to(self, address: IPAddress, endpoint: _Endpoint, body: bytes, media_type: str) -> int:
        import httpx  # noqa: PLC0415

        host = f"[{address}]" if address.version == 6 else str(address)
        url = httpx.URL(f"https://{host}:{endpoint.port}").copy_with(raw_path=endpoint.target)
        headers = {
            "Host": endpoint.authority,
            "User-Agent": f"stsguard/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Type": media_type,  # RFC 8460 §5.4
            "Connection": "close",
        }
        timeout = httpx.Timeout(self._timeout, connect=CONNECT_TIMEOUT_SECONDS)
        extensions = {"sni_hostname": str(endpoint.host)}
        async with (
            # trust_env: no proxy and no .netrc from the environment
            httpx.AsyncClient(verify=self._context, timeout=timeout, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", url, content=body, headers=headers, extensions=extensions) as response,
        ):
            return response.status_code


def _endpoint(url: str) -> _Endpoint:
    """Where `url` leads.

    Raises:
        DeliveryFailed: nowhere that we post to; permanent.
    """
    import httpx  # noqa: PLC0415

    try:
        if len(url) > MAX_URL_LENGTH:
            raise NameInvalid(f"the URL is longer than {MAX_URL_LENGTH} characters", url)
        parsed = httpx.URL(url)
        if parsed.scheme != "https":
            raise NameInvalid("not an https: URL", url)
        if parsed.userinfo:
            # RFC 9110 §4.2.4: "likely being used to obscure the authority for the sake of phishing attacks"
            raise NameInvalid("the URL holds a user name", url)
        port = HTTPS_PORT if parsed.port is None else parsed.port
        if not 0 < port < 65_536:
            raise NameInvalid(f"there is no port {port}", url)
        return _Endpoint(_address(parsed.host) or Domain.parse(parsed.host), port, parsed.raw_path)
    except (httpx.InvalidURL, NameInvalid) as exc:
        raise DeliveryFailed(False, _one_line(str(exc))) from exc


def _address(host: str) -> IPAddress | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _tls_context(ca_file: Path | None, *, verify: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996, RFC 9325 §3.1.1
    context.hostname_checks_common_name = False  # RFC 9525 §6.3
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise OperatorError(f"{ca_file}: no CA certificates can be read from it: {exc}") from exc
    return context


def _what(exc: BaseException) -> str:
    """The cause that says most: httpx wraps what the operating system and OpenSSL say."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {cause.verify_message}"
        if isinstance(cause, OSError) and cause.errno in errno.errorcode and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(exc) or type(exc).__name__


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:MAX_TEXT_LENGTH]
