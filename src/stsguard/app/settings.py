"""What a daemon says of its configuration: what is set, at its start; what has changed since, on SIGHUP."""

import logging

from stsguard.config.load import ConfigProblems, load
from stsguard.config.model import Config, Origin, Setting
from stsguard.config.options import TomlValue
from stsguard.log import logger, outcome

log = logger(__name__)


def tell_of_settings(config: Config) -> None:
    """Log every value that is not the default, passwords hidden."""
    given = {
        name: _text(setting.masked)
        for name, setting in _by_name(config).items()
        if setting.origin is not Origin.DEFAULT
    }
    file = str(config.path) if config.present else f"{config.path} (absent)"
    outcome(log, logging.INFO, "configuration", file=file, **given)


def tell_of_changes(config: Config) -> None:
    """Log what the file holds by now and this process does not: only a restart applies it."""
    try:
        found = load(config.path)
    except ConfigProblems as exc:
        for problem in exc.problems:
            outcome(log, logging.ERROR, "configuration refused, this process goes on with the old one", reason=problem)
        return
    old, new = _by_name(config), _by_name(found)
    changed = [name for name in old | new if _differ(old.get(name), new.get(name))]
    if changed:
        outcome(log, logging.WARNING, "configuration has changed, a restart applies it", changed=",".join(changed))


def _by_name(config: Config) -> dict[str, Setting]:
    """`section.key`, or `section.NUMBER.key` where the section stands there more than once."""
    return {
        ".".join(
            [setting.option.section, *([str(setting.table)] if setting.table else []), setting.option.name]
        ): setting
        for setting in config.settings
    }


def _differ(old: Setting | None, new: Setting | None) -> bool:
    if old is None or new is None:
        return True
    if (old.origin, new.origin) == (Origin.STATE_DIR, Origin.DEFAULT):
        return False  # a path of --state-dir, which no file names
    return old.value != new.value


def _text(value: TomlValue) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
