"""`stsguard domain export DIR`: the policies as folders for static hosting (RFC 8461 §3.3), one a domain.

A folder is what a site of GitHub Pages or Cloudflare Pages is made of, and any web server's document root of the host
mta-sts.DOMAIN as well. Files are replaced whole and only where they differ, so that it may run as often as one likes;
what else lies there is left alone. The order of a change is the same as with a server of our own: first this text is
served, then the new id is published (RFC 8461 §8.2).
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stsguard.core.errors import OurFault
from stsguard.core.hosted import HostedDomain, Stage, serialize_policy
from stsguard.names import Domain

POLICY_FILE = ".well-known/mta-sts.txt"
# Cloudflare Pages: the media type by which senders tell a policy from a web page (RFC 8461 §3.2), and no long caching.
_HEADERS = """/.well-known/mta-sts.txt
  Content-Type: text/plain
  Cache-Control: public, max-age=60
"""
_FILE_MODE = 0o644
_FOLDER_MODE = 0o755


class ExportFailed(OurFault):
    """A file can't be written; the message names it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of one domain: `changed` are the files that were written, relative to its `folder`. A retired domain
    is not written; `left_over` says that its folder from an earlier time is still there and may be removed."""

    policy_domain: Domain
    folder: Path
    changed: tuple[str, ...]
    left_over: bool = False


def export_domains(domains: Iterable[HostedDomain], directory: Path) -> Iterator[Exported]:
    """Write each domain's folder below `directory`, which is made where it is absent.

    Raises:
        ExportFailed: a file can't be written; those before it are.
    """
    for domain in domains:
        folder = directory / domain.policy_domain
        if domain.stage is Stage.RETIRED:
            yield Exported(domain.policy_domain, folder, (), left_over=(folder / POLICY_FILE).exists())
            continue
        changed = [name for name, content in _files(domain) if _write(folder / name, content)]
        yield Exported(domain.policy_domain, folder, tuple(changed))


def _files(domain: HostedDomain) -> Iterator[tuple[str, bytes]]:
    """The files of a domain, the policy last: what it needs to be served rightly is there before."""
    yield "_headers", _HEADERS.encode("ascii")  # Cloudflare Pages
    yield ".nojekyll", b""  # GitHub Pages would leave out folders whose names begin with a dot
    yield "CNAME", domain.policy_host.encode("ascii") + b"\n"  # GitHub Pages: the name of the site
    version = domain.current
    yield POLICY_FILE, serialize_policy(version.mode, version.max_age, version.mx_patterns)


def _write(path: Path, content: bytes) -> bool:
    """Replace the file by one with `content`, where it has another; whether it had."""
    try:
        if path.is_file() and path.read_bytes() == content:
            return False
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".stsguard-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), _FILE_MODE)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as exc:
        raise ExportFailed(f"{path} can't be written: {exc.strerror}") from exc
    return True


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
