"""Configuration values as text for messages: passwords hidden, characters escaped, cut where they are long."""

import json
import re

MAX_SHOWN_CHARACTERS = 120
MAX_SHOWN_ELEMENTS = 20
_PASSWORD = re.compile(r"(://[^/@:]*:).*(?=@)|([?&]password=)[^&]*")


def mask(text: str) -> str:
    """`text` with the password of a database URL hidden."""
    return _PASSWORD.sub(r"\1\2***", text)


def show(value: object) -> str:
    """`value` as TOML spells it, fit for a line of a log."""
    if isinstance(value, dict):
        return "{…}"
    if isinstance(value, bool | int | float):
        text = json.dumps(value)
    elif isinstance(value, list):
        more = ", …" if len(value) > MAX_SHOWN_ELEMENTS else ""
        text = f"[{', '.join(show(each) for each in value[:MAX_SHOWN_ELEMENTS])}{more}]"
    else:
        hidden = mask(str(value))
        text = json.dumps(hidden, ensure_ascii=not hidden.isprintable())
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"
