"""Reads the Public Suffix List that the system keeps (Debian: package publicsuffix)."""

from pathlib import Path

from stsguard.core.public_suffix import PublicSuffixes

SYSTEM_LIST = Path("/usr/share/publicsuffix/public_suffix_list.dat")
MAX_LIST_BYTES = 4 * 1024 * 1024  # 250 kB in 2026


def load_public_suffixes(path: Path = SYSTEM_LIST) -> PublicSuffixes:
    """The rules in `path`; none, which is false, where it can't be read: names are then compared more narrowly."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_LIST_BYTES).decode("utf-8", "replace")
    except OSError:
        return PublicSuffixes(())
    return PublicSuffixes(text.splitlines())
