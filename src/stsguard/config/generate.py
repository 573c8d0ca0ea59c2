"""Writes what is made from the table of options: the sample configuration, the documentation and the manual page.

`python -m stsguard.config.generate [DIRECTORY]` writes them below DIRECTORY, the checkout (default: the working
directory). A test compares the files in the checkout with what this module makes.
"""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from stsguard import __version__
from stsguard.config.options import OPTIONS, SECTIONS, Option

_COMMAND = "python -m stsguard.config.generate"


def sample() -> str:
    """conf/stsguard.toml: every key with its documentation, commented out, at its default."""
    lines = [
        "# The configuration of stsguard. Every key is optional and stands here at its default: remove the # in front",
        "# of a key to change it. A key that is not listed here is an error. stsguard config check reads this file,",
        "# stsguard config show prints what is in force.",
    ]
    for section, about in SECTIONS.items():
        lines += ["", "", f"# {about}", f"[{section}]"]
        for option in _of(section):
            lines += ["", *_wrapped(option.doc), *_wrapped(f"Allowed: {option.kind.allowed}")]
            lines.append(f"#{option.name} = {default(option)}")
    return "\n".join(lines) + "\n"


def documentation() -> str:
    """docs/configuration.md: a table for each section."""
    lines = [
        "# Configuration",
        "",
        f"<!-- made by {_COMMAND} -->",
        "",
        "One TOML file, `/etc/stsguard/stsguard.toml` or the one named by `--config`. Every key has a default; an",
        "empty file is valid, and the default one may be absent. An unknown key or a value that is not allowed stops",
        "the start, and `stsguard config check` names all of them at once. `stsguard config show` prints what is in",
        "force.",
    ]
    for section, about in SECTIONS.items():
        lines += ["", f"## [{section}]", "", about, "", "| key | type | default | allowed | |", "|---|---|---|---|---|"]
        for option in _of(section):
            cells = (
                f"`{option.name}`",
                _type(option),
                f"`{default(option)}`",
                _cell(option.kind.allowed),
                _cell(option.doc),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def manual_page() -> str:
    """docs/stsguard.toml.5: the manual page."""
    lines = [
        f'.\\" made by {_COMMAND}',
        f'.TH STSGUARD.TOML 5 "" "stsguard {__version__}" "File formats"',
        ".SH NAME",
        "stsguard.toml \\- configuration of stsguard",
        ".SH SYNOPSIS",
        ".I /etc/stsguard/stsguard.toml",
        ".SH DESCRIPTION",
        "One TOML file. Every key has a default; an empty file is valid, and the default one may be absent.",
        "An unknown key or a value that is not allowed stops the start;",
        ".B stsguard config check",
        "names all of them at once, and",
        ".B stsguard config show",
        "prints the values in force.",
    ]
    for section, about in SECTIONS.items():
        lines += [f".SH [{section}]", _roff(about)]
        for option in _of(section):
            lines += [
                ".TP",
                f".B {_roff(option.name)}",
                f"({_type(option)}, default {_roff(default(option))})",
                ".br",
                _roff(option.doc),
                ".br",
                _roff(f"Allowed: {option.kind.allowed}."),
            ]
    return "\n".join(lines) + "\n"


FILES = {
    Path("conf/stsguard.toml"): sample,
    Path("docs/configuration.md"): documentation,
    Path("docs/stsguard.toml.5"): manual_page,
}


def default(option: Option) -> str:
    """The default as TOML spells it: for these types JSON spells it the same way."""
    return json.dumps(option.default, ensure_ascii=False)


def _of(section: str) -> Iterator[Option]:
    return (option for option in OPTIONS if option.section == section)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ", break_long_words=False)


def _type(option: Option) -> str:
    return option.kind.type_name + (", bytes" if option.kind.unit == "bytes" else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _roff(text: str) -> str:
    """`text` as roff prints it: backslashes and hyphens as they stand, no control line by accident."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main(arguments: list[str]) -> None:
    """Write every file below the directory that `arguments` names."""
    root = Path(arguments[0]) if arguments else Path()
    for path, make in FILES.items():
        (root / path).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
