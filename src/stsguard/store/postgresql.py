"""Connections to PostgreSQL through psycopg: each bounded in time, on the server and in the network."""

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from stsguard.store.refused import Refused

if TYPE_CHECKING:
    from psycopg import Connection

CONNECT_SECONDS = 3
READ_STATEMENT_SECONDS = 1.5  # a look-up waits for the store 2 s in all
SCAN_STATEMENT_SECONDS = 25
WRITE_STATEMENT_SECONDS = 25
UPGRADE_STATEMENT_SECONDS = 600
NETWORK_SECONDS = 10  # a server that is gone without a word is given up


def connect(url: str, *, statement_seconds: float, writing: bool, autocommit: bool) -> "Connection":
    """A connection to the database `url`. With `autocommit` the caller says BEGIN, else the driver does.

    Raises:
        ImportError: there is no psycopg, or no libpq.
        psycopg.Error: it can't be reached.
    """
    import psycopg  # noqa: PLC0415 (an SQLite site need not have it)
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    milliseconds = int(statement_seconds * 1000)
    options = [
        f"-c statement_timeout={milliseconds}",
        f"-c lock_timeout={milliseconds * 4 // 5}",  # the first to end, since it names the cause
        f"-c default_transaction_read_only={'off' if writing else 'on'}",
    ]
    given = conninfo_to_dict(url).get("options")
    return psycopg.connect(
        url,
        autocommit=autocommit,
        application_name="stsguard",
        client_encoding="utf8",
        connect_timeout=CONNECT_SECONDS,
        keepalives_idle=NETWORK_SECONDS // 2,
        keepalives_interval=NETWORK_SECONDS // 5,
        keepalives_count=3,
        tcp_user_timeout=NETWORK_SECONDS * 1000,
        options=" ".join([str(given), *options] if given else options),
    )


def describe(url: str) -> str:
    """The database as messages name it, without user and password.

    Raises:
        Refused: it is no URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise Refused(f"its URL can't be read: {exc}") from exc
    host = unquote(parts.hostname or "") or ", ".join(parse_qs(parts.query).get("host", ())) or "this machine"
    return f"PostgreSQL database {unquote(parts.path.removeprefix('/'))} on {host}"
