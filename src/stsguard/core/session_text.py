"""How a session that a mail log told of is kept over a restart: canonical JSON, as long as nobody can judge it yet.

Only what a log tells is kept: policy and further details come from datagrams, which are never kept.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from stsguard.core.errors import ResultType
from stsguard.core.session import Seen, Session, Source
from stsguard.names import Domain, NameInvalid

_FIELDS: dict[str, Callable[[str], object]] = {
    "at": datetime.fromisoformat,
    "instance": str,
    "seen": Seen,
    "recipient_domain": Domain.parse,
    "policy_domain": Domain.parse,
    "result_type": ResultType,
    "failure_reason_code": str,
    "receiving_mx_hostname": Domain.parse,
    "receiving_ip": str,
    "tls_level": str,
}
_OTHERS = ("port", "new_connection", "tls_tried", "accepted_unverified")


class SessionTextInvalid(ValueError):
    """A stored text is no session; the message says why."""


def session_text(session: Session) -> str:
    """The canonical JSON of a session of Source.LOG; what the log did not say is left out."""
    said = {name: getattr(session, name) for name in _FIELDS if getattr(session, name)}
    text = {name: value.isoformat() if isinstance(value, datetime) else str(value) for name, value in said.items()}
    return json.dumps(text | {name: getattr(session, name) for name in _OTHERS}, sort_keys=True, separators=(",", ":"))


def parse_session_text(text: str) -> Session:
    """The session that `session_text` wrote.

    Raises:
        SessionTextInvalid: it is none.
    """
    try:
        found = json.loads(text)
        values: dict[str, Any] = {name: parse(found[name]) for name, parse in _FIELDS.items() if name in found}
        others = {name: found[name] for name in _OTHERS}
        session = Session(source=Source.LOG, **values, **others)  # a name that is missing is a TypeError
    except (ValueError, KeyError, TypeError, NameInvalid) as exc:
        raise SessionTextInvalid(f"{text[:100]!r}: {exc}") from exc
    if session.at.tzinfo is None:
        raise SessionTextInvalid(f"{text[:100]!r}: a time without an offset")
    return session
