"""Asks the outbound daemon, over its admin socket, to look destinations up: a `ports.DomainWarmer`.

With the standard library's client and not httpx, since it is called from a small process that shall start fast and
does nothing else by HTTP.
"""

import socket
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlencode

from stsguard.core.errors import DaemonSilent

TIMEOUT_SECONDS = 2.0
MAX_ANSWER_BYTES = 65_536


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("stsguard", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the path, not to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._path))


class OutboundDaemon:
    """The daemon whose admin socket is at `where`: a path, or host and port."""

    def __init__(self, where: Path | tuple[str, int]) -> None:
        self._where = where

    def warm(self, next_hops: Sequence[str]) -> None:
        """POST /warm.

        Raises:
            DaemonSilent: it does not answer within two seconds a step, or refuses.
        """
        connection = (
            _UnixConnection(self._where)
            if isinstance(self._where, Path)
            else HTTPConnection(*self._where, timeout=TIMEOUT_SECONDS)
        )
        try:
            connection.request("POST", "/warm?" + urlencode({"domains": ",".join(next_hops)}))
            response = connection.getresponse()
            response.read(MAX_ANSWER_BYTES)
        except (OSError, HTTPException, ValueError) as exc:
            raise DaemonSilent(f"no answer from stsguard outbound at {self._where}: {exc}") from exc
        finally:
            connection.close()
        if response.status != 202:  # RFC 9110 §15.3.3: accepted, not done yet
            raise DaemonSilent(f"stsguard outbound at {self._where} answers with status {response.status}")
