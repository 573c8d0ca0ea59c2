"""Values that are allowed each by itself, and not together."""

from collections.abc import Iterator, Sequence

from stsguard.config.model import Setting
from stsguard.config.show import show

# Two instances can't listen at one socket, and lines of a log could not be told apart.
_OWN_FOR_EACH_INSTANCE = ("tlsrpt_socket", "syslog_name")


def header(section: str, table: int) -> str:
    """The line above a section's keys, with the number of the table where it is one of several."""
    return f"[[{section}]] #{table}" if table else f"[{section}]"


def conflicts(settings: Sequence[Setting]) -> Iterator[str]:
    """What is wrong with values in force beside others, a line each, without the name of the file."""
    yield from _shared_by_instances(settings)
    yield from _half_a_signature(settings)
    yield from _half_a_key(settings)


def _shared_by_instances(settings: Sequence[Setting]) -> Iterator[str]:
    seen: dict[tuple[str, object], int] = {}
    for setting in settings:
        name = setting.option.name
        if setting.option.section != "sessions" or name not in _OWN_FOR_EACH_INSTANCE or not setting.value:
            continue
        first = seen.setdefault((name, setting.value), setting.table)
        if first != setting.table:
            yield (
                f"{header('sessions', setting.table)} {name} = {show(setting.value)}: the same as in "
                f"{header('sessions', first)}; allowed: one of its own for each Postfix instance"
            )


def _half_a_signature(settings: Sequence[Setting]) -> Iterator[str]:
    reports = {setting.option.name: setting.value for setting in settings if setting.option.section == "reports"}
    for name, other in (("dkim_selector", "dkim_key_file"), ("dkim_key_file", "dkim_selector")):
        if reports[name] and not reports[other]:
            shown = show(reports[name])
            yield f"[reports] {name} = {shown}: nothing is signed without {other}; allowed: both or neither"


def _half_a_key(settings: Sequence[Setting]) -> Iterator[str]:
    update = {setting.option.name: setting.value for setting in settings if setting.option.section == "dns_update"}
    for name, other in (("tsig_name", "tsig_key_file"), ("tsig_key_file", "tsig_name")):
        if update[name] and not update[other]:
            yield (
                f"[dns_update] {name} = {show(update[name])}: no update is signed without {other}; allowed: both or "
                "neither"
            )
