"""Orders certificates by ACME: a `ports.CertificateAuthority` of the `acme` package (RFC 8555, RFC 8737, RFC 9773).

The package blocks, so each of its calls runs in a thread; what waits is ours, so that no wall clock decides how long,
and the key authorisation is handed to whoever answers challenges. Every order has a client of its own: directory,
account and nonces are asked for anew, which costs three requests in two months.

Left out on purpose: external account binding, changes of contact, key roll-over and revocation (certbot does them),
wildcards (dns-01), and `replaces` of RFC 9773 §5, which the package has no field for.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.json_util import encode_b64jose
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC

from stsguard import __version__
from stsguard.adapters.acme_client.account import Account, create_account, load_account, save_uri
from stsguard.adapters.acme_client.failures import ACME_ERRORS, account_failure, failure_of, parse_retry_after
from stsguard.core.errors import CertificateFailed, CertificateFault
from stsguard.core.hosted import AcmeChallenge
from stsguard.names import Domain

REQUEST_SECONDS = 30
VALIDATION_SECONDS = 120.0  # CAs look from several places, and try again
POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 15.0
CHALLENGE_LIFETIME = timedelta(hours=1)
NONCE_TRIES = 8  # RFC 8555 §6.5: a refused nonce comes with a new one
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,256}", re.ASCII)  # RFC 8555 §8.3: 128 bits at least, base64url

T = TypeVar("T")


class AcmeAuthority:
    """Implements `ports.CertificateAuthority`.

    Args:
        directory_url: of the CA (RFC 8555 §7.1.1).
        certificate_dir: where the account is kept.
        now: the wall clock.
        contact: a mail address for the CA, None for none.
        ca_file: by which the ACME server is verified; None for the system's.
    """

    def __init__(
        self,
        directory_url: str,
        certificate_dir: Path,
        *,
        now: Callable[[], datetime],
        contact: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._directory_url = directory_url
        self._certificate_dir = certificate_dir
        self._now = now
        self._contact = contact
        self._ca_file = ca_file

    async def order(
        self, host: Domain, kind: str, present: Callable[[AcmeChallenge], Awaitable[None]]
    ) -> tuple[bytes, bytes]:
        """A new key and the chain of its certificate for `host`, both in PEM.

        Raises:
            CertificateFailed: in every other case.
        """
        session = await self._connect()
        key = ec.generate_private_key(ec.SECP256R1())
        order = await session.call(session.client.new_order, _signing_request(host, key))
        for authorization in order.authorizations:
            if authorization.body.status != messages.STATUS_VALID:  # a CA may take an earlier proof
                await self._authorize(session, authorization, host, kind, present)
        chain = await session.call_until(_Finalisation(session, order))
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _check_chain(chain, key)
        return key_pem, chain

    async def renewal_time(self, pem: bytes) -> datetime | None:
        """When the CA wants the certificate renewed (RFC 9773); None where it says nothing or can't be asked, and with
        an acme package before 4.1, which does not ask."""
        if not hasattr(client.ClientV2, "renewal_time"):
            return None
        try:
            session = await self._anonymous()
            if "renewalInfo" not in session.client.directory.to_partial_json():
                return None
            renew_at, _ = await session.call(session.client.renewal_time, pem)
        except CertificateFailed:
            return None
        return renew_at if renew_at is None or renew_at.tzinfo is not None else None

    async def _authorize(
        self,
        session: "_Session",
        authorization: messages.AuthorizationResource,
        host: Domain,
        kind: str,
        present: Callable[[AcmeChallenge], Awaitable[None]],
    ) -> None:
        """Have the CA see that the name is ours (RFC 8555 §7.5.1)."""
        offered = {body.to_partial_json().get("type"): body for body in authorization.body.challenges}
        if kind not in offered:
            raise CertificateFailed(f"the CA does not offer {kind} for {host}, see acme_challenge")
        token = str(offered[kind].to_partial_json().get("token"))
        if not _TOKEN.fullmatch(token):
            raise CertificateFailed("the CA's challenge has no usable token", None, CertificateFault.CA)
        content = f"{token}.{encode_b64jose(session.key.thumbprint())}"  # RFC 8555 §8.1
        await present(AcmeChallenge(kind, host, token, content, self._now() + CHALLENGE_LIFETIME))
        # RFC 8555 §7.5.1, RFC 8737 §3: the response of either kind is an empty object, which is what this one becomes.
        response = challenges.HTTP01Response(key_authorization=content)
        await session.call(session.client.answer_challenge, offered[kind], response)
        await session.call_until(_Validation(session, authorization))

    async def _connect(self) -> "_Session":
        """A session with our account, registered where it is not yet (RFC 8555 §7.3)."""
        try:
            account = await asyncio.to_thread(self._account)
            key = JWK.from_json(account.key)
            if not isinstance(key, JWKEC):
                raise ValueError("the key of the ACME account is not ours; restore its file, or remove it")
        except ACME_ERRORS as exc:
            raise account_failure(exc) from exc
        session = _Session(key, self._ca_file, self._now)
        await session.open(self._directory_url)
        if account.uri is None:
            account = await session.call(self._register, session, account)
        session.network.account = messages.RegistrationResource(body=messages.Registration(), uri=account.uri)
        # RFC 8555 §7.1.2: ask before, since a CA that has lost the account answers every order alike.
        try:
            await session.call(session.network.post, account.uri, None, new_nonce_url=session.new_nonce_url)
        except CertificateFailed as exc:
            if not isinstance(exc.__cause__, messages.Error) or exc.__cause__.code != "accountDoesNotExist":
                raise
            session.network.account = None
            account = await session.call(self._register, session, account)
            session.network.account = messages.RegistrationResource(body=messages.Registration(), uri=account.uri)
        return session

    async def _anonymous(self) -> "_Session":
        session = _Session(None, self._ca_file, self._now)
        await session.open(self._directory_url)
        return session

    def _account(self) -> Account:
        account = load_account(self._certificate_dir, self._directory_url)
        if account is None:
            key = JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
            account = create_account(self._certificate_dir, self._directory_url, key.to_json())
        return account

    def _register(self, session: "_Session", account: Account) -> Account:
        registration = messages.NewRegistration.from_data(email=self._contact, terms_of_service_agreed=True)
        try:
            uri = session.client.new_account(registration).uri
        except errors.ConflictError as exc:  # RFC 8555 §7.3.1: this key has an account
            uri = exc.location
        meta = session.client.directory.to_partial_json().get("meta")
        names = meta.to_partial_json().get("caaIdentities") if meta is not None else None
        return save_uri(self._certificate_dir, account, uri, str(names[0]) if names else None)


class _Network(client.ClientNetwork):
    """Notes what the CA's last answer said beside its body, and takes a refused nonce for what it is."""

    last_status = 0
    last_retry_after: str | None = None

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        self.last_status, self.last_retry_after = 0, None
        response = super()._send_request(method, url, *args, **kwargs)
        self.last_status, self.last_retry_after = response.status_code, response.headers.get("Retry-After")
        return response

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        """POST, again with a fresh nonce where one is refused (RFC 8555 §6.5)."""
        for _ in range(NONCE_TRIES - 1):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return self._post_once(*args, **kwargs)


