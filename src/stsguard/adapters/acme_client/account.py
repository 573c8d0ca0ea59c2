"""The account at a CA (RFC 8555 §7.3): its key, made once, and its URI, which a CAA record may name (RFC 8657 §3).

One file a CA, so that going to another CA and back finds the account again. The key is written before the account is
registered: killed in between, the next start registers with the same key and is given the same account. Nothing of the
`acme` package is needed to read the URI.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Account:
    """The account at the CA with this directory. `key` is a JWK; `uri` None: not registered yet. `caa_identity` is the
    name by which a CAA record permits the CA (RFC 8555 §7.1.1 caaIdentities), None where it told none."""

    directory_url: str
    key: dict[str, str]
    uri: str | None = None
    caa_identity: str | None = None


def account_file(certificate_dir: Path, directory_url: str) -> Path:
    """Where the account at that CA is kept."""
    digest = hashlib.sha256(directory_url.encode()).hexdigest()[:8]
    return certificate_dir / "acme" / f".account-{urlsplit(directory_url).hostname}-{digest}.json"


def load_account(certificate_dir: Path, directory_url: str) -> Account | None:
    """The account; None where there is none yet.

    Raises:
        OSError: it can't be read. ValueError: the file is not ours.
    """
    try:
        text = account_file(certificate_dir, directory_url).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        stored = json.loads(text)
        return Account(stored["directory"], stored["key"], stored["uri"], stored["caa_identity"])
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError("the file of the ACME account can't be read; restore it, or remove it for a new one") from exc


def create_account(certificate_dir: Path, directory_url: str, key: dict[str, str]) -> Account:
    """Keep a new account, not registered yet; where another process was first, that one's.

    Raises:
        OSError: it can't be written. ValueError: as above.
    """
    account = Account(directory_url, key)
    temporary = _write(certificate_dir, account)
    try:
        with contextlib.suppress(FileExistsError):
            account_file(certificate_dir, directory_url).hardlink_to(temporary)
    finally:
        temporary.unlink()
    return load_account(certificate_dir, directory_url) or account


def save_uri(certificate_dir: Path, account: Account, uri: str, caa_identity: str | None) -> Account:
    """Keep the URI that the CA gave, and its own name for CAA records.

    Raises:
        OSError: it can't be written.
    """
    changed = replace(account, uri=uri, caa_identity=caa_identity)
    _write(certificate_dir, changed).replace(account_file(certificate_dir, account.directory_url))
    return changed


def _write(certificate_dir: Path, account: Account) -> Path:
    directory = certificate_dir / "acme"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".new-account-", dir=directory)  # 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        stored = {"directory": account.directory_url, "key": account.key, "uri": account.uri}
        json.dump({**stored, "caa_identity": account.caa_identity}, file)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
