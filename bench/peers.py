"""postfix-mta-sts-resolver from PyPI, beside which look-ups are measured: in an environment of its own below the user's
cache directory, with uvloop."""

import os
import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stsguard-bench"
RESOLVER = "postfix-mta-sts-resolver"


def mta_sts_resolver(*, install: bool) -> Path | None:
    """Its daemon, installed where it may be and can be; None where it is not to be had."""
    directory = CACHE / RESOLVER
    program = directory / "bin/mta-sts-daemon"
    if install and not program.exists():
        venv.create(directory, with_pip=True)
        pip = [str(directory / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, f"{RESOLVER}[sqlite,uvloop]", "setuptools<80"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{RESOLVER} can't be had: {done.stderr.strip()[-200:]}", file=sys.stderr)
    return program if program.exists() else None


def resolver_command(program: Path, directory: Path, database: Path | None = None) -> tuple[list[str], Path]:
    """The command that runs it with a cache that keeps all, in memory or in an SQLite file, and the socket at which it
    answers."""
    cache = "type: internal\n  options:\n    cache_size: 1100000"
    if database is not None:
        cache = f'type: sqlite\n  options:\n    filename: "{database}"'
    config, socket = directory / "resolver.yml", directory / "resolver.sock"
    config.write_text(
        f"""path: "{socket}"
mode: 0666
shutdown_timeout: 2
cache_grace: 86400
cache:
  {cache}
default_zone:
  strict_testing: false
  timeout: 10
""",
        encoding="utf-8",
    )
    return [str(program), "-c", str(config), "-v", "error"], socket
