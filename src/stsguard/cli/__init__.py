"""The `stsguard` command: parse, call, print, exit code. Each group is imported only when it is used."""

from stsguard.cli.main import main

__all__ = ["main"]
