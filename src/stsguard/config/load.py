"""Reading the configuration file: TOML against the table of options, all mistakes at once.

Left out on purpose: whether the files, hosts and addresses named in it are there. Their users find that out when they
start; `missing_files` is for `stsguard config check`, which starts nothing.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from stsguard.config import model
from stsguard.config.conflicts import conflicts, header
from stsguard.config.model import Config, Origin, Setting
from stsguard.config.options import OPTIONS, REPEATABLE, SECTIONS, Option, TomlValue
from stsguard.config.show import show
from stsguard.config.values import ValueRefused
from stsguard.core.errors import ConfigInvalid

MAX_FILE_BYTES = 1_048_576  # hundreds of times what every key with its documentation takes
_SECTION_CLASSES: dict[str, type] = {
    "store": model.StoreConfig,
    "dns": model.DnsConfig,
    "network": model.NetworkConfig,
    "policy_fetch": model.PolicyFetchConfig,
    "lookup": model.LookupConfig,
    "verification": model.VerificationConfig,
    "sessions": model.SessionsConfig,
    "reports": model.ReportsConfig,
    "policy_host": model.PolicyHostConfig,
    "dns_update": model.DnsUpdateConfig,
    "intake": model.IntakeConfig,
    "milter": model.MilterConfig,
    "admin": model.AdminConfig,
    "log": model.LogConfig,
}


class ConfigProblems(ConfigInvalid):
    """Every mistake in a configuration. Each of `problems` is one line that names file, key, value and what is allowed;
    the message is all of them, a line each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class _Mistake:
    """One mistake, without the name of the file."""

    text: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """A known key with its value in the file; `table` as in `Setting`."""

    option: Option
    table: int
    value: object


def load(path: Path, *, required: bool = False) -> Config:
    """The configuration in the file `path`; an absent file, like an empty one, leaves every key at its default, unless
    it is `required`.

    Raises:
        ConfigProblems: the file can't be read or something in it is wrong. No other exception leaves this function.
    """
    document = _read(path)
    if document is None and required:
        raise ConfigProblems((f"{path}: there is no such file, and --config names it",))
    given: dict[tuple[str, int, str], TomlValue] = {}
    mistakes: list[str] = []
    for found in _entries(document or {}):
        if isinstance(found, _Mistake):
            mistakes.append(found.text)
            continue
        try:
            found.option.kind.read(found.value)
        except ValueRefused as exc:
            mistakes.append(_refused(found.option, found.value, exc, found.table))
            continue
        # its kind has just accepted it
        given[found.option.section, found.table, found.option.name] = found.value  # type: ignore[assignment]
    settings = tuple(_settings(document or {}, given))
    if mistakes or (mistakes := list(conflicts(settings))):
        raise ConfigProblems(tuple(f"{path}: {text}" for text in mistakes))
    return _build(path, present=document is not None, settings=settings)


def with_state_dir(config: Config, state_dir: Path) -> Config:
    """`config` with database, certificates, spool and sockets inside `state_dir`, for running without root.

    Only what the file leaves at its default moves. The directory is neither made nor looked at.

    Raises:
        ConfigProblems: the directory's path is too long for a socket, or holds what a database URL can't.
    """
    base = state_dir.absolute()
    moved: dict[tuple[str, str], TomlValue] = {
        ("store", "url"): f"sqlite:///{base / 'stsguard.db'}",
        ("sessions", "tlsrpt_socket"): str(base / "tlsrpt.sock"),
        ("admin", "listen"): f"unix:{base / 'admin.sock'}",
        ("admin", "inbound_listen"): f"unix:{base / 'inbound.sock'}",
        ("policy_host", "certificate_dir"): str(base / "certificates"),
        ("intake", "spool"): str(base / "spool"),
    }
    settings, mistakes = [], []
    for setting in config.settings:
        value = moved.get((setting.option.section, setting.option.name))
        if value is None or setting.origin is not Origin.DEFAULT:
            settings.append(setting)
            continue
        try:
            setting.option.kind.read(value)
        except ValueRefused as exc:
            mistakes.append(
                f"--state-dir {show(str(state_dir))}: {_refused(setting.option, value, exc, setting.table)}"
            )
        settings.append(setting._replace(value=value, origin=Origin.STATE_DIR))
    if mistakes:
        raise ConfigProblems(tuple(mistakes))
    return _build(config.path, present=config.present, settings=tuple(settings))


def missing_files(config: Config) -> tuple[str, ...]:
    """What is wrong with the files that `config` names, a line each: absent, or not readable by this process."""
    problems = []
    for section, name, file in (
        ("network", "ca_file", config.network.ca_file),
        ("lookup", "overrides", config.lookup.overrides),
        ("reports", "dkim_key_file", config.reports.dkim_key_file),
    ):
        if file is None:
            continue
        key = f"{config.path}: [{section}] {name} = {show(str(file))}"
        if not file.is_file():
            problems.append(f"{key}: there is no such file")
        elif not os.access(file, os.R_OK):
            problems.append(f"{key}: the file can't be read by this user")
    return tuple(problems)