class _Session:
    """One client for one order. `call` runs what blocks in a thread and maps what it raises."""

    def __init__(self, key: JWK | None, ca_file: Path | None, now: Callable[[], datetime]) -> None:
        system = ssl.get_default_verify_paths().cafile  # not the bundle that requests brings along
        self.key = key or JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
        self._now = now
        self.network = _Network(self.key, alg=ES256, user_agent=f"stsguard/{__version__}", timeout=REQUEST_SECONDS)
        verify = ca_file or system
        self.network.verify_ssl = str(verify) if verify else True  # type: ignore[assignment]  # requests takes a path

    @property
    def new_nonce_url(self) -> str:
        return str(self.client.directory["newNonce"])

    async def open(self, directory_url: str) -> None:
        directory = await self.call(client.ClientV2.get_directory, directory_url, self.network)
        self.client = client.ClientV2(directory, self.network)

    async def call(self, blocking: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        try:
            return await asyncio.to_thread(blocking, *args, **kwargs)
        except ACME_ERRORS as exc:
            raise failure_of(exc, self.network.last_status, self.retry_after_seconds()) from exc

    def retry_after_seconds(self) -> float | None:
        return parse_retry_after(self.network.last_retry_after, self._now().timestamp())

    async def call_until(self, poll: Callable[[], T | None]) -> T:
        """What `poll` gives once it gives something, within VALIDATION_SECONDS."""
        deadline = time.monotonic() + VALIDATION_SECONDS
        while (found := await self.call(poll)) is None:
            if time.monotonic() > deadline:
                raise CertificateFailed(f"the CA came to no end within {VALIDATION_SECONDS:g} s")
            await asyncio.sleep(min(self.retry_after_seconds() or POLL_SECONDS, LONGEST_POLL_SECONDS))
        return found


class _Validation:
    """Polls an authorisation (RFC 8555 §7.5.1) until it is valid."""

    def __init__(self, session: _Session, authorization: messages.AuthorizationResource) -> None:
        self._client = session.client
        self._authorization = authorization

    def __call__(self) -> bool | None:
        authorization, _ = self._client.poll(self._authorization)
        if authorization.body.status in {messages.STATUS_PENDING, messages.STATUS_PROCESSING}:
            return None
        if authorization.body.status != messages.STATUS_VALID:
            raise errors.ValidationError([authorization])
        return True


class _Finalisation:
    """Finalises an order and polls it for its certificate (RFC 8555 §7.4)."""

    def __init__(self, session: _Session, order: messages.OrderResource) -> None:
        self._session = session
        self._order = order
        self._begun = False

    def __call__(self) -> bytes | None:
        if not self._begun:
            try:
                self._session.client.begin_finalization(self._order)
            except messages.Error as exc:
                if exc.code != "orderNotReady":  # a CA that has not yet put its own parts together
                    raise
                return None
            self._begun = True
        response = self._post_as_get(self._order.uri)
        order = messages.Order.from_json(response.json())
        if order.status == messages.STATUS_VALID:
            return self._post_as_get(order.certificate).content
        if order.status == messages.STATUS_INVALID:
            raise errors.IssuanceError(order.error or messages.Error.with_code("serverInternal"))
        return None

    def _post_as_get(self, url: str) -> requests.Response:
        return self._session.network.post(url, None, new_nonce_url=self._session.new_nonce_url)


def _signing_request(host: Domain, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A CSR with the one name, in the subjectAltName alone (RFC 8555 §7.4): a CN takes no more than 64 characters."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _check_chain(chain: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """What the CA gave is a chain for our key: anything else never replaces a certificate in use."""
    try:
        leaf, *_ = x509.load_pem_x509_certificates(chain)
        matches = leaf.public_key() == key.public_key()
    except ValueError as exc:
        raise CertificateFailed("what the CA gave is no certificate chain", None, CertificateFault.CA) from exc
    if not matches:
        raise CertificateFailed("the CA gave a certificate for another key", None, CertificateFault.CA)
