"""How a reader's memory of a mail log is kept over a restart, beside the position up to which it was read: JSON.

A session is one only once its last line was read, and its first lines are before that position.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from stsguard.core.errors import ResultType
from stsguard.core.postfix_log_lines import Endpoint, MxSkipped, PolicyFailed
from stsguard.core.postfix_log_state import Attempt, Failure, LogMemory, Process, Proxied
from stsguard.names import Domain, NameInvalid

_SKIPPED = {kind.__name__: kind for kind in (MxSkipped, PolicyFailed)}


class LogMemoryInvalid(ValueError):
    """A stored text is no reader's memory; the message says why."""


def log_memory_text(memory: LogMemory) -> str:
    """The JSON of a reader's memory, in ASCII whatever was logged."""
    since = memory.complete_since
    found = {
        "complete_since": since.isoformat() if since else None,
        "tls_services": list(memory.tls_services),
        "processes": [[process_id, _process(each)] for process_id, each in memory.processes.items()],
        "proxied": [[*key, _proxied(each)] for key, each in memory.proxied.items()],
    }
    return json.dumps(found, separators=(",", ":"))


def parse_log_memory(text: str) -> LogMemory:
    """The memory that `log_memory_text` wrote.

    Raises:
        LogMemoryInvalid: it is none.
    """
    try:
        found = json.loads(text)
        since = found["complete_since"]
        return LogMemory(
            None if since is None else _parse_time(since),
            OrderedDict((str(name), None) for name in found["tls_services"]),
            OrderedDict((int(process_id), _parse_process(each)) for process_id, each in found["processes"]),
            OrderedDict(((str(host), str(address)), _parse_proxied(each)) for host, address, each in found["proxied"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, NameInvalid, RecursionError) as exc:
        raise LogMemoryInvalid(f"{text[:100]!r}: {exc}") from exc


def _process(process: Process) -> dict[str, Any]:
    return {
        "at": process.at.isoformat(),
        "attempts": [_attempt(each) for each in process.attempts],
        "skipped": [[type(each).__name__, *each] for each in process.skipped],
        "finished": process.finished,
    }


def _parse_process(found: dict[str, Any]) -> Process:
    return Process(
        _parse_time(found["at"]),
        [_parse_attempt(each) for each in found["attempts"]],
        {_SKIPPED[kind](*map(str, names)): None for kind, *names in found["skipped"]},
        _parse_finished(found["finished"]),
    )


def _parse_finished(found: Any) -> tuple[str, Endpoint | None, str] | None:
    if found is None:
        return None
    queue_id, endpoint, delays = found
    return str(queue_id), None if endpoint is None else _parse_endpoint(endpoint), str(delays)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "endpoint": attempt.endpoint,
        "word": attempt.word,
        "reused": attempt.reused,
        "suspected": attempt.suspected,
        "handshake_failed": attempt.handshake_failed,
        "tlsa_unusable": attempt.tlsa_unusable,
        "failure": attempt.failure,
        "reported": attempt.reported,
    }


def _parse_attempt(found: dict[str, Any]) -> Attempt:
    return Attempt(
        endpoint=_parse_endpoint(found["endpoint"]),
        word=str(found["word"]),
        reused=bool(found["reused"]),
        suspected=_parse_failure(found["suspected"]),
        handshake_failed=bool(found["handshake_failed"]),
        tlsa_unusable=bool(found["tlsa_unusable"]),
        failure=_parse_failure(found["failure"]),
        reported=bool(found["reported"]),
    )


def _proxied(proxied: Proxied) -> dict[str, Any]:
    return {
        "at": proxied.at.isoformat(),
        "suspected": proxied.suspected,
        "handshake_failed": proxied.handshake_failed,
        "tlsa_unusable": proxied.tlsa_unusable,
        "reported": list(proxied.reported.items()),
    }


def _parse_proxied(found: dict[str, Any]) -> Proxied:
    return Proxied(
        at=_parse_time(found["at"]),
        suspected=_parse_failure(found["suspected"]),
        handshake_failed=bool(found["handshake_failed"]),
        tlsa_unusable=bool(found["tlsa_unusable"]),
        reported={None if name is None else Domain.parse(name): int(count) for name, count in found["reported"]},
    )


def _parse_endpoint(found: Iterable[Any]) -> Endpoint:
    host, address, port = found
    return Endpoint(str(host), str(address), int(port))


def _parse_failure(found: Any) -> Failure | None:
    if found is None:
        return None
    result_type, reason = found
    return ResultType(result_type), str(reason)


def _parse_time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without an offset")
    return at