def _read(path: Path) -> dict[str, object] | None:
    """The TOML document, None where there is no file."""
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigProblems((f"{path}: can't be read: {exc.strerror}",)) from exc
    if len(octets) > MAX_FILE_BYTES:
        raise ConfigProblems((f"{path}: larger than {MAX_FILE_BYTES} bytes: this is no configuration",))
    try:
        return tomllib.loads(octets.decode("utf-8"))
    except UnicodeDecodeError as exc:
        line = octets.count(b"\n", 0, exc.start) + 1
        raise ConfigProblems((f"{path}: not UTF-8 text (line {line})",)) from exc
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigProblems((f"{path}: not TOML: {exc}",)) from exc


def _entries(document: Mapping[str, object]) -> Iterator[_Entry | _Mistake]:
    """Every known key with its value, and every mistake in names, in the order of the file."""
    options = {(option.section, option.name): option for option in OPTIONS}
    for section, content in document.items():
        if section not in SECTIONS:
            yield _unknown_at_top(section, content)
            continue
        for table, keys in _tables(section, content).items():
            if not isinstance(keys, dict):
                yield _Mistake(
                    f'{section} = {show(content)}: "{section}" is a section: its keys go below a line [{section}]'
                )
                break
            for name, value in keys.items():
                option = options.get((section, name))
                yield _Entry(option, table, value) if option else _unknown_key(section, table, name, value)


def _tables(section: str, content: object) -> dict[int, object]:
    """What stands for a section in the file, by its number: several [[section]] from 1 on, one [section] as 0."""
    if section in REPEATABLE and isinstance(content, list):
        return dict(enumerate(content, 1))
    return {0: content}


def _settings(document: Mapping[str, object], given: Mapping[tuple[str, int, str], TomlValue]) -> Iterator[Setting]:
    """Every option with its value in force, in the order of the table of options."""
    for section, options in groupby(OPTIONS, key=lambda option: option.section):
        of_section = tuple(options)
        for table in _tables(section, document.get(section)):
            for option in of_section:
                key = (section, table, option.name)
                origin = Origin.FILE if key in given else Origin.DEFAULT
                yield Setting(option, given.get(key, option.default), origin, table)


def _unknown_at_top(name: str, content: object) -> _Mistake:
    tables = content if isinstance(content, list) else [content]
    if tables and all(isinstance(table, dict) for table in tables):
        return _Mistake(f"[{_name(name)}]: unknown section; " + _closest(name, list(SECTIONS), "[{}]"))
    homes = [f"[{option.section}]" for option in OPTIONS if option.name == name]
    known = [option.name for option in OPTIONS]
    advice = f"it belongs below {' or '.join(homes)}" if homes else _closest(name, sorted(set(known)), '"{}"')
    return _Mistake(f"{_name(name)} = {show(content)}: a key outside any section; {advice}")


def _unknown_key(section: str, table: int, name: str, value: object) -> _Mistake:
    homes = [f"[{option.section}]" for option in OPTIONS if option.name == name]
    if homes:
        advice = f"it belongs below {' or '.join(homes)}"
    else:
        advice = _closest(name, [option.name for option in OPTIONS if option.section == section], '"{}"')
    return _Mistake(f"{header(section, table)} {_name(name)} = {show(value)}: unknown key; {advice}")


def _closest(name: str, known: list[str], form: str) -> str:
    """The advice on an unknown `name`: the known one that it resembles, else all of them."""
    import difflib  # noqa: PLC0415 (for a mistake alone)

    close = difflib.get_close_matches(name[:100], known, n=1)
    if close:
        return f"did you mean {form.format(close[0])}?"
    return "known here: " + ", ".join(form.format(each) for each in known)


def _name(name: str) -> str:
    """A key as found in the file, quoted where it is not a bare one."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) else show(name)


def _refused(option: Option, value: object, reason: ValueRefused, table: int) -> str:
    where = header(option.section, table)
    return f"{where} {option.name} = {show(value)}: {reason}; allowed: {option.kind.allowed}"


def _build(path: Path, *, present: bool, settings: tuple[Setting, ...]) -> Config:
    """The typed sections of `settings`, whose values their kinds have accepted."""
    sections: dict[str, Any] = dict.fromkeys(REPEATABLE, ())
    for (section, _), of_table in groupby(settings, key=lambda setting: (setting.option.section, setting.table)):
        fields = {setting.option.field: setting.option.kind.read(setting.value) for setting in of_table}
        typed = _SECTION_CLASSES[section](**fields)
        sections[section] = (*sections[section], typed) if section in REPEATABLE else typed
    return Config(path=path, present=present, settings=settings, **sections)
