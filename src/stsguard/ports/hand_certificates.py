"""What the watch of the operator's certificates asks for."""

from pathlib import Path
from typing import Protocol

from stsguard.names import Domain


class HandCertificateFiles(Protocol):
    """The certificates that nobody renews but the operator. `required` where there is nobody who gets those that are
    absent."""

    required: bool

    def file(self, host: Domain) -> Path:
        """Where the certificate of `host` is, or belongs."""

    def load(self, host: Domain) -> bytes | None:
        """The chain in PEM; None where there is none.

        Raises:
            OSError, ValueError: it is there, and can't be read or used with its key.
        """
