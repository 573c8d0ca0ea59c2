"""The certificates of the policy hosts as files, each as a TLS context that is renewed when its files change.

Below `directory`, for a host, in this order:

- `HOST.pem` (chain) with `HOST.key`, or `HOST.pem` alone with the key in it: put there by hand, or by another ACME
  client. They may be symbolic links, as certbot's are. Nothing of ours ever writes them.
- `acme/HOST.pem`, key and chain in one file: written by our own ACME client, see `AcmeCertificates`. One file is
  replaced by one rename, so that nobody ever reads the key of one certificate beside the chain of another.

So the place says who made a certificate. Files are looked at when a client asks for the host, at most once a second;
one that can't be used is logged once, and the one in use stays in use.

Left out on purpose: OCSP stapling (the CAs have given OCSP up), client certificates, TLS below 1.2.
"""

import fcntl
import logging
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cachetools import LRUCache

from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain

log = logger(__name__)
loads = Counter("tls_certificate_loads_total", "Certificates of policy hosts read from their files.", "outcome")

CHECK_SECONDS = 1.0  # a certificate is renewed weeks ahead; a second is for the operator who watches
MAX_CONTEXTS = 2048  # 26 kB each; a host beyond that is read from its file again, in a millisecond

# Forward secrecy and an AEAD, which every TLS library of the last ten years has; TLS 1.3 has no others anyway.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

# Of each file what stat says when it changes: a rename brings another inode, a rewrite another time or size.
_Stat = tuple[int, int, int, int]
_Signature = tuple[_Stat | None, ...]


@dataclass(slots=True)
class _Entry:
    """What is known of a host: the context in use, the files that it, or the last attempt, was read from, and when
    they were looked at."""

    context: ssl.SSLContext | None
    signature: _Signature
    checked_at: float


class CertificateFiles:
    """TLS contexts by the name that a client asks for (RFC 6066 §3).

    Args:
        directory: of the files; it need not exist yet.
        timer: seconds that only grow.
        size: contexts kept in memory, those used last.
    """

    def __init__(
        self, directory: Path, *, timer: Callable[[], float] = time.monotonic, size: int = MAX_CONTEXTS
    ) -> None:
        self._directory = directory
        self._timer = timer
        self._entries: LRUCache[Domain, _Entry] = LRUCache(size)

    def context(self, host: Domain) -> ssl.SSLContext | None:
        """The context that presents the certificate of `host`; None where there is none that can be used, which a
        client is to hear as `unrecognized_name`. A `Domain` has no `/`, so it names no file anywhere else."""
        now = self._timer()
        entry = self._entries.get(host)
        if entry is not None and now - entry.checked_at < CHECK_SECONDS:
            return entry.context
        signature = self._signature(host)
        if entry is None or signature != entry.signature:
            context = self._load(host)
            if context is None and entry is not None and any(signature[::2]):  # a chain is there, but of no use
                context = entry.context
            entry = self._entries[host] = _Entry(context, signature, now)
        entry.checked_at = now
        return entry.context

    def _candidates(self, host: Domain) -> tuple[tuple[Path, Path], ...]:
        by_hand, by_acme = self._directory / f"{host}.pem", _acme_file(self._directory, host)
        return (by_hand, self._directory / f"{host}.key"), (by_acme, by_acme)

    def _signature(self, host: Domain) -> _Signature:
        return tuple(_stat(path) for pair in self._candidates(host) for path in pair)

    def _load(self, host: Domain) -> ssl.SSLContext | None:
        """The first certificate that can be used; a broken one of the operator does not hide a good one of ours."""
        for chain_file, key_file in self._candidates(host):
            if _stat(chain_file) is None:
                continue
            try:
                context = _server_context(chain_file, key_file if _stat(key_file) else chain_file)
            except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
                loads.inc("failed")
                reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or exc
                outcome(log, logging.ERROR, "certificate can't be used", file=chain_file, reason=reason)
                continue
            loads.inc("loaded")
            return context
        return None


class HandCertificates:
    """The certificates that nobody renews but the operator: those put there by hand, and with `all_of_them`, where
    there is no ACME, also those that it left.

    Nothing is kept: whoever looks sees the files as they are.
    """

    def __init__(self, directory: Path, *, all_of_them: bool) -> None:
        self._directory = directory
        self.required = all_of_them

    def file(self, host: Domain) -> Path:
        """Where the certificate of `host` is, or belongs."""
        by_hand, by_acme = self._directory / f"{host}.pem", _acme_file(self._directory, host)
        return by_acme if self.required and not os.path.lexists(by_hand) and os.path.lexists(by_acme) else by_hand

    def load(self, host: Domain) -> bytes | None:
        """The chain in PEM, to which the key belongs that is there; None where there is none.

        Raises:
            OSError, ValueError: it is there, and can't be read or used with its key.
        """
        chain_file, key_file = self.file(host), self._directory / f"{host}.key"
        try:
            chain_file.lstat()
        except FileNotFoundError:
            return None
        pem = chain_file.read_bytes()  # a link that leads nowhere is there
        by_acme = chain_file.parent != self._directory
        _server_context(chain_file, chain_file if by_acme or _stat(key_file) is None else key_file)
        return pem


class AcmeCertificates:
    """The certificates that our own ACME client keeps below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Whether this process is the one on this machine that orders certificates, while entered. The lock goes with
        the process, however that ends.

        Raises:
            OSError: the directory can't be written to.
        """
        path = self._directory / "acme" / ".lock"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def is_by_hand(self, host: Domain) -> bool:
        """Whether the operator has put a certificate there, so that none is to be ordered for `host`."""
        return _stat(self._directory / f"{host}.pem") is not None

    def load(self, host: Domain) -> bytes | None:
        """Key and chain in PEM as last saved; None where there are none.

        Raises:
            OSError: they are there and can't be read.
        """
        try:
            return _acme_file(self._directory, host).read_bytes()
        except FileNotFoundError:
            return None

    def save(self, host: Domain, key_pem: bytes, chain_pem: bytes) -> None:
        """Replace key and chain of `host` together: whoever reads the file has the old pair or the new one, also after
        a crash at any moment.

        Raises:
            OSError: they can't be written; what was there stays.
        """
        path = _acme_file(self._directory, host)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in path.parent.glob(f".new-{host}-*"):  # by a process that was killed; the claim makes us alone here
            left.unlink(missing_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".new-{host}-", dir=path.parent)  # 0600
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key_pem + chain_pem)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def _acme_file(directory: Path, host: Domain) -> Path:
    return directory / "acme" / f"{host}.pem"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stat(path: Path) -> _Stat | None:
    try:
        found = path.stat()
    except OSError:  # absent, unreadable, or longer than a file name may be: there is none
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _server_context(chain_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    # Without a password given OpenSSL would ask for that of an encrypted key on the terminal.
    context.load_cert_chain(chain_file, key_file, password="")
    return context
