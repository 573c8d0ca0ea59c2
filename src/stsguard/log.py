"""Logging: one line per outcome, constant text first, then `name=value` (text) or one object (JSON).

The names are an interface: operators search for them. Text from outside is quoted, escaped and cut.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO

MAX_VALUE_LENGTH = 200  # what a stranger wrote never fills a log line
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:/@+*,[]<>=")


def logger(name: str) -> logging.Logger:
    """The logger of one module, named below `stsguard`."""
    return logging.getLogger(name if name.startswith("stsguard") else f"stsguard.{name}")


def outcome(log: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log one outcome: `message` is constant text, `fields` its particulars; None is left out."""
    if log.isEnabledFor(level):
        log.log(level, message, extra={"fields": {k: v for k, v in fields.items() if v is not None}})


def quote(value: object) -> str:
    """`value` for a text line: bare where it is plain, else a quoted, escaped and cut string."""
    text = str(value)
    if len(text) > MAX_VALUE_LENGTH:
        text = text[: MAX_VALUE_LENGTH - 1] + "…"
    if text and _PLAIN.issuperset(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


class TextFormatter(logging.Formatter):
    """`LEVEL message name=value …`; the time stamp is the journal's, unless `stamps` asks for one."""

    def __init__(self, *, stamps: bool) -> None:
        super().__init__()
        self._stamps = stamps

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        parts = [record.levelname.lower(), record.getMessage(), *(f"{k}={quote(v)}" for k, v in fields.items())]
        if self._stamps:
            parts.insert(0, datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"))
        line = " ".join(parts)
        return line + "\n" + self.formatException(record.exc_info) if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, message, logger and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
        }
        fields: dict[str, object] = getattr(record, "fields", {})
        for name, value in fields.items():
            line[name] = value if isinstance(value, bool | int | float) else str(value)[:MAX_VALUE_LENGTH]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(*, level: str, form: str, stream: IO[str] | None = None) -> None:
    """Send the log to `stream` (standard error) as "text" or "json", from `level` on."""
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(stamps=out.isatty()))
    root = logging.getLogger("stsguard")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
