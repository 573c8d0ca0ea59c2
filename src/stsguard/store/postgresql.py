"""Connections to PostgreSQL through psycopg: each bounded in time, on the server and in the network."""

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.pool import QueuePool

CONNECT_SECONDS = 3
READ_STATEMENT_SECONDS = 1.5  # a look-up waits for the store 2 s in all
SCAN_STATEMENT_SECONDS = 25
WRITE_STATEMENT_SECONDS = 25
UPGRADE_STATEMENT_SECONDS = 600
NETWORK_SECONDS = 10  # a server that is gone without a word is given up


def engine(url: str, *, statement_seconds: float, writing: bool) -> Engine:
    """An engine with one connection to the database `url`.

    Raises:
        ImportError: there is no psycopg, or no libpq.
        SQLAlchemyError: the URL is none.
    """
    target = make_url(url).set(drivername="postgresql+psycopg")
    milliseconds = int(statement_seconds * 1000)
    options = [
        f"-c statement_timeout={milliseconds}",
        f"-c lock_timeout={milliseconds * 4 // 5}",  # the first to end, since it names the cause
        f"-c default_transaction_read_only={'off' if writing else 'on'}",
    ]
    given = target.query.get("options")
    return create_engine(
        target,
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,  # the server may have been restarted since
        connect_args={
            "application_name": "stsguard",
            "client_encoding": "utf8",
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": NETWORK_SECONDS // 2,
            "keepalives_interval": NETWORK_SECONDS // 5,
            "keepalives_count": 3,
            "tcp_user_timeout": NETWORK_SECONDS * 1000,
            "options": " ".join([given, *options] if isinstance(given, str) else options),
        },
    )


def describe(url: str) -> str:
    """The database as messages name it, without user and password."""
    target: URL = make_url(url)
    host = target.host or target.query.get("host") or "this machine"
    return f"PostgreSQL database {target.database} on {host if isinstance(host, str) else ', '.join(host)}"
